"""Turns a live Heart Rate stream into findings: heart rate on a grid, RR intervals as runs of consecutive beats. Pure.

Nothing in the packets says when a beat was, or whether a notification is missing; both follow from the arrival times. A
late notification catches up with later ones, a missing one never does: so notifications are processed some seconds
after they came, and emitted a minute at a time. The state is a value: `hear` and `flush` return the next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import Final

from devices.gatt.heart_rate import HeartRateMeasurement
from devices.vocabulary import CODES, Code, Flag, Unit
from gateway.ble.findings import BeatRun, Finding, RateRun

ALLOWED_LATENESS_MS: Final = 12_000
"""How long after the end of a minute its notifications are emitted: late ones have caught up by then."""
SILENCE_MS: Final = 5_000
"""Notifications further apart do not belong together: the longest interval, and 2 s of jitter."""
APART_MS: Final = 100.0
"""Runs that do not continue each other are kept this far apart: the gateway joins runs that meet within 50 ms."""
MAX_HELD: Final = 4096
"""Notifications and intervals held at most, some ten times what a heart makes until they are emitted: a device that
floods costs no more memory."""

_MINUTE_MS: Final = 60_000
_SECOND_MS: Final = 1000
_LOOK: Final = 10
"""Notifications compared on each side of a suspected hole."""
_SLOWER_MS, _FASTER_MS = 40.0, 10.0
"""How far beats may move per minute to follow the arrivals: less than the distance at which runs are joined. A crystal
drifts 6 ms a minute at most; lateness is noise (radio), earliness cannot be."""
_EARLY_MS: Final = 300.0
"""Beats computed to lie this long after their arrival were computed wrong."""
_BACK_MS: Final = 10_000
"""Arrivals this long before the last emitted one: this box's own clock was set back."""
_USUAL_PERIOD_MS: Final = 1000.0
_SHORTEST_PERIOD_MS: Final = 200.0
_RATES: Final = CODES[Code.HEART_RATE].units[Unit.PER_MIN]
_INTERVALS: Final = CODES[Code.RR_INTERVAL].units[Unit.MS]


@dataclass(frozen=True, slots=True)
class Heard:
    """One notification and when it arrived, in ms since the Unix epoch."""

    arrived_ms: int
    measurement: HeartRateMeasurement

    @property
    def beats(self) -> bool:
        """Whether there is a pulse: worn as far as the sensor knows, with a rate, and without an empty interval."""
        measured = self.measurement
        return measured.contact is not False and measured.rate > 0 and all(measured.rr_intervals)

    @property
    def total_ms(self) -> float:
        """The total duration of its intervals."""
        return sum(self.measurement.rr_intervals_ms)


@dataclass(frozen=True, slots=True)
class HeartStream:
    """The state of one device's stream between two calls; begin with `HeartStream()`."""

    heard: tuple[Heard, ...] = ()
    """Not emitted yet."""
    context: tuple[Heard, ...] = ()
    """The last ones emitted, if their beats may continue."""
    reckoned_ms: float = 0.0
    """Time of the last beat of `context`."""
    last_beat_ms: float | None = None
    """The last beat emitted, whatever came since."""
    last_rate_ms: int | None = None
    """The last second of heart rate emitted."""
    held: int = 0
    """Notifications and intervals in `heard`."""
    dropped: int = 0
    """Notifications dropped because of `MAX_HELD`, since the beginning."""


def hear(stream: HeartStream, arrived_ms: int, measurement: HeartRateMeasurement) -> HeartStream:
    """Return the stream with one more notification."""
    held = stream.held + 1 + len(measurement.rr_intervals)
    if held > MAX_HELD:
        return replace(stream, dropped=stream.dropped + 1)
    return replace(stream, heard=(*stream.heard, Heard(arrived_ms, measurement)), held=held)


def flush(stream: HeartStream, now_ms: int) -> tuple[HeartStream, tuple[Finding, ...]]:
    """Return the findings of the minutes that ended `ALLOWED_LATENESS_MS` ago or earlier, and the stream without them.

    Cheap while there is nothing to emit; call it as often as is convenient.
    """
    if stream.heard and stream.heard[0].arrived_ms > now_ms:
        return close(stream)  # this box's clock was set back: no minute would be complete for long
    until = (now_ms - ALLOWED_LATENESS_MS) // _MINUTE_MS * _MINUTE_MS
    complete = next((i for i, heard in enumerate(stream.heard) if heard.arrived_ms >= until), len(stream.heard))
    return _emit(stream, complete) if complete else (stream, ())


