"""Predicted low: will glucose be below the limit within 20 min? A small regression on log glucose, and its episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from devices.vocabulary import Code, Unit
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.glucose.values import counts, low_mask, mmol_per_l
from streaming.limits import lows
from streaming.limits.lows import Graver, spoken_for
from streaming.readings import Bool, Float32, Float64, Int16, Int32, ReadingSeries
from streaming.rules.settings import PredictedLowSettings
from streaming.zones import HOUR_MS, MINUTE_MS, Int64, ZoneHistory

HORIZON_MS: Final = 20 * MINUTE_MS
LAGS_MIN: Final = (5, 15, 30)


DEFAULTS: Final = PredictedLowSettings()
# Across a longer gap, interpolation says nothing; with the longest lag this adds up to the hour of memory.
MAX_GAP_MS: Final = 30 * MINUTE_MS
PAST_MS: Final = HOUR_MS
# Only the first reading of each half minute takes part in forecasts, so that a fast stream costs no memory.
EVERY_MS: Final = MINUTE_MS // 2
# The regression was fitted on nothing above this (mmol/L); from there nobody is low within 20 min.
MODEL_TOP_MMOL: Final = 10.0
# 30 min hold at least 5 readings at cadences up to 5 min, even with one lost, and at most 3 at 15 min.
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

    Between readings the past is interpolated linearly, but never across more than `MAX_GAP_MS`; where it is unknown,
    NaN. Only the hour before a reading counts. `at` ascends strictly.
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
    """Which readings come at a cadence of about 5 min or faster, judged by the half hour before them."""
    first = np.searchsorted(at, at - 30 * MINUTE_MS, side="left")
    return np.arange(at.size) - first + 1 >= DENSE_READINGS


def forecast(at: Int64, mmol: Float64) -> Float64:
    """Return glucose in 20 min (mmol/L) as forecast at each reading; NaN without half an hour of past.

    `at` ascends strictly and `mmol` is positive. Only the past of a reading matters.
    """
    if at.size == 0:
        return np.empty(0)
    log_glucose = np.log(mmol)
    known = terms(at, log_glucose)
    change = np.where(dense(at), (known * DENSE).sum(axis=1), (known * SPARSE).sum(axis=1))
    return np.asarray(np.exp(log_glucose + change))


def at_night(at: Int64, zone: ZoneHistory, settings: PredictedLowSettings = DEFAULTS) -> Bool:
    """Which instants lie in the night of the settings, by the patient's clock."""
    return lows.at_night(at, zone, settings.night_start_minute, settings.night_end_minute)


def limit_at(at: Int64, zone: ZoneHistory, settings: PredictedLowSettings = DEFAULTS) -> Float64:
    """Return the limit (mmol/L) in force at each instant."""
    return np.where(at_night(at, zone, settings), settings.night_limit_mmol, settings.day_limit_mmol)


def limit_ahead(at: Int64, zone: ZoneHistory, settings: PredictedLowSettings = DEFAULTS) -> Float64:
    """Return the higher of the limits (mmol/L) in force at each instant and 20 min later."""
    return np.maximum(limit_at(at, zone, settings), limit_at(at + HORIZON_MS, zone, settings))


def low_now(series: ReadingSeries, zone: ZoneHistory, settings: PredictedLowSettings = DEFAULTS) -> Bool:
    """Which readings are low by the limit in force when they were measured, in the unit the sensor sent."""
    low = low_mask(series.value, series.unit, series.flags, max(settings.night_limit_mmol, settings.day_limit_mmol))
    if low.any():
        night, day = (
            low_mask(series.value, series.unit, series.flags, limit)
            for limit in (settings.night_limit_mmol, settings.day_limit_mmol)
        )
        low = np.where(at_night(series.at, zone, settings), night, day)
    return low


def after_low(at: Int64, low: Bool, low_at_ms: int | None = None) -> Bool:
    """Which readings are low or within 30 min after a low one; `low_at_ms` is the last low before all of them."""
    lows_at = at[low] if low_at_ms is None else np.concatenate(([low_at_ms], at[low]))
    if lows_at.size == 0:
        return np.zeros(at.size, dtype=np.bool_)
    latest = np.searchsorted(lows_at, at, side="right") - 1
    return np.asarray((latest >= 0) & (at - lows_at[np.maximum(latest, 0)] <= QUIET_AFTER_LOW_MS))


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """The hour up to `last_at_ms`, the last reading, as far as the next forecast needs it.

    The readings that take part, ascending: `age_ms` (int32, how long before `last_at_ms`) and `mmol` (float32, as in
    all forecasts: no sensor has more digits). `low_at_ms` is the last low reading, if there was one.
    """

    last_at_ms: int
    low_at_ms: int | None
    age_ms: Int32
    mmol: Float32


@dataclass(frozen=True, slots=True, eq=False)
class PredictedState:
    """The last hour of a patient and, while one is open, the episode.

    `predicted_at_ms` is the last reading that predicted the low of the open episode.
    """

    past: Past
    episode: Episode | None = None
    predicted_at_ms: int = 0

    def closed(self) -> PredictedState:
        """Return the hour."""
        return PredictedState(self.past)


