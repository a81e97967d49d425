"""The bodies behind the sensors: what is set is what a reader measures, and pieces do not matter."""

from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.physiology.glucose import Dip, GlucoseProcess, GlucoseTraits, compression_low, insulin_low
from firmware_sim.physiology.heart import (
    HeartRateProcess,
    HeartTraits,
    NightlyVariability,
    VariabilityStep,
    rr_intervals,
)
from firmware_sim.physiology.local_time import local_day, local_ms, utc_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS, RelaxingNoise

BERLIN = ZoneInfo("Europe/Berlin")
MARCH_1 = 1_772_319_600_000
"""2026-03-01T00:00+01:00."""
FIVE_MINUTES = 5 * MINUTE_MS


def grid(days: float, step_ms: int = FIVE_MINUTES, start_ms: int = MARCH_1) -> NDArray[np.int64]:
    return np.arange(start_ms, start_ms + round(days * DAY_MS), step_ms, dtype=np.int64)


def rmssd(intervals: NDArray[np.int64]) -> float:
    return float(np.sqrt(np.mean(np.diff(intervals.astype(float)) ** 2)))


@given(
    seed=st.integers(0, 2**32),
    target=st.floats(8.0, 90.0),
    mean=st.floats(700.0, 1300.0),
)
def test_rmssd_set_is_rmssd_measured(seed: int, target: float, mean: float) -> None:
    intervals = rr_intervals(np.random.default_rng(seed), mean_ms=mean, rmssd_ms=target, duration_ms=306_000)
    assert rmssd(intervals) == pytest.approx(target, rel=0.02)
    assert intervals.mean() == pytest.approx(mean, abs=5)
    assert intervals.sum() > 306_000


def test_rmssd_is_right_on_average_to_a_part_in_a_thousand() -> None:
    rng = np.random.default_rng(1)
    measured = [rmssd(rr_intervals(rng, mean_ms=950, rmssd_ms=35, duration_ms=306_000)) for _ in range(200)]
    assert np.mean(measured) == pytest.approx(35, rel=1e-3)


def test_slow_waves_reach_sdnn_but_not_rmssd() -> None:
    rng = np.random.default_rng(2)
    ratios = [
        np.std(rr, ddof=1) / rmssd(rr)
        for rr in (rr_intervals(rng, mean_ms=950, rmssd_ms=35, duration_ms=306_000) for _ in range(100))
    ]
    assert 0.9 < np.median(ratios) < 1.5


def test_nights_before_a_step_have_the_set_mean_and_spread() -> None:
    traits = HeartTraits(ln_rmssd=3.6, ln_rmssd_sd=0.15)
    first = 20_000
    nights = NightlyVariability([7], traits, first, VariabilityStep(first + 25, 2.5))
    before = np.log([nights.rmssd(day) for day in range(first, first + 25)])
    after = np.log([nights.rmssd(day) for day in range(first + 25, first + 425)])
    assert before.mean() == pytest.approx(3.6)
    assert before.std(ddof=1) == pytest.approx(0.15)
    assert after.mean() == pytest.approx(3.6 - 2.5 * 0.15, abs=0.03)


def test_nights_correlate_with_the_night_before() -> None:
    nights = NightlyVariability([8], HeartTraits(), 0)
    series = np.log([nights.rmssd(day) for day in range(4_000)])
    assert np.corrcoef(series[:-1], series[1:])[0, 1] == pytest.approx(0.2, abs=0.05)
    assert series.std() == pytest.approx(HeartTraits().ln_rmssd_sd, rel=0.05)


def test_heart_rate_is_lowest_at_night_and_highest_in_the_afternoon() -> None:
    times = grid(20, start_ms=MARCH_1)
    rate = HeartRateProcess([1], HeartTraits(mesor=70, amplitude=8), BERLIN).at(times)
    hour = local_ms(times, BERLIN) % DAY_MS // HOUR_MS
    by_hour = np.array([rate[hour == h].mean() for h in range(24)])
    assert by_hour.argmin() in {2, 3, 4}
    assert by_hour.argmax() in {14, 15, 16}
    assert rate.mean() == pytest.approx(70, abs=1)


def test_ordinary_glucose_rises_after_meals_and_is_never_low() -> None:
    times = grid(30)
    glucose = GlucoseProcess([3], GlucoseTraits(), BERLIN).at(times)
    hour = local_ms(times, BERLIN) % DAY_MS / HOUR_MS
    assert glucose.min() > 4.0
    assert glucose.max() < 16.0
    assert glucose[(hour > 13) & (hour < 14.5)].mean() > glucose[(hour > 2) & (hour < 4)].mean() + 1.5
    assert glucose[(hour > 6.5) & (hour < 7)].mean() > glucose[(hour > 1) & (hour < 2.5)].mean() + 0.4


