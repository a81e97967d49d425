"""High glucose: the lasting level 2 high, and the high fasting glucose of the morning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.words import summary
from devices.vocabulary import Flag, Unit
from streaming.episodes import Episode, Rule, Severity, settled_before
from streaming.glucose.values import merge
from streaming.limits.detectors import Detector
from streaming.limits.highs import MAX_LOWEST, FastingHyperglycaemia, Hyperglycaemia, LowestOfHour
from streaming.readings import ReadingSeries
from streaming.rules.settings import HyperglycaemiaSettings
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory
from tests.streaming.nocturnal_reference import Reading, lowest_per_instant
from tests.streaming.series import glucose_series

UTC = ZoneHistory.of("UTC")
MIDNIGHT = 1_790_812_800_000  # 2026-10-01T00:00Z
SEVEN = 7 * 60
LASTING, FASTING = Hyperglycaemia(), FastingHyperglycaemia()

Row = tuple[int, float] | tuple[int, float, str] | tuple[int, float | None, str, tuple[str, ...]]


def series_of(rows: Sequence[Row]) -> ReadingSeries:
    """Readings by minutes since midnight."""
    return glucose_series([Reading(MIDNIGHT + minute * MINUTE_MS, *rest) for minute, *rest in rows])


def every(cadence: int, values: Sequence[float], start: int, unit: str = "mmol/L") -> list[Row]:
    return [(start + row * cadence, value, unit) for row, value in enumerate(values)]


def standing(
    detector: Detector[Any], parts: Sequence[ReadingSeries], zone: ZoneHistory = UTC, state: Any = None
) -> list[Episode]:
    """Fold part after part; return every episode as it stands at the end."""
    found: dict[int, Episode] = {}
    for part in parts:
        state, episodes = detector.fold(state, merge(part, detector.limits), zone, {})
        found.update({episode.opened_at: episode for episode in episodes})
    if state is not None and state.episode is not None:
        found[state.episode.opened_at] = state.episode
    return [found[opened_at] for opened_at in sorted(found)]


def minutes(episode: Episode) -> tuple[int, int | None]:
    end = None if episode.resolved_at is None else (episode.resolved_at - MIDNIGHT) // MINUTE_MS
    return (episode.opened_at - MIDNIGHT) // MINUTE_MS, end


def test_a_high_of_15_minutes_opens_and_15_minutes_back_end_it() -> None:
    rows = every(5, [13.9, 14.0, 14.5, 16.0, 15.0, 14.2, 13.9, 13.0, 12.0, 12.0], 600)
    [episode] = standing(LASTING, [series_of(rows)])
    assert minutes(episode) == (620, 645)
    assert episode.severity is Severity.MEDIUM
    assert episode.evidence == {
        "highest_value": 15.0, "highest_unit": "mmol/L", "highest_at": MIDNIGHT + 620 * MINUTE_MS, "highs": 2,
    }  # fmt: skip
    assert "Glucose very high" in summary(Rule.HYPERGLYCAEMIA, episode, UTC)


@pytest.mark.parametrize(
    ("rows", "opened"),
    [
        (every(15, [250.0, 250.0, 250.0], 600, "mg/dL"), None),
        (every(15, [251.0, 251.0], 600, "mg/dL"), 615),
        (every(5, [14.0, 14.0, 13.9, 14.0, 14.0, 14.0], 600), None),
        ([(600, 14.0), (645, 14.0)], 645),
        ([(600, 14.0), (646, 14.0)], None),
        ([(600, None, "mmol/L", ("above_range",)), (615, 5.0, "mmol/L", ("above_range",))], 615),
        ([(600, 20.0, "mmol/L", ("below_range",)), (615, 20.0, "mmol/L", ("below_range",))], None),
        ([(600, 20.0, "mmol/L", ("warmup",)), (615, 20.0, "mmol/L", ("artifact",))], None),
    ],
)
def test_what_opens_a_lasting_high(rows: list[Row], opened: int | None) -> None:
    found = [minutes(one)[0] for one in standing(LASTING, [series_of(rows)])]
    assert found == ([] if opened is None else [opened])


def test_a_short_return_and_silence_leave_it_open_and_hi_is_the_highest() -> None:
    rows: list[Row] = [*every(5, [15.0] * 4, 600), (620, 13.0), (625, 15.0), (700, None, "mmol/L", ("above_range",))]
    [episode] = standing(LASTING, [series_of(rows)])
    assert minutes(episode) == (615, None)
    assert episode.evidence["highest_value"] is None
    assert episode.evidence["highs"] == 3


def test_a_fasting_high_opens_once_and_ends_with_the_fasting_hours() -> None:
    rows = every(15, [6.8, 6.9, 7.0, 7.2, 6.9, 7.4, 7.0, 6.5], 375)
    [episode] = standing(FASTING, [series_of([*rows, (480, 9.0), (490, 9.0), (495, 9.0)])])
    assert minutes(episode) == (405, 480)
    assert (episode.severity, episode.subject) == (Severity.LOW, "fasting")
    assert episode.evidence == {
        "fasting": True, "rise_mmol_l": 0.2, "highs": 4,
        "highest_value": 7.4, "highest_unit": "mmol/L", "highest_at": MIDNIGHT + 450 * MINUTE_MS,
    }  # fmt: skip
    assert "on an empty stomach in the morning of 01 Oct" in summary(Rule.HYPERGLYCAEMIA, episode, UTC)


LO, HI, ARTIFACT = ("below_range",), ("above_range",), ("artifact",)


@pytest.mark.parametrize(
    ("before", "last", "opens"),
    [
        ([(SEVEN - 15, 7.0)], (SEVEN, 7.0), True),
        ([(SEVEN - 15, 7.0)], (SEVEN, 6.99), False),
        ([(SEVEN - 15, 126.0, "mg/dL")], (SEVEN, 126.0, "mg/dL"), True),
        ([(SEVEN - 15, 126.0, "mg/dL")], (SEVEN, 125.9, "mg/dL"), False),
        ([(285, 7.5)], (299, 7.5), False),
        ([(285, 7.5)], (300, 7.5), True),
        ([(465, 6.5)], (479, 7.5), True),
        ([(465, 6.5)], (480, 7.5), False),
        ([], (SEVEN, 8.0), False),
        ([(SEVEN - 45, 8.0)], (SEVEN, 8.0), True),
        ([(SEVEN - 46, 8.0)], (SEVEN, 8.0), False),
        ([(SEVEN - 60, 8.0), (SEVEN - 14, 8.0)], (SEVEN, 8.0), False),
        ([(SEVEN - 61, 8.0), (SEVEN - 14, 8.0)], (SEVEN, 8.0), True),
        ([(SEVEN - 30, 7.3)], (SEVEN, 8.3), True),
        ([(SEVEN - 30, 7.3)], (SEVEN, 8.31), False),
        ([(SEVEN - 30, 10.0), (SEVEN - 20, 7.3), (SEVEN - 10, 8.5)], (SEVEN, 8.4), False),
        ([(SEVEN - 60, 7.2), (SEVEN - 30, 7.5)], (SEVEN, 8.3), False),
        ([(SEVEN - 61, 6.0), (SEVEN - 30, 7.5)], (SEVEN, 8.3), True),
        ([(SEVEN - 30, 131.0, "mg/dL")], (SEVEN, 149.0, "mg/dL"), True),
        ([(SEVEN - 30, 131.0, "mg/dL")], (SEVEN, 150.0, "mg/dL"), False),
        ([(SEVEN - 30, 7.0)], (SEVEN, 144.0, "mg/dL"), True),
        ([(SEVEN - 30, 7.0)], (SEVEN, 145.0, "mg/dL"), False),
        ([(SEVEN - 30, 5.0, "mmol/L", LO), (SEVEN - 10, 7.5)], (SEVEN, 7.5), False),
        ([(SEVEN - 60, None, "mmol/L", HI), (SEVEN - 30, 7.5)], (SEVEN, 7.5), False),
        ([(SEVEN - 61, None, "mmol/L", HI), (SEVEN - 30, 7.5)], (SEVEN, 7.5), True),
        ([(SEVEN - 30, 7.5), (SEVEN - 10, 2.0, "mmol/L", ARTIFACT)], (SEVEN, 7.5), True),
        ([(SEVEN - 30, 7.5)], (SEVEN, None, "mmol/L", HI), False),
    ],
)
def test_what_opens_a_fasting_high(before: list[Row], last: Row, opens: bool) -> None:  # noqa: FBT001 a table's last column
    found = [minutes(one)[0] for one in standing(FASTING, [series_of([*before, last])]) if minutes(one)[0] == last[0]]
    assert found == ([last[0]] if opens else [])


def test_the_morning_is_the_patients_own() -> None:
    rows = every(15, [7.5] * 96, 0)
    for zone, morning in (("Asia/Shanghai", 21 * 60), ("America/New_York", 9 * 60)):
        [episode] = standing(FASTING, [series_of([*rows, (24 * 60, 7.5)])], ZoneHistory.of(zone))
        assert minutes(episode) == (morning, min(morning + 180, 24 * 60))


def test_after_a_silent_day_the_next_reading_ends_it_and_another_morning_begins() -> None:
    rows = [*every(15, [7.5, 7.5], SEVEN), *every(15, [8.0, 8.0], 24 * 60 + SEVEN)]
    first, second = standing(FASTING, [series_of(rows)])
    assert minutes(first) == (SEVEN + 15, 24 * 60 + SEVEN)
    assert first.evidence["highs"] == 1
    assert minutes(second) == (24 * 60 + SEVEN + 15, None)


def test_clocks_going_back_in_the_night_do_not_matter_nor_does_a_journey_west_in_the_morning() -> None:
    berlin = ZoneHistory.of("Europe/Berlin")
    start = 1_792_886_400_000  # 2026-10-25T00:00Z, the night in which Berlin goes back an hour at 01:00Z
    readings = [Reading(start + row * 15 * MINUTE_MS, 7.5) for row in range(40)]
    [episode] = standing(FASTING, [glucose_series(readings)], berlin)
    assert ((episode.opened_at - start) // HOUR_MS, (episode.resolved_at or 0) - start) == (4, 7 * HOUR_MS)
    spans = [*berlin.spans, (start + 5 * HOUR_MS, ZoneHistory.of("America/New_York").spans[0][1])]
    rows = [Reading(start + row * 15 * MINUTE_MS, 7.5) for row in range(60)]
    [journey] = standing(FASTING, [glucose_series(rows)], ZoneHistory.from_spans(spans))
    assert journey.resolved_at == start + 12 * HOUR_MS  # 08:00 in New York


@st.composite
def mornings(draw: st.DrawFn) -> list[Reading]:
    """Draw readings around the limits over two mornings: two units, gaps, flags, shared and neighbouring instants."""
    found, at = [], MIDNIGHT + draw(st.integers(3 * 60, 7 * 60)) * MINUTE_MS
    cadence = draw(st.sampled_from([1, 5, 15])) * MINUTE_MS
    for _ in range(draw(st.integers(0, 80))):
        unit, low = draw(st.sampled_from([("mmol/L", 6.0), ("mg/dL", 108.0)]))
        steps = draw(st.sampled_from([0, 1, 5, 9, 10, 11, 18, 19, 20, 90, 180]))
        value = low + (steps / 10 if unit == "mmol/L" else steps)
        flags = draw(st.sampled_from([()] * 18 + [LO, HI]))
        found.append(Reading(at, round(value, 1), unit, flags))
        at += draw(st.sampled_from([cadence] * 12 + [0, 1, 46 * MINUTE_MS, 22 * HOUR_MS]))
    return found


@given(readings=mornings(), data=st.data(), zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]))
@pytest.mark.parametrize("detector", [LASTING, FASTING], ids=["lasting", "fasting"])
def test_any_split_gives_the_same_and_hydrated_equals_replayed(
    detector: Detector[Any], readings: list[Reading], data: st.DataObject, zone: str
) -> None:
    readings, history = lowest_per_instant(readings), ZoneHistory.of(zone)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(readings)), max_size=6)))
    parts = [glucose_series(readings[a:b]) for a, b in zip([0, *cuts], [*cuts, len(readings)], strict=True)]
    whole = standing(detector, [glucose_series(readings)], history)
    assert standing(detector, parts, history) == whole
    if readings:
        settled = settled_before(whole, data.draw(st.sampled_from(readings)).at, detector.memory_ms)
        remembered = glucose_series([one for one in readings if settled - detector.memory_ms <= one.at < settled])
        state, _ = detector.fold(None, merge(remembered, detector.limits), history, {})
        state = state.closed() if state is not None else None
        hydrated = standing(detector, [glucose_series([one for one in readings if one.at >= settled])], history, state)
        assert hydrated == [one for one in whole if one.opened_at >= settled]


@given(values=st.lists(st.tuples(st.integers(1, 20 * MINUTE_MS), st.integers(60, 90)), max_size=150))
def test_the_rise_is_that_above_the_lowest_of_the_hour(values: list[tuple[int, int]]) -> None:
    at = MIDNIGHT + np.cumsum([0, *(distance for distance, _ in values)])[1:].astype(np.int64)
    tenths = np.array([tenth for _, tenth in values], dtype=np.int64)
    _, rises = LowestOfHour.before(MIDNIGHT).rises(at, (tenths / 10).astype(np.float32))
    for row in range(at.size):
        hour = [i for i in range(row) if at[i] >= at[row] - HOUR_MS]
        expected = (tenths[row] - min(tenths[hour])) / 10 if hour else np.nan
        if not np.isnan(rises[row]):
            assert rises[row] == pytest.approx(expected, abs=1e-5)
        else:
            assert np.isnan(expected) or len(set(tenths[hour].tolist())) > MAX_LOWEST


def test_more_steps_than_are_remembered_cannot_be_told_in_any_split() -> None:
    steep = every(1, [6.0 + step / 10 for step in range(MAX_LOWEST + 20)], SEVEN - 45)
    rows = series_of([*steep, *every(1, [7.0] * 60, SEVEN)])
    [episode] = standing(FASTING, [rows])
    assert minutes(episode)[0] == SEVEN - 45 + 10  # while it was known that it is 1.0 above the lowest
    later = series_of(
        [*every(1, [7.1 + step / 10 for step in range(MAX_LOWEST + 20)], 255), *every(1, [7.5] * 60, 300)]
    )
    [late] = standing(FASTING, [later])
    assert 300 < minutes(late)[0] <= 300 + 60
    assert [late] == standing(FASTING, [later.take(slice(row, row + 1)) for row in range(len(later))])


FIVE = 5


@pytest.mark.parametrize(
    ("rows", "high_from"),
    [
        (every(FIVE, [16.8] * 25, SEVEN), SEVEN + 120),
        (every(FIVE, [301.0] * 25, SEVEN, "mg/dL"), SEVEN + 120),
        (every(FIVE, [300.0] * 40, SEVEN, "mg/dL"), None),
        (every(FIVE, [16.8] * 24, SEVEN), None),
        (every(FIVE, [*[16.8] * 24, 14.0, *[16.8] * 24], SEVEN), None),
        (every(FIVE, [*[14.0] * 6, *[16.8] * 25], SEVEN), SEVEN + 150),
        (every(FIVE, [*[16.8] * 20, 13.0, *[16.8] * 25], SEVEN), SEVEN + 225),
        ([*every(FIVE, [16.8] * 20, SEVEN), *every(FIVE, [16.8] * 25, SEVEN + 95 + 46)], SEVEN + 141 + 120),
        ([*every(FIVE, [16.8] * 20, SEVEN), *every(FIVE, [16.8] * 5, SEVEN + 95 + 45)], SEVEN + 140),
        ([*every(FIVE, [14.0] * 5, SEVEN), (SEVEN + 25, None, "mmol/L", ("above_range",))], SEVEN + 25),
        ([(SEVEN, None, "mmol/L", ("above_range",)), *every(FIVE, [14.0] * 5, SEVEN + 5)], None),
    ],
    ids=["2 h above", "in mg/dL", "at the limit", "not yet", "broken", "after it opened", "broken by a reading within",
         "broken by a gap", "no gap", "HI", "HI before it opened"],
)  # fmt: skip
def test_when_a_lasting_high_becomes_high(rows: list[Row], high_from: int | None) -> None:
    """Reading by reading: severe from that minute on, never before, and in one batch too."""
    state: Any = None
    severe: list[int] = []
    for row in rows:
        state, _ = LASTING.fold(state, merge(series_of([row]), LASTING.limits), UTC, {})
        if state is not None and state.episode is not None and state.episode.severity is Severity.HIGH:
            severe.append(row[0])
    assert next(iter(severe), None) == high_from
    [episode] = standing(LASTING, [series_of(rows)])
    assert episode.severity is (Severity.MEDIUM if high_from is None else Severity.HIGH)


def test_limits_of_a_high_one_are_settings() -> None:
    settings = HyperglycaemiaSettings(limit_mmol=18.0, high_limit_mmol=10.0, high_minutes=30.0)
    [episode] = standing(Hyperglycaemia(settings), [series_of(every(FIVE, [11.0, *[18.1] * 7], SEVEN))])
    assert (minutes(episode)[0], episode.severity) == (SEVEN + 20, Severity.HIGH)
    with pytest.raises(ValueError, match="limits"):
        replace(settings, high_limit_mmol=34.0)
    with pytest.raises(ValueError, match="minutes"):
        replace(settings, high_minutes=241.0)


@pytest.mark.parametrize("detector", [LASTING, FASTING], ids=["lasting", "fasting"])
def test_late_readings_are_refused_and_none_are_nothing(detector: Detector[Any]) -> None:
    state, _ = detector.fold(None, series_of(every(15, [15.0, 15.0], SEVEN)), UTC, {})
    with pytest.raises(ValueError, match="late readings"):
        detector.fold(state, series_of([(SEVEN + 15, 15.0)]), UTC, {})
    assert detector.fold(None, series_of([]), UTC, {}) == (None, [])


@pytest.mark.parametrize(
    ("value", "unit", "flags", "lasting", "fasting"),
    [
        (13.9, Unit.MMOL_L, 0, False, True), (13.91, Unit.MMOL_L, 0, True, True), (250.0, Unit.MG_DL, 0, False, True),
        (251.0, Unit.MG_DL, 0, True, True), (3.0, Unit.MMOL_L, Flag.ABOVE_RANGE, True, True),
        (20.0, Unit.MMOL_L, Flag.CALIBRATION, False, False), (np.nan, Unit.MMOL_L, 0, False, False),
        (5.0, Unit.MMOL_L, 0, False, True),
    ],
)  # fmt: skip
def test_candidates(value: float, unit: Unit, flags: int, lasting: bool, fasting: bool) -> None:  # noqa: FBT001 a table's columns
    row = np.array([value]), np.array([unit], dtype=np.int16), np.array([flags], dtype=np.int16)
    assert LASTING.candidates(*row).tolist() == [lasting]
    assert FASTING.candidates(*row).tolist() == [fasting]


def test_limits_hours_and_durations_are_settings() -> None:
    settings = HyperglycaemiaSettings(
        limit_mmol=10.0, duration_minutes=0.0, recovery_minutes=0.0, fasting_limit_mmol=6.0, fasting_rise_mmol=0.5,
        fasting_start_minute=6 * 60, fasting_end_minute=7 * 60,
    )  # fmt: skip
    rows = series_of([*every(15, [6.0, 6.6, 7.1], 345), (405, 7.1), (410, 6.5), (435, 10.1), (450, 10.0)])
    assert [minutes(one) for one in standing(Hyperglycaemia(settings), [rows])] == [(435, 450)]
    assert [minutes(one) for one in standing(FastingHyperglycaemia(settings), [rows])] == [(410, 435)]
    for wrong in ({"limit_mmol": 4.9}, {"fasting_rise_mmol": -0.1}, {"fasting_start_minute": 480}):
        with pytest.raises(ValueError, match=r"limits|rise|hours"):
            replace(settings, **wrong)


def test_mornings_of_a_week_are_one_episode_each() -> None:
    rows = every(5, [7.5] * (7 * 24 * 12), 0)
    found = standing(FASTING, [series_of(rows)])
    assert [(one.opened_at - MIDNIGHT) % DAY_MS for one in found] == [5 * HOUR_MS] * 7
    assert [(one.resolved_at or 0) - one.opened_at for one in found] == [3 * HOUR_MS] * 7
