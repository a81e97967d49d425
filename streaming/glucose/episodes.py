"""Consensus episodes of glucose, levels 1 and 2, low and high, from one patient's readings at any cadence.

After Danne 2017 (10.2337/dc17-1600) and Battelino 2023 (10.1016/S2213-8587(22)00319-9). A metric, not an alarm: it may
look ahead, and needs all readings of the period at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from streaming.glucose.values import high_mask, low_mask, merge
from streaming.readings import Bool, ReadingSeries
from streaming.zones import MINUTE_MS, Int64

OPENS_MINUTES: Final = 15
RECOVERS_MINUTES: Final = 15
EXTENDED_MINUTES: Final = 120
SPLITTING_GAP_MS: Final = 45 * MINUTE_MS
LONGEST_CADENCE_MS: Final = 15 * MINUTE_MS


class Level(StrEnum):
    """The four kinds of episodes. Every level 2 episode lies inside a level 1 episode, and both are counted."""

    LOW_1 = "low_1"
    LOW_2 = "low_2"
    HIGH_1 = "high_1"
    HIGH_2 = "high_2"


class End(StrEnum):
    """Why an episode ends where it does."""

    RECOVERED = "recovered"
    """At least 15 min in a row back on the other side of the limit."""
    GAP = "gap"
    """Readings stop for more than 45 min: what happened next is unknown."""
    OPEN = "open"
    """There are no later readings: nothing has ended it yet."""


LOW_LIMITS_MMOL: Final[Mapping[Level, float]] = MappingProxyType({Level.LOW_1: 3.9, Level.LOW_2: 3.0})
HIGH_LIMITS_MMOL: Final[Mapping[Level, float]] = MappingProxyType({Level.HIGH_1: 10.0, Level.HIGH_2: 13.9})


@dataclass(frozen=True, slots=True)
class ConsensusEpisode:
    """One episode; times in ms since the epoch.

    `started_at` is its first reading beyond the limit. `ended_at` is where the recovery begins, or where the last
    reading before a gap ceases to hold. `known_at` is the first instant at which it is certain that there is an
    episode. `extended`: it was beyond the limit for more than 120 min in a row.
    """

    level: Level
    started_at: int
    known_at: int
    ended_at: int
    end: End
    extended: bool

    @property
    def minutes(self) -> int:
        """Its duration to the nearest minute, including short returns to the other side."""
        return _minutes(self.ended_at - self.started_at)


@dataclass(frozen=True, slots=True)
class EpisodeCount:
    """The episodes of one level: their number, the number of extended ones, and their total minutes."""

    episodes: int
    extended: int
    minutes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Unbroken runs of readings on one side of a limit: first and last row, and the instant until which they hold."""

    first: Int64
    last: Int64
    until: Int64
    beyond: Bool
    minutes: Int64
    part: Int64


def cadence(series: ReadingSeries) -> int | None:
    """Return the median interval of merged readings in ms, to the nearest minute and at least one; gaps do not count.

    `None` if it is longer than any glucose sensor's (15 min), or if there is none: the readings are then not those of a
    sensor, and give neither durations nor shares of time.
    """
    steps = np.diff(series.at)
    steps = steps[steps <= SPLITTING_GAP_MS]
    if steps.size == 0:
        return None
    found = max(1, _minutes(int(np.median(steps)))) * MINUTE_MS
    return found if found <= LONGEST_CADENCE_MS else None


def held_until(at: Int64, cadence_ms: int) -> Int64:
    """Return when each reading ceases to hold: at the next one, or one cadence later if sooner. `at` ascends."""
    until = at + cadence_ms
    until[:-1] = np.minimum(until[:-1], at[1:])
    return until


def beyond_mask(series: ReadingSeries, level: Level) -> Bool:
    """Which readings lie beyond the limit of a level, in the unit the sensor sent; LO and HI always do on their side."""
    if level in LOW_LIMITS_MMOL:
        return low_mask(series.value, series.unit, series.flags, LOW_LIMITS_MMOL[level])
    return high_mask(series.value, series.unit, series.flags, HIGH_LIMITS_MMOL[level])