def test_sensor_noise_is_correlated_as_published() -> None:
    noise = RelaxingNoise(np.random.default_rng(5), sd=0.3, tau_ms=-FIVE_MINUTES / np.log(0.7))
    series = noise.at(grid(60))
    assert np.corrcoef(series[:-1], series[1:])[0, 1] == pytest.approx(0.7, abs=0.02)
    assert series.std() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("seed", range(40))
def test_a_planned_low_begins_with_the_planned_reading_and_is_over_after_25_minutes(seed: int) -> None:
    first_low = MARCH_1 + 5 * DAY_MS + 3 * HOUR_MS + 17_000
    traits = GlucoseTraits(basal=6.0 + 0.01 * (seed - 20))
    process = GlucoseProcess([seed], traits, BERLIN, [insulin_low(first_low)])
    times = np.arange(first_low - 3 * HOUR_MS, first_low + 3 * HOUR_MS, FIVE_MINUTES)
    low = times[process.at(times) < 4.0]
    assert low[0] == first_low
    assert first_low + 20 * MINUTE_MS <= low[-1] <= first_low + 30 * MINUTE_MS


@given(seed=st.integers(0, 2**32))
def test_compression_lows_have_the_published_size(seed: int) -> None:
    dip = compression_low(MARCH_1, np.random.default_rng(seed))
    assert 10 / 18 <= (dip.depth or 0) <= 48 / 18
    assert 30 * MINUTE_MS <= dip.fall_ms + dip.hold_ms + dip.rise_ms <= 70 * MINUTE_MS
    assert max(dip.fall_ms, dip.rise_ms) < FIVE_MINUTES


def test_a_level_never_lifts_what_is_lower() -> None:
    dip = Dip(MARCH_1, MINUTE_MS, HOUR_MS, MINUTE_MS, level=3.4)
    times = grid(0.03, MINUTE_MS)
    assert dip.apply(times, np.full(len(times), 3.0)).tolist() == [3.0] * len(times)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 576), max_size=8))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    times = grid(2)
    edges = [0, *sorted(cuts), len(times)]
    traits = GlucoseTraits(night_low_probability=0.5, compression_probability=0.5)
    whole, pieces = GlucoseProcess([4], traits, BERLIN), GlucoseProcess([4], traits, BERLIN)
    heart, heart_pieces = HeartRateProcess([4], HeartTraits(), BERLIN), HeartRateProcess([4], HeartTraits(), BERLIN)
    assert np.concatenate([pieces.at(times[a:b]) for a, b in pairwise(edges)]) == pytest.approx(whole.at(times))
    assert np.concatenate([heart_pieces.at(times[a:b]) for a, b in pairwise(edges)]) == pytest.approx(heart.at(times))


def test_doses_are_missed_and_late_as_often_as_set() -> None:
    habit = DoseHabit(
        miss_probability=0.1, late_probability=0.2, routine_minutes=5, scatter_minutes=10, late_minutes=60
    )
    lateness = [habit.lateness_ms([9], MARCH_1 + day * DAY_MS) for day in range(8_000)]
    taken = np.array([late for late in lateness if late is not None]) / MINUTE_MS
    assert 1 - len(taken) / len(lateness) == pytest.approx(0.1, abs=0.015)
    assert taken.mean() == pytest.approx(5 + 0.2 * 60, abs=1.5)
    assert np.median(taken) == pytest.approx(7.5, abs=2)
    assert taken.min() >= 5 - 35


def test_a_habit_without_chance_never_misses() -> None:
    habit = DoseHabit(miss_probability=0, late_probability=0)
    lateness = [habit.lateness_ms([9], MARCH_1 + day * DAY_MS) for day in range(2_000)]
    assert all(late is not None and abs(late) < HOUR_MS for late in lateness)


def test_local_time_follows_the_clock_change() -> None:
    change = utc_ms(local_day(MARCH_1, BERLIN) + 28, 0, BERLIN)  # 29 March 2026, clocks go forward at 02:00
    times = np.array([change, change + 2 * HOUR_MS])
    assert (local_ms(times, BERLIN) % DAY_MS // HOUR_MS).tolist() == [0, 3]
    assert utc_ms(local_day(change, BERLIN), 150, BERLIN) == change + 150 * MINUTE_MS  # 02:30 does not exist: 03:30
