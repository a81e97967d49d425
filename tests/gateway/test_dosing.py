"""Doses from schedules, openings and contacts to rows and alerts: against the real store and the pure fold."""

import random
from collections.abc import AsyncIterator
from datetime import date

import pytest

from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward, plain

MORNING = ms("2026-03-10T06:00Z")
DUE = ms("2026-03-10T08:00Z")
END = DUE + HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, MORNING) as ward:
        yield ward


async def a_dose_at_eight(ward: Ward, box: str = "box", **changes: object) -> int:
    patient = await ward.patient(box)
    await ward.schedule(patient, "08:00", since="2026-03-10", **changes)
    await ward.work()
    return patient


# The calendar --------------------------------------------------------------------------------------------------------


async def due_ahead(ward: Ward, patient: int) -> list[str]:
    rows = await ward.clinic.rows(
        "select due_at from dose where patient_id = %s and state = 'due' order by due_at", patient
    )
    return [f"{at:%m-%dT%H:%M}" for (at,) in rows]


async def test_doses_are_due_ahead_and_go_on_day_by_day(ward: Ward) -> None:
    patient = await ward.patient("box")
    schedule = await ward.schedule(patient, "08:00", "20:00", since="2026-03-10")
    assert await ward.work() == 1
    assert await due_ahead(ward, patient) == ["03-10T08:00", "03-10T20:00", "03-11T08:00"]
    until = "select computed_until from dose_schedule where id = %s"
    assert await ward.clinic.value(until, schedule) == moment(MORNING + 36 * HOUR_MS)
    assert await ward.work(MORNING + HOUR_MS) == 0
    await ward.work(MORNING + DAY_MS)
    assert (await due_ahead(ward, patient))[-2:] == ["03-11T20:00", "03-12T08:00"]


