"""Compares a rule's alarms with what happened: detected events, false alarms, lead times, and two settings compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import Final

import numpy as np

from streaming.episodes import Episode, Rule
from streaming.glucose.episodes import ConsensusEpisode, Level, consensus_episodes
from streaming.glucose.values import low_mask, merge
from streaming.limits.lows import at_night
from streaming.readings import ReadingSeries
from streaming.rules.settings import PredictedLowSettings
from streaming.zones import DAY_MS, MINUTE_MS, MINUTES_PER_DAY, Int64, ZoneHistory

WARNED_WITHIN_MS: Final = 30 * MINUTE_MS
"""An alarm that opens this long before an event is about it: two samples of a slow sensor."""
UNKNOWN_AFTER_MS: Final = 30 * MINUTE_MS
"""After this long without a reading, the state of an open episode is unknown."""
NIGHT_END_MINUTE: Final = 6 * 60
_RECOVERY_MS: Final = 15 * MINUTE_MS

LEVEL_OF: Final[Mapping[Rule, Level]] = MappingProxyType(
    {
        Rule.NOCTURNAL_HYPOGLYCAEMIA: Level.LOW_1,
        Rule.URGENT_LOW: Level.LOW_2,
        Rule.HYPOGLYCAEMIA: Level.LOW_1,
        Rule.HYPERGLYCAEMIA: Level.HIGH_2,
    }
)
REFERRED: Final = frozenset({*LEVEL_OF, Rule.PREDICTED_LOW})
"""The rules whose events can be read off the glucose itself."""
SPEAK_FOR: Final[Mapping[Rule, tuple[Rule, ...]]] = MappingProxyType(
    {
        Rule.URGENT_LOW: (Rule.NOCTURNAL_HYPOGLYCAEMIA,),
        Rule.HYPOGLYCAEMIA: (Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW),
    }
)
"""The graver rules whose alarm keeps a rule silent: one low is one alarm."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a patient: from `start` to `end`, certain from `known_at` on (ms)."""

    start: int
    end: int
    known_at: int


@dataclass(frozen=True, slots=True)
class Score:
    """The performance of one rule's alarms, for one patient or (added up with `+`) several.

    `detected`: events that an alarm of the rule overlaps, or that begin within 30 min after one opened. `spoken_for`:
    other events that an alarm of a graver rule covers. `false_alarms` belong to no event; `false_at_night` are those
    that opened at 00:00-06:00 local. `leads`: for each detected event, minutes from its first alarm to when the event
    was certain (negative: late). `data_unknown`: alarms with more than 30 min without a reading while they were open.
    """

    events: int = 0
    detected: int = 0
    spoken_for: int = 0
    alarms: int = 0
    false_alarms: int = 0
    false_at_night: int = 0
    data_unknown: int = 0
    leads: tuple[float, ...] = field(default=())

    def __add__(self, other: Score) -> Score:
        return Score(
            self.events + other.events,
            self.detected + other.detected,
            self.spoken_for + other.spoken_for,
            self.alarms + other.alarms,
            self.false_alarms + other.false_alarms,
            self.false_at_night + other.false_at_night,
            self.data_unknown + other.data_unknown,
            self.leads + other.leads,
        )

    @property
    def sensitivity(self) -> float | None:
        """The share of events that some alarm covers; `None` without events."""
        return (self.detected + self.spoken_for) / self.events if self.events else None

    @property
    def lead_minutes(self) -> float | None:
        """The median lead; `None` without leads."""
        return median(self.leads) if self.leads else None


@dataclass(frozen=True, slots=True)
class Observed:
    """Local days and nights (00:00-06:00) on which a patient has readings; `+` adds patients."""

    days: int = 0
    nights: int = 0

    def __add__(self, other: Observed) -> Observed:
        return Observed(self.days + other.days, self.nights + other.nights)


