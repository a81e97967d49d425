"""Live heart rate: what is told is what the heart did, whatever radio and sensor do to the notifications."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.batch import BatchBuilder
from devices.encode import encode_telemetry
from devices.gatt.heart_rate import HeartRateMeasurement
from devices.messages import Series
from devices.vocabulary import CONTENT_TYPE_JSON, Flag
from gateway.ble.findings import BeatRun, Finding, RateRun
from gateway.ble.heart_beats import ALLOWED_LATENESS_MS, MAX_HELD, HeartStream, close, flush, hear
from streaming.hrv.rr_cleaning import RRRun
from streaming.hrv.windows import WINDOW_MS, HrvWindow, windows_of

START = 1_790_812_800_000  # 2026-10-01T00:00Z
MINUTE = 60_000
JOINED_MS = 50
"""What the gateway joins."""

Delay = Callable[[random.Random], float]
DELAYS: dict[str, Delay] = {
    "prompt": lambda _: 0.0,
    "interval": lambda rng: rng.random() * 60,
    "tail": lambda rng: min(rng.expovariate(1 / 100), 2000.0),
    "spikes": lambda rng: rng.random() * 2000 if rng.random() < 0.05 else rng.random() * 50,
}


@dataclass
class Sensor:
    """A heart and a strap on it: true intervals in 1/1024 s, and what it sends when (ms from the start)."""

    rr: list[int]
    by_beat: bool = False
    sent: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(interval / 1.024 for interval in self.rr))
        if self.by_beat:
            self.sent = [(end, (interval,)) for end, interval in zip(self.ends, self.rr, strict=True)]
            return
        told = 0
        for second in range(math.ceil(self.ends[-1] / 1000) + 1):
            at = 500.0 + 1000 * second
            until = bisect(self.ends, at)
            self.sent.append((at, tuple(self.rr[told:until])))
            told = until


def heart(seed: int, minutes: int, mean: float) -> list[int]:
    rng = random.Random(seed)
    rr: list[int] = []
    slow = 0.0
    while sum(rr) / 1.024 < minutes * MINUTE:
        slow = 0.97 * slow + rng.gauss(0, 8)
        rr.append(round((mean + 35 * math.sin(len(rr) / 4) + slow + rng.gauss(0, 12)) * 1.024))
    return rr


def arrivals(sensor: Sensor, seed: int, delay: Delay, loss: float = 0.0) -> list[tuple[int, tuple[int, ...]]]:
    """Return what arrives when, in order; the first five always do: a hole needs something before it to be seen."""
    rng = random.Random(seed)
    found: list[tuple[int, tuple[int, ...]]] = []
    latest = 0
    for index, (at, rr) in enumerate(sensor.sent):
        latest = max(latest, round(at + delay(rng)))
        if index < 5 or rng.random() >= loss:
            found.append((latest, rr))
    return found


def told(notifications: Sequence[tuple[int, tuple[int, ...]]], every: int = 7000) -> list[Finding]:
    """Return the findings of a stream that is flushed `every` ms."""
    stream, found, now = HeartStream(), list[Finding](), START
    for at, rr in notifications:
        while now <= START + at:
            stream, findings = flush(stream, now)
            found += findings
            now += every
        stream = hear(stream, START + at, HeartRateMeasurement(65, rr_intervals=rr))
    return found + list(close(stream)[1])


def beat_runs(findings: Sequence[Finding]) -> list[BeatRun]:
    return [finding for finding in findings if isinstance(finding, BeatRun)]


def joined(runs: Sequence[BeatRun]) -> Iterator[tuple[float, list[int]]]:
    """Yield begin and intervals (1/1024 s) of what the gateway takes for consecutive; beats have to rise."""
    begun, intervals, ended = 0.0, list[int](), -math.inf
    for run in runs:
        begin = run.at_ms - run.intervals_ms[0]
        assert begin >= ended - JOINED_MS
        if abs(begin - ended) > JOINED_MS:
            if intervals:
                yield begun, intervals
            begun, intervals = begin, []
        intervals += [round(interval * 1.024) for interval in run.intervals_ms]
        ended = begin + sum(run.intervals_ms)
    if intervals:
        yield begun, intervals


def bridged(runs: Sequence[BeatRun], rr: Sequence[int]) -> int:
    """Return how many joined runs are no part of the true series, in order."""
    at = wrong = 0
    for _, part in joined(runs):
        places = range(at, len(rr) - len(part) + 1)
        place = next((i for i in places if list(rr[i : i + len(part)]) == part), None)
        wrong += place is None
        at = at if place is None else place + len(part)
    return wrong


@pytest.mark.parametrize("by_beat", [False, True])
@pytest.mark.parametrize("mean", [620, 850, 1000, 1150])
@pytest.mark.parametrize("delay", ["prompt", "interval", "spikes"])
def test_without_loss_it_is_one_run_and_its_time_is_right(delay: str, mean: float, *, by_beat: bool) -> None:
    sensor = Sensor(heart(1, 20, mean), by_beat)
    runs = beat_runs(told(arrivals(sensor, 2, DELAYS[delay])))
    ((begun, intervals),) = joined(runs)
    assert intervals == sensor.rr
    assert START - 1 <= begun < START + 150


@pytest.mark.parametrize("by_beat", [False, True])
@pytest.mark.parametrize("mean", [620, 850, 1000, 1150])
@pytest.mark.parametrize("delay", ["prompt", "interval"])
@pytest.mark.parametrize("seed", range(3))
def test_a_lost_notification_is_never_bridged(seed: int, delay: str, mean: float, *, by_beat: bool) -> None:
    sensor = Sensor(heart(seed, 20, mean), by_beat)
    heard = arrivals(sensor, seed, DELAYS[delay], loss=0.03)
    lost = len(sensor.sent) - len(heard)
    runs = beat_runs(told(heard))
    assert bridged(runs, sensor.rr) == 0
    assert lost / 2 < len(list(joined(runs))) <= lost + 2
    arrived = sum(len(rr) for _, rr in heard)
    assert sum(len(run.intervals_ms) for run in runs) > 0.93 * arrived


@pytest.mark.parametrize("by_beat", [False, True])
@pytest.mark.parametrize("delay", ["tail", "spikes"])
def test_loss_and_lateness_together_are_nearly_always_told_apart(delay: str, *, by_beat: bool) -> None:
    lost = wrong = parts = 0
    for seed in range(4):
        sensor = Sensor(heart(seed, 20, 800 + 100 * seed), by_beat)
        heard = arrivals(sensor, seed, DELAYS[delay], loss=0.05)
        lost += len(sensor.sent) - len(heard)
        runs = beat_runs(told(heard))
        wrong += bridged(runs, sensor.rr)
        parts += len(list(joined(runs)))
    assert lost > 200
    assert wrong <= 0.01 * lost
    assert 0.8 * lost < parts < 1.2 * lost


@pytest.mark.parametrize("every", [1000, 7000, 60_000, 3_600_000])
def test_the_times_are_those_of_the_clock_whenever_it_is_flushed(every: int) -> None:
    sensor = Sensor(heart(5, 30, 870))
    runs = beat_runs(told(arrivals(sensor, 5, DELAYS["interval"]), every))
    first, last = runs[0], runs[-1]
    elapsed = last.at_ms + sum(last.intervals_ms[1:]) - (first.at_ms - first.intervals_ms[0])
    assert elapsed == pytest.approx(sensor.ends[-1], abs=150)
    assert [round(x * 1.024) for run in runs for x in run.intervals_ms] == sensor.rr
    if every <= 60_000:
        assert len(runs) >= 29


@pytest.mark.parametrize("ppm", [-80, 80])
def test_a_drifting_sensor_is_followed(ppm: int) -> None:
    sensor = Sensor(heart(6, 240, 900))
    heard = [(round(at * (1 + ppm / 1e6)), rr) for at, rr in arrivals(sensor, 6, DELAYS["interval"])]
    runs = beat_runs(told(heard, 10_000))
    assert len(list(joined(runs))) == 1
    last = runs[-1]
    end = last.at_ms + sum(last.intervals_ms[1:])
    assert end - START == pytest.approx(sensor.ends[-1] * (1 + ppm / 1e6), abs=200)


def test_a_pause_parts_two_runs_and_costs_no_beat() -> None:
    sensor = Sensor(heart(7, 1, 900))
    heard = arrivals(sensor, 7, DELAYS["interval"])
    again = [(at + 100_000, rr) for at, rr in heard]
    first, second = joined(beat_runs(told(heard + again)))
    assert first[1] == second[1] == sensor.rr
    assert second[0] - first[0] == pytest.approx(100_000, abs=100)


def test_a_clock_set_back_within_a_minute_parts_two_runs() -> None:
    stream, begins = HeartStream(), (START, START - 40_000)
    for begin in begins:
        for second in range(30):
            stream = hear(stream, begin + 1000 * second, HeartRateMeasurement(60, rr_intervals=(1024,)))
    runs = beat_runs(close(stream)[1])
    assert [(run.at_ms, len(run.intervals_ms)) for run in runs] == [(begin, 30) for begin in begins]


def test_off_the_skin_for_a_moment_at_the_end_of_a_minute() -> None:
    """What is told up to there and what follows are two runs, and nothing of either is lost."""
    stream, runs = HeartStream(), list[Finding]()
    for second in range(120):
        worn = second != 59
        packet = HeartRateMeasurement(60, contact=worn, rr_intervals=(1024,))
        stream, findings = flush(hear(stream, START + 1000 * second, packet), START + 1000 * second)
        runs += findings
    runs += close(stream)[1]
    first, second_run = joined(beat_runs(runs))
    assert (len(first[1]), len(second_run[1])) == (59, 60)


def test_a_stream_that_began_late_is_put_right() -> None:
    """A link that holds everything back for two minutes sets the beats too late; it cannot stay so once it is quick."""
    sensor = Sensor(heart(8, 10, 900))
    heard = [(at + (1500 if at < 150_000 else 0), rr) for at, rr in arrivals(sensor, 8, DELAYS["interval"])]
    runs = beat_runs(told(heard, 5000))
    assert bridged(runs, sensor.rr) == 0
    last = runs[-1]
    assert last.at_ms + sum(last.intervals_ms[1:]) - START == pytest.approx(sensor.ends[-1], abs=200)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), breaks=st.lists(st.integers(0, 400_000), max_size=6), by_beat=st.booleans())
def test_over_reconnects_times_rise_and_nothing_is_told_twice(seed: int, breaks: list[int], *, by_beat: bool) -> None:
    rng = random.Random(seed)
    sensor = Sensor(heart(seed, 7, rng.choice([620, 850, 1000])), by_beat)
    stream, runs, cuts = HeartStream(), list[Finding](), sorted(breaks)
    silent_until = 0
    for at, rr in arrivals(sensor, seed, DELAYS["tail"], loss=0.01):
        if cuts and at >= cuts[0]:
            cuts.pop(0)
            stream, findings = close(stream)
            runs += findings
            silent_until = at + rng.choice([0, 1500, 4000, 30_000])
        if at < silent_until:
            continue
        stream, findings = flush(hear(stream, START + at, HeartRateMeasurement(65, rr_intervals=rr)), START + at)
        runs += findings
    runs += close(stream)[1]
    ended = -math.inf
    for run in beat_runs(runs):
        beats = [run.at_ms - run.intervals_ms[0], *accumulate(run.intervals_ms[1:], initial=float(run.at_ms))]
        assert beats[0] >= ended - JOINED_MS
        assert beats[1] > ended
        ended = beats[-1]
        assert ended <= START + sensor.sent[-1][0] + 2500
    rates = [run for run in runs if isinstance(run, RateRun)]
    seconds = [run.at_ms + 1000 * i for run in rates for i in range(len(run.values))]
    assert len(set(seconds)) == len(seconds)
    assert seconds == sorted(seconds)


def test_what_a_reconnected_sensor_repeats_is_told_once() -> None:
    sensor = Sensor(heart(9, 2, 900))
    stream = HeartStream()
    for at, rr in arrivals(sensor, 9, DELAYS["prompt"]):
        stream = hear(stream, START + at, HeartRateMeasurement(65, rr_intervals=rr))
    stream, first = close(stream)
    again = [interval for _, rr in sensor.sent[-6:] for interval in rr]
    stream = hear(stream, START + sensor_end(sensor) + 500, HeartRateMeasurement(65, rr_intervals=tuple(again)))
    stream, second = close(stream)
    before, after = beat_runs(first)[-1], beat_runs(second)
    ended = before.at_ms + sum(before.intervals_ms[1:])
    assert all(run.at_ms - run.intervals_ms[0] > ended + JOINED_MS for run in after)
    assert sum(len(run.intervals_ms) for run in after) <= 1


def sensor_end(sensor: Sensor) -> int:
    return round(sensor.sent[-1][0])


def one_minute(measurements: Sequence[HeartRateMeasurement]) -> tuple[Finding, ...]:
    stream = HeartStream()
    for second, measurement in enumerate(measurements):
        stream = hear(stream, START + 1000 * second + 300, measurement)
    return close(stream)[1]


def test_rates_stand_on_a_grid_and_a_missing_second_is_none() -> None:
    stream = HeartStream()
    for second in (0, 1, 3):
        stream = hear(stream, START + 1000 * second + 900, HeartRateMeasurement(70 + second))
    assert close(stream)[1] == (RateRun(START, 1000, (70.0, 71.0, None, 73.0)),)


def test_a_minute_is_told_once_it_is_over_and_settled() -> None:
    stream = HeartStream()
    for second in range(130):
        stream = hear(stream, START + 1000 * second, HeartRateMeasurement(60))
    assert flush(stream, START + MINUTE + ALLOWED_LATENESS_MS - 1) == (stream, ())
    stream, findings = flush(stream, START + MINUTE + ALLOWED_LATENESS_MS)
    assert [(run.at_ms, len(run.values)) for run in findings if isinstance(run, RateRun)] == [(START, 60)]
    stream, findings = flush(stream, START + 10 * MINUTE)
    spans = [(run.at_ms, len(run.values)) for run in findings if isinstance(run, RateRun)]
    assert spans == [(START + MINUTE, 60), (START + 2 * MINUTE, 10)]
    assert flush(stream, START + 20 * MINUTE) == (stream, ())


def test_unworn_there_is_no_value_and_the_flag_says_why() -> None:
    worn, off = HeartRateMeasurement(70, contact=True), HeartRateMeasurement(110, contact=False, rr_intervals=(500,))
    findings = one_minute([worn, worn, off, off, worn])
    assert findings == (
        RateRun(START, 1000, (70.0, 70.0)),
        RateRun(START + 2000, 1000, (None, None), Flag.OFF_BODY),
        RateRun(START + 4000, 1000, (70.0,)),
    )


def test_a_rate_of_zero_is_no_value() -> None:
    nothing = HeartRateMeasurement(0, rr_intervals=(900,))
    assert one_minute([nothing, nothing]) == ()
    good = HeartRateMeasurement(70)
    assert one_minute([good, nothing, good]) == (RateRun(START, 1000, (70.0, None, 70.0)),)


def test_what_is_implausible_is_told_alone_so_that_its_refusal_costs_nothing_else() -> None:
    good = HeartRateMeasurement(70, rr_intervals=(1024,))
    findings = one_minute([good, good, HeartRateMeasurement(65_535, rr_intervals=(128,)), good, good])
    rates = [finding for finding in findings if isinstance(finding, RateRun)]
    assert rates == [RateRun(START + 2000, 1000, (65_535.0,)), RateRun(START, 1000, (70.0, 70.0, None, 70.0, 70.0))]
    assert [run.intervals_ms for run in beat_runs(findings)] == [(1000.0, 1000.0), (125.0,), (1000.0, 1000.0)]
    before, odd, after = beat_runs(findings)
    assert odd.at_ms == before.at_ms + 1000 + 125
    assert after.at_ms == odd.at_ms + 1000


def test_an_interval_of_zero_ends_a_run() -> None:
    good = HeartRateMeasurement(60, rr_intervals=(1000,))
    findings = beat_runs(one_minute([good] * 5 + [HeartRateMeasurement(60, rr_intervals=(1000, 0))] + [good] * 5))
    assert len(list(joined(findings))) == 2
    assert sum(len(run.intervals_ms) for run in findings) in {9, 10}


def test_a_flood_buys_no_memory() -> None:
    stream = HeartStream()
    for _ in range(300):
        stream = hear(stream, START, HeartRateMeasurement(60, rr_intervals=(1000,) * 200))
    assert stream.held <= MAX_HELD
    assert sum(1 + len(one.measurement.rr_intervals) for one in stream.heard) == stream.held
    assert stream.dropped == 300 - MAX_HELD // 201
    stream, _ = close(stream)
    assert stream.held == 0


def test_a_clock_set_back_holds_nothing_up() -> None:
    stream = HeartStream()
    for second in range(30):
        stream = hear(stream, START + 1000 * second, HeartRateMeasurement(60, rr_intervals=(1024,)))
    earlier = START - 3_600_000
    stream, findings = flush(stream, earlier)
    assert sum(len(run.intervals_ms) for run in beat_runs(findings)) == 30
    for second in range(30):
        stream = hear(stream, earlier + 1000 * second, HeartRateMeasurement(60, rr_intervals=(1024,)))
    _, findings = close(stream)
    assert sum(len(run.intervals_ms) for run in beat_runs(findings)) == 30
    assert [len(run.values) for run in findings if isinstance(run, RateRun)] == [30]


@given(st.lists(st.tuples(st.integers(-20_000, 20_000), st.integers(0, 65_535), st.sampled_from([None, False, True]),
                          st.lists(st.integers(0, 65_535), max_size=9)), max_size=60), st.data())  # fmt: skip
def test_nothing_a_sensor_says_breaks_it(
    packets: list[tuple[int, int, bool | None, list[int]]], data: st.DataObject
) -> None:
    stream, now, found = HeartStream(), START, list[Finding]()
    for gap, rate, contact, rr in packets:
        now += gap
        stream = hear(stream, now, HeartRateMeasurement(rate, contact, rr_intervals=tuple(rr)))
        if data.draw(st.booleans()):
            stream, findings = flush(stream, now + data.draw(st.integers(-MINUTE, 3 * MINUTE)))
            found += findings
    found += close(stream)[1]
    heard = sorted(interval / 1.024 for _, _, _, rr in packets for interval in rr)
    out = sorted(interval for run in beat_runs(found) for interval in run.intervals_ms)
    assert len(out) <= len(heard)
    assert all(run.intervals_ms and all(run.intervals_ms) for run in beat_runs(found))


def stored(runs: Sequence[BeatRun]) -> list[RRRun]:
    """Return the runs as the gateway's decoder hands them on, after a trip in JSON."""
    builder = BatchBuilder()
    for message, run in enumerate(runs):
        payload = encode_telemetry([Series("rr_interval", "ms", run.at_ms, values=list(run.intervals_ms))])
        builder.add_telemetry(message, 0, payload, CONTENT_TYPE_JSON, run.at_ms + MINUTE)
    batch = builder.finish()
    assert not batch.refusals
    return [RRRun(run.at, run.intervals) for run in batch.rr]


@pytest.mark.parametrize("mean", [850, 1000])
def test_the_heart_rate_variability_is_that_of_the_heart(mean: float) -> None:
    sensor = Sensor(heart(11, 40, mean))
    heard = arrivals(sensor, 11, DELAYS["spikes"], loss=0.01)
    ends = np.array(sensor.ends)
    truth = RRRun(START + float(ends[0]), np.array(sensor.rr) / 1.024)
    wanted = windows_of({1: [truth]}, START, START + 8 * WINDOW_MS)
    found = windows_of({1: stored(beat_runs(told(heard)))}, START, START + 8 * WINDOW_MS)
    pairs = list(zip(wanted, found, strict=True))
    assert len(pairs) == 8
    for true, measured in pairs:
        assert measured.valid
        assert rmssd(measured) == pytest.approx(rmssd(true), rel=0.05)
        assert measured.mean_heart_rate == pytest.approx(true.mean_heart_rate, rel=0.01)


def rmssd(window: HrvWindow) -> float:
    assert window.rmssd is not None
    return window.rmssd
