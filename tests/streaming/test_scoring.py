"""Scores of alarms against events: what counts as told of, as false, as late; and two settings side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from devices.vocabulary import Unit
from streaming.episodes import Episode, Rule, Severity
from streaming.glucose.episodes import Level, consensus_episodes
from streaming.limits.scoring import Event, Observed, Score, observed, opened_at_night, paired, reference_events, score
from streaming.readings import ReadingSeries
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, Int64, ZoneHistory
from tests.streaming.prediction_study import SHANGHAI, ZHANG, low_onsets, recorded

DAY = 1_790_812_800_000  # 2026-10-01T00:00Z
UTC = ZoneHistory.of("UTC")
LOW, NIGHT = Rule.HYPOGLYCAEMIA, Rule.NOCTURNAL_HYPOGLYCAEMIA


def at(hours: float) -> int:
    return DAY + round(hours * HOUR_MS)


def alarm(opened: float, resolved: float | None = None) -> Episode:
    return Episode(at(opened), None if resolved is None else at(resolved), Severity.MEDIUM)


def event(start: float, end: float, known: float | None = None) -> Event:
    return Event(at(start), at(end), at(start if known is None else known))


def every_five(start: float = 0, hours: float = 24) -> Int64:
    return np.arange(at(start), at(start + hours), 5 * MINUTE_MS)


def glucose(values: Sequence[float], start: float = 0, minutes: int = 5) -> ReadingSeries:
    n = len(values)
    stamps = at(start) + np.arange(n) * minutes * MINUTE_MS
    return ReadingSeries(stamps, np.array(values, np.float64), np.full(n, Unit.MMOL_L, np.int16), np.zeros(n, np.int16))


def test_an_alarm_tells_of_what_it_overlaps_or_precedes_by_half_an_hour() -> None:
    events = [event(10, 11, 10.25)]
    for opened, resolved, told in (
        (9.5, 9.6, True), (9.49, 9.6, False), (9, 10, True), (10.5, None, True), (11, 12, True), (11.01, 12, False),
        (9, None, True),
    ):  # fmt: skip
        found = score(LOW, events, [alarm(opened, resolved)], every_five(), UTC)
        assert (found.detected, found.false_alarms) == ((1, 0) if told else (0, 1)), opened


def test_the_lead_is_that_of_the_first_alarm_and_negative_when_late() -> None:
    events = [event(10, 11, 10.25), event(20, 22, 20.25), event(14, 15)]
    alarms = [alarm(10.5, 11), alarm(9.75, 10), alarm(21, 22)]
    found = score(LOW, events, alarms, every_five(), UTC)
    assert (found.events, found.detected, found.alarms, found.false_alarms) == (3, 2, 3, 0)
    assert list(found.leads) == [30, -45]
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.lead_minutes == -7.5


def test_an_alarm_is_the_warning_of_the_first_event_it_tells_of() -> None:
    """It is still open when the next low comes: that is told of, but nobody was warned of it hours ahead."""
    events = [event(10, 11, 10.25), event(13, 14, 13.25), event(16, 17, 16.25)]
    found = score(LOW, events, [alarm(10, 13.5), alarm(16, 17)], every_five(), UTC)
    assert (found.detected, found.false_alarms) == (3, 0)
    assert list(found.leads) == [15, 15]


def test_an_alarm_of_what_began_before_the_rule_watched_is_not_false() -> None:
    before = event(9, 11, 9.25)
    found = score(LOW, [event(20, 21)], [alarm(10, 11), alarm(15, 16)], every_five(), UTC, beside=[before])
    assert (found.events, found.detected, found.alarms, found.false_alarms) == (1, 0, 2, 1)


def test_a_forecast_counts_only_before_the_low_itself() -> None:
    events = [event(10, 10)]
    for opened, resolved, told in ((9.75, 10, 1), (9, 10, 0), (10, 10.5, 0)):
        found = score(Rule.PREDICTED_LOW, events, [alarm(opened, resolved)], every_five(), UTC)
        assert found.detected == told


def test_a_graver_alarm_speaks_for_a_milder_rule() -> None:
    found = score(LOW, [event(2, 3), event(10, 11), event(15, 16)], [alarm(10, 11)], every_five(), UTC, [alarm(2, 3)])
    assert (found.detected, found.spoken_for, found.alarms, found.false_alarms) == (1, 1, 1, 0)
    assert found.sensitivity == pytest.approx(2 / 3)


def test_false_alarms_of_the_night_are_by_the_patients_clock() -> None:
    alarms = [alarm(0, 1), alarm(5.9, 7), alarm(6, 7), alarm(20, 21), alarm(23, 24)]
    assert score(LOW, [], alarms, every_five(), UTC).false_at_night == 2
    assert score(LOW, [], alarms, every_five(), ZoneHistory.of("Asia/Shanghai")).false_at_night == 1
    assert not opened_at_night(LOW, alarm(6), UTC)
    assert opened_at_night(Rule.HRV_DRIFT, alarm(6), UTC)


def test_open_through_a_gap_is_data_unknown() -> None:
    stamps = np.concatenate((every_five(0, 2), every_five(3, 2)))  # 01:55 to 03:00
    alarms = [alarm(1, 1.5), alarm(1.5, 3), alarm(1.9, None), alarm(3, None), alarm(0.5, 115 / 60)]
    assert score(LOW, [], alarms, stamps, UTC).data_unknown == 2


def test_scores_add_up() -> None:
    first = score(LOW, [event(10, 11)], [alarm(10, 11), alarm(2, 3)], every_five(), UTC)
    both = first + score(LOW, [event(10, 11)], [], every_five(), UTC)
    assert both == Score(2, 1, 0, 2, 1, 1, 0, (0.0,))
    assert (Score().sensitivity, Score().lead_minutes) == (None, None)


def test_days_and_nights_are_local_ones_with_readings() -> None:
    assert observed(every_five(0, 48), UTC) == Observed(2, 2)
    assert observed(every_five(7, 16), UTC) == Observed(1, 0)
    assert observed(every_five(7, 16), ZoneHistory.of("Asia/Shanghai")) == Observed(2, 1)
    assert Observed(1, 2) + Observed(3, 4) == Observed(4, 6)


# Events by the consensus ---------------------------------------------------------------------------------------------


def test_lows_that_touch_the_night_are_the_nocturnal_rules_events() -> None:
    day = np.full(288, 6.0)
    for hour in (2, 12, 23.5):
        day[int(hour * 12) : int(hour * 12) + 12] = 3.5  # an hour; the last one runs into the next day
    series = glucose([*day, *[3.5] * 6, *[6.0] * 12])
    assert [found.start for found in reference_events(LOW, series, UTC) or ()] == [at(2), at(12), at(23.5)]
    events = reference_events(NIGHT, series, UTC) or []
    assert [(found.start, found.known_at, found.end) for found in events] == [
        (at(2), at(2.25), at(3)), (at(23.5), at(23.75), at(24.5)),
    ]  # fmt: skip
    ends_at_midnight = glucose([*day, *[6.0] * 12])
    assert [found.start for found in reference_events(NIGHT, ends_at_midnight, UTC) or ()] == [at(2)]


def test_each_rule_has_its_level() -> None:
    series = glucose([*[6.0] * 6, *[2.9] * 6, *[6.0] * 6, *[14.0] * 6, *[6.0] * 6], start=12)
    for rule, level in ((Rule.URGENT_LOW, Level.LOW_2), (Rule.HYPERGLYCAEMIA, Level.HIGH_2)):
        wanted = [one.started_at for one in consensus_episodes(series) if one.level is level]
        assert [found.start for found in reference_events(rule, series, UTC) or ()] == wanted
        assert len(wanted) == 1
    assert reference_events(Rule.HRV_DRIFT, series, UTC) is None


def test_a_predicted_lows_events_are_the_beginnings_of_lows() -> None:
    """By day below 3.1, at night below 4.0; a return of less than 15 min begins no new one."""
    series = glucose([6, 3.9, 6, 6, 3.9, 6, 6, 6, 6, 3.8], start=1)
    assert [found.start for found in reference_events(Rule.PREDICTED_LOW, series, UTC) or ()] == [
        series.at[1], series.at[9],
    ]  # fmt: skip
    series = glucose([6, 3.9, 3.0, 6], start=12)
    assert [found.start for found in reference_events(Rule.PREDICTED_LOW, series, UTC) or ()] == [series.at[2]]


@pytest.mark.parametrize("folder", [SHANGHAI, ZHANG])
def test_they_are_those_of_the_prediction_study(folder: str) -> None:
    try:
        periods = recorded(folder)
    except FileNotFoundError:
        pytest.skip("the recordings are not here")
    zone = ZoneHistory.of("Asia/Shanghai" if folder == SHANGHAI else "UTC")
    for one in periods:
        plain = np.zeros(one.at.size, np.int16)
        series = ReadingSeries(one.at, one.mmol, np.full_like(plain, Unit.MMOL_L), plain)
        found = reference_events(Rule.PREDICTED_LOW, series, zone) or []
        assert [event.start for event in found] == one.onsets.tolist()


def test_the_study_finds_the_same_beginnings_of_made_up_lows() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        values = np.round(4 + np.cumsum(rng.normal(0, 0.5, 200)) * 0.2, 1)
        series = glucose(np.clip(values, 1.5, 20).tolist(), start=12)
        by_day = (series.at - DAY) % DAY_MS >= 6 * HOUR_MS
        low = np.where(by_day, series.value < 3.1, series.value < 4.0)
        found = reference_events(Rule.PREDICTED_LOW, series, UTC) or []
        assert [event.start for event in found] == low_onsets(series.at, low).tolist()


# Side by side --------------------------------------------------------------------------------------------------------


def test_alarms_that_overlap_are_the_same_each_at_most_once() -> None:
    first = [alarm(1, 2), alarm(4, 8), alarm(20, None)]
    second = [alarm(2, 3), alarm(4.5, 5), alarm(6, 7), alarm(12, 13), alarm(22, None)]
    pairs = paired(first, second)
    assert [(a and (a.opened_at - DAY) / HOUR_MS, b and (b.opened_at - DAY) / HOUR_MS) for a, b in pairs] == [
        (1, 2), (4, 4.5), (None, 6), (None, 12), (20, 22),
    ]  # fmt: skip
    assert [(b, a) for a, b in paired(second, [])] == [(None, one) for one in second]
