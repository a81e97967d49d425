"""Predicted low: will glucose be below the limit within 20 min? A small regression on log glucose, and its episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from devices.vocabulary import Unit
from streaming.episodes import JSON, Episode, Severity
from streaming.glucose import (
    HI,
    LO,
    MG_DL_PER_MMOL_L,
    Bool,
    Float64,
    GlucoseSeries,
    Int16,
    counts,
    low_mask,
    merge,
)
from streaming.lows import MOST_LOW_MMOL
from streaming.zones import HOUR_MS, MINUTE_MS, MINUTES_PER_DAY, Int64, ZoneHistory

DAY_LIMIT_MMOL: Final = 3.1
NIGHT_LIMIT_MMOL: Final = 4.0
NIGHT_END_MINUTE: Final = 6 * 60
HORIZON_MS: Final = 20 * MINUTE_MS
LAGS_MIN: Final = (5, 15, 30)


@dataclass(frozen=True, slots=True)
class PredictedLowSettings:
    """The limits that must not be fallen below within 20 min, by night and by day, and what night is."""

    night_limit_mmol: float = 4.0
    day_limit_mmol: float = 3.1
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing."""
        if not all(0 < limit <= MOST_LOW_MMOL for limit in (self.night_limit_mmol, self.day_limit_mmol)):
            raise ValueError(f"the limits must lie above 0 and not above {MOST_LOW_MMOL}")
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")


# A straight line across more says nothing about what lies between; with the longest lag it makes the hour of memory.
MAX_GAP_MS: Final = 30 * MINUTE_MS
MEMORY_MS: Final = HOUR_MS
# The regression has seen nothing above (mmol/L): from there nobody is low in 20 min.
MODEL_TOP_MMOL: Final = 10.0
# 30 min hold at least 5 readings at cadences up to 5 min, also with one lost, and at most 3 at 15 min.
DENSE_READINGS: Final = 5
WITHDRAWN_AFTER_MS: Final = 15 * MINUTE_MS
QUIET_AFTER_LOW_MS: Final = 30 * MINUTE_MS

# Change of log glucose in 20 min = the sum of coefficient × term. Ridge regression over every subject of the two
# recordings (rows: 15 min, 3 min); made by `python -m tests.streaming.prediction_study`.
# In turn: 1, log mmol/L, its change over the last 5, 15 and 30 min.
SPARSE: Final[Float64] = np.array([0.1073, -0.0554, 0.2504, 0.7513, -0.0574])
DENSE: Final[Float64] = np.array([0.0986, -0.0521, 0.4014, 0.3356, -0.0098])
# How far below the limit, in log glucose, the forecast must be (negative: may be above it) for 0.1 false alarms per
# patient and night of the same recordings, by the same command.
SPARSE_MARGIN: Final = -0.05
DENSE_MARGIN: Final = -0.02


def terms(at: Int64, log_glucose: Float64) -> Float64:
    """Return the regression's terms, one row per reading: 1, level, and change over each of `LAGS_MIN`.

    Between readings the past is a straight line, never across more than `MAX_GAP_MS`; where it is unknown, NaN. Only
    the hour before a reading counts. `at` ascends strictly.
    """
    columns = [np.ones(at.size), log_glucose]
    for lag in LAGS_MIN:
        then = at - lag * MINUTE_MS
        after = np.searchsorted(at, then, side="left")
        before = np.searchsorted(at, then, side="right") - 1
        known = (before >= 0) & (at[after] - at[before] <= MAX_GAP_MS)
        columns.append(np.where(known, log_glucose - np.interp(then, at, log_glucose), np.nan))
    return np.column_stack(columns)


def dense(at: Int64) -> Bool:
    """Which readings come at a cadence of about 5 min or faster, judged by the half hour that they end."""
    first = np.searchsorted(at, at - 30 * MINUTE_MS, side="left")
    return np.arange(at.size) - first + 1 >= DENSE_READINGS


def forecast(at: Int64, mmol: Float64) -> Float64:
    """Return glucose in 20 min (mmol/L) as foreseen at each reading; NaN without half an hour of past.

    `at` ascends strictly and `mmol` is positive. The past of a reading is all that decides.
    """
    if at.size == 0:
        return np.empty(0)
    log_glucose = np.log(mmol)
    known = terms(at, log_glucose)
    change = np.where(dense(at), (known * DENSE).sum(axis=1), (known * SPARSE).sum(axis=1))
    return np.asarray(np.exp(log_glucose + change))


def at_night(at: Int64, zone: ZoneHistory) -> Bool:
    """Which instants lie between 00:00 and 06:00 of the patient's clock."""
    return np.asarray(zone.minute_of_day(at) < NIGHT_END_MINUTE)


def limit_ahead(at: Int64, zone: ZoneHistory) -> Float64:
    """Return the highest limit (mmol/L) in force from each instant until 20 min later."""
    night = at_night(at, zone) | at_night(at + HORIZON_MS, zone)
    return np.where(night, NIGHT_LIMIT_MMOL, DAY_LIMIT_MMOL)


def low_now(series: GlucoseSeries, zone: ZoneHistory) -> Bool:
    """Which readings are low by the limit in force when they were measured, in the unit the sensor sent."""
    night, day = (
        low_mask(series.value, series.unit, series.flags, limit) for limit in (NIGHT_LIMIT_MMOL, DAY_LIMIT_MMOL)
    )
    return np.where(at_night(series.at, zone), night, day)


