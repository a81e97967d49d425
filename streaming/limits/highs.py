"""High glucose: a lasting level 2 high, and a high fasting glucose in the morning."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf
from typing import Final

import numpy as np

from devices.vocabulary import Code
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.glucose.values import counts, high_mask, low_mask, mmol_per_l
from streaming.limits.excursions import SPLITTING_GAP_MS, Course, Excursion, JudgedReadings, Open, fold_excursions
from streaming.limits.lows import Graver, at_night, milliseconds
from streaming.readings import Bool, Float32, Float64, Int16, Int32, ReadingSeries
from streaming.rules.settings import HyperglycaemiaSettings
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, Int64, ZoneHistory

# A rise is a difference of decimal numbers in single precision: 8.3 - 7.3 comes out slightly above 1.
ROUNDING_MMOL: Final = 1e-5
# How many readings, each higher than the one before, are kept of an hour. A rise of 1 mmol/L takes 10 steps of a sensor
# in mmol/L and 18 of one in mg/dL, from 19 readings; more are a larger rise, or a stream of noise that would cost memory.
MAX_LOWEST: Final = 19


class Hyperglycaemia:
    """15 min in a row above 13.9 mmol/L (250 mg/dL) open an episode, 15 min in a row at or below it end it. `medium`.

    It becomes `high` after 2 h in a row above 16.7 mmol/L (300 mg/dL), and at HI, which is above every limit. A gap of
    more than 45 min between two readings restarts the 15 min and the 2 h; it never ends an open episode.
    """

    rule: Final = Rule.HYPERGLYCAEMIA
    version: Final = 2
    code: Final = Code.GLUCOSE
    subject: Final = ""

    def __init__(self, settings: HyperglycaemiaSettings | None = None) -> None:
        """Fold with the given limit and durations, by default the consensus's."""
        self.settings = settings or HyperglycaemiaSettings()
        self.course = Course(
            milliseconds(self.settings.duration_minutes),
            milliseconds(self.settings.recovery_minutes),
            milliseconds(self.settings.high_minutes),
        )
        self.memory_ms = self.course.memory_ms
        self.limits = (self.settings.limit_mmol, self.settings.high_limit_mmol)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could begin an episode: all above the limit."""
        return high_mask(value, unit, flags, self.settings.limit_mmol)

    def fold(
        self, state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[Excursion | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        del zone, graver  # no other rule alerts on a high
        high = self.candidates(series.value, series.unit, series.flags)
        if state is None and not high.any():
            return None, []
        mmol, severity = mmol_per_l(series), (Severity.MEDIUM, Severity.HIGH)
        far = high_mask(series.value, series.unit, series.flags, self.settings.high_limit_mmol)
        rows = JudgedReadings(
            series.at,
            series.value,
            series.unit,
            mmol,
            high,
            high,
            severity,
            mmol == np.inf,
            "highest",
            "highs",
            far=far,
        )
        return fold_excursions(state, rows, self.course)


@dataclass(frozen=True, slots=True, eq=False)
class LowestOfHour:
    """The part of the hour up to `last_at_ms` that is kept to know its lowest reading as the hour moves on.

    `age_ms` (int32, how long before `last_at_ms`) and `mmol` (float32): the readings that are lower than all later
    ones, ascending. `unknown_at_ms`: the lowest of an hour that contains this instant is unknown (LO, HI, a gap of more
    than 45 min, too many steps).
    """

    last_at_ms: int
    unknown_at_ms: int
    age_ms: Int32
    mmol: Float32

    @classmethod
    def before(cls, at_ms: int) -> LowestOfHour:
        """Return the empty hour before the first reading."""
        none_yet = at_ms - HOUR_MS - 1
        return cls(none_yet, none_yet, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))

    def rises(self, at: Int64, mmol: Float32) -> tuple[LowestOfHour, Float64]:
        """Return the hour at the end of these later readings, and how far (mmol/L) each is above the hour before it.

        That is its value minus the lowest reading of the 60 min before it (inclusive), or NaN where that is unknown.
        `mmol` is infinite for readings without a number.
        """
        lowest = deque(zip((self.last_at_ms - self.age_ms.astype(np.int64)).tolist(), self.mmol.tolist(), strict=True))
        last, unknown = self.last_at_ms, self.unknown_at_ms
        rises = np.full(at.size, np.nan)
        for row, (at_ms, value) in enumerate(zip(at.tolist(), mmol.tolist(), strict=True)):
            since = at_ms - HOUR_MS
            while lowest and lowest[0][0] < since:
                lowest.popleft()
            if at_ms - last > SPLITTING_GAP_MS:
                unknown = last
            if lowest and unknown < since:
                rises[row] = value - lowest[0][1]
            last = at_ms
            if isinf(value):
                unknown = at_ms
                continue
            while lowest and lowest[-1][1] >= value:
                lowest.pop()
            lowest.append((at_ms, value))
            if len(lowest) > MAX_LOWEST:
                unknown = max(unknown, lowest.popleft()[0])
        age_ms = np.array([last - at_ms for at_ms, _ in lowest], dtype=np.int32)
        return LowestOfHour(last, unknown, age_ms, np.array([value for _, value in lowest], dtype=np.float32)), rises


@dataclass(frozen=True, slots=True, eq=False)
class FastingState:
    """The last hour of a patient and, while one is open, the episode."""

    hour: LowestOfHour
    open: Open | None = None

    @property
    def episode(self) -> Episode | None:
        """The open episode, if there is one."""
        return self.open.episode if self.open else None

    def closed(self) -> FastingState:
        """Return the hour."""
        return replace(self, open=None)


class FastingHyperglycaemia:
    """A fasting reading at or above 7.0 mmol/L (126 mg/dL) opens an episode, `low`: advice to the care team.

    It opens at the reading's own time, at 05:00–08:00 local, if the hour before has readings without a gap of more than
    45 min, and the reading is at most 1.0 mmol/L above the lowest of them. If LO or HI is among them, nobody can tell.
    The first reading after the fasting hours ends the episode, whatever it is: one alert a morning, however long
    glucose hovers around the limit.
    """

    rule: Final = Rule.HYPERGLYCAEMIA
    version: Final = 1
    code: Final = Code.GLUCOSE
    subject: Final = "fasting"
    memory_ms: Final = HOUR_MS

    def __init__(self, settings: HyperglycaemiaSettings | None = None) -> None:
        """Fold with the given limit, rise and hours, by default the clinic's."""
        self.settings = settings or HyperglycaemiaSettings()
        self.limits = (self.settings.fasting_limit_mmol,)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, are remembered: all that say something about glucose."""
        del unit
        return counts(value, flags)

    def fold(
        self, state: FastingState | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[FastingState | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        del graver  # no other rule alerts on a fasting high
        if len(series) == 0:
            return state, []
        before = state or FastingState(LowestOfHour.before(int(series.at[0])))
        if series.at[0] <= before.hour.last_at_ms:
            raise ValueError("late readings: fold the patient again from an hour before a settled point")
        mmol = mmol_per_l(series)
        hour, rises = before.hour.rises(series.at, mmol.astype(np.float32))
        high = ~low_mask(series.value, series.unit, series.flags, self.settings.fasting_limit_mmol)
        opens = high & np.isfinite(mmol) & (rises <= self.settings.fasting_rise_mmol + ROUNDING_MMOL)
        opens[opens] = at_night(
            series.at[opens], zone, self.settings.fasting_start_minute, self.settings.fasting_end_minute
        )
        if before.open is None and not opens.any():
            return FastingState(hour), []
        rows = self._judged(series, mmol, high, opens, rises)
        rows = replace(rows, ends=self._fasting_over(before.hour.last_at_ms, series.at, zone))
        after, found = fold_excursions(before.open, rows, Course(recovery_ms=None))
        return FastingState(hour, after if isinstance(after, Open) else None), found

    def _judged(self, series: ReadingSeries, mmol: Float64, high: Bool, opens: Bool, rises: Float64) -> JudgedReadings:
        def rise_evidence(row: int) -> Mapping[str, JSON]:
            return {"fasting": True, "rise_mmol_l": round(float(rises[row]), 2) + 0.0}

        low = (Severity.LOW, Severity.LOW)
        return JudgedReadings(
            series.at, series.value, series.unit, mmol, high, opens, low, high, "highest", "highs", self.subject, opening_evidence=rise_evidence
        )  # fmt: skip

    def _fasting_over(self, last_at_ms: int, at: Int64, zone: ZoneHistory) -> Bool:
        """Which readings are the first after the fasting hours of a day ended."""
        end_ms = self.settings.fasting_end_minute * MINUTE_MS
        ends_passed = (zone.local_ms(np.concatenate(([last_at_ms], at))) - end_ms) // DAY_MS
        return np.asarray(ends_passed[1:] > ends_passed[:-1])
