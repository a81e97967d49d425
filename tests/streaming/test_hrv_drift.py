"""Nights, baselines and drift: what counts is delay at a bearable number of false alerts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, timedelta
from statistics import NormalDist
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import Modality
from streaming.episodes import Episode, Severity
from streaming.hrv.drift import ALWAYS, NightAssessment, fold_nights
from streaming.hrv.nights import MIN_SPREAD, NightValue, baseline, night_bounds, night_value, rolling_mean
from streaming.hrv.windows import WINDOW_MS, HrvWindow
from streaming.rules.history import RESTING, PatientRules, RulesHistory
from streaming.rules.settings import DriftSettings
from streaming.zones import DAY_MS, HOUR_MS, ZoneHistory
from tests.streaming.hrv_recorded import always

FIRST = date(2026, 1, 1)
USUAL, SPREAD = 3.7, 0.15


QUIET = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0]
ON, OFF = ALWAYS.at(0), PatientRules(())


def night_of(day: int, ln_rmssd: float | None, modality: Modality = Modality.PPG) -> NightValue:
    bounds = night_bounds(ZoneHistory.of("UTC"), FIRST + timedelta(days=day))
    rmssd = None if ln_rmssd is None else float(np.exp(ln_rmssd))
    other = None if ln_rmssd is None else 60.0
    return NightValue(FIRST + timedelta(days=day), *bounds, 72, rmssd, other, other, ln_rmssd, modality)


def nights_of(
    z: Sequence[float | None], first: int = 0, modality: Modality = Modality.PPG, usual: float = USUAL
) -> list[NightValue]:
    """Return nights from values in standard deviations."""
    values = [None if one is None else usual + SPREAD * one for one in z]
    return [night_of(first + day, one, modality) for day, one in enumerate(values)]


def ends_at(day: int) -> int:
    """Return the end of a night, counted from the first."""
    return night_of(day, None).ends_at


def stationary(rng: np.random.Generator, nights: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return standardised nights with lag-1 correlation 0.2."""
    z = rng.normal(size=nights)
    for night in range(1, nights):
        z[night] = 0.2 * z[night - 1] + np.sqrt(1 - 0.2**2) * z[night]
    return z


def window(start_ms: int, rmssd: float, *, valid: bool = True, modality: Modality = Modality.PPG) -> HrvWindow:
    return HrvWindow(start_ms, 1, 300, 1.0, 0.0, valid, rmssd, 2 * rmssd, 60.0, modality)


def opened_on(episode: Episode) -> int:
    """Return the day, counted from the first, on which the episode opened."""
    start, _ = night_bounds(ZoneHistory.of("UTC"), FIRST)
    return (episode.opened_at - start) // DAY_MS


# Nights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [("2026-10-25", "Europe/Berlin", 7), ("2026-03-29", "Europe/Berlin", 5), ("2026-06-01", "Europe/Berlin", 6)],
)
def test_a_night_is_local_and_as_long_as_it_is(day: str, zone: str, hours: int) -> None:
    start, end = night_bounds(ZoneHistory.of(zone), date.fromisoformat(day))
    assert end - start == hours * HOUR_MS
    assert ZoneHistory.of(ZoneInfo(zone)).local(start).hour == 0


def test_a_night_is_the_median_of_an_hour_of_valid_windows_at_least() -> None:
    bounds = night_bounds(ZoneHistory.of("UTC"), FIRST)
    windows = [window(bounds[0] + i * WINDOW_MS, 20.0 + i) for i in range(12)]
    outside = [
        window(bounds[0] - WINDOW_MS, 500),
        window(bounds[1], 500),
        window(bounds[1] - WINDOW_MS, 500, valid=False),
    ]
    found = night_value(FIRST, bounds, [*windows, *outside])
    assert (found.windows, found.rmssd, found.sdnn, found.mean_heart_rate) == (12, 25.5, 51.0, 60.0)
    assert found.ln_rmssd == pytest.approx(np.median(np.log(np.arange(20, 32))))
    short = night_value(FIRST, bounds, windows[1:])
    assert (short.windows, short.rmssd, short.ln_rmssd) == (11, None, None)


@pytest.mark.parametrize(
    ("ecg", "ppg", "modality", "rmssd"),
    [(12, 13, Modality.PPG, 20.0), (14, 13, Modality.ECG, 50.0), (13, 13, Modality.ECG, 50.0), (9, 10, Modality.PPG, None)],
)  # fmt: skip
def test_a_night_is_of_one_modality(ecg: int, ppg: int, modality: Modality, rmssd: float | None) -> None:
    bounds = night_bounds(ZoneHistory.of("UTC"), FIRST)
    kinds = [*[(Modality.ECG, 50.0)] * ecg, *[(Modality.PPG, 20.0)] * ppg]
    windows = [window(bounds[0] + i * WINDOW_MS, value, modality=of) for i, (of, value) in enumerate(kinds)]
    spoilt = [window(bounds[1] - i * WINDOW_MS, 9, valid=False, modality=Modality.ECG) for i in range(1, 20)]
    found = night_value(FIRST, bounds, [*windows, *spoilt])
    assert (found.modality, found.rmssd, found.windows) == (modality, rmssd, ecg if modality is Modality.ECG else ppg)
    assert night_value(FIRST, bounds, spoilt).modality is Modality.ECG
    assert night_value(FIRST, bounds, []).modality is Modality.PPG