def _numbers(series: GlucoseSeries) -> tuple[Bool, Float64]:
    """Which readings hold a number to calculate with (LO and HI do not, nor does 0), and all values in mmol/L."""
    mmol = np.where(series.unit == Unit.MG_DL, series.value / MG_DL_PER_MMOL_L, series.value)
    return (mmol > 0) & np.isfinite(mmol) & ((series.flags & (LO | HI)) == 0), mmol


@dataclass(frozen=True, slots=True, eq=False)
class PredictedState:
    """What is remembered of a patient: the last hour of readings and, while one is open, the episode.

    `predicted_at_ms` is the last reading that foresaw the low of the open episode.
    """

    memory: GlucoseSeries
    episode: Episode | None = None
    predicted_at_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Merged readings, and what is thought of each."""

    series: GlucoseSeries
    foreseen: Float64
    limit: Float64
    low: Bool
    predicted: Bool

    def opened(self, row: int) -> Episode:
        at_ms = int(self.series.at[row])
        evidence: dict[str, JSON] = {
            "value": float(self.series.value[row]),
            "unit": Unit(int(self.series.unit[row])).ucum,
            "forecast_mmol_l": round(float(self.foreseen[row]), 2),
            "forecast_at": at_ms + HORIZON_MS,
            "limit_mmol_l": float(self.limit[row]),
        }
        return Episode(at_ms, None, Severity.MEDIUM, evidence)


class PredictedLow:
    """A low foreseen within 20 min opens an episode, `medium`; the low itself or 15 min of better forecasts end it.

    The limit is 4.0 mmol/L where any of the 20 min is night and 3.1 elsewhere. A reading opens when its forecast is
    below the limit by the margin, it is not low itself and nothing was low in the 30 min before. Open: a low reading
    ends the episode (outcome `low`: the rules for lows speak now); so does one that foresees no low, or cannot tell,
    15 min or more after the last that did (`withdrawn`). Silence ends nothing. Never more severe than `medium`: no
    forecast may be the only reason for an urgent alert.

    Not one of `DETECTORS`: their closed state has no memory, this one remembers an hour. What was concluded from a
    settled point on (`settled_before`) comes out again when folded from an hour before it.
    """

    version: Final = 1

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows of any patients could open an episode: numbers below 10 mmol/L and not below the day's limit."""
        below_top = low_mask(value, unit, flags, MODEL_TOP_MMOL) & ((flags & LO) == 0)
        not_low = ~low_mask(value, unit, flags, DAY_LIMIT_MMOL)
        return np.asarray(below_top & counts(value, flags) & not_low)

    def advance(
        self, state: PredictedState | None, series: GlucoseSeries, zone: ZoneHistory
    ) -> tuple[PredictedState | None, list[Episode]]:
        """Fold one patient's readings, later than all folded before, into the state; any split gives the same.

        Returns the new state and the episodes that opened or ended, each as it stands, in order. Raises `ValueError`
        for readings not later than the state's.
        """
        series = merge(series, (NIGHT_LIMIT_MMOL, DAY_LIMIT_MMOL))
        if len(series) == 0:
            return state, []
        memory = state.memory if state else series.take(slice(0, 0))
        if len(memory) and series.at[0] <= memory.at[-1]:
            raise ValueError("late readings: fold the patient again from an hour before a settled point")
        known = _joined(memory, series)
        judged = self._judge(known, zone)
        episode, predicted_at = (state.episode, state.predicted_at_ms) if state else (None, 0)
        found: dict[int, Episode] = {}
        for row in range(len(memory), len(known)):
            at_ms = int(known.at[row])
            if judged.predicted[row]:
                predicted_at = at_ms
                if episode is None:
                    episode = judged.opened(row)
                    found[at_ms] = episode
            elif episode is not None and (judged.low[row] or at_ms - predicted_at >= WITHDRAWN_AFTER_MS):
                outcome = "low" if judged.low[row] else "withdrawn"
                evidence = {**episode.evidence, "outcome": outcome}
                found[episode.opened_at] = replace(episode, resolved_at=at_ms, evidence=evidence)
                episode = None
        last_hour = known.take(known.at >= known.at[-1] - MEMORY_MS)
        return PredictedState(last_hour, episode, predicted_at if episode else 0), list(found.values())

    def _judge(self, series: GlucoseSeries, zone: ZoneHistory) -> _Judged:
        usable, mmol = _numbers(series)
        foreseen = np.full(len(series), np.nan)
        foreseen[usable] = forecast(series.at[usable], mmol[usable])
        margin = np.full(len(series), np.nan)
        margin[usable] = np.where(dense(series.at[usable]), DENSE_MARGIN, SPARSE_MARGIN)
        low, limit = low_now(series, zone), limit_ahead(series.at, zone)
        below = foreseen <= limit * np.exp(-margin)
        may_open = self.candidates(series.value, series.unit, series.flags) & ~after_low(series.at, low)
        return _Judged(series, foreseen, limit, low, below & may_open)


def after_low(at: Int64, low: Bool) -> Bool:
    """Which readings are low or have a low one in the 30 min before them."""
    lows = at[low]
    latest = np.searchsorted(lows, at, side="right") - 1
    if lows.size == 0:
        return np.zeros(at.size, dtype=np.bool_)
    return np.asarray((latest >= 0) & (at - lows[np.maximum(latest, 0)] <= QUIET_AFTER_LOW_MS))


def _joined(first: GlucoseSeries, second: GlucoseSeries) -> GlucoseSeries:
    return GlucoseSeries(
        np.concatenate((first.at, second.at)),
        np.concatenate((first.value, second.value)),
        np.concatenate((first.unit, second.unit)),
        np.concatenate((first.flags, second.flags)),
    )
