"""Plain thresholds: a patient's own limits for any vital sign but glucose, high or low, with a duration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from devices.units import to_canonical
from devices.vocabulary import CODE_BY_WIRE, CODES, Code, Flag
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.glucose.values import HI, LO, NEVER_ALARMED
from streaming.limits.excursions import Course, Excursion, JudgedReadings, fold_excursions
from streaming.limits.lows import Graver, milliseconds
from streaming.readings import Bool, Float64, Int16, ReadingSeries
from streaming.rules.settings import ThresholdSettings, VitalLimit
from streaming.zones import ZoneHistory

# Sampled continuously, so one sample says little: a limit without its own durations gets these (minutes).
CONTINUOUS: Final = {Code.HEART_RATE: 10.0, Code.SPO2: 5.0}
NEVER_JUDGED: Final = np.int16(NEVER_ALARMED | Flag.OFF_BODY)
# Converted values are rounded to so many decimals: 100.4 degrees Fahrenheit are exactly 38 Celsius.
DECIMALS: Final = 6

Side = Literal["low", "high"]


class Threshold:
    """Readings of a vital sign beyond one of the patient's limits open an episode, readings within it end it.

    It opens after `duration_minutes` in a row beyond the limit and ends after `recovery_minutes` in a row within it,
    both in the canonical unit; equal to the limit is within it. Of readings at one instant the worst counts. LO is
    below every limit, HI above every one. A gap of more than 45 min between two readings restarts the duration; it
    never ends an open episode.
    """

    rule: Final = Rule.THRESHOLD
    version: Final = 1

    def __init__(self, settings: VitalLimit, side: Side) -> None:
        """Fold with a limit of a vital sign; raises `ValueError` if it has none on this side."""
        limit = settings.low if side == "low" else settings.high
        if limit is None:
            raise ValueError(f"{settings.code} has no {side} limit")
        self.settings = settings
        self.side: Side = side
        self.limit = limit
        self.limits = (limit,)
        self.code = CODE_BY_WIRE[settings.code]
        self.subject = f"{settings.code}:{side}"
        usual = CONTINUOUS.get(self.code, 0.0)
        given = (settings.duration_minutes, settings.recovery_minutes)
        self.course = Course(*(milliseconds(usual if minutes is None else minutes) for minutes in given))
        self.memory_ms = self.course.memory_ms

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could begin an episode: all beyond the limit."""
        beyond = self._badness(value, unit, flags) > self._badness_of_limit
        return np.asarray(beyond & ((flags & NEVER_JUDGED) == 0))

    def fold(
        self, state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[Excursion | None, list[Episode]]:
        """Fold readings that count, in order of time, into the state; see `streaming.limits.detectors.Detector`."""
        del zone, graver  # the hour does not matter, and no other rule watches this vital sign
        badness = self._badness(series.value, series.unit, series.flags)
        if state is None and not (badness > self._badness_of_limit).any():
            return None, []
        at = series.at
        if at.size > 1 and not bool((at[1:] > at[:-1]).all()):
            order = np.lexsort((-badness, at))
            worst = order[np.concatenate(([True], np.diff(at[order]) > 0))]
            at, badness = at[worst], badness[worst]
        beyond = badness > self._badness_of_limit
        severity = Severity(self.settings.severity)
        canonical = np.full(at.size, CODES[self.code].canonical, dtype=np.int16)
        rows = JudgedReadings(
            at, badness * self._sign, canonical, badness, beyond, beyond, (severity, severity), beyond,
            "lowest" if self.side == "low" else "highest", "beyond", self.subject, opening_evidence=self._opening_evidence,
        )  # fmt: skip
        return fold_excursions(state, rows, self.course)

    @property
    def _sign(self) -> float:
        return -1.0 if self.side == "low" else 1.0

    @property
    def _badness_of_limit(self) -> float:
        return self.limit * self._sign

    def _badness(self, value: Float64, unit: Int16, flags: Int16) -> Float64:
        """Return values in the canonical unit, negated for a low limit: more is worse; LO and HI are infinite."""
        worth = canonical_values(self.code, value, unit)
        worth = np.where((flags & HI) != 0, np.inf, worth)
        return np.asarray(np.where((flags & LO) != 0, -np.inf, worth) * self._sign)

    def _opening_evidence(self, _row: int) -> Mapping[str, JSON]:
        unit = CODES[self.code].canonical.ucum
        return {"code": self.code.wire, "limit": self.limit, "limit_unit": unit}


def thresholds_of(code: Code, settings: ThresholdSettings) -> tuple[Threshold, ...]:
    """Return the detectors for a patient's limits on one vital sign: one for each side."""
    limit = settings.of(code)
    if limit is None:
        return ()
    sides: tuple[tuple[Side, float | None], ...] = (("low", limit.low), ("high", limit.high))
    return tuple(Threshold(limit, side) for side, given in sides if given is not None)


def canonical_values(code: Code, value: Float64, unit: Int16) -> Float64:
    """Return values in the code's canonical unit; NaN for missing ones and for units in which it is never measured."""
    found = np.full(value.size, np.nan)
    for accepted in CODES[code].units:
        rows = unit == accepted
        found[rows] = np.round(to_canonical(code, accepted, value[rows]), DECIMALS)
    return found


def judged_readings(series: ReadingSeries) -> ReadingSeries:
    """Return the readings of a vital sign that thresholds judge: a number, LO or HI, and no flag against it.

    Several readings of one instant all stay: each limit picks its own worst.
    """
    keep = judged_mask(series.value, series.flags)
    return series if bool(keep.all()) else series.take(keep)


def judged_mask(value: Float64, flags: Int16) -> Bool:
    """Which readings of a vital sign thresholds judge; see `judged_readings`."""
    number = ~np.isnan(value)
    if not flags.any():  # as nearly always
        return number
    return np.asarray((number | ((flags & (LO | HI)) != 0)) & ((flags & NEVER_JUDGED) == 0))
