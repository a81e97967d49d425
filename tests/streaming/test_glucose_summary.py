"""The CGM summary: against plain arithmetic on readings one by one, published figures of GMI, and the recordings."""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import Unit
from streaming.glucose.episodes import EpisodeCount, Level, consensus_episodes, count_episodes
from streaming.glucose.summary import GlucoseSummary, Target, summarise
from streaming.glucose.values import merge
from streaming.readings import ReadingSeries
from streaming.zones import DAY_MS, ZoneHistory
from tests.recordings import RECORDINGS
from tests.streaming.episode_references import beyond, one_per_instant
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import MINUTE_MS, ZONES, glucose_series
from tests.streaming.test_glucose import recorded_subjects
from tests.streaming.test_glucose_episodes import readings_at_a_cadence

START = 1_790_812_800_000  # 2026-10-01T00:00Z
UTC_ALWAYS = ZoneHistory.of("UTC")


def summary(series: ReadingSeries, days: float = 14, cadence_ms: int | None = None) -> GlucoseSummary:
    found = summarise(series, UTC_ALWAYS, START, START + round(days * DAY_MS), cadence_ms)
    assert found is not None
    return found


def every(minutes: int, values: Sequence[float], unit: str = "mg/dL") -> ReadingSeries:
    return glucose_series([Reading(START + row * minutes * MINUTE_MS, one, unit) for row, one in enumerate(values)])


def mmol(reading: Reading) -> float:
    if "below_range" in reading.flags:
        return 40 / 18
    if "above_range" in reading.flags:
        return 400 / 18
    assert reading.value is not None
    return reading.value if reading.unit == "mmol/L" else reading.value / 18


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear interpolation between the order statistics."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    lower = math.floor(place)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (place - lower) * (ordered[upper] - ordered[lower])


