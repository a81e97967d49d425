"""RR intervals: runs joined into beats, implausible beats dropped, artifacts corrected after Lipponen and Tarvainen.

Lipponen & Tarvainen 2019, "A robust algorithm for heart rate variability time series artefact correction using novel
beat classification", doi 10.1080/03091902.2019.1640306; equations and figures are named where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.vocabulary import Flag

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]

PLAUSIBLE_MS: Final = (300.0, 2000.0)
JOIN_MS: Final = 50.0
"""Runs join only where their times meet this closely; a beat this close to an earlier one is the same beat."""
UNUSABLE: Final = Flag.ARTIFACT | Flag.OFF_BODY | Flag.WARMUP | Flag.CALIBRATION

ALPHA: Final = 5.2
C1: Final = 0.13
C2: Final = 0.17
THRESHOLD_BEATS: Final = 91
MEDIAN_BEATS: Final = 11
MIN_QUARTILE_DEVIATION_MS: Final = 0.5
"""Half a sensor's resolution; without it one step of the last digit would be an artifact in a very even series."""


@dataclass(frozen=True, slots=True, eq=False)
class RRRun:
    """Consecutive intervals of one device: `at_ms` is the beat that ends the first one; `flags` apply to all."""

    at_ms: float
    intervals_ms: Float64
    flags: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Beats:
    """Beats in order of time as a struct of arrays of one length.

    `end` float64 ms: time of the beat; `interval` float64 ms: time since the beat before; `follows`: the previous beat
    is the one before it in these arrays (otherwise a gap or a dropped beat lies between them, and no difference is
    taken); `corrected`: the interval is not the measured one.
    """

    end: Float64
    interval: Float64
    follows: Bool
    corrected: Bool

    def __len__(self) -> int:
        """Return the number of beats."""
        return self.end.size

    def between(self, start_ms: float, end_ms: float) -> Beats:
        """Return the beats that came in (start, end]; the first of them follows nothing.

        A beat exactly on the mark ends an interval that lies before it.
        """
        rows = slice(*np.searchsorted(self.end, (start_ms, end_ms), side="right").tolist())
        follows = self.follows[rows].copy()
        follows[:1] = False
        return Beats(self.end[rows], self.interval[rows], follows, self.corrected[rows])

    def differences(self) -> Float64:
        """Return the successive differences in ms, never across a gap or a dropped beat."""
        return np.diff(self.interval)[self.follows[1:]]


class Artifact(IntEnum):
    """What is wrong with a beat; the names are the paper's."""

    NONE = 0
    ECTOPIC = 1
    LONG_OR_SHORT = 2
    MISSED = 3
    EXTRA = 4


def beats_of(runs: Iterable[RRRun]) -> Beats:
    """Join runs of one device, in any order, into beats and drop those whose interval is not within 300–2000 ms.

    Runs that the sensor flagged as unusable are left out. Of overlapping runs the earlier one counts.
    """
    usable = [run for run in runs if run.intervals_ms.size and not run.flags & UNUSABLE]
    usable.sort(key=lambda run: run.at_ms)
    if not usable:
        nothing = np.empty(0)
        return Beats(nothing, nothing, np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.bool_))
    ends = [run.at_ms + np.cumsum(run.intervals_ms) - run.intervals_ms[0] for run in usable]
    reached = np.maximum.accumulate([-np.inf, *(float(end[-1]) for end in ends[:-1])])
    already = np.repeat(reached, [end.size for end in ends])
    end, interval = np.concatenate(ends), np.concatenate([run.intervals_ms for run in usable])
    keep = (end > already + JOIN_MS) & (interval >= PLAUSIBLE_MS[0]) & (interval <= PLAUSIBLE_MS[1])
    end, interval = end[keep], interval[keep]
    follows = np.zeros(end.size, dtype=np.bool_)
    follows[1:] = np.abs(end[1:] - interval[1:] - end[:-1]) <= JOIN_MS
    return Beats(end, interval, follows, np.zeros(end.size, dtype=np.bool_))


def correct(beats: Beats) -> Beats:
    """Return the beats with artifacts corrected, each stretch of consecutive beats by itself.

    An extra beat is merged with the interval after it. A missed beat splits its interval into two halves. Ectopic, long
    and short intervals are interpolated between their neighbours, and their beats keep their times.
    """
    if len(beats) == 0:
        return beats
    starts = np.flatnonzero(~beats.follows)
    stops = [*starts[1:].tolist(), len(beats)]
    parts = [
        _correct_stretch(beats.end[start:stop], beats.interval[start:stop])
        for start, stop in zip(starts.tolist(), stops, strict=True)
    ]
    end, interval, follows, corrected = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Beats(end, interval, follows, corrected)


