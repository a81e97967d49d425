"""Runs of consecutive RR intervals: where nulls end them, and when their beats were."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from devices.series import Bool, Columns, Float64
from devices.units import to_canonical
from devices.vocabulary import CODES, Code, Unit

# ms in one of the unit, by [unit]
_FACTOR: Final[Float64] = np.full(max(Unit) + 1, np.nan)
for _unit, _rule in CODES[Code.RR_INTERVAL].units.items():
    _FACTOR[_unit] = _rule.factor


@dataclass(slots=True)
class RRRun:
    """Consecutive RR intervals without a gap.

    `message`, `series` and `device` as in ObservationBatch; `at` is the beat that ends the first interval and
    `ends_at` the last beat, both ms since the Unix epoch; `intervals` float64[n > 0] in `unit`, as sent,
    a view into the batch.
    """

    message: int
    series: int
    device: int
    at: float
    ends_at: float
    intervals: Float64
    unit: int
    flags: int

    def beats(self) -> Float64:
        """Return the beat that ends each interval, float64[n] ms since the epoch."""
        return beat_times(self.at, to_canonical(Code.RR_INTERVAL, Unit(self.unit), self.intervals))

    def part(self, start: int, stop: int, beats: Float64) -> "RRRun":
        """Return the intervals [start, stop) as a run of their own; `beats` as in `beats()`."""
        return replace(
            self, at=float(beats[start]), ends_at=float(beats[stop - 1]), intervals=self.intervals[start:stop]
        )


def beat_times(at_ms: float, intervals_ms: Float64) -> Float64:
    """Return the beat that ends each interval, float64[n] ms since the epoch; the first one is at `at_ms`.

    A missing interval (NaN) hides its length. It is taken to be the mean of the nearest known intervals before and
    after it: later beats keep their place in the night, and the run after it never touches the run before it, as it
    would if nothing were counted. Without any known interval: NaN.
    """
    missing = np.isnan(intervals_ms)
    known = np.flatnonzero(~missing)
    if not len(known):
        return np.full(len(intervals_ms), np.nan)
    after = np.searchsorted(known, np.flatnonzero(missing))
    before = intervals_ms[known[np.maximum(after - 1, 0)]]
    behind = intervals_ms[known[np.minimum(after, len(known) - 1)]]
    durations = intervals_ms.copy()
    durations[missing] = (before + behind) / 2
    times: Float64 = at_ms + np.cumsum(durations) - durations[0]
    return times


def runs_of(columns: Columns, good: Bool) -> Iterator[tuple[int, list[RRRun]]]:
    """Yield every good series of RR intervals that holds any, with its runs; an unbroken series is one run."""
    chosen = np.flatnonzero(good & (columns.code == Code.RR_INTERVAL) & (columns.count > 0))
    if not len(chosen):
        return
    start, stop = columns.start[chosen], columns.start[chosen] + columns.count[chosen]
    absent = np.isnan(columns.value)
    gaps = np.concatenate(([0], np.cumsum(absent)))
    has_gaps = gaps[stop] > gaps[start]
    beats = np.cumsum(np.where(absent | ~good[columns.owner], 0, columns.value))
    last = columns.at[chosen] + (beats[stop - 1] - beats[start]) * _FACTOR[columns.unit[chosen]]
    per_series = (columns.message, columns.position, columns.device, columns.at, columns.unit, columns.flags)
    fields = zip(*(column[chosen].tolist() for column in per_series), strict=True)
    bounds = zip(*(column.tolist() for column in (chosen, start, stop, has_gaps, last)), strict=True)
    for (i, first, end, gappy, ends_at), (message, position, device, at, unit, flags) in zip(
        bounds, fields, strict=True
    ):
        intervals = columns.value[first:end]
        if not gappy:
            yield i, [RRRun(message, position, device, float(at), ends_at, intervals, unit, flags)]
            continue
        ends = beat_times(at, to_canonical(Code.RR_INTERVAL, Unit(unit), intervals))
        runs = [
            RRRun(message, position, device, float(ends[a]), float(ends[b - 1]), intervals[a:b], unit, flags)
            for a, b in _known_stretches(intervals)
        ]
        if runs:
            yield i, runs


def _known_stretches(values: Float64) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of every stretch without NaN."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], np.isnan(values), [True])).astype(np.int8)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