async def test_a_schedule_that_is_over_is_computed_once_and_then_left_alone(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", since="2026-01-05", valid_until=date(2026, 1, 7))
    assert await ward.work() == 1
    assert len(await ward.doses(patient)) == 3
    await ward.work(MORNING + GRACE_MS)
    for days in (1, 2, 30):
        assert await ward.work(MORNING + days * DAY_MS) == 0


async def test_a_journey_moves_what_is_due_and_nothing_before_it(ward: Ward) -> None:
    patient = await ward.patient("box", zone="Europe/Berlin")
    await ward.schedule(patient, "08:00", "20:00", since="2026-03-10")
    await ward.work()
    assert await due_ahead(ward, patient) == ["03-10T07:00", "03-10T19:00", "03-11T07:00"]
    ward.now = MORNING + 30 * MINUTE_MS
    await ward.hear(ward.opened("box", ward.now))
    ward.now = ms("2026-03-10T10:00Z")
    await ward.provisioning.set_timezone(patient, "America/New_York", moment(ward.now))
    await ward.work()
    assert await due_ahead(ward, patient) == ["03-11T00:00", "03-11T12:00"]
    assert (await ward.doses(patient))[0] == (ms("2026-03-10T07:00Z"), "taken", MORNING + 30 * MINUTE_MS)


async def test_an_opening_right_after_a_journey_waits_for_the_new_doses(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.set_timezone(patient, "Europe/Berlin", None)
    ward.now = DUE - HOUR_MS + MINUTE_MS
    await ward.hear(ward.opened("box", ward.now))
    assert await ward.states(patient) == ["due"]
    await ward.work()
    assert (await ward.doses(patient))[0] == (DUE - HOUR_MS, "taken", ward.now)


async def test_another_schedule_removes_stale_doses_and_their_alerts(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box"))
    await ward.work(END + 5 * MINUTE_MS)
    assert await ward.states(patient) == ["missed"]
    await ward.clinic.connection.execute("update dose_schedule set local_times = '{13:00}'")
    await ward.work()
    assert await due_ahead(ward, patient) == ["03-10T13:00", "03-11T13:00"]
    assert await ward.alerts(patient) == []
    assert await ward.clinic.value("select state from alert") == "withdrawn"


async def test_a_wider_window_counts_at_once(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.clinic.connection.execute("update dose_schedule set window_after = '3 hours'")
    ward.now = END + HOUR_MS
    await ward.work()
    assert await ward.states(patient) == ["due"]
    await ward.hear(ward.opened("box", ward.now))
    assert await ward.states(patient) == ["taken"]


@pytest.mark.parametrize(
    ("day", "due"),
    [("2026-03-29", ["03-29T01:30", "03-30T00:30"]), ("2026-10-25", ["10-25T00:30", "10-26T01:30"])],
)
async def test_clock_changes(ward: Ward, day: str, due: list[str]) -> None:
    patient = await ward.patient("box", zone="Europe/Berlin")
    ward.now = ms(f"{day}T00:00+01:00")
    await ward.schedule(patient, "02:30", since=day)
    await ward.work()
    assert (await due_ahead(ward, patient))[:2] == due


async def test_a_dose_that_a_clock_change_moves_is_asked_for_at_its_new_time(ward: Ward) -> None:
    """On 29 March 2026 Berlin has no 02:30: the dose is due at 03:30 local, 01:30 UTC, in a window from 00:30 UTC on."""
    patient = await ward.patient("box", zone="Europe/Berlin")
    ward.now = ms("2026-03-28T00:00Z")
    await ward.schedule(patient, "02:30", since="2026-03-29")
    await ward.work()
    ward.now = ms("2026-03-29T00:35Z")
    await ward.hear(ward.opened("box", ward.now))
    assert await ward.doses(patient) == [(ms("2026-03-29T01:30Z"), "taken", ward.now)]
    ward.now = ms("2026-03-30T01:31Z")
    await ward.hear(ward.alive("box"))
    await ward.work(ward.now + GRACE_MS)
    assert await ward.alerts(patient) == [(ms("2026-03-30T01:30Z"), "medium", "open", None)]


async def test_a_journey_that_is_told_of_late_takes_back_the_alerts_of_doses_that_were_not_due(ward: Ward) -> None:
    patient = await ward.patient("box", zone="Europe/Berlin")
    await ward.schedule(patient, "08:00", "20:00", since="2026-03-10")
    await ward.work()
    ward.now = ms("2026-03-11T10:00Z")
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert [opened for opened, *_ in await ward.alerts(patient)] == [
        ms(f"2026-03-{at}:00Z") for at in ("10T08:00", "10T20:00", "11T08:00")
    ]
    assert [opened for opened, *_ in await ward.alerts(patient, "low_adherence")] == [ms("2026-03-10T20:00Z")]
    await ward.provisioning.set_timezone(patient, "America/New_York", moment(ms("2026-03-10T12:00Z")))
    await ward.work()
    assert [opened for opened, *_ in await ward.alerts(patient)] == [
        ms(f"2026-03-{at}:00Z") for at in ("10T08:00", "11T01:00")
    ]
    assert [opened for opened, *_ in await ward.alerts(patient, "low_adherence")] == [ms("2026-03-11T01:00Z")]


# Missed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("critical", "severity"), [(False, "medium"), (True, "high")])
async def test_missed_two_minutes_after_the_first_contact(ward: Ward, critical: bool, severity: str) -> None:  # noqa: FBT001
    patient = await a_dose_at_eight(ward, critical=critical)
    ward.now = END + 30_000
    await ward.hear(ward.alive("box"))
    await ward.work()
    for seconds in (60, 90, 120, 149):
        ward.now = END + seconds * 1_000
        await ward.hear(ward.alive("box"))  # goes on talking: the first contact counts
        await ward.work()
        assert await ward.states(patient) == ["due"]
    assert await ward.alerts(patient) == []
    await ward.work(END + 30_000 + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    assert await ward.alerts(patient) == [(END, severity, "open", None)]
    subject, retrospective, summary = (
        await ward.clinic.rows("select subject, retrospective, summary from alert where patient_id = %s", patient)
    )[0]
    assert (subject, retrospective) == (f"1:{DUE}", False)
    assert summary == "Metformin due at 08:00 was not taken by 09:00"
    assert await ward.commands() == [("box", "remind")]
    assert await ward.clinic.value("select payload from command") == {"due_at": DUE}
    assert await ward.work(END + HOUR_MS) == 0


async def test_a_status_is_contact_but_not_while_messages_are_missing(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.hear(ward.alive("box", seq=10))
    ward.now = END + MINUTE_MS
    await ward.hear(ward.status("box"))
    await ward.work()
    await ward.hear(ward.alive("box", seq=12))  # 11 is missing, and it may be the opening
    for minute in (3, 4, 6):
        await ward.work(END + minute * MINUTE_MS)
        assert await ward.states(patient) == ["unknown"]
    await ward.hear(ward.opened("box", DUE, seq=11))
    await ward.work()
    assert await ward.states(patient) == ["taken"]
    assert await ward.alerts(patient) == []


async def test_a_gap_that_closes_without_an_opening_leaves_a_miss(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.hear(ward.alive("box", seq=10))
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box", seq=12))
    await ward.hear(ward.status("box"))
    await ward.work(END + 5 * MINUTE_MS)
    assert await ward.states(patient) == ["unknown"]
    await ward.hear(ward.alive("box", seq=11))
    await ward.work()
    assert await ward.states(patient) == ["due"]
    await ward.work(END + 5 * MINUTE_MS + GRACE_MS)
    assert await ward.states(patient) == ["missed"]


async def test_a_later_gap_does_not_unsay_a_miss(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box", seq=1))
    await ward.work(END + 5 * MINUTE_MS)
    before = await ward.clinic.rows("select id, state, updated_at from alert")
    await ward.hear(ward.opened("box", ward.now, seq=5, note="a gap"))
    await ward.work(END + 6 * MINUTE_MS)
    assert await ward.states(patient) == ["late"]
    await ward.work(ms("2026-03-11T08:30Z"))
    assert [row[:2] for row in await ward.clinic.rows("select id, state from alert")] == [(before[0][0], "resolved")]


# Out of contact --------------------------------------------------------------------------------------------------------


async def test_a_box_that_was_away_and_brings_the_opening_never_alerts(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.work(END + GRACE_MS - 1)
    assert await ward.states(patient) == ["due"]
    await ward.work(END + GRACE_MS)
    assert await ward.states(patient) == ["unknown"]
    ward.now = END + 5 * HOUR_MS
    await ward.hear(ward.status("box"))
    await ward.work()
    await ward.work(ward.now + MINUTE_MS)
    await ward.hear(ward.opened("box", DUE + 5 * MINUTE_MS))
    await ward.work(ward.now + HOUR_MS)
    assert await ward.doses(patient) == [(DUE, "taken", DUE + 5 * MINUTE_MS)]
    assert await ward.clinic.value("select count(*) from alert") == 0


@pytest.mark.parametrize("away", [20 * MINUTE_MS, 5 * HOUR_MS, 50 * DAY_MS])
async def test_a_box_that_comes_back_without_the_opening(ward: Ward, away: int) -> None:
    patient = await a_dose_at_eight(ward, valid_until=date(2026, 3, 10))
    await ward.work(END + GRACE_MS)
    await ward.work(END + away)
    assert await ward.states(patient) == ["unknown"]
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(END + away + GRACE_MS - 1)
    assert await ward.alerts(patient) == []
    await ward.work(END + away + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    assert await ward.alerts(patient) == [(END, "medium", "open", None)]
    assert await ward.clinic.value("select retrospective from alert") is (away > 30 * MINUTE_MS)
    assert len(await ward.commands()) == (away < HOUR_MS)


async def test_the_worker_was_away_for_a_month(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.work()
    ward.now = MORNING + 40 * DAY_MS
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert set(await ward.states(patient)) == {"missed"}
    assert len(await ward.alerts(patient)) == 40


# Delivered late ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "state"), [(-30, "taken"), (60, "late"), (200, "late")])
async def test_an_opening_that_comes_late_resolves_the_alert(ward: Ward, minutes: int, state: str) -> None:
    patient = await a_dose_at_eight(ward)
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box"))
    await ward.work(END + 5 * MINUTE_MS)
    alert = await ward.clinic.value("select id from alert")
    at = DUE + minutes * MINUTE_MS
    ward.now = DUE + 5 * HOUR_MS
    await ward.hear(ward.opened("box", at))
    assert await ward.doses(patient) == [(DUE, state, at)]
    assert await ward.alerts(patient) == [(END, "medium", "resolved", max(END, at))]
    history = await ward.clinic.rows("select alert_id, action, note from alert_history order by id")
    assert history == [(alert, "raised", None), (alert, "resolved", "the box delivered late what settles this dose")]
    outbox = await ward.clinic.rows("select alert_id, action, alert ->> 'state' from outbox order by id")
    assert outbox == [(alert, "raised", "open"), (alert, "resolved", "resolved")]


async def test_openings_that_come_late_one_by_one_end_where_they_end_together(ward: Ward) -> None:
    results = []
    for box, batches in (("one", [[200], [30]]), ("two", [[30], [200]]), ("three", [[200, 30]])):
        ward.now = MORNING
        patient = await a_dose_at_eight(ward, box)
        ward.now = END + MINUTE_MS
        await ward.hear(ward.alive(box))
        await ward.work(END + 5 * MINUTE_MS)
        ward.now = DUE + 6 * HOUR_MS
        for minutes in batches:
            await ward.hear(ward.opened(box, *(DUE + minute * MINUTE_MS for minute in minutes)))
        results.append((await ward.doses(patient), await ward.alerts(patient)))
    assert results[0] == results[1] == results[2]
    assert results[0][1] == [(END, "medium", "resolved", END)]


async def test_an_opening_that_turns_out_to_be_another_dose_reopens_the_alert(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "14:00", since="2026-03-10")
    await ward.work()
    ward.now = ms("2026-03-10T15:01Z")
    await ward.hear(ward.alive("box"))
    await ward.work(ward.now + GRACE_MS)
    await ward.hear(ward.opened("box", ms("2026-03-10T11:00Z")))
    assert await ward.states(patient) == ["late", "missed"]
    misses = "select id from alert where rule = 'missed_dose' order by opened_at"
    first = await ward.clinic.rows(misses)
    await ward.hear(ward.opened("box", ms("2026-03-10T07:30Z")))
    assert await ward.states(patient) == ["taken", "early"]
    assert [row[2] for row in await ward.alerts(patient)] == ["resolved", "resolved"]
    assert await ward.clinic.rows(misses) == first


async def test_old_doses_of_a_new_schedule_are_shown_and_alert_only_for_the_last_day(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.hear(ward.alive("box"))
    ward.now = ms("2026-03-10T10:00Z")
    await ward.schedule(patient, "08:00", since="2026-01-01")
    await ward.hear(ward.opened("box", ms("2026-01-05T08:10Z")), ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    states = await ward.states(patient)
    assert len(states) == 69
    assert states[4] == "taken"
    assert set(states[:4] + states[5:]) == {"missed"}
    assert [opened for opened, *_ in await ward.alerts(patient)] == [END]
    ward.now = MORNING
    other = await ward.patient("other")
    await ward.schedule(other, "08:00", since="2026-03-01")
    ward.now = MORNING + MINUTE_MS
    await ward.hear(ward.alive("other"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert [opened for opened, *_ in await ward.alerts(other)] == [END - DAY_MS]


# Any order -----------------------------------------------------------------------------------------------------------


def habits(rng: random.Random, days: int, times: list[float]) -> list[int]:
    """Openings of somebody who opens early, late, twice, and never quite in time: chains through many doses."""
    first = ms("2026-01-01T00:00Z")
    found: list[int] = []
    for day in range(days):
        for hour in times:
            shift = rng.choice([0, 2, 2, 2, 2.5, -2, 5, 9])
            due = first + day * DAY_MS + round((hour + shift) * HOUR_MS)
            found += [due + rng.randint(-20, 20) * MINUTE_MS for _ in range(rng.choice([0, 1, 1, 1, 1, 2]))]
    return sorted(set(found))


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_batching_gives_the_fold_over_everything(ward: Ward, seed: int) -> None:
    rng = random.Random(seed)
    patient = await ward.patient("box")
    ward.now = ms("2026-01-01T00:00Z")
    await ward.schedule(patient, "08:00", "20:00", since="2026-01-01")
    if seed % 2:
        await ward.schedule(patient, "13:00", since="2026-01-10", window_after=120)
    openings = habits(rng, 50, [8, 20] if seed % 2 else [8, 13, 20])
    waiting = openings[:]
    if seed >= 2:
        rng.shuffle(waiting)
    ward.now = ms("2026-02-25T00:00Z") if seed >= 2 else ward.now
    while waiting:
        part = [waiting.pop(0) for _ in range(min(len(waiting), rng.choice([1, 1, 2, 7])))]
        ward.now = max(ward.now, part[-1] + MINUTE_MS)
        await ward.hear(*(ward.opened("box", at) for at in part))
        if rng.random() < 0.3:
            await ward.work()
    ward.now = ms("2026-02-25T12:00Z")
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    wanted = ward.folded(patient, "UTC", openings, ward.now)
    assert await ward.doses(patient) == plain(wanted)
    missed = [o for o in wanted if o.state == "missed"]
    standing = [opened for opened, _, state, _ in await ward.alerts(patient) if state == "open"]
    assert standing == [o.dose.window_end for o in missed if o.dose.alerts]


async def test_a_chain_longer_than_a_month_is_followed_to_its_beginning(ward: Ward) -> None:
    """Two hours late every time; one more opening at the start makes every later one an early one, for ever."""
    ward.now = ms("2026-01-01T00:00Z")
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "20:00", since="2026-01-01")
    await ward.work()
    first = ward.now
    openings = [first + 11 * HOUR_MS] + [first + n * 12 * HOUR_MS + 10 * HOUR_MS for n in range(120)]
    for at in sorted(openings):
        ward.now = at + MINUTE_MS
        await ward.hear(ward.opened("box", at))
        await ward.work()
    wanted = plain(ward.folded(patient, "UTC", openings, ward.now))
    assert await ward.doses(patient) == wanted
    assert {state for _, state, _ in wanted[1:-2]} == {"early"}
