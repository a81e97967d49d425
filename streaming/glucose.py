"""Glucose: one patient's readings in order of time, and the nocturnal hypoglycaemia rule folded over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.units import glucose_limit
from devices.vocabulary import Code, Flag, Unit
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.zones import MINUTE_MS, MINUTES_PER_DAY, Int64, ZoneHistory

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]

GLUCOSE_UNITS: Final = (Unit.MMOL_L, Unit.MG_DL)
MG_DL_PER_MMOL_L: Final = 18.0
NEVER_ALARMED: Final = np.int16(Flag.WARMUP | Flag.CALIBRATION | Flag.ARTIFACT)
LO: Final = np.int16(Flag.BELOW_RANGE)
HI: Final = np.int16(Flag.ABOVE_RANGE)


@dataclass(frozen=True, slots=True, eq=False)
class GlucoseSeries:
    """Glucose of one patient as a struct of arrays of one length, in any order until `merge` has put it in order.

    `at` int64 ms, `value` float64 as the sensor sent it (NaN: no number), `unit` and `flags` int16 (`Unit`, `Flag`).
    """

    at: Int64
    value: Float64
    unit: Int16
    flags: Int16

    def __len__(self) -> int:
        """Return the number of readings."""
        return self.at.size

    def take(self, rows: Int64 | Bool | slice) -> GlucoseSeries:
        """Return the chosen rows."""
        return GlucoseSeries(self.at[rows], self.value[rows], self.unit[rows], self.flags[rows])


@dataclass(frozen=True, slots=True)
class NocturnalSettings:
    """Limits of the nocturnal rule; the defaults are the clinic's (Vu 2020, PMC7153099; 4.0 mmol/L is the floor)."""

    limit_mmol: float = 4.0
    urgent_limit_mmol: float = 3.1
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60
    recovery_ms: int = 15 * MINUTE_MS

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing."""
        if not 0 < self.urgent_limit_mmol <= self.limit_mmol:
            raise ValueError("the urgent limit must lie above 0 and not above the limit")
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")
        if self.recovery_ms < 0:
            raise ValueError("the recovery cannot be shorter than nothing")


@dataclass(frozen=True, slots=True)
class NocturnalState:
    """An open nocturnal episode between two folds. A closed patient has no state at all (`None`).

    `episode` is always up to date; `depth` is its lowest reading in mmol/L (minus infinity for LO), `lows` their number.
    """

    episode: Episode
    lows: int
    depth: float
    recovering_since_ms: int | None
    last_at_ms: int


@lru_cache(maxsize=256)
def _limits(limit_mmol: float) -> Float64:
    """Return the limit in each unit's own scale, indexed by unit; NaN, which nothing is below, for other units."""
    table = np.full(max(Unit) + 1, np.nan)
    for unit in GLUCOSE_UNITS:
        table[unit] = glucose_limit(limit_mmol, unit)
    table.flags.writeable = False
    return table


def _has(flags: Int16, bits: np.int16) -> Bool:
    return (flags & bits).astype(np.bool_)


def counts(value: Float64, flags: Int16) -> Bool:
    """Which readings say something about glucose: a number, LO or HI, and not warm-up, calibration or artifact."""
    says_something = ~np.isnan(value) | _has(flags, LO | HI)
    return says_something & ~_has(flags, NEVER_ALARMED)


def low_mask(value: Float64, unit: Int16, flags: Int16, limit_mmol: float) -> Bool:
    """Which readings are below a limit, compared in the unit the sensor sent; rows may be of any patients.

    LO is below every limit and HI below none, whatever the number field holds. Readings that do not count are not low.
    """
    by_number = (value < _limits(limit_mmol)[unit]) & ~_has(flags, HI)
    return (by_number | _has(flags, LO)) & ~_has(flags, NEVER_ALARMED)


def high_mask(value: Float64, unit: Int16, flags: Int16, limit_mmol: float) -> Bool:
    """Which readings are above a limit, compared in the unit the sensor sent; rows may be of any patients.

    HI is above every limit and LO above none, whatever the number field holds. Readings that do not count are not high.
    """
    by_number = (value > _limits(limit_mmol)[unit]) & ~_has(flags, LO)
    return (by_number | (_has(flags, HI) & ~_has(flags, LO))) & ~_has(flags, NEVER_ALARMED)


def merge(series: GlucoseSeries, limits_mmol: Iterable[float] = (4.0, 3.1)) -> GlucoseSeries:
    """Return one patient's readings in order of time, one per instant, only those that count.

    At one instant the lowest stays; of equal ones the first given. Readings in different units compare by how many of
    `limits_mmol` they are below (each in its own unit: 55 mg/dL is not below 3.1 mmol/L, though 55 / 18 is), then in
    mmol/L. LO is the lowest, HI the highest. The arrays are not copied where nothing had to change.
    """
    keep = counts(series.value, series.flags)
    if not keep.all():
        series = series.take(keep)
    if len(series) < 2 or bool((series.at[1:] > series.at[:-1]).all()):
        return series
    below = sum(
        (low_mask(series.value, series.unit, series.flags, limit).astype(np.int64) for limit in limits_mmol),
        start=np.zeros(len(series), dtype=np.int64),
    )
    order = np.lexsort((_mmol_per_l(series), -below, series.at))
    series = series.take(order)
    first = np.concatenate(([True], series.at[1:] > series.at[:-1]))
    return series.take(first)


def _mmol_per_l(series: GlucoseSeries) -> Float64:
    """Return values for ordering only: mmol/L, minus infinity for LO, infinity for HI."""
    mmol = np.where(series.unit == Unit.MG_DL, series.value / MG_DL_PER_MMOL_L, series.value)
    mmol = np.where(_has(series.flags, HI), np.inf, mmol)
    return np.where(_has(series.flags, LO), -np.inf, mmol)


