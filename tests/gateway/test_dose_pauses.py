"""Doses of patients who rest, and what clinic and patient set about missed doses: against the real store."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward

MORNING = ms("2026-03-10T06:00Z")
DUE = ms("2026-03-10T08:00Z")
END = DUE + HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, MORNING) as ward:
        yield ward


async def a_dose_at_eight(ward: Ward, **changes: Any) -> int:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", since="2026-03-10", **changes)
    await ward.work()
    return patient


async def pass_window(ward: Ward, day: int = 0) -> None:
    """Let a dose's window close with the box in contact."""
    ward.now = END + day * DAY_MS + MINUTE_MS
    await ward.work()
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)


async def paused_at_once(ward: Ward, patient: int, begin: int, until: int) -> None:
    """Write down a pause, also one that has begun already."""
    await ward.clinic.connection.execute(
        "insert into pause (patient_id, valid, reason, recorded_at) values (%s, tstzrange(%s, %s), 'hospital', %s)",
        [patient, moment(begin), moment(until), moment(ward.now)],
    )


# Pauses --------------------------------------------------------------------------------------------------------------


async def test_a_paused_dose_is_paused_beforehand_and_makes_no_alert(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.pause(patient, moment(DUE + 2 * DAY_MS), "hospital")
    await ward.work()
    states = "select state from dose where patient_id = %s order by due_at"
    assert await ward.clinic.rows(states, patient) == [("paused",)] * 2
    await pass_window(ward)
    assert await ward.states(patient) == ["paused"]
    waits = "select judge_at, awaits from dose where state = 'paused'"
    assert set(await ward.clinic.rows(waits)) == {(None, None)}
    assert await ward.work(END + HOUR_MS) == 0
    await pass_window(ward, 1)
    await pass_window(ward, 2)  # the pause's end does not belong to it
    assert await ward.states(patient) == ["paused", "paused", "missed"]
    assert await ward.alerts(patient) == [(END + 2 * DAY_MS, "medium", "open", None)]


async def test_a_dose_may_be_taken_in_a_pause(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.pause(patient, moment(DUE + DAY_MS), "holiday")
    await ward.work()
    ward.now = DUE
    await ward.hear(ward.opened("box", DUE))
    assert await ward.doses(patient) == [(DUE, "taken", DUE)]
    await ward.provisioning.end_pause(patient)
    await ward.work()
    assert await ward.doses(patient) == [(DUE, "taken", DUE)]


async def test_an_alert_of_a_dose_that_turns_out_paused_is_withdrawn_and_comes_back_with_it(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await pass_window(ward)
    assert await ward.states(patient) == ["missed"]
    await paused_at_once(ward, patient, DUE, DUE + HOUR_MS // 2)
    await ward.work()
    assert await ward.states(patient) == ["paused"]
    assert await ward.alerts(patient) == []
    history = await ward.clinic.rows("select action, note from alert_history order by id")
    assert history[1:] == [
        ("withdrawn", "this dose is not asked for any more: a schedule, a zone, a pause or a rule changed")
    ]
    await ward.clinic.connection.execute("delete from pause")
    await ward.work()
    assert await ward.states(patient) == ["missed"]
    assert await ward.alerts(patient) == [(END, "medium", "open", None)]


async def test_a_pause_that_ends_early_asks_for_the_doses_after_it(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.pause(patient, moment(DUE + 10 * DAY_MS), "hospital")
    await pass_window(ward)
    ward.now = DUE + DAY_MS - HOUR_MS
    await ward.provisioning.end_pause(patient)
    await pass_window(ward, 1)
    assert await ward.states(patient) == ["paused", "missed"]
    assert await ward.alerts(patient) == [(END + DAY_MS, "medium", "open", None)]


async def test_a_planned_pause_that_moves_moves_what_is_paused(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    first, later = DUE + DAY_MS - HOUR_MS, DUE + 2 * DAY_MS - HOUR_MS
    await ward.provisioning.pause(patient, moment(first + DAY_MS), "holiday", begin=moment(first))
    await ward.work()
    await ward.provisioning.end_pause(patient)
    await ward.provisioning.pause(patient, moment(later + DAY_MS), "holiday", begin=moment(later))
    for day in range(4):
        await pass_window(ward, day)
    assert await ward.states(patient) == ["missed", "missed", "paused", "missed"]
    assert [opened for opened, *_ in await ward.alerts(patient)] == [END, END + DAY_MS, END + 3 * DAY_MS]


async def test_an_opening_means_another_dose_when_the_one_before_it_was_paused(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "14:00", since="2026-03-10")
    await ward.work()
    ward.now = DUE + 4 * HOUR_MS
    await ward.hear(ward.opened("box", ward.now))
    await ward.work()
    assert await ward.states(patient) == ["late"]
    await paused_at_once(ward, patient, DUE, DUE + HOUR_MS)
    await ward.work()
    ward.now += 2 * HOUR_MS
    assert await ward.states(patient) == ["paused", "early"]


async def test_the_rules_at_the_end_of_a_window_decide_of_a_miss(ward: Ward) -> None:
    """A dose due before the pause that would be missed in it is missed, and no alert; a dose after it alerts."""
    patient = await a_dose_at_eight(ward)
    ward.now = DUE + MINUTE_MS
    await ward.provisioning.pause(patient, moment(END + HOUR_MS), "to hospital")
    await pass_window(ward)
    assert await ward.states(patient) == ["missed"]
    assert await ward.alerts(patient) == []
    await pass_window(ward, 1)
    assert await ward.alerts(patient) == [(END + DAY_MS, "medium", "open", None)]


# Settings ------------------------------------------------------------------------------------------------------------


async def test_the_severity_is_a_setting(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.schedule(patient, "08:00", since="2026-03-10", critical=True)
    await ward.provisioning.set_rule(None, "missed_dose", {"severity": "low"})
    await pass_window(ward)
    await ward.provisioning.set_rule(patient, "missed_dose", {"critical_severity": "medium"})
    await pass_window(ward, 1)
    found = await ward.alerts(patient)
    assert [(opened, severity) for opened, severity, *_ in found] == [
        (END, "low"),
        (END, "high"),
        (END + DAY_MS, "low"),
        (END + DAY_MS, "medium"),
    ]
    settings = await ward.clinic.rows(
        "select settings, rule_version from alert where rule = 'missed_dose' order by opened_at, subject"
    )
    assert settings[0] == ({"severity": "low", "critical_severity": "high"}, 1)
    assert settings[-1] == ({"severity": "low", "critical_severity": "medium"}, 1)


async def test_switched_off_doses_are_followed_without_alerts_and_reminders(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.set_rule(patient, "missed_dose", {"enabled": False})
    await pass_window(ward)
    assert await ward.states(patient) == ["missed"]
    assert await ward.alerts(patient) == []
    assert await ward.commands() == []
    await ward.provisioning.set_rule(patient, "missed_dose", {"enabled": True})
    await ward.provisioning.set_timezone(patient, "Etc/UTC", None)  # all of it again: the rules of then count
    await pass_window(ward, 1)
    assert [opened for opened, *_ in await ward.alerts(patient)] == [END + DAY_MS]


async def test_the_gateway_heeds_rest_and_rules_too(ward: Ward) -> None:
    """A late delivery is settled by the gateway itself: it makes no alert of a dose that the rules left alone."""
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "14:00", since="2026-03-10")
    await ward.provisioning.pause(patient, moment(DUE + 2 * HOUR_MS), "at the dentist")
    await ward.work()
    ward.now = ms("2026-03-10T15:01Z")
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["paused", "missed"]
    await ward.hear(ward.opened("box", ms("2026-03-10T11:00Z")))
    assert await ward.states(patient) == ["paused", "early"]
    assert [(state, resolved) for _, _, state, resolved in await ward.alerts(patient)] == [
        ("resolved", ms("2026-03-10T15:00Z"))
    ]


# All of it -----------------------------------------------------------------------------------------------------------


async def test_every_state_a_dose_can_have(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.provisioning.pause(
        patient, moment(DUE + 6 * DAY_MS), "holiday", begin=moment(DUE + 5 * DAY_MS - HOUR_MS)
    )
    for day, minutes in enumerate([(0,), (-120,), (200,), (0, 30), (), (), ()]):
        for minute in minutes:
            ward.now = DUE + day * DAY_MS + minute * MINUTE_MS
            await ward.hear(ward.opened("box", ward.now))
        if day == 6:
            ward.now = DUE + day * DAY_MS
            skip = {"events": [{"type": "dose_skipped", "at": ward.now}]}
            await ward.hear(ward.message("box", "event", skip, None, None))
        await pass_window(ward, day)
    await ward.work(END + 7 * DAY_MS + GRACE_MS)
    ward.now = DUE + 8 * DAY_MS
    await ward.work()
    expected = ["taken", "early", "late", "doubled", "missed", "paused", "skipped", "unknown", "due"]
    assert await ward.states(patient) == expected