def close(stream: HeartStream) -> tuple[HeartStream, tuple[Finding, ...]]:
    """Return the remaining findings, when the link is gone; the stream that comes back serves the next link."""
    stream, findings = _emit(stream, len(stream.heard))
    return replace(stream, context=()), findings


def _emit(stream: HeartStream, complete: int) -> tuple[HeartStream, tuple[Finding, ...]]:
    rates = tuple(_rate_runs(stream.heard[:complete], stream.last_rate_ms))
    if rates:
        stream = replace(stream, last_rate_ms=max(run.at_ms + (len(run.values) - 1) * run.period_ms for run in rates))
    beats = _Beats(stream, complete)
    heard = stream.heard[complete:]
    stream = replace(
        stream,
        heard=heard,
        held=sum(1 + len(notification.measurement.rr_intervals) for notification in heard),
        context=beats.context,
        reckoned_ms=beats.reckoned_ms,
        last_beat_ms=beats.last_beat_ms,
    )
    return stream, (*rates, *beats.runs)


# Heart rate


def _rate_runs(heard: Sequence[Heard], last_emitted_ms: int | None) -> Iterator[RateRun]:
    """Yield the rates of each minute on a grid of whole seconds, the last of a second counts; time not worn by itself.

    An implausible rate is emitted in a run of its own, so that its refusal costs no other.
    """
    slots: dict[int, HeartRateMeasurement] = {}
    for notification in heard:
        second = notification.arrived_ms // _SECOND_MS * _SECOND_MS
        if last_emitted_ms is not None and last_emitted_ms - _BACK_MS < second <= last_emitted_ms:
            continue
        if notification.measurement.rate or notification.measurement.contact is False:
            slots[second] = notification.measurement
    stretch: dict[int, float | None] = {}
    before: tuple[int, bool] | None = None
    for second in sorted(slots):
        worn, rate = slots[second].contact is not False, slots[second].rate
        if stretch and before != (second // _MINUTE_MS, worn):
            yield _on_grid(stretch, worn=before is not None and before[1])
            stretch = {}
        before = second // _MINUTE_MS, worn
        plausible = _RATES.minimum <= rate <= _RATES.maximum
        if worn and not plausible:
            yield RateRun(second, _SECOND_MS, (float(rate),))
        else:
            stretch[second] = float(rate) if worn else None
    if stretch:
        yield _on_grid(stretch, worn=before is not None and before[1])


def _on_grid(rates: dict[int, float | None], *, worn: bool) -> RateRun:
    first, last = min(rates), max(rates)
    values = tuple(rates.get(second) for second in range(first, last + 1, _SECOND_MS))
    return RateRun(first, _SECOND_MS, values, Flag(0) if worn else Flag.OFF_BODY)


# Beats


class _Beats:
    """The beat runs of a stream's first `complete` notifications, and the time of the beats after them."""

    def __init__(self, stream: HeartStream, complete: int) -> None:
        self.runs: list[BeatRun] = []
        self.context: tuple[Heard, ...] = ()
        self.reckoned_ms = stream.reckoned_ms
        self.last_beat_ms = stream.last_beat_ms
        known = len(stream.context)
        everything = (*stream.context, *stream.heard)
        for start, stop in _unbroken(everything, known):
            if start >= known + complete:
                break
            self._emit(everything[start:stop], max(known - start, 0), known + complete - start)

    def _emit(self, stretch: Sequence[Heard], known: int, complete: int) -> None:
        """Emit the beats of `stretch[known:complete]`; earlier ones were emitted before, later ones are context."""
        fresh = stretch[known:complete]
        if not fresh:
            return
        begun_ms, goes_on = self._begin(stretch, known)
        intervals = [interval for heard in fresh for interval in heard.measurement.rr_intervals_ms]
        if not goes_on:
            begun_ms, intervals = self._keep_apart(begun_ms, intervals, fresh[0].arrived_ms)
        self.runs += _beat_runs(begun_ms, intervals)
        self.reckoned_ms = begun_ms + sum(intervals)
        if intervals:
            self.last_beat_ms = self.reckoned_ms
        self.context = tuple(stretch[:complete][-_LOOK:]) if complete <= len(stretch) else ()

    def _begin(self, stretch: Sequence[Heard], known: int) -> tuple[float, bool]:
        """Return when the first interval to emit began, and whether it follows the last one emitted.

        No beat is later than its arrival, and some notification arrives just after a beat. So the smallest lag of the
        arrivals behind the intervals' own time places that time.
        """
        if known:
            lag = min(_lags(stretch[known:], self.reckoned_ms))
            if lag >= -_EARLY_MS:
                return self.reckoned_ms + min(max(lag, -_SLOWER_MS), _FASTER_MS), True
        return min(_lags(stretch[known:], 0.0)), False

    def _keep_apart(self, begun_ms: float, intervals: list[float], arrived_ms: int) -> tuple[float, list[float]]:
        """Leave out the first intervals that would lie before the end of the last run, or continue it."""
        if self.last_beat_ms is None or arrived_ms < self.last_beat_ms - _BACK_MS:
            return begun_ms, intervals
        skip = 0
        while skip < len(intervals) and begun_ms < self.last_beat_ms + APART_MS:
            begun_ms += intervals[skip]
            skip += 1
        return begun_ms, intervals[skip:]


def _beat_runs(begun_ms: float, intervals: Sequence[float]) -> Iterator[BeatRun]:
    """Yield the runs of consecutive intervals; an implausible one is emitted by itself, as with rates."""
    at_ms, run = 0.0, list[float]()
    for interval in intervals:
        begun_ms += interval
        if _INTERVALS.minimum <= interval <= _INTERVALS.maximum:
            at_ms = at_ms if run else begun_ms
            run.append(interval)
            continue
        if run:
            yield BeatRun(round(at_ms), tuple(run))
        yield BeatRun(round(begun_ms), (interval,))
        run = []
    if run:
        yield BeatRun(round(at_ms), tuple(run))


def _unbroken(heard: Sequence[Heard], known: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of every stretch in which nothing is missing; the first `known` are emitted and whole."""
    start = None
    for i, notification in enumerate(heard):
        if start is not None and (not notification.beats or _silent(heard[i - 1], notification)):
            yield from _whole(heard, start, i, known)
            start = None
        if start is None and notification.beats:
            start = i
    if start is not None:
        yield from _whole(heard, start, len(heard), known)


def _silent(before: Heard, after: Heard) -> bool:
    return not -SILENCE_MS <= after.arrived_ms - before.arrived_ms <= SILENCE_MS


def _whole(heard: Sequence[Heard], start: int, stop: int, known: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a stretch between its holes.

    At a hole, the lag behind the notifications' own time rises for good by what is missing; after a late notification
    it comes back. The lag is taken by their number or by their intervals, whichever is steadier: some sensors notify by
    the second, some at each beat. Between the last notification at the old level and the first at the new one nobody
    knows where the hole is, and that first one may itself be a late one from before: they are left out.
    """
    lags, step = _steadier(heard[start:stop])
    first, level, i = 0, 0, max(known - start - 1, 0)
    while i + 1 < len(lags):
        before = min(lags[max(level, i - _LOOK + 1) : i + 1])
        after = min(lags[i + 1 : i + 1 + _LOOK])
        if after - before <= step / 2:
            i += 1
            continue
        yield start + first, start + i + 1
        level = next(j for j in range(i + 1, len(lags)) if lags[j] <= after + step / 4)
        first = i = level + 1
    if start + first < stop:
        yield start + first, stop


def _steadier(heard: Sequence[Heard]) -> tuple[list[float], float]:
    """Return the lags of a stretch by the steadier of its two measures, and by how much one hole raises them."""
    period = _period([heard.arrived_ms for heard in heard])
    counted = [notification.arrived_ms - i * period for i, notification in enumerate(heard)]
    summed = _lags(heard, 0.0)
    intervals = [interval for notification in heard for interval in notification.measurement.rr_intervals_ms]
    if intervals and _unrest(summed) < _unrest(counted):
        return summed, median(intervals)
    return counted, period


def _period(arrivals: Sequence[int]) -> float:
    """Return the time between notifications, leaving out those that are late or next to a hole."""
    gaps = [after - before for before, after in pairwise(arrivals)]
    if not gaps:
        return _USUAL_PERIOD_MS
    middle = median(gaps)
    return max(fmean([gap for gap in gaps if middle / 2 <= gap <= middle * 1.5] or [middle]), _SHORTEST_PERIOD_MS)


def _lags(heard: Sequence[Heard], begun_ms: float) -> list[float]:
    """Return how long each notification arrived after its last beat, if the first interval began at `begun_ms`."""
    reckoned = accumulate((notification.total_ms for notification in heard), initial=begun_ms)
    next(reckoned)
    return [notification.arrived_ms - beat for notification, beat in zip(heard, reckoned, strict=True)]


def _unrest(lags: Sequence[float]) -> float:
    """Return how much lags vary within a few notifications; the lower quartile, so that holes do not count."""
    far = min(_LOOK // 2, len(lags) // 2)
    wander = sorted(abs(after - before) for before, after in zip(lags, lags[far:], strict=False))
    return wander[len(wander) // 4] if wander else 0.0