def test_the_baseline_is_robust_and_has_a_floor() -> None:
    found = baseline([3.5, 3.6, 3.7, 3.8, 3.9, 9.0])
    drawn_in = [3.5, 3.6, 3.7, 3.8, 3.9, 3.75 + 2 * 1.4826 * 0.15]
    assert found.nights == 6
    assert found.center == pytest.approx(np.mean(drawn_in))
    assert found.spread == pytest.approx(1.042 * np.std(drawn_in, ddof=1))
    assert found == baseline([3.5, 3.6, 3.7, 3.8, 3.9, 90.0])
    assert baseline([3.7] * 20).spread == MIN_SPREAD


def test_the_baseline_of_normal_nights_is_their_mean_and_standard_deviation() -> None:
    found = baseline(NormalDist(3.7, 0.2).quantiles(10_000))
    assert found.center == pytest.approx(3.7)
    assert found.spread == pytest.approx(0.2, rel=0.001)


def test_the_rolling_mean_needs_three_nights_of_seven_days() -> None:
    nights = [night_of(day, value) for day, value in ((0, 9.0), (1, 3.0), (5, 4.0), (6, None), (7, 5.0))]
    assert rolling_mean(nights, FIRST + timedelta(days=7)) == pytest.approx(4.0)
    assert rolling_mean(nights, FIRST + timedelta(days=8)) is None


# Drift ---------------------------------------------------------------------------------------------------------------


def test_shown_from_seven_nights_and_alarming_from_fourteen() -> None:
    quiet = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0] * 2
    assessments, _ = fold_nights(nights_of([*quiet, 0]))
    assert [one.baseline is not None for one in assessments] == [False] * 7 + [True] * 8
    assert [one.statistic is not None for one in assessments] == [False] * 14 + [True]
    assert fold_nights(nights_of([*quiet[:12], -9, -9, -9]))[1] == []
    assert [opened_on(one) for one in fold_nights(nights_of([*quiet, -9, -9, -9]))[1]] == [16]


def test_no_night_alarms_by_itself() -> None:
    quiet = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0]
    assert fold_nights(nights_of([*quiet * 3, -40, *quiet, 0.3, -40, *quiet]))[1] == []


def test_opens_at_the_end_of_the_night_and_resolves_after_three_usual_ones() -> None:
    quiet = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0] * 3
    values = [*quiet, -3, -3, -2.9, -3, 0, None, 0, -3, 0, 0, 0, 0]
    assessments, episodes = fold_nights(nights_of(values))
    assert len(episodes) == 1
    found = episodes[0]
    nights = nights_of(values)
    assert found.opened_at == nights[23].ends_at
    assert found.resolved_at == nights[31].ends_at
    assert found.severity is Severity.MEDIUM
    assert [index for index, one in enumerate(assessments) if one.drift] == list(range(23, 32))
    assert assessments[31].baseline == assessments[23].baseline  # learns nothing from flagged nights
    assert assessments[32].baseline is not None


def test_falling_night_by_night_is_high() -> None:
    quiet = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0] * 3
    _, at_once = fold_nights(nights_of([*quiet, -1.5, -2.5, -5.0]))
    assert [one.severity for one in at_once] == [Severity.HIGH]
    _, later = fold_nights(nights_of([*quiet, -6, -2, -2.1, -2.2, -2.3]))
    assert [one.severity for one in later] == [Severity.HIGH]
    _, with_a_gap = fold_nights(nights_of([*quiet, -6, -2, -2.1, None, -2.2, -2.3]))
    assert [one.severity for one in with_a_gap] == [Severity.MEDIUM]


def test_a_rise_is_no_drift() -> None:
    assert fold_nights(nights_of([0.3, -0.3, 1, -1, 0.5, -0.5, 0.0] * 3 + [4] * 20))[1] == []