@settings(max_examples=500, deadline=None)
@given(drawn=readings_at_a_cadence(), zone=st.sampled_from(ZONES), days=st.sampled_from([0.3, 1, 14]))
def test_agrees_with_plain_arithmetic(drawn: tuple[list[Reading], int], zone: str, days: float) -> None:
    readings, minutes = drawn
    shuffled = list(readings)
    random.Random(minutes).shuffle(shuffled)
    end = START + round(days * DAY_MS)
    found = summarise(glucose_series(shuffled), ZoneHistory.of(zone), START, end, minutes * MINUTE_MS)
    inside = [one for one in one_per_instant(readings) if one.at < end]
    if found is None:
        assert inside == []
        return
    ends = [one.at for one in inside[1:]] + [end]
    held = [min(after - one.at, minutes * MINUTE_MS) for one, after in zip(inside, ends, strict=True)]
    active = sum(held)
    assert found.readings == len(inside)
    assert found.active_percent == pytest.approx(100 * active / (end - START))
    for level in Level:
        wanted = sum(time for one, time in zip(inside, held, strict=True) if beyond(one, str(level)))
        assert found.beyond_percent[level] == pytest.approx(100 * wanted / active)
    mean = sum(mmol(one) * time for one, time in zip(inside, held, strict=True)) / active
    assert found.mean_mmol == pytest.approx(mean)
    by_quarter: dict[int, list[float]] = defaultdict(list)
    for one in inside:
        local = datetime.fromtimestamp(one.at / 1000, UTC).astimezone(ZoneInfo(zone))
        by_quarter[local.hour * 4 + local.minute // 15].append(mmol(one))
    for row in range(96):
        here = by_quarter[row]
        assert found.profile.readings[row] == len(here)
        expected = [percentile(here, one) for one in (5, 25, 50, 75, 95)] if here else [math.nan] * 5
        assert found.profile.percentiles[row].tolist() == pytest.approx(expected, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(drawn=readings_at_a_cadence())
def test_what_always_holds(drawn: tuple[list[Reading], int]) -> None:
    readings, minutes = drawn
    found = summarise(glucose_series(readings), UTC_ALWAYS, START, START + 14 * DAY_MS, minutes * MINUTE_MS)
    if found is None:
        return
    beyond_any = found.beyond_percent[Level.LOW_1] + found.beyond_percent[Level.HIGH_1]
    assert found.in_range_percent + beyond_any == pytest.approx(100)
    assert found.beyond_percent[Level.LOW_2] <= found.beyond_percent[Level.LOW_1] + 1e-9
    assert found.beyond_percent[Level.HIGH_2] <= found.beyond_percent[Level.HIGH_1] + 1e-9
    assert 0 < found.active_percent <= 100
    assert (found.profile.percentiles[:, :-1] <= found.profile.percentiles[:, 1:] + 1e-9)[
        found.profile.readings > 0
    ].all()
    assert sum(found.profile.readings) == found.readings


@pytest.mark.parametrize("minutes", [1, 3, 5, 15])
def test_on_a_regular_grid_they_are_the_plain_figures(minutes: int) -> None:
    rng = np.random.default_rng(minutes)
    values = np.clip(rng.normal(150, 60, 14 * 24 * 60 // minutes), 40, 400).round().tolist()
    found = summary(every(minutes, values))
    assert found.active_percent == pytest.approx(100)
    assert found.mean_mmol * 18 == pytest.approx(statistics.mean(values))
    assert found.cv_percent == pytest.approx(100 * statistics.stdev(values) / statistics.mean(values))
    assert found.in_range_percent == pytest.approx(100 * sum(70 <= one <= 180 for one in values) / len(values))
    assert found.beyond_percent[Level.LOW_2] == pytest.approx(100 * sum(one < 54 for one in values) / len(values))


@pytest.mark.parametrize(
    ("mean", "gmi"),
    [(100, 5.7), (125, 6.3), (150, 6.9), (175, 7.5), (200, 8.1), (225, 8.7), (250, 9.3), (300, 10.5),
     (350, 11.7)],
)  # fmt: skip
def test_gmi_as_published(mean: int, gmi: float) -> None:
    """The usual table of GMI by mean glucose."""
    assert round(summary(every(5, [mean, mean])).gmi_percent, 1) == gmi


def test_missing_time_is_not_active_and_weighs_nothing() -> None:
    day = every(5, [100.0] * 144 + [200.0] * 144)
    half = summary(day.take(np.arange(288) % 288 < 216), days=1)
    assert half.active_percent == pytest.approx(75)
    assert half.in_range_percent == pytest.approx(100 * 2 / 3)


def test_a_second_sensor_does_not_count_twice() -> None:
    """From noon on two sensors send by turns: still half of the day is high, and all of it is active."""
    one = [Reading(START + row * 5 * MINUTE_MS, 100.0 if row < 144 else 200.0, "mg/dL") for row in range(288)]
    two = [Reading(at.at + 2 * MINUTE_MS, 200.0, "mg/dL") for at in one[144:]]
    found = summary(glucose_series(one + two), 1, 5 * MINUTE_MS)
    assert found.active_percent == pytest.approx(100)
    assert found.beyond_percent[Level.HIGH_1] == pytest.approx(50)
    assert found.mean_mmol * 18 == pytest.approx(150)


def test_lo_and_hi_have_numbers_of_their_own() -> None:
    flags = (("below_range",), ("above_range",), ("warmup",))
    found = summary(
        glucose_series([Reading(START + row * 15 * MINUTE_MS, 6.0, flags=one) for row, one in enumerate(flags)])
    )
    assert found.readings == 2
    assert found.mean_mmol == pytest.approx((40 + 400) / 2 / 18)
    assert [round(one) for one in found.beyond_percent.values()] == [50] * 4


def test_enough_is_fourteen_days_seventy_percent_active() -> None:
    rows = 14 * 96
    for keep, days, wanted in ((rows, 14.0, True), (rows * 7 // 10 + 1, 14.0, True), (rows * 7 // 10 - 1, 14.0, False),
                               (rows, 13.9, False)):  # fmt: skip
        assert summary(every(15, [100.0] * keep), days).sufficient is wanted


def test_targets() -> None:
    """Each share just inside its target and just on it, of 1,000 readings."""

    def met(low_2: int, low_1: int, high_1: int, high_2: int) -> dict[Target, bool]:
        rest = 1000 - low_2 - low_1 - high_1 - high_2
        values = [53.0] * low_2 + [69.0] * low_1 + [120.0] * rest + [181.0] * high_1 + [251.0] * high_2
        return summary(every(15, values)).targets_met

    assert all(met(9, 30, 200, 49).values())
    missed = {target for target, is_met in met(10, 30, 200, 50).items() if not is_met}
    assert missed == {Target.TIME_LOW_1, Target.TIME_LOW_2, Target.TIME_HIGH_1, Target.TIME_HIGH_2}
    assert not met(0, 39, 212, 49)[Target.TIME_IN_RANGE]
    assert not summary(every(15, [54.0, 250.0] * 50)).targets_met[Target.CV]
    assert not summary(every(15, [100.0]), 14, 15 * MINUTE_MS).targets_met[Target.CV]


def test_the_profile_is_by_the_local_clock() -> None:
    found = summarise(every(15, [100.0] * 96 + [200.0] * 96), ZoneHistory.of("Asia/Kolkata"), START, START + 2 * DAY_MS)
    assert found is not None
    assert found.profile.readings.tolist() == [2] * 96
    early = summarise(every(15, [100.0, 100.0]), ZoneHistory.of("Asia/Kolkata"), START, START + DAY_MS)
    assert early is not None
    assert np.flatnonzero(early.profile.readings).tolist() == [22, 23]  # 05:30 and 05:45


def test_only_readings_of_the_period_count_and_no_sensor_is_no_summary() -> None:
    series = every(5, [100.0] * 288)
    found = summarise(series, UTC_ALWAYS, START + 60 * MINUTE_MS, START + 120 * MINUTE_MS)
    assert found is not None
    assert found.readings == 12
    assert found.active_percent == pytest.approx(100)
    assert summarise(series, UTC_ALWAYS, START - DAY_MS, START) is None
    assert summarise(every(240, [100.0] * 9), UTC_ALWAYS, START, START + DAY_MS) is None
    with pytest.raises(ValueError, match="period"):
        summarise(series, UTC_ALWAYS, START, START)
    with pytest.raises(ValueError, match="cadence"):
        summarise(series, UTC_ALWAYS, START, START + 1, 0)


def test_episodes_are_those_of_the_period() -> None:
    found = summary(every(5, [60.0] * 4 + [100.0] * 4 + [190.0] * 30))
    assert found.episodes[Level.LOW_1] == EpisodeCount(1, 0, 20)
    assert found.episodes[Level.HIGH_1] == EpisodeCount(1, 1, 150)


@pytest.mark.parametrize(
    ("folder", "zone"),
    [("cgm_shanghai_t1dm", "Asia/Shanghai"), ("cgm_cgmanalyzer_zhang2018", "UTC"), ("cgm_cgmanalysis_vigers", "UTC")],
)
def test_recordings_against_plain_figures(folder: str, zone: str) -> None:
    """Weighing by time changes the shares of what real sensors sent by less than half a percent."""
    if not (RECORDINGS / folder).exists():
        pytest.skip("the recordings are not here")
    for recorded in recorded_subjects(RECORDINGS / folder, zone).values():
        series = merge(recorded, (3.9, 3.0))
        start, end = int(series.at[0]), int(series.at[-1]) + 1
        found = summarise(series, ZoneHistory.of(zone), start, end)
        assert found is not None
        mg = np.where(series.unit == Unit.MMOL_L, series.value * 18, series.value)
        assert found.mean_mmol * 18 == pytest.approx(mg.mean(), rel=0.005)
        assert found.cv_percent == pytest.approx(100 * mg.std(ddof=1) / mg.mean(), abs=0.5)
        assert found.beyond_percent[Level.HIGH_1] == pytest.approx(100 * np.mean(mg.round(6) > 180), abs=0.5)
        assert found.episodes == count_episodes(consensus_episodes(series))
