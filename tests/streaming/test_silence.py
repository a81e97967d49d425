"""When missing glucose and devices that are not heard are worth telling: tables of gaps, nights, rests and contacts."""

from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.instants import DISTANT_FUTURE_MS
from devices.vocabulary import DeviceModel
from streaming.episodes import Episode, Rule, Severity
from streaming.rules.changes import RuleChange
from streaming.rules.history import Pause, RulesHistory
from streaming.rules.presets import PatientGroup, build_history
from streaming.rules.settings import DataSilenceSettings, DeviceOfflineSettings
from streaming.silence.gaps import Gap, at_night, back_since, glucose_silences, night_silences, off_since
from streaming.silence.offline import CONTACT_LAG_MS, EXPECTED_INTERVAL_MS, DeviceContact, offline_episodes
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory

UTC = ZoneHistory.of("UTC")
ALWAYS = [(-DISTANT_FUTURE_MS, DISTANT_FUTURE_MS)]
STABLE = [(0, PatientGroup.STABLE)]
USUAL = build_history(STABLE)
NIGHT = round(datetime.fromisoformat("2026-03-10T00:00Z").timestamp() * 1000)
LATER = NIGHT + 400 * DAY_MS

Span = tuple[int, int | None]


def spans(episodes: list[Episode]) -> list[Span]:
    """Beginnings and ends in ms after NIGHT."""
    return [(one.opened_at - NIGHT, None if one.resolved_at is None else one.resolved_at - NIGHT) for one in episodes]


def gap(since: int, until: int | None = None, *, last: bool = True) -> Gap:
    """A gap between two instants in ms after NIGHT."""
    return Gap(NIGHT + since if last else None, NIGHT + since, None if until is None else NIGHT + until)


def paused(start: int, end: int, *changes: RuleChange) -> RulesHistory:
    return build_history(STABLE, own=changes, pauses=[Pause(NIGHT + start, NIGHT + end)])


def switched(*switches: tuple[int, bool], rule: Rule = Rule.DATA_SILENCE) -> RulesHistory:
    return build_history(STABLE, own=[RuleChange(NIGHT + at, rule, {"enabled": on}) for at, on in switches])


# Days -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "now", "wanted"),
    [
        (None, 3 * DAY_MS - 1, []),
        (None, 3 * DAY_MS, [(3 * DAY_MS, None)]),
        (3 * DAY_MS, 9 * DAY_MS, []),
        (3 * DAY_MS + 1, 9 * DAY_MS, [(3 * DAY_MS, 3 * DAY_MS + 1)]),
        (-DAY_MS, 9 * DAY_MS, []),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_gap_of_three_days(until: int | None, now: int, wanted: list[Span], *, last: bool) -> None:
    found = glucose_silences(gap(0, until, last=last), USUAL, ALWAYS, NIGHT + now)
    assert spans(found) == wanted
    assert all(one.evidence == {"last_at": NIGHT if last else None, "since_at": NIGHT} for one in found)
    assert all(one.severity is Severity.MEDIUM and one.subject == "glucose" for one in found)


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        # A rest ends it, and lets the days begin anew.
        (paused(5 * DAY_MS, 6 * DAY_MS), [(3 * DAY_MS, 5 * DAY_MS), (9 * DAY_MS, None)]),
        (paused(DAY_MS, 2 * DAY_MS), [(5 * DAY_MS, None)]),
        (paused(-DAY_MS, HOUR_MS), [(3 * DAY_MS + HOUR_MS, None)]),
        # A rule that was off tells at once what lasts when it is switched on.
        (switched((DAY_MS, False), (7 * DAY_MS, True)), [(7 * DAY_MS, None)]),
        (switched((DAY_MS, False), (2 * DAY_MS, True)), [(3 * DAY_MS, None)]),
        (switched((4 * DAY_MS, False)), [(3 * DAY_MS, 4 * DAY_MS)]),
        (switched((0, False)), []),
        # Other settings hold from when they are set; what goes on under them is one episode.
        (
            build_history(STABLE, own=[RuleChange(NIGHT + 4 * DAY_MS, Rule.DATA_SILENCE, {"days": 8})]),
            [(3 * DAY_MS, 4 * DAY_MS), (8 * DAY_MS, None)],
        ),
        (
            build_history(STABLE, own=[RuleChange(NIGHT + 4 * DAY_MS, Rule.DATA_SILENCE, {"days": 2})]),
            [(3 * DAY_MS, None)],
        ),
        (
            build_history(STABLE, own=[RuleChange(NIGHT + 2 * DAY_MS, Rule.DATA_SILENCE, {"days": 1})]),
            [(2 * DAY_MS, None)],
        ),
        (build_history([(0, PatientGroup.NEW)]), [(DAY_MS, None)]),
    ],
)
def test_the_rules_of_the_time(rules: RulesHistory, wanted: list[Span]) -> None:
    assert spans(glucose_silences(gap(0), rules, ALWAYS, LATER)) == wanted


