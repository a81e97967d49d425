"""Low glucose: the nocturnal alert, the urgent low by day, and the level 1 low; a graver alert covers a milder one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from devices.vocabulary import Code
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.glucose.values import low_mask, mmol_per_l
from streaming.limits.excursions import Course, Excursion, JudgedReadings, Open, fold_excursions
from streaming.readings import Bool, Float64, Int16, ReadingSeries
from streaming.rules.settings import HypoglycaemiaSettings, NocturnalSettings, UrgentLowSettings
from streaming.zones import MINUTE_MS, Int64, ZoneHistory

Graver = Mapping[Rule, Sequence[Episode]]
"""Episodes of the rules folded before, over the same readings: alerts that may already cover a low."""


def milliseconds(minutes: float) -> int:
    """Return minutes as whole milliseconds."""
    return round(minutes * MINUTE_MS)


def at_night(at: Int64, zone: ZoneHistory, start_minute: int, end_minute: int) -> Bool:
    """Which instants lie in the local night; a night that begins in the evening ends the next morning."""
    minute = zone.minute_of_day(at)
    if start_minute <= end_minute:
        return np.asarray((start_minute <= minute) & (minute < end_minute))
    return np.asarray((start_minute <= minute) | (minute < end_minute))


def spoken_for(at: Int64, graver: Graver, *rules: Rule) -> Bool:
    """Which instants lie in an episode of these rules."""
    covered = np.zeros(at.size, dtype=np.bool_)
    for rule in rules:
        for episode in graver.get(rule, ()):
            until = np.inf if episode.resolved_at is None else episode.resolved_at
            covered |= (episode.opened_at <= at) & (at <= until)
    return covered


class NocturnalHypoglycaemia:
    """A low in the patient's local night opens an episode at once; 15 min in a row at or above the limit end it.

    Closed: a reading below the limit at night opens an episode, `high`, or `urgent` if it is below the urgent limit.
    Open, at any hour: a reading below the limit restarts the recovery, and makes the episode urgent if it is below the
    urgent limit; a reading at or above the limit resolves it once it lies at least `recovery_minutes` after the first
    of an unbroken run of such readings. Each happens at that reading's own time. Silence does neither. The closed state
    has no memory.
    """

    rule: Final = Rule.NOCTURNAL_HYPOGLYCAEMIA
    version: Final = 1
    code: Final = Code.GLUCOSE
    subject: Final = ""

    def __init__(self, settings: NocturnalSettings | None = None) -> None:
        """Fold with the given limits, by default the clinic's."""
        self.settings = settings or NocturnalSettings()
        self.course = Course(recovery_ms=milliseconds(self.settings.recovery_minutes))
        self.memory_ms = self.course.memory_ms
        self.limits = (self.settings.limit_mmol, self.settings.urgent_limit_mmol)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could open an episode: all lows, by day too. Others keep a closed one closed."""
        return low_mask(value, unit, flags, self.settings.limit_mmol)

    def fold(
        self, state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[Excursion | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        del graver  # no rule is graver
        settings = self.settings
        low = low_mask(series.value, series.unit, series.flags, settings.limit_mmol)
        if state is None and not low.any():
            return None, []
        opens = low
        if not (isinstance(state, Open) and bool(low.all())):  # otherwise nothing closes, so nothing can open
            opens = low.copy()
            opens[low] = at_night(series.at[low], zone, settings.night_start_minute, settings.night_end_minute)
        grave = low_mask(series.value, series.unit, series.flags, settings.urgent_limit_mmol)
        return fold_excursions(state, _judged(series, low, opens, (Severity.HIGH, Severity.URGENT), grave), self.course)


class UrgentLow:
    """A reading below 3.1 mmol/L (55 mg/dL) opens an episode at once, unless a nocturnal alert already covers it.

    `urgent`. 15 min in a row at or above the limit end it; so does a nocturnal alert that opens meanwhile, which takes
    over (`continued_as`): never two alerts for one low. While a nocturnal alert is open, at any hour, that alert
    becomes urgent instead. The closed state has no memory of its own.
    """

    rule: Final = Rule.URGENT_LOW
    version: Final = 1
    code: Final = Code.GLUCOSE
    subject: Final = ""

    def __init__(self, settings: UrgentLowSettings | None = None) -> None:
        """Fold with the given limit, by default the clinic's."""
        self.settings = settings or UrgentLowSettings()
        self.course = Course(recovery_ms=milliseconds(self.settings.recovery_minutes))
        self.memory_ms = self.course.memory_ms
        self.limits = (self.settings.limit_mmol,)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could open an episode: all below the limit."""
        return low_mask(value, unit, flags, self.settings.limit_mmol)

    def fold(
        self, state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[Excursion | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        del zone
        low = self.candidates(series.value, series.unit, series.flags)
        return _fold_beside_graver(state, series, low, graver, self.course, Severity.URGENT)


class Hypoglycaemia:
    """15 min in a row below 3.9 mmol/L (70 mg/dL) open an episode, 15 min in a row at or above it end it. `medium`.

    A level 1 low of the day. It does not open while a graver low alert is open; a nocturnal alert that opens meanwhile
    takes over (`continued_as`). A gap of more than 45 min between two readings restarts the 15 min; it never ends an
    open episode.
    """

    rule: Final = Rule.HYPOGLYCAEMIA
    version: Final = 1
    code: Final = Code.GLUCOSE
    subject: Final = ""

    def __init__(self, settings: HypoglycaemiaSettings | None = None) -> None:
        """Fold with the given limit and durations, by default the consensus's."""
        self.settings = settings or HypoglycaemiaSettings()
        self.course = Course(milliseconds(self.settings.duration_minutes), milliseconds(self.settings.recovery_minutes))
        self.memory_ms = self.course.memory_ms
        self.limits = (self.settings.limit_mmol,)

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could begin an episode: all below the limit."""
        return low_mask(value, unit, flags, self.settings.limit_mmol)

    def fold(
        self, state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[Excursion | None, list[Episode]]:
        """Fold merged readings into the state; see `streaming.limits.detectors.Detector`."""
        del zone
        low = self.candidates(series.value, series.unit, series.flags)
        return _fold_beside_graver(state, series, low, graver, self.course, Severity.MEDIUM, Rule.URGENT_LOW)


_TAKEN_OVER: Final[Mapping[str, JSON]] = {"continued_as": Rule.NOCTURNAL_HYPOGLYCAEMIA.value}


def _fold_beside_graver(
    state: Excursion | None,
    series: ReadingSeries,
    low: Bool,
    graver: Graver,
    course: Course,
    severity: Severity,
    *silencing: Rule,
) -> tuple[Excursion | None, list[Episode]]:
    """Fold lows that a nocturnal alert takes over, and that open nothing while a `silencing` rule has an alert."""
    if state is None and not low.any():
        return None, []
    taken_over = spoken_for(series.at, graver, Rule.NOCTURNAL_HYPOGLYCAEMIA)
    covered = taken_over | spoken_for(series.at, graver, *silencing)
    rows = _judged(series, low, low & ~covered, (severity, severity), low, taken_over)
    return fold_excursions(state, rows, course)


def _judged(
    series: ReadingSeries,
    low: Bool,
    opens: Bool,
    severity: tuple[Severity, Severity],
    grave: Bool,
    ends: Bool | None = None,
) -> JudgedReadings:
    badness = -mmol_per_l(series)
    return JudgedReadings(
        series.at, series.value, series.unit, badness, low, opens, severity, grave, ends=ends, ended_as=_TAKEN_OVER
    )