def observed(at: Int64, zone: ZoneHistory) -> Observed:
    """Return the local days and nights with readings at `at` (int64 ms, any order)."""
    local = zone.local_ms(at)
    night = local // MINUTE_MS % MINUTES_PER_DAY < NIGHT_END_MINUTE
    return Observed(np.unique(local // DAY_MS).size, np.unique(local[night] // DAY_MS).size)


def opened_at_night(rule: Rule, episode: Episode, zone: ZoneHistory) -> bool:
    """Whether an alarm belongs to a night, 00:00-06:00 local; drift is found at the very end of its night."""
    at_ms = episode.opened_at - (rule is Rule.HRV_DRIFT)
    return bool(zone.minute_of_day(np.array([at_ms]))[0] < NIGHT_END_MINUTE)


def reference_events(rule: Rule, glucose: ReadingSeries, zone: ZoneHistory) -> list[Event] | None:
    """Return the events that a rule ought to detect, from all of a patient's glucose, in order; `None`: it cannot say.

    Consensus episodes: level 1 lows (for the nocturnal rule those that touch 00:00-06:00 local), level 2 lows, level 2
    highs. For the predicted low, the beginnings of lows: a reading below the limit in force (4.0 mmol/L at night, 3.1
    by day) after 15 min at or above it. The settings under trial do not matter here.
    """
    if rule is Rule.PREDICTED_LOW:
        return [Event(at_ms, at_ms, at_ms) for at_ms in _low_onsets(merge(glucose), zone)]
    level = LEVEL_OF.get(rule)
    if level is None:
        return None
    return [
        Event(found.started_at, found.ended_at, found.known_at)
        for found in consensus_episodes(glucose)
        if found.level is level and (rule is not Rule.NOCTURNAL_HYPOGLYCAEMIA or _touches_night(found, zone))
    ]


def score(
    rule: Rule,
    events: Sequence[Event],
    alarms: Sequence[Episode],
    at: Int64,
    zone: ZoneHistory,
    graver: Sequence[Episode] = (),
    beside: Sequence[Event] = (),
) -> Score:
    """Score one patient's alarms of a rule against its events, in order; `at`: readings (int64 ms, ascending).

    `graver`: alarms of the rules that speak for this one. A forecast counts only if it came before the event. `beside`:
    events that the rule need not detect, because it did not watch when they began; an alarm that belongs to one is not
    false.
    """
    ahead = rule is Rule.PREDICTED_LOW
    alarms_of = [[alarm for alarm in alarms if _about(alarm, event, ahead=ahead)] for event in events]
    true = {id(alarm) for of_event in alarms_of for alarm in of_event}
    false = [
        alarm
        for alarm in alarms
        if id(alarm) not in true and not any(_about(alarm, event, ahead=ahead) for event in beside)
    ]
    undetected = [event for event, own in zip(events, alarms_of, strict=True) if not own]
    return Score(
        events=len(events),
        detected=len(events) - len(undetected),
        spoken_for=sum(any(_about(alarm, event, ahead=ahead) for alarm in graver) for event in undetected),
        alarms=len(alarms),
        false_alarms=len(false),
        false_at_night=sum(opened_at_night(rule, alarm, zone) for alarm in false),
        data_unknown=data_unknown(alarms, at),
        leads=tuple(_leads(events, alarms_of)),
    )


def _leads(events: Sequence[Event], alarms_of: Sequence[Sequence[Episode]]) -> Iterator[float]:
    """Yield the minutes from an event's first alarm to its certainty, for each event whose first alarm is its own."""
    earlier: set[int] = set()
    for event, alarms in zip(events, alarms_of, strict=True):
        first = min(alarms, key=lambda alarm: alarm.opened_at, default=None)
        if first is not None and id(first) not in earlier:
            yield (event.known_at - first.opened_at) / MINUTE_MS
        earlier.update(map(id, alarms))


def data_unknown(alarms: Iterable[Episode], at: Int64) -> int:
    """Return how many alarms were open through more than 30 min without a reading; `at` ascends."""
    gap = np.flatnonzero(np.diff(at) > UNKNOWN_AFTER_MS)
    before, after = at[gap], at[gap + 1]
    return sum(
        bool(((after > alarm.opened_at) & (alarm.resolved_at is None or before < alarm.resolved_at)).any())
        for alarm in alarms
    )


def paired(first: Sequence[Episode], second: Sequence[Episode]) -> list[tuple[Episode | None, Episode | None]]:
    """Pair alarms of one patient and rule under two settings: those that overlap are the same, each at most once.

    Returns every alarm in order of time, with `None` in the pair if only one of the settings raised it.
    """
    unpaired = sorted(second, key=lambda alarm: alarm.opened_at)
    pairs: list[tuple[Episode | None, Episode | None]] = []
    for alarm in sorted(first, key=lambda alarm: alarm.opened_at):
        twin = next((other for other in unpaired if _overlap(alarm, other.opened_at, other.resolved_at)), None)
        if twin is not None:
            unpaired.remove(twin)
        pairs.append((alarm, twin))
    pairs += [(None, alarm) for alarm in unpaired]
    return sorted(pairs, key=lambda pair: min(alarm.opened_at for alarm in pair if alarm is not None))


def _about(alarm: Episode, event: Event, *, ahead: bool) -> bool:
    before = event.start - alarm.opened_at
    if ahead:
        return 0 < before <= WARNED_WITHIN_MS
    return 0 <= before <= WARNED_WITHIN_MS or _overlap(alarm, event.start, event.end)


def _overlap(alarm: Episode, start: int, end: int | None) -> bool:
    return (end is None or alarm.opened_at <= end) and (alarm.resolved_at is None or start <= alarm.resolved_at)


def _touches_night(found: ConsensusEpisode, zone: ZoneHistory) -> bool:
    """Whether an episode, which lasts until just before `ended_at`, touches 00:00-06:00 local."""
    local = zone.local_ms(np.array([found.started_at, found.ended_at - 1]))
    begins, ends = (local // DAY_MS).tolist()
    return begins != ends or bool((local // MINUTE_MS % MINUTES_PER_DAY < NIGHT_END_MINUTE).any())


def _low_onsets(series: ReadingSeries, zone: ZoneHistory) -> list[int]:
    usual = PredictedLowSettings()
    night = at_night(series.at, zone, usual.night_start_minute, usual.night_end_minute)
    by_night, by_day = (
        low_mask(series.value, series.unit, series.flags, limit)
        for limit in (usual.night_limit_mmol, usual.day_limit_mmol)
    )
    found: list[int] = []
    inside, since = False, None
    for at_ms, low in zip(series.at.tolist(), np.where(night, by_night, by_day).tolist(), strict=True):
        if low:
            if not inside:
                found.append(at_ms)
            inside, since = True, None
        elif inside:
            since = at_ms if since is None else since
            inside = at_ms - since < _RECOVERY_MS
    return found