class NocturnalHypoglycaemia:
    """A low at the patient's local night opens an episode at once; 15 min in a row at or above the limit end it.

    Closed: a reading below the limit at night opens, at its own time, `high`, or `urgent` when it is below the urgent
    limit. Open, at any hour: a reading below the limit restarts the recovery, and makes the episode urgent when it is
    below the urgent limit; a reading at or above the limit, at least `recovery_ms` after the first of an unbroken run
    of such readings, resolves, at its own time. Readings that do not count do neither. Silence does neither.

    The closed state has no memory: a patient without state may be folded from any point at which no episode was open
    (`settled_before`). Nothing looks ahead.
    """

    rule: Final = Rule.NOCTURNAL_HYPOGLYCAEMIA
    version: Final = 1
    code: Final = Code.GLUCOSE

    def __init__(self, settings: NocturnalSettings | None = None) -> None:
        """Fold with the given limits, by default the clinic's."""
        self.settings = settings or NocturnalSettings()

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows of any patients could open an episode: all lows, by day too. All others leave a closed one closed."""
        return low_mask(value, unit, flags, self.settings.limit_mmol)

    def fold(
        self, state: NocturnalState | None, series: GlucoseSeries, zone: ZoneHistory
    ) -> tuple[NocturnalState | None, list[Episode]]:
        """Fold one patient's readings, later than all folded before, into the state; any split gives the same.

        Returns the new state and the last version of each episode that these rows opened, made more severe, gave a new
        lowest reading, or resolved, in order. One that is open at the end is also in the state (with the number of
        lows up to date). Raises `ValueError` for readings not later than the state's.
        """
        settings = self.settings
        series = merge(series, (settings.limit_mmol, settings.urgent_limit_mmol))
        if len(series) == 0:
            return state, []
        if state is not None and series.at[0] <= state.last_at_ms:
            raise ValueError("late readings: fold the patient again from a settled point")
        rows = self._judge(series, zone)
        found: list[Episode] = []
        row = 0
        while row < len(series):
            before = state
            if state is None:
                next_opening = int(np.searchsorted(rows.openings, row))
                if next_opening == rows.openings.size:
                    break
                row = int(rows.openings[next_opening])
                state = _opened(rows, row)
                row += 1
            state, row = self._follow(state, rows, row)
            if _worth_telling(before, state):
                found.append(state.episode)
            if state.episode.resolved_at is not None:
                state = None
        return state, found

    def _judge(self, series: GlucoseSeries, zone: ZoneHistory) -> _Judged:
        settings = self.settings
        low = low_mask(series.value, series.unit, series.flags, settings.limit_mmol)
        urgent = low_mask(series.value, series.unit, series.flags, settings.urgent_limit_mmol)
        lows = np.flatnonzero(low)
        minute = zone.minute_of_day(series.at[lows])
        start, end = settings.night_start_minute, settings.night_end_minute
        at_night = (start <= minute) & (minute < end) if start <= end else (start <= minute) | (minute < end)
        return _Judged(series, low, urgent, _mmol_per_l(series), lows[at_night])

    def _follow(self, state: NocturnalState, rows: _Judged, row: int) -> tuple[NocturnalState, int]:
        """Follow an open episode from `row` to its resolution or the end; also returns the row after the last used."""
        at = rows.series.at
        while row < len(at):
            at_ms = int(at[row])
            if rows.low[row]:
                state = _deepened(state, rows, row)
            else:
                since = at_ms if state.recovering_since_ms is None else state.recovering_since_ms
                state = replace(state, recovering_since_ms=since, last_at_ms=at_ms)
                if at_ms - since >= self.settings.recovery_ms:
                    return replace(state, episode=replace(state.episode, resolved_at=at_ms)), row + 1
            row += 1
        return state, row


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Merged readings with what the rule thinks of each; `openings` are the rows that open if nothing is open."""

    series: GlucoseSeries
    low: Bool
    urgent: Bool
    depth: Float64
    openings: Int64

    def severity(self, row: int) -> Severity:
        return Severity.URGENT if self.urgent[row] else Severity.HIGH

    def evidence(self, row: int) -> dict[str, JSON]:
        """Return a reading as evidence: its value as sent (`None`: LO), its unit and its time."""
        value = None if np.isneginf(self.depth[row]) else float(self.series.value[row])
        return {
            "lowest_value": value,
            "lowest_unit": Unit(int(self.series.unit[row])).ucum,
            "lowest_at": int(self.series.at[row]),
        }


def _opened(rows: _Judged, row: int) -> NocturnalState:
    at_ms = int(rows.series.at[row])
    episode = Episode(at_ms, None, rows.severity(row), {**rows.evidence(row), "lows": 1})
    return NocturnalState(episode, 1, float(rows.depth[row]), None, at_ms)


def _deepened(state: NocturnalState, rows: _Judged, row: int) -> NocturnalState:
    """Return the state after one more low reading, which also ends any recovery."""
    depth, lows = float(rows.depth[row]), state.lows + 1
    evidence = {**state.episode.evidence, "lows": lows}
    if depth < state.depth:
        evidence |= rows.evidence(row)
    severity = max(state.episode.severity, rows.severity(row), key=lambda one: one.rank)
    episode = replace(state.episode, severity=severity, evidence=evidence)
    return NocturnalState(episode, lows, min(depth, state.depth), None, int(rows.series.at[row]))


def _worth_telling(before: NocturnalState | None, after: NocturnalState) -> bool:
    """Whether an episode is new, resolved, more severe or deeper; one more low is told with the next such change."""
    return (
        before is None
        or after.episode.resolved_at is not None
        or after.episode.severity is not before.episode.severity
        or after.depth < before.depth
    )