def consensus_episodes(series: ReadingSeries, cadence_ms: int | None = None) -> list[ConsensusEpisode]:
    """Return all episodes of one patient's readings, by level and then by time.

    A run of readings on one side of a limit lasts from its first reading until its last ceases to hold (`held_until`),
    to the nearest minute, because the clocks of sensors jitter by seconds. A run of 15 min beyond the limit opens an
    episode; a run of 15 min on the other side ends it, at the beginning of that run. So 15 min are 15 readings at a
    cadence of 1 min, 5 at 3, 3 at 5, and one at 15. Readings missing between two on the same side are taken to lie
    there too; a gap of more than 45 min ends everything, and what follows starts anew. Level 2 is found independently
    of level 1.

    `cadence_ms` is the sensor's interval, by default the readings' own `cadence`; without one there are no episodes.
    Raises `ValueError` for a cadence that is not above 0 and at most 15 min.
    """
    series = merge(series, LOW_LIMITS_MMOL.values())
    cadence_ms = cadence(series) if cadence_ms is None else cadence_ms
    if cadence_ms is None or len(series) == 0:
        return []
    if not 0 < cadence_ms <= LONGEST_CADENCE_MS:
        raise ValueError("the cadence must lie above 0 and not above 15 min")
    return [found for level in Level for found in _episodes(series.at, beyond_mask(series, level), cadence_ms, level)]


def count_episodes(episodes: Iterable[ConsensusEpisode]) -> dict[Level, EpisodeCount]:
    """Return the number of episodes, of extended ones, and the total minutes for each level."""
    table = dict.fromkeys(Level, EpisodeCount(0, 0, 0))
    for episode in episodes:
        old = table[episode.level]
        table[episode.level] = EpisodeCount(
            old.episodes + 1, old.extended + episode.extended, old.minutes + episode.minutes
        )
    return table


def _minutes(duration_ms: int) -> int:
    return (duration_ms + MINUTE_MS // 2) // MINUTE_MS


def _runs(at: Int64, beyond: Bool, cadence_ms: int) -> _Runs:
    """Return the runs of merged readings in order; a new one begins at each change of side and after each gap."""
    after_gap = np.diff(at) > SPLITTING_GAP_MS
    breaks = np.flatnonzero(after_gap | (beyond[1:] != beyond[:-1])) + 1
    first = np.concatenate(([0], breaks))
    last = np.concatenate((breaks, [at.size])) - 1
    until = held_until(at, cadence_ms)[last]
    minutes = (until - at[first] + MINUTE_MS // 2) // MINUTE_MS
    part = np.concatenate(([0], np.cumsum(after_gap)))[first]
    return _Runs(first, last, until, beyond[first], minutes, part)


def _episodes(at: Int64, beyond: Bool, cadence_ms: int, level: Level) -> list[ConsensusEpisode]:
    """Pair each run that opens with the next one that recovers, or with the end of its part of the readings."""
    runs = _runs(at, beyond, cadence_ms)
    opening = np.flatnonzero(runs.beyond & (runs.minutes >= OPENS_MINUTES))
    # An episode is over before a run that recovers, and before the first run of the next part.
    recovering = ~runs.beyond & (runs.minutes >= RECOVERS_MINUTES)
    over = np.flatnonzero(recovering | np.append(False, np.diff(runs.part) > 0))
    over = np.append(over, runs.first.size)
    found: list[ConsensusEpisode] = []
    next_free = 0
    for run in opening.tolist():
        if run < next_free:
            continue
        next_free = int(over[np.searchsorted(over, run, side="right")])
        found.append(
            ConsensusEpisode(
                level=level,
                started_at=int(at[runs.first[run]]),
                known_at=_known_at(at[runs.first[run] : runs.last[run] + 1], int(runs.until[run]), cadence_ms),
                ended_at=int(runs.until[next_free - 1]),
                end=_end(runs, run, next_free),
                # Runs on the other side are shorter: 15 min of one would have ended the episode.
                extended=bool((runs.minutes[run:next_free] > EXTENDED_MINUTES).any()),
            )
        )
    return found


def _end(runs: _Runs, run: int, after: int) -> End:
    if after == runs.first.size:
        return End.OPEN
    return End.RECOVERED if runs.part[after] == runs.part[run] else End.GAP


def _known_at(at: Int64, until: int, cadence_ms: int) -> int:
    """Return when the readings of an opening run had held for 15 min, but never before the reading that shows it."""
    held = np.append(held_until(at, cadence_ms)[:-1], until)
    enough = int(np.argmax((held - at[0] + MINUTE_MS // 2) // MINUTE_MS >= OPENS_MINUTES))
    quarter = int(at[0]) + OPENS_MINUTES * MINUTE_MS
    return max(int(at[enough]), min(int(held[enough]), quarter))
