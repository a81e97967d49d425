"""Consensus episodes twice more: as slowly and plainly as the clinic states them, and on a grid as R's iglu does it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from tests.streaming.nocturnal_reference import Reading

MINUTE_MS = 60 * 1000
# Level: the limit in each unit, and whether beyond means below.
LEVELS = {
    "low_1": ({"mmol/L": 3.9, "mg/dL": 70.0}, True),
    "low_2": ({"mmol/L": 3.0, "mg/dL": 54.0}, True),
    "high_1": ({"mmol/L": 10.0, "mg/dL": 180.0}, False),
    "high_2": ({"mmol/L": 13.9, "mg/dL": 250.0}, False),
}


@dataclass(frozen=True)
class PlainEpisode:
    level: str
    started_at: int
    known_at: int
    ended_at: int
    end: str
    extended: bool


def beyond(reading: Reading, level: str) -> bool:
    limits, is_low = LEVELS[level]
    if "below_range" in reading.flags:
        return is_low
    if "above_range" in reading.flags:
        return not is_low
    assert reading.value is not None
    return reading.value < limits[reading.unit] if is_low else reading.value > limits[reading.unit]


def one_per_instant(readings: Iterable[Reading]) -> list[Reading]:
    """The lowest reading that counts of each instant, in order of time."""

    def order(reading: Reading) -> tuple[int, float]:
        if "below_range" in reading.flags:
            return (-2, -math.inf)
        if "above_range" in reading.flags or reading.value is None:
            return (0, math.inf)
        mmol = reading.value if reading.unit == "mmol/L" else reading.value / 18
        return (-sum(beyond(reading, level) for level in ("low_1", "low_2")), mmol)

    by_time: dict[int, Reading] = {}
    for reading in readings:
        if reading.counts and (reading.at not in by_time or order(reading) < order(by_time[reading.at])):
            by_time[reading.at] = reading
    return [by_time[at] for at in sorted(by_time)]


def plain_episodes(readings: Iterable[Reading], cadence_minutes: int) -> list[PlainEpisode]:
    merged = one_per_instant(readings)
    return [found for level in LEVELS for found in _plain_level(merged, cadence_minutes * MINUTE_MS, level)]


def _plain_level(readings: list[Reading], cadence: int, level: str) -> list[PlainEpisode]:
    """One reading after the other; each holds until the next one, for one cadence at most."""
    found: list[PlainEpisode] = []
    side: bool | None = None
    since = started = known = ended = until = 0
    is_open = extended = False
    for index, reading in enumerate(readings):
        if index and reading.at - readings[index - 1].at > 45 * MINUTE_MS:
            if is_open:
                found.append(PlainEpisode(level, started, known, until, "gap", extended))
            side, is_open = None, False
        if beyond(reading, level) is not side:
            side, since, ended = beyond(reading, level), reading.at, until
        until = reading.at + cadence
        if index + 1 < len(readings):
            until = min(until, readings[index + 1].at)
        lasted = math.floor((until - since) / MINUTE_MS + 0.5)
        if side and not is_open and lasted >= 15:
            is_open, extended, started = True, False, since
            known = max(reading.at, min(until, since + 15 * MINUTE_MS))
        if side and is_open and lasted > 120:
            extended = True
        if not side and is_open and lasted >= 15:
            found.append(PlainEpisode(level, started, known, ended, "recovered", extended))
            is_open = False
    if is_open:
        found.append(PlainEpisode(level, started, known, until, "open", extended))
    return found


def iglu_counts(times_ms: Sequence[int], values: Sequence[float], cadence_minutes: int) -> dict[str, tuple[int, int]]:
    """Number and minutes of episodes as the R package iglu counts them (`episode_calculation`), values in mg/dL.

    Its algorithm, written anew: interpolate linearly on a grid (here from the first reading on, there from midnight),
    leave gaps above 45 min empty, split there; a run of as many grid points as fill 15 min starts or ends an episode;
    `extended` asks for points of more than 120 min.
    """
    step = cadence_minutes * MINUTE_MS
    parts: list[list[float]] = [[]]
    left = 0
    for at in range(times_ms[0], times_ms[-1] + 1, step):
        while left + 1 < len(times_ms) and times_ms[left + 1] <= at:
            left += 1
        if times_ms[left] == at:
            parts[-1].append(values[left])
        elif times_ms[left + 1] - times_ms[left] <= 45 * MINUTE_MS:
            share = (at - times_ms[left]) / (times_ms[left + 1] - times_ms[left])
            parts[-1].append(values[left] + share * (values[left + 1] - values[left]))
        elif parts[-1]:
            parts.append([])
    enough = math.ceil(15 / cadence_minutes)
    found = {}
    for level, (limits, is_low) in {**LEVELS, "extended": LEVELS["low_1"]}.items():
        limit, points = limits["mg/dL"], 120 // cadence_minutes + 1 if level == "extended" else enough
        lengths = [
            length
            for part in parts
            for length in _iglu_lengths([one < limit if is_low else one > limit for one in part], points, enough)
        ]
        found[level] = (len(lengths), sum(lengths) * cadence_minutes)
    return found


def _iglu_lengths(side: list[bool], starts_with: int, ends_with: int) -> list[int]:
    """Points of each episode of one part: from the start of a long run beyond to the next long run not beyond."""
    starts, ends, index = [], [], 0
    for value, group in groupby(side):
        length = len(list(group))
        if value and length >= starts_with:
            starts.append(index)
        if not value and length >= ends_with:
            ends.append(index)
        index += length
    by_end: dict[int, int] = {}
    for start in starts:
        by_end.setdefault(min([end for end in ends if end > start], default=len(side)), start)
    return [end - start for end, start in by_end.items()]