def test_after_a_long_silence_the_baseline_begins_anew() -> None:
    quiet = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0]
    assessments, _ = fold_nights(nights_of([*quiet * 3, *[None] * 61, *quiet, 0]))
    assert assessments[82].baseline is None
    assert assessments[-1].baseline is not None
    assert assessments[-1].statistic is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(-6, 3)), st.sampled_from(Modality)), max_size=60),
    st.randoms(use_true_random=False),
    st.integers(0, 60),
    st.tuples(st.integers(0, 60), st.integers(0, 9), st.sampled_from([ON, OFF, RESTING])),
)
def test_neither_order_nor_future_change_the_past(
    values: list[tuple[float | None, Modality]],
    order: random.Random,
    known: int,
    change: tuple[int, int, PatientRules],
) -> None:
    nights = [night_of(day, None if z is None else USUAL + SPREAD * z, of) for day, (z, of) in enumerate(values)]
    since, days, meanwhile = change
    rules = RulesHistory(((0, ON), (ends_at(since) + HOUR_MS, meanwhile), (ends_at(since + days) + 2 * HOUR_MS, ON)))
    assessments, episodes = fold_nights(nights, rules)
    shuffled = list(nights)
    order.shuffle(shuffled)
    assert fold_nights(shuffled, rules) == (assessments, episodes)
    earlier, earlier_episodes = fold_nights(nights[:known], rules)
    assert earlier == assessments[:known]
    assert [one.opened_at for one in earlier_episodes] == [one.opened_at for one in episodes][: len(earlier_episodes)]
    ended = [one for one in earlier_episodes if one.resolved_at is not None]
    assert ended == episodes[: len(ended)]


# Modality ------------------------------------------------------------------------------------------------------------


def of_one(assessments: list[NightAssessment], modality: Modality) -> list[NightAssessment]:
    return [one for one in assessments if one.night.modality is modality]


def test_nights_of_two_modalities_are_two_courses() -> None:
    rng = np.random.default_rng(3)
    light = nights_of(stationary(rng, 60).tolist())
    strap = nights_of(stationary(rng, 60).tolist(), modality=Modality.ECG, usual=USUAL + 1)
    worn = [strap[day] if day % 3 == 0 or day > 50 else light[day] for day in range(60)]
    never = always(DriftSettings(threshold=1000))
    assessments, _ = fold_nights(worn, never)
    for modality in Modality:
        alone, _ = fold_nights([night for night in worn if night.modality is modality], never)
        assert of_one(assessments, modality) == alone
    assert [one.statistic is not None for one in of_one(assessments, Modality.ECG)].index(True) == 14


def test_another_modality_says_that_it_is_over_only_by_a_baseline_of_its_own() -> None:
    fallen = nights_of([*QUIET * 3, -3, -3, -3, -3])
    strap = nights_of([*QUIET * 3], first=25, modality=Modality.ECG, usual=USUAL + 1)
    assessments, (episode,) = fold_nights([*fallen, *strap])
    assert episode.opened_at == ends_at(23)
    assert episode.resolved_at == ends_at(25 + 14 + 2)
    assert episode.evidence["ended_by"] == "new_baseline"
    assert episode.evidence["modality"] == "ppg"
    assert [one.drift for one in of_one(assessments, Modality.ECG)] == [True] * 17 + [False] * 4
    assert assessments[-1].baseline is not None
    assert assessments[-1].baseline.nights == 14 + 3  # those before it could alarm, and those after the episode
    assert fold_nights([*fallen, *strap[:16]])[1][0].resolved_at is None


def test_a_modality_with_a_baseline_ends_an_episode_of_the_other() -> None:
    strap = nights_of(QUIET * 2, modality=Modality.ECG, usual=USUAL + 1)
    fallen = nights_of([*QUIET * 3, -3, -3, -3, -3], first=14)
    low, well = ([USUAL + 1 + SPREAD * z] * nights for z, nights in ((-3.0, 3), (0.0, 3)))
    after = [night_of(39 + day, value, Modality.ECG) for day, value in enumerate([*low, *well])]
    assessments, (episode,) = fold_nights([*strap, *fallen, *after])
    assert episode.resolved_at == ends_at(44)
    assert "ended_by" not in episode.evidence
    assert {one.baseline.nights for one in assessments[-6:] if one.baseline} == {14}


# Settings and rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": -0.1}, {"delta": 2.0}, {"threshold": 0.0}, {"threshold": 1001.0}, {"most_z": 0.5}, {"most_z": 101.0},
        {"anchor_nights": 0}, {"anchor_nights": 1001}, {"least_to_show": 1}, {"least_to_show": 15},
        {"least_to_alarm": 6}, {"least_to_alarm": 61}, {"falling_nights": 0}, {"recovery_nights": 31},
        {"recovery_band": -0.1}, {"recovery_band": 5.1}, {"delta": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).split("_")[-1]):
        DriftSettings(**changes)