def test_only_while_somebody_waits() -> None:
    watched = [
        (NIGHT - DAY_MS, NIGHT + 4 * DAY_MS),
        (NIGHT + 10 * DAY_MS, NIGHT + 11 * DAY_MS),
        (LATER, DISTANT_FUTURE_MS),
    ]
    found = glucose_silences(gap(0), USUAL, watched, LATER)
    assert spans(found) == [(3 * DAY_MS, 4 * DAY_MS)]
    assert found[0].evidence["ended_by"] == "not_watched"
    assert glucose_silences(gap(0), USUAL, [], LATER) == []


# Nights ---------------------------------------------------------------------------------------------------------------

SIX, EVENING = 6 * HOUR_MS, -3 * HOUR_MS


@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [
        (2 * HOUR_MS, None, [(2 * HOUR_MS + 20 * MINUTE_MS, SIX)]),
        (2 * HOUR_MS, 2 * HOUR_MS + 20 * MINUTE_MS, []),
        (2 * HOUR_MS, 2 * HOUR_MS + 21 * MINUTE_MS, [(2 * HOUR_MS + 20 * MINUTE_MS, 2 * HOUR_MS + 21 * MINUTE_MS)]),
        (EVENING, SIX, [(0, SIX)]),
        (EVENING, HOUR_MS, [(0, HOUR_MS)]),
        (EVENING, 0, []),
        (-10 * MINUTE_MS, None, [(10 * MINUTE_MS, SIX)]),
        (-20 * MINUTE_MS, None, [(0, SIX)]),
        (SIX - 20 * MINUTE_MS, SIX + HOUR_MS, []),
        (SIX - 21 * MINUTE_MS, SIX + HOUR_MS, [(SIX - MINUTE_MS, SIX)]),
        (SIX, 20 * HOUR_MS, []),
    ],
)
def test_a_gap_at_night(since: int, until: int | None, wanted: list[Span]) -> None:
    found = night_silences(gap(since, until), USUAL, ALWAYS, UTC, NIGHT + 12 * HOUR_MS)
    assert spans(found) == wanted
    for one in found:
        assert one.subject == "glucose:night"
        assert (one.evidence["night"], one.evidence["night_ends_at"]) == (True, NIGHT + SIX)
        morning = one.resolved_at == NIGHT + SIX and until != SIX
        assert one.evidence.get("ended_by") == ("morning" if morning else None)


@pytest.mark.parametrize("now", [19 * MINUTE_MS, 20 * MINUTE_MS, HOUR_MS, SIX - 1])
def test_a_night_that_goes_on(now: int) -> None:
    wanted = [] if now < 20 * MINUTE_MS else [(20 * MINUTE_MS, None)]
    assert spans(night_silences(gap(0), USUAL, ALWAYS, UTC, NIGHT + now)) == wanted


def test_each_night_anew_until_the_nurse_hears_of_it() -> None:
    whole = gap(EVENING)
    told = glucose_silences(whole, USUAL, ALWAYS, LATER)
    nights = [(day * DAY_MS, day * DAY_MS + SIX) for day in range(3)]
    assert spans(night_silences(whole, USUAL, ALWAYS, UTC, LATER, told)) == nights
    assert len(night_silences(whole, USUAL, ALWAYS, UTC, LATER)) > 300


def test_without_a_signal_none_can_be_lost() -> None:
    assert night_silences(gap(EVENING, last=False), USUAL, ALWAYS, UTC, LATER) == []
    handed_over = [(NIGHT + EVENING - DAY_MS, NIGHT + EVENING + HOUR_MS), (NIGHT - HOUR_MS, DISTANT_FUTURE_MS)]
    assert night_silences(gap(EVENING), USUAL, handed_over, UTC, NIGHT + DAY_MS) == []


def test_a_night_that_begins_in_the_evening_and_one_that_is_none() -> None:
    late = build_history(STABLE, own=[RuleChange(0, Rule.DATA_SILENCE, {"night_start_minute": 22 * 60})])
    assert spans(night_silences(gap(EVENING), late, ALWAYS, UTC, NIGHT + 12 * HOUR_MS)) == [(-2 * HOUR_MS, SIX)]
    assert at_night(UTC, DataSilenceSettings(night_start_minute=22 * 60), NIGHT - 1)
    never = DataSilenceSettings(night_start_minute=60, night_end_minute=60)
    assert not any(at_night(UTC, never, NIGHT + minute * MINUTE_MS) for minute in range(0, 24 * 60, 7))


@given(
    ats=st.lists(st.integers(0, 4 * 24 * 60), min_size=2, max_size=40, unique=True),
    now=st.integers(0, 5 * 24 * 60),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/Havana"]),
)
def test_nights_by_the_minute(ats: list[int], now: int, zone: str) -> None:
    """Minute by minute: more than 20 min since the last reading, by the clock of a wall in the wearer's bedroom."""
    base = round(datetime.fromisoformat("2026-03-07T00:00Z").timestamp() * 1000)
    history = ZoneHistory.of(zone)
    ordered = [base + minute * MINUTE_MS for minute in sorted(ats)]
    at = base + now * MINUTE_MS
    found = [
        one
        for last, following in pairwise([*ordered, None])
        if last is not None
        for one in night_silences(Gap(last, last, following), USUAL, ALWAYS, history, at)
    ]
    for minute in range(5 * 24 * 60):
        moment = base + minute * MINUTE_MS
        before = max((one for one in ordered if one <= moment), default=None)
        silent = before is not None and moment - before >= 20 * MINUTE_MS and history.local(moment).hour < 6
        covered = any(
            one.opened_at <= moment < (one.resolved_at or DISTANT_FUTURE_MS) for one in found if one.opened_at <= at
        )
        if moment <= at:
            assert covered == silent