@dataclass(frozen=True, slots=True, eq=False)
class _Forecasts:
    """Merged readings and the judgement of each; `part`: takes part in forecasts."""

    series: ReadingSeries
    foreseen: Float64
    limit: Float64
    low: Bool
    part: Bool
    predicted: Bool
    opens: Bool

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
    """A low predicted within 20 min opens an episode, `medium`; the low itself or 15 min of better forecasts end it.

    The limit is 4.0 mmol/L if any of the 20 min is night, otherwise 3.1. A reading opens an episode if its forecast is
    below the limit by the margin, it is not low itself, nothing was low in the 30 min before, and no alert for a low is
    open already. Open: a low reading ends the episode (outcome `low`: the rules for lows take over); so does a reading
    that predicts no low, or cannot tell, 15 min or more after the last one that did (`withdrawn`). Silence ends
    nothing. Never more severe than `medium`: a forecast must not be the only reason for an urgent alert.

    Only the first reading of each half minute (UTC) takes part in forecasts; of the others it only matters whether they
    are low. So the hour of memory is 30 s longer, to know which readings came first.
    """

    rule: Final = Rule.PREDICTED_LOW
    version: Final = 1
    code: Final = Code.GLUCOSE
    subject: Final = ""
    memory_ms: Final = PAST_MS + EVERY_MS

    def __init__(self, settings: PredictedLowSettings | None = None) -> None:
        """Predict lows by the given limits, by default the clinic's."""
        self.settings = settings or DEFAULTS
        self.limits = (self.settings.night_limit_mmol, self.settings.day_limit_mmol)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, are remembered: all that say something about glucose."""
        del unit
        return counts(value, flags)

    def fold(
        self, state: PredictedState | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[PredictedState | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        if len(series) == 0:
            return state, []
        past = state.past if state is not None else _nothing_before(int(series.at[0]))
        if series.at[0] <= past.last_at_ms:
            raise ValueError("late readings: fold the patient again from an hour before a settled point")
        judged, past = self._judge(past, series, zone, graver)
        episode, predicted_at = (state.episode, state.predicted_at_ms) if state else (None, 0)
        found: dict[int, Episode] = {}
        row = 0
        while row < len(series):
            if episode is None:
                row += int(np.argmax(judged.opens[row:]))
                if not judged.opens[row]:
                    break
                episode, predicted_at = judged.opened(row), int(series.at[row])
                found[episode.opened_at] = episode
            else:
                episode, predicted_at = _followed(episode, predicted_at, judged, row)
                if episode.resolved_at is not None:
                    found[episode.opened_at] = episode
                    episode = None
            row += 1
        return PredictedState(past, episode, predicted_at if episode else 0), list(found.values())

    def _judge(self, past: Past, series: ReadingSeries, zone: ZoneHistory, graver: Graver) -> tuple[_Forecasts, Past]:
        """Judge readings by what came before them; also return the past that the next ones need."""
        half_minute = np.concatenate(([past.last_at_ms], series.at)) // EVERY_MS
        part = half_minute[1:] > half_minute[:-1]
        mmol = mmol_per_l(series).astype(np.float32)
        usable = part & (mmol > 0) & np.isfinite(mmol)
        known_at = np.concatenate((past.last_at_ms - past.age_ms.astype(np.int64), series.at[usable]))
        known_mmol = np.concatenate((past.mmol, mmol[usable]))
        foreseen, margin = (np.full(len(series), np.nan) for _ in range(2))
        below_top = usable & low_mask(series.value, series.unit, series.flags, MODEL_TOP_MMOL)
        low = low_now(series, zone, self.settings)
        limit = np.zeros(0)
        predicted = below_top & ~after_low(series.at, low, past.low_at_ms)
        if predicted.any():
            foreseen[usable] = forecast(known_at, known_mmol.astype(np.float64))[past.age_ms.size :]
            margin[usable] = np.where(dense(known_at)[past.age_ms.size :], DENSE_MARGIN, SPARSE_MARGIN)
            limit = limit_ahead(series.at, zone, self.settings)
            predicted &= foreseen <= limit * np.exp(-margin)
        covered = spoken_for(series.at, graver, Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW, Rule.HYPOGLYCAEMIA)
        judged = _Forecasts(series, foreseen, limit, low, part, predicted, predicted & ~covered)
        last_at = int(series.at[-1])
        kept = known_at > last_at - PAST_MS
        low_at = int(series.at[low][-1]) if low.any() else past.low_at_ms
        return judged, Past(last_at, low_at, (last_at - known_at[kept]).astype(np.int32), known_mmol[kept])


def _nothing_before(at_ms: int) -> Past:
    return Past(at_ms - EVERY_MS, None, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))


def _followed(episode: Episode, predicted_at: int, judged: _Forecasts, row: int) -> tuple[Episode, int]:
    """Follow an open episode by one reading; also return the last reading that predicted the low."""
    at_ms = int(judged.series.at[row])
    if judged.predicted[row]:
        return episode, at_ms
    if judged.low[row]:
        outcome = "low"
    elif judged.part[row] and at_ms - predicted_at >= WITHDRAWN_AFTER_MS:
        outcome = "withdrawn"
    else:
        return episode, predicted_at
    return replace(episode, resolved_at=at_ms, evidence={**episode.evidence, "outcome": outcome}), predicted_at