def test_each_night_is_judged_by_the_settings_at_its_end() -> None:
    """The test knows under new settings what it saw under the old ones, and does not alarm on the past."""
    nights = nights_of([*QUIET * 3, -2.0, -2.0, -2.0, -2.0])
    deaf, keen = DriftSettings(threshold=100, delta=1.5), DriftSettings(threshold=2)
    changed = RulesHistory(((0, always(deaf).at(0)), (ends_at(23), always(keen).at(0))))
    assessments, (episode,) = fold_nights(nights, changed)
    assert episode.opened_at == ends_at(23)
    assert opened_on(fold_nights(nights, always(keen))[1][0]) == 22
    assert assessments[23].statistic == fold_nights(nights[:24], always(DriftSettings()))[0][23].statistic
    late = RulesHistory(((0, always(deaf).at(0)), (ends_at(24) + 1, always(keen).at(0))))
    assert fold_nights(nights[:25], late)[1] == []


@pytest.mark.parametrize("rest", [OFF, RESTING])
def test_a_rest_ends_the_episode_where_it_begins(rest: PatientRules) -> None:
    nights = nights_of([*QUIET * 3, -3, -3, -3, -3])
    opened = ends_at(23)
    begins = opened + 3 * HOUR_MS
    rules = RulesHistory(((0, ON), (begins, rest), (begins + HOUR_MS, ON)))
    assert [(one.opened_at, one.resolved_at, one.evidence.get("ended_by")) for one in fold_nights(nights, rules)[1]] == [
        (opened, begins, "rest"),
    ]  # fmt: skip
    assert fold_nights(nights[:24], rules)[1][0].resolved_at is None
    assert fold_nights(nights[:24], rules, begins - 1)[1][0].resolved_at is None
    assert fold_nights(nights[:24], rules, begins)[1] == fold_nights(nights, rules)[1]


def test_after_a_rest_the_test_starts_anew() -> None:
    nights = nights_of([*QUIET * 3, -3, -3, 0.0, 0.0, -3, -3])
    assert len(fold_nights(nights)[1]) == 1
    for rest in (OFF, RESTING):
        rules = RulesHistory(((0, ON), (ends_at(23), rest), (ends_at(25), ON)))
        assessments, episodes = fold_nights(nights, rules)
        assert episodes == []
        assert [one.statistic is None for one in assessments[21:]] == [False, False, True, True, False, False]


def test_no_baseline_learns_from_a_pause_but_from_nights_with_the_rule_off() -> None:
    nights = nights_of([*QUIET * 2, *[-4.0] * 10, 0.0])
    for rest, behind in ((RESTING, 14), (OFF, 24)):
        rules = RulesHistory(((0, ON), (ends_at(14), rest), (ends_at(24), ON)))
        assessments, episodes = fold_nights(nights, rules)
        assert episodes == []
        assert all(one.z is not None and one.rolling_mean is not None for one in assessments[14:])
        assert not any(one.drift for one in assessments)
        assert assessments[-1].baseline is not None
        assert assessments[-1].baseline.nights == behind


def test_nights_before_a_rest_do_not_make_a_fall_after_it_worse() -> None:
    short = DriftSettings(threshold=1.4)
    nights = nights_of([*QUIET * 3, 1.0, -0.2, -0.5, -3.0])
    assert [one.severity for one in fold_nights(nights, always(short))[1]] == [Severity.HIGH]
    paused = RulesHistory(((0, always(short).at(0)), (ends_at(21), RESTING), (ends_at(23), always(short).at(0))))
    assert [one.severity for one in fold_nights(nights, paused)[1]] == [Severity.MEDIUM]


# What it is worth ----------------------------------------------------------------------------------------------------


def test_false_alerts_and_delay_are_what_the_clinic_can_live_with() -> None:
    """Seeded: per 180 stationary nights after 30 of baseline about one false alert; 4 nights to 2 SD, 9 to 1 SD."""
    rng = np.random.default_rng(20_261_001)
    patients = 200
    false_alerts = sum(
        opened_on(episode) >= 30
        for _ in range(patients)
        for episode in fold_nights(nights_of(stationary(rng, 210).tolist()))[1]
    )
    assert false_alerts / patients <= 1.1
    assert median_delay(rng, patients, 2) <= 4
    assert median_delay(rng, patients, 1) <= 9


def median_delay(rng: np.random.Generator, patients: int, step: float) -> float:
    """Return the nights from a lasting step down, on night 30, to the end of the night that fires."""
    delays = []
    for _ in range(patients):
        z = stationary(rng, 90)
        z[30:] -= step
        days = [opened_on(one) for one in fold_nights(nights_of(z.tolist()))[1]]
        if not any(day < 30 for day in days):
            delays.append(min((day - 29 for day in days), default=60))
    return float(np.median(delays))


def test_settings_can_be_stricter() -> None:
    z = [0.3, -0.3, 1, -1, 0.5, -0.5, 0.0] * 3 + [-2.0] * 3
    assert fold_nights(nights_of(z), always(DriftSettings(threshold=9)))[1] == []
    assert fold_nights(nights_of(z), always(DriftSettings(threshold=2)))[1] != []