# Rests ----------------------------------------------------------------------------------------------------------------


def test_when_a_rule_last_stopped_and_a_patient_came_back() -> None:
    rules = switched((DAY_MS, False), (2 * DAY_MS, True), rule=Rule.URGENT_LOW)
    assert off_since(rules, NIGHT, LATER, lambda then: then.of(Rule.URGENT_LOW) is not None) == NIGHT + DAY_MS
    assert off_since(rules, NIGHT, NIGHT + DAY_MS - 1, lambda then: then.of(Rule.URGENT_LOW) is not None) is None
    assert off_since(rules, NIGHT + DAY_MS, LATER, lambda then: then.of(Rule.URGENT_LOW) is not None) is None
    assert back_since(rules, LATER) is None
    assert back_since(paused(0, DAY_MS), NIGHT + DAY_MS - 1) is None
    assert back_since(paused(0, DAY_MS), NIGHT + DAY_MS) == NIGHT + DAY_MS


# Devices --------------------------------------------------------------------------------------------------------------

WORN = [(NIGHT - 30 * DAY_MS, DISTANT_FUTURE_MS)]
BAND = DeviceContact("band", DeviceModel.WRISTBAND, NIGHT, interval_ms=EXPECTED_INTERVAL_MS[DeviceModel.WRISTBAND])


@pytest.mark.parametrize(
    ("contact", "opens", "severity", "cause"),
    [
        (BAND, 45 * MINUTE_MS, "low", "interval"),
        (replace(BAND, grave=True), 45 * MINUTE_MS, "medium", "interval"),
        (replace(BAND, left_at=NIGHT + MINUTE_MS), 2 * MINUTE_MS, "low", "last_will"),
        (replace(BAND, left_at=NIGHT - CONTACT_LAG_MS), MINUTE_MS - CONTACT_LAG_MS, "low", "last_will"),
        (replace(BAND, left_at=NIGHT - CONTACT_LAG_MS - 1), 45 * MINUTE_MS, "low", "interval"),
        (replace(BAND, waiting_since=NIGHT + HOUR_MS), 45 * MINUTE_MS, "medium", "interval"),
        (replace(BAND, waiting_since=NIGHT + HOUR_MS, interval_ms=None), HOUR_MS, "medium", "dose"),
        (replace(BAND, waiting_since=NIGHT, interval_ms=None), None, "", ""),
        (replace(BAND, interval_ms=None), None, "", ""),
        (replace(BAND, contact_at=None), -30 * DAY_MS + HOUR_MS, "low", "interval"),
        (replace(BAND, contact_at=NIGHT - 40 * DAY_MS), -30 * DAY_MS + HOUR_MS, "low", "interval"),
    ],
)
def test_when_a_device_is_offline(contact: DeviceContact, opens: int | None, severity: str, cause: str) -> None:
    found = offline_episodes(contact, USUAL, WORN, LATER)
    assert spans(found) == ([] if opens is None else [(opens, None)])
    for one in found:
        assert (one.severity, one.subject, one.evidence["cause"]) == (severity, "band", cause)
        assert offline_episodes(contact, USUAL, WORN, one.opened_at - 1) == []


def test_a_device_rests_with_its_patient_and_ends_with_the_watch() -> None:
    found = offline_episodes(BAND, paused(2 * HOUR_MS, 4 * HOUR_MS), WORN, LATER)
    assert spans(found) == [(45 * MINUTE_MS, 2 * HOUR_MS), (5 * HOUR_MS, None)]
    assert found[0].evidence["ended_by"] == "rest"
    off = switched((HOUR_MS, False), rule=Rule.DEVICE_OFFLINE)
    assert spans(offline_episodes(BAND, off, WORN, LATER)) == [(45 * MINUTE_MS, HOUR_MS)]
    taken_off = [(NIGHT - DAY_MS, NIGHT + HOUR_MS)]
    assert spans(offline_episodes(BAND, USUAL, taken_off, LATER)) == [(45 * MINUTE_MS, HOUR_MS)]
    assert offline_episodes(BAND, USUAL, [], LATER) == []


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"days": 0.2}, {"days": 91}, {"night_minutes": 4}, {"night_minutes": 361}, {"night_start_minute": -1}],
)
def test_settings_of_silence_that_mean_nothing(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"days|minutes|night"):
        DataSilenceSettings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"intervals": 0.5}, {"intervals": 101}, {"last_will_minutes": -1}])
def test_settings_of_devices_that_mean_nothing(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"intervals|minutes"):
        DeviceOfflineSettings(**changes)
