"""The predicted low: forecasts from the past alone, episodes in any split, and what the study claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.vocabulary import Flag, Unit
from streaming.episodes import Episode, Rule, Severity, settled_before
from streaming.glucose.values import merge
from streaming.limits import prediction
from streaming.limits.lows import Graver
from streaming.limits.prediction import PredictedLow, PredictedState, forecast
from streaming.readings import Float64, ReadingSeries
from streaming.rules.settings import PredictedLowSettings
from streaming.zones import HOUR_MS, MINUTE_MS, ZoneHistory
from tests.recordings import RECORDINGS
from tests.streaming import prediction_study as study
from tests.streaming.nocturnal_reference import Reading, lowest_per_instant
from tests.streaming.series import ZONES, glucose_series, readings_of_one_patient, synthetic_nights

RULE = PredictedLow()
UTC = ZoneHistory.of("UTC")
NOON = 1_790_812_800_000 + 12 * HOUR_MS  # 2026-10-01T12:00Z
MIDNIGHT = NOON - 12 * HOUR_MS


def plain(values: Sequence[float], cadence: int = 5, start: int = NOON, unit: Unit = Unit.MMOL_L) -> ReadingSeries:
    return glucose_series(
        [Reading(start + row * cadence * MINUTE_MS, value, unit.ucum) for row, value in enumerate(values)]
    )


def fold(
    state: PredictedState | None, part: ReadingSeries, zone: ZoneHistory = UTC, graver: Graver = MappingProxyType({})
) -> tuple[PredictedState | None, list[Episode]]:
    return RULE.fold(state, merge(part, RULE.limits), zone, graver)


def standing(
    parts: Sequence[ReadingSeries], zone: ZoneHistory = UTC, state: PredictedState | None = None
) -> list[Episode]:
    """Fold part after part; return every episode as it stands at the end."""
    found: dict[int, Episode] = {}
    for part in parts:
        state, episodes = fold(state, part, zone)
        found.update({episode.opened_at: episode for episode in episodes})
    if state is not None and state.episode is not None:
        assert found[state.episode.opened_at] == state.episode
    return [found[opened_at] for opened_at in sorted(found)]


def minutes(episode: Episode, start: int = NOON) -> tuple[int, int | None]:
    end = None if episode.resolved_at is None else (episode.resolved_at - start) // MINUTE_MS
    return (episode.opened_at - start) // MINUTE_MS, end


def falling(cadence: int, *, until: int = 90, per_minute: float = 0.05) -> list[float]:
    """A straight fall to 2.9 mmol/L at minute 90, cut off after `until`."""
    return [2.9 + per_minute * (90 - minute) for minute in range(0, until + 1, cadence)]


@pytest.mark.parametrize("cadence", [1, 3, 5, 15])
def test_foresees_a_fall_at_every_cadence_and_leaves_a_level_alone(cadence: int) -> None:
    values = np.array(falling(cadence))
    at = NOON + np.arange(values.size) * cadence * MINUTE_MS
    known = at >= NOON + 30 * MINUTE_MS
    fall = forecast(at, values)
    assert np.isnan(fall[~known]).all()
    assert (fall[known] < values[known]).all()
    assert (fall[known] > values[known] - 1.6).all()
    level = forecast(at, np.full(values.size, 6.0))
    np.testing.assert_allclose(level[known], 6.0, atol=0.15)


def test_knows_nothing_across_a_gap() -> None:
    at = NOON + np.array([0, 15, 30, 75, 90, 105]) * MINUTE_MS
    assert np.isnan(forecast(at, np.full(6, 6.0))).tolist() == [True, True, False, True, True, False]


@pytest.mark.parametrize(("cadence", "per_minute"), [(1, 0.07), (3, 0.07), (5, 0.07), (15, 0.04)])
def test_warns_before_the_low_and_leaves_it_to_the_low_itself(cadence: int, per_minute: float) -> None:
    values = falling(cadence, per_minute=per_minute)
    [episode] = standing([plain(values, cadence)])
    opened, resolved = minutes(episode)
    first_low = cadence * next(row for row, value in enumerate(values) if value < 3.1)
    assert resolved == first_low
    assert 3 <= first_low - opened <= 35
    assert episode.severity is Severity.MEDIUM
    assert episode.evidence["outcome"] == "low"
    assert episode.evidence["forecast_at"] == episode.opened_at + 20 * MINUTE_MS
    assert episode.evidence["limit_mmol_l"] == 3.1


def test_is_withdrawn_after_15_minutes_of_better_forecasts() -> None:
    values = [*falling(5, until=85), 4.4, 5.2, 5.8, 6.2, 6.4, 6.4]
    [episode] = standing([plain(values)])
    assert episode.evidence["outcome"] == "withdrawn"
    opened, resolved = minutes(episode)
    assert opened == 85
    assert resolved == 100


def test_silence_ends_nothing_and_the_next_reading_that_cannot_tell_does() -> None:
    fall = plain(falling(5, until=85))
    state, [opened] = fold(None, fall, UTC)
    assert opened.resolved_at is None
    late = plain([5.0], start=NOON + 5 * HOUR_MS)
    state, [closed] = fold(state, late, UTC)
    assert minutes(closed) == (minutes(opened)[0], 300)
    assert state is not None
    assert state.episode is None


def test_the_limit_is_that_of_the_next_20_minutes() -> None:
    level = [4.4, 4.4, 4.4, 4.3, 4.3, 4.2, 4.2, 4.1, 4.0, 4.0]
    assert standing([plain(level)]) == []
    [night] = standing([plain(level, start=MIDNIGHT - 40 * MINUTE_MS)])
    assert night.opened_at >= MIDNIGHT - 20 * MINUTE_MS
    assert night.evidence["limit_mmol_l"] == 4.0
    assert standing([plain(level, start=MIDNIGHT - 40 * MINUTE_MS)], ZoneHistory.of("Asia/Shanghai")) == []


def test_both_units_conclude_the_same() -> None:
    mg = [132, 128, 124, 119, 115, 110, 106, 101, 97, 92, 88, 83, 79, 74, 70, 65, 61, 57, 54]
    in_mg = standing([plain(mg, unit=Unit.MG_DL)])
    in_mmol = standing([plain([value / 18 for value in mg])])
    assert [minutes(one) for one in in_mg] == [minutes(one) for one in in_mmol]
    assert len(in_mg) == 1


def test_nothing_is_predicted_of_one_who_is_low_or_just_was() -> None:
    values = [*falling(5), 3.0, 3.0, 3.1, 3.2, 3.1, 3.2, 3.1, 3.2]
    assert len(standing([plain(values)])) == 1
    later = [*values, 3.1, 3.2, 3.1]
    assert [minutes(one)[0] for one in standing([plain(later)])][1:] == [135]


@given(readings=readings_of_one_patient(), data=st.data(), zone=st.sampled_from(ZONES))
def test_any_split_gives_the_same(readings: list[Reading], data: st.DataObject, zone: str) -> None:
    readings, history = lowest_per_instant(readings), ZoneHistory.of(zone)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(readings)), max_size=8)))
    parts = [glucose_series(readings[a:b]) for a, b in zip([0, *cuts], [*cuts, len(readings)], strict=True)]
    assert standing(parts, history) == standing([glucose_series(readings)], history)


def test_after_a_gap_the_past_reaches_back_nearly_an_hour() -> None:
    readings = [
        Reading(NOON + minute * MINUTE_MS, 2.9 + 0.07 * (68 - minute), "mmol/L")
        for minute in (*range(11), *range(39, 70))
    ]
    [episode] = standing([glucose_series([one]) for one in readings])
    assert minutes(episode)[0] in range(55, 65)
    assert [episode] == standing([glucose_series(readings)])
    assert standing([glucose_series(readings[11:])]) == []  # without what came before the gap


@pytest.mark.parametrize("cadence", [1, 3, 5, 15])
def test_reading_by_reading_equals_all_at_once_and_hydrated_equals_replayed(cadence: int) -> None:
    readings = lowest_per_instant(synthetic_nights(7, 6, cadence, MIDNIGHT))
    whole = standing([glucose_series(readings)])
    assert len(whole) >= 3
    assert standing([glucose_series([one]) for one in readings]) == whole
    for middle in readings[:: len(readings) // 10]:
        settled = settled_before(whole, middle.at, RULE.memory_ms)
        state, _ = fold(None, glucose_series([one for one in readings if settled - RULE.memory_ms <= one.at < settled]))
        later = glucose_series([one for one in readings if one.at >= settled])
        assert standing([later], UTC, state.closed() if state is not None else None) == [
            one for one in whole if one.opened_at >= settled
        ]


@given(readings=readings_of_one_patient())
def test_what_cannot_change_the_state_is_no_candidate_and_nothing_given_changes(readings: list[Reading]) -> None:
    series = glucose_series(readings)
    for column in (series.at, series.value, series.unit, series.flags):
        column.flags.writeable = False
    candidates = RULE.candidates(series.value, series.unit, series.flags)
    assert fold(None, series.take(~candidates)) == (None, [])
    assert standing([series.take(candidates)]) == standing([series])


@pytest.mark.parametrize(
    ("value", "flags", "expected"),
    [
        (3.1, 0, True), (15.0, 0, True), (np.nan, 0, False), (np.nan, Flag.BELOW_RANGE, True),
        (5.0, Flag.ABOVE_RANGE, True), (5.0, Flag.ARTIFACT, False), (5.0, Flag.WARMUP, False),
    ],
)  # fmt: skip
def test_candidates_are_all_that_are_remembered(value: float, flags: int, expected: bool) -> None:  # noqa: FBT001 a table's last column
    row = np.array([value]), np.array([Unit.MMOL_L], dtype=np.int16), np.array([flags], dtype=np.int16)
    assert RULE.candidates(*row).tolist() == [expected]


@pytest.mark.parametrize(
    ("last", "opens"),
    [
        (Reading(0, 4.0, "mmol/L"), True), (Reading(0, 10.0, "mmol/L"), False), (Reading(0, 180.0, "mg/dL"), False),
        (Reading(0, 3.05, "mmol/L"), False), (Reading(0, 54.0, "mg/dL"), False),
        (Reading(0, 4.0, "mmol/L", ("below_range",)), False), (Reading(0, 4.0, "mmol/L", ("above_range",)), False),
        (Reading(0, 0.0, "mmol/L"), False),
    ],
)  # fmt: skip
def test_only_numbers_below_the_top_that_are_not_low_open(last: Reading, opens: bool) -> None:  # noqa: FBT001 a table's last column
    steep = [5.0 + 0.2 * (60 - minute) for minute in range(0, 60, 5)]
    [*before, _] = [Reading(NOON + row * 5 * MINUTE_MS, value, "mmol/L") for row, value in enumerate([*steep, 0.0])]
    found = standing([glucose_series([*before, replace(last, at=NOON + HOUR_MS)])])
    assert [one.opened_at for one in found] == ([NOON + HOUR_MS] if opens else [])


@pytest.mark.parametrize("rule", [Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW, Rule.HYPOGLYCAEMIA])
def test_does_not_open_while_an_alert_speaks_of_a_low(rule: Rule) -> None:
    fall = plain(falling(5, until=85))
    _, [alone] = fold(None, fall)
    until_then = Episode(NOON, alone.opened_at, Severity.HIGH)
    assert fold(None, fall, graver={rule: [until_then]})[1] == []
    before = replace(until_then, resolved_at=alone.opened_at - 1)
    assert fold(None, fall, graver={rule: [before]})[1] == [alone]


def test_limits_and_night_are_settings() -> None:
    values = falling(5)
    by_day = PredictedLow(PredictedLowSettings(day_limit_mmol=3.9))
    _, [early] = by_day.fold(None, plain(values), UTC, {})
    [late] = standing([plain(values)])
    assert early.opened_at < late.opened_at
    assert early.resolved_at == NOON + 75 * MINUTE_MS  # 3.65, the first below 3.9
    noon_is_night = PredictedLow(PredictedLowSettings(night_start_minute=22 * 60, night_end_minute=14 * 60))
    _, [night] = noon_is_night.fold(None, plain(values), UTC, {})
    assert night.evidence["limit_mmol_l"] == 4.0


def test_of_each_half_minute_the_first_reading_takes_part() -> None:
    good = [Reading(NOON + row * 5 * MINUTE_MS, value, "mmol/L") for row, value in enumerate(falling(5, until=85))]
    crowd = [Reading(one.at + millisecond, 9.0, "mmol/L") for one in good for millisecond in (1, 500, 29_999)]
    assert standing([glucose_series(sorted([*good, *crowd], key=lambda one: one.at))]) == standing(
        [glucose_series(good)]
    )
    low = Reading(good[-1].at + 1, 3.0, "mmol/L")
    [ended] = standing([glucose_series([*good, low])])
    assert (ended.resolved_at, ended.evidence["outcome"]) == (low.at, "low")


def test_a_stream_of_readings_buys_no_memory() -> None:
    at = NOON + np.arange(40_000) * 250
    plain_flags = np.zeros(at.size, dtype=np.int16)
    state, _ = fold(None, ReadingSeries(at, np.full(at.size, 6.0), plain_flags + np.int16(Unit.MMOL_L), plain_flags))
    assert state is not None
    assert state.past.mmol.size == 120


def test_flagged_readings_and_numberless_ones_change_nothing() -> None:
    values = falling(5)
    good = [Reading(NOON + row * 5 * MINUTE_MS, value, "mmol/L") for row, value in enumerate(values)]
    bad = [Reading(one.at + MINUTE_MS, 2.0, "mmol/L", ("artifact",)) for one in good]
    none = [Reading(one.at + 2 * MINUTE_MS, None, "mmol/L") for one in good]
    high = [Reading(one.at + 3 * MINUTE_MS, 0.0, "mmol/L", ("above_range",)) for one in good]
    high += [Reading(one.at + 4 * MINUTE_MS, float("inf"), "mmol/L") for one in good]
    assert (
        standing([glucose_series([*good, *bad, *none, *high])])[0].opened_at
        == standing([glucose_series(good)])[0].opened_at
    )


def test_late_readings_are_refused_and_none_are_nothing() -> None:
    state, _ = fold(None, plain([5.0, 5.0]), UTC)
    with pytest.raises(ValueError, match="late readings"):
        fold(state, plain([5.0]), UTC)
    assert fold(None, plain([]), UTC) == (None, [])


def twin(cadence: int) -> tuple[study.Period, ...]:
    """Five seeded patients whose velocity decays (as insulin wears off), with a sensor's noise."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        level, velocity, values = 6.0, 0.0, []
        for _ in range(6 * 24 * 60 // 3):
            velocity = 0.9 * velocity + 0.003 * (5.5 - level) + rng.normal(0, 0.05)
            level = max(level + velocity, 2.0)
            values.append(level + rng.normal(0, 0.05))
        every = cadence // 3
        mmol = np.round(np.array(values[::every]), 1)
        found.append(study.from_mmol(str(seed), MIDNIGHT + np.arange(mmol.size) * cadence * MINUTE_MS, mmol, UTC))
    return tuple(found)


def curve_means(periods: Sequence[study.Period], *, nights: bool) -> dict[str, float]:
    return {
        name: study.held_out(periods, learn, 0.1, nights=nights).summary()[3] for name, learn in study.METHODS.items()
    }


@pytest.mark.parametrize("cadence", [3, 15])
def test_a_model_of_others_errs_less_than_the_straight_line_on_the_twin(cadence: int) -> None:
    *others, last = twin(cadence)
    ahead = last.at + prediction.HORIZON_MS
    truth = np.interp(ahead, last.at, last.mmol)
    within = (ahead <= last.at[-1]) & (last.at >= last.at[0] + HOUR_MS)
    error = {
        name: float(np.std((learn(others)(last.at, last.mmol) - truth)[within]))
        for name, learn in study.METHODS.items()
        if name != "AR2"
    }
    assert error["model"] < 0.9 * error["linear"]


def test_opens_where_the_study_says_on_the_twin() -> None:
    for cadence, coefficients, margin in (
        (3, prediction.DENSE, prediction.DENSE_MARGIN), (15, prediction.SPARSE, prediction.SPARSE_MARGIN),
    ):  # fmt: skip
        opened = [agrees_with_the_study(one, coefficients, margin, UTC) for one in twin(cadence)]
        assert sum(opened) > 5


def agrees_with_the_study(one: study.Period, coefficients: Float64, margin: float, zone: ZoneHistory) -> int:
    rows = study.openings(one, study.score(one, study.model(coefficients)(one.at, one.mmol)), margin)
    flags = np.zeros(one.at.size, dtype=np.int16)
    series = ReadingSeries(one.at, one.mmol, flags + np.int16(Unit.MMOL_L), flags)
    assert [episode.opened_at for episode in standing([series], zone)] == one.at[rows].tolist()
    return int(rows.size)


needs_recordings = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")
TABLES = [
    (study.SHANGHAI, prediction.SPARSE, prediction.SPARSE_MARGIN),
    (study.ZHANG, prediction.DENSE, prediction.DENSE_MARGIN),
]


@needs_recordings
@pytest.mark.parametrize(("folder", "coefficients", "margin"), TABLES)
def test_the_tables_are_those_of_the_study(folder: str, coefficients: Float64, margin: float) -> None:
    periods = study.recorded(folder)
    np.testing.assert_allclose(study.fitted(periods), coefficients, atol=6e-5)
    assert study.margin_of(periods, study.model(coefficients), study.OPERATING_RATE) == pytest.approx(margin)
    zone = ZoneHistory.of(study.ZONE[folder])
    assert sum(agrees_with_the_study(one, coefficients, margin, zone) for one in periods) > 20


@needs_recordings
@pytest.mark.parametrize("nights", [True, False])
@pytest.mark.parametrize("folder", [study.SHANGHAI, study.ZHANG])
def test_held_out_curves_are_on_average_above_both_baselines(folder: str, nights: bool) -> None:  # noqa: FBT001 a parameter
    # Point estimates: the lead over AR2 is within the noise, so this pins the shipped table, not a law.
    means = curve_means(study.recorded(folder), nights=nights)
    assert means["model"] > max(means["linear"], means["AR2"])


@needs_recordings
@pytest.mark.soak
def test_the_lead_over_the_straight_line_by_day_is_beyond_the_noise() -> None:
    boots = {
        name: study.resampled(study.held_out(study.recorded(study.SHANGHAI), study.METHODS[name], 0.3, nights=False))
        for name in ("linear", "model")
    }
    assert np.nanpercentile(boots["model"][:, 3] - boots["linear"][:, 3], 2.5) > 0