def classify(interval: Float64) -> Int8:
    """Return the `Artifact` of each of a stretch of consecutive intervals (ms), decided as in figure 1 of the paper."""
    kinds = np.zeros(interval.size, dtype=np.int8)
    if interval.size < 3:
        return kinds
    differences = np.diff(interval, prepend=interval[0])
    d = differences / _threshold(differences)
    median = _rolling_quantiles(interval, MEDIAN_BEATS, (0.5,))[0]
    deviation = interval - median
    deviation[deviation < 0] *= 2
    spread = _threshold(deviation)
    m = deviation / spread
    ectopic, longer, shorter = _decision_regions(d)
    unlike = np.abs(m) > 3
    next_interval = np.append(interval[1:], np.inf)
    extra = shorter & (np.abs(interval + next_interval - median) < spread)
    missed = longer & (np.abs(interval / 2 - median) < spread)
    not_ectopic = np.select(
        [extra, missed, longer | shorter | unlike],
        [Artifact.EXTRA, Artifact.MISSED, Artifact.LONG_OR_SHORT],
        Artifact.NONE,
    )
    size = np.abs(d)
    done = -1
    for beat in np.flatnonzero(size[:-2] > 1).tolist():
        if beat <= done:
            continue
        if ectopic[beat]:
            kinds[beat] = Artifact.ECTOPIC
            continue
        kinds[beat], done = not_ectopic[beat], beat
        if size[beat + 1] < size[beat + 2]:
            kinds[beat + 1], done = not_ectopic[beat + 1], beat + 1
    return kinds


def _decision_regions(d: Float64) -> tuple[Bool, Bool, Bool]:
    """Return which beats are ectopic, long and short by their normalised differences (figure 2)."""
    padded = np.pad(d, 2, mode="reflect")
    before, after, second = padded[1:-3], padded[3:-1], padded[4:]
    s12 = np.where(d > 0, np.maximum(before, after), np.where(d < 0, np.minimum(before, after), 0.0))
    s22 = np.where(d >= 0, np.minimum(after, second), np.maximum(after, second))
    ectopic = ((d > 1) & (s12 < -C1 * d - C2)) | ((d < -1) & (s12 > -C1 * d + C2))
    return ectopic, (d > 1) & (s22 < -1), (d < -1) & (s22 > 1)


def _threshold(signal: Float64) -> Float64:
    """Return the time-varying threshold: alpha times the quartile deviation of 91 absolute values around each beat."""
    low, high = _rolling_quantiles(np.abs(signal), THRESHOLD_BEATS, (0.25, 0.75))
    return ALPHA * np.maximum((high - low) / 2, MIN_QUARTILE_DEVIATION_MS)


def _rolling_quantiles(signal: Float64, width: int, quantiles: tuple[float, ...]) -> list[Float64]:
    """Return quantiles (linear between ranks) of the `width` values centred on each; fewer at the edges."""
    half = width // 2
    padded = np.pad(signal, half, constant_values=np.nan)
    ranked = np.sort(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)  # NaN sorts last
    rows = np.arange(signal.size)
    last = np.minimum(rows, half) + np.minimum(signal.size - 1 - rows, half)
    found = []
    for quantile in quantiles:
        rank = quantile * last
        below = rank.astype(np.int64)
        lower, upper = ranked[rows, below], ranked[rows, np.minimum(below + 1, last)]
        found.append(lower + (rank - below) * (upper - lower))
    return found


def _correct_stretch(end: Float64, interval: Float64) -> tuple[Float64, Float64, Bool, Bool]:
    """Return end, interval, follows and corrected of one stretch of consecutive beats."""
    kinds = classify(interval)
    interval, changed = interval.copy(), kinds != Artifact.NONE
    extra, missed = np.flatnonzero(kinds == Artifact.EXTRA), np.flatnonzero(kinds == Artifact.MISSED)
    for beat in extra.tolist():
        interval[beat + 1] += interval[beat]
        changed[beat + 1] = True
    interval[missed] /= 2
    guessed = (kinds == Artifact.ECTOPIC) | (kinds == Artifact.LONG_OR_SHORT)
    known = ~guessed & (kinds != Artifact.EXTRA)
    if known.any():
        interval[guessed] = np.interp(np.flatnonzero(guessed), np.flatnonzero(known), interval[known])
    end = np.insert(end, missed, end[missed] - interval[missed])
    keep = np.insert(kinds != Artifact.EXTRA, missed, values=True)
    interval, changed = np.insert(interval, missed, interval[missed]), np.insert(changed, missed, values=True)
    follows = np.ones(int(keep.sum()), dtype=np.bool_)
    follows[:1] = False
    return end[keep], interval[keep], follows, changed[keep]
