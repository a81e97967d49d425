"""Missing glucose as a timeline: told once, over any restart, moved by late data, in the patient's own night."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from devices.vocabulary import Code
from gateway.clinic.patient_rules import rules_of
from gateway.ingest.source import Message
from gateway.rules.expected import looking_at_all
from gateway.rules.silence import READINGS, SHARE_MS, SHARES, SQL, _limits, _times
from gateway.store.connect import connect
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.ward import Ward, moment, new_worker, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

START = at("2026-03-10T12:00Z")
EVERY_5_MIN = {Code.GLUCOSE: timedelta(minutes=5)}
BROKEN = """
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger broken before update on alert for each row when (old.patient_id = ADA) execute function refuse();
"""
AlertTuple = tuple[str, int, int | None, str]


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


async def patient(
    ward: Ward, device: str = "cgm", zone: str = "UTC", *, at_risk: bool = False, since: datetime = EVER, **more: Any
) -> int:
    found = await ward.provisioning.add_patient(
        "Ada", zone, hypoglycaemia_risk=at_risk, **{"expected": EVERY_5_MIN, **more}
    )
    await ward.provisioning.add_device(device, "cgm", found, since)
    return found


async def send(ward: Ward, device: str, *ats: int, **reading: Any) -> None:
    """Let readings come now, all in range."""
    message = readings_message(device, [Reading(one, 6.0, "mmol/L", **reading) for one in ats])
    await ward.hear(Message(message.topic, message.payload, None, 1))


async def tick(ward: Ward, now: int) -> None:
    ward.now = now
    await ward.worker.do("silence", ward.connection, now)


async def told(ward: Ward, patient: int, *, withdrawn: bool = False) -> list[AlertTuple]:
    return await ward.clinic.rows(
        "select subject, to_ms(opened_at), to_ms(resolved_at), severity from alert where patient_id = %s"
        " and rule = 'data_silence' and technical and (state = 'withdrawn') = %s order by opened_at, subject",
        patient,
        withdrawn,
    )


async def actions(ward: Ward) -> list[str]:
    return [action for (action,) in await ward.clinic.rows("select action from outbox order by id")]


async def evidence(ward: Ward) -> dict[str, Any]:
    return dict(await ward.clinic.value("select evidence -> 'finding' from alert order by id desc limit 1"))


def days(opened: int, resolved: int | None = None) -> AlertTuple:
    return ("glucose", opened, resolved, "medium")


def night(opened: int, resolved: int | None = None) -> AlertTuple:
    return ("glucose:night", opened, resolved, "medium")


# Days -----------------------------------------------------------------------------------------------------------------


async def test_three_days_without_glucose_are_told_once_and_end_with_the_next_reading(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    for now in (START, START + DAY_MS, START + 3 * DAY_MS - 1):
        await tick(ward, now)
        assert await told(ward, ada) == []
    for now in (START + 3 * DAY_MS, START + 3 * DAY_MS + MINUTE_MS, START + 30 * DAY_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [days(START + 3 * DAY_MS)]
    assert await evidence(ward) == {"last_at": START, "since_at": START}
    summary = await ward.clinic.value("select summary from alert")
    assert summary == "No glucose since 10 Mar 12:00"
    assert await ward.clinic.value("select settings ->> 'days' from alert") == "3.0"
    back = START + 30 * DAY_MS + HOUR_MS
    ward.now = back
    await send(ward, "cgm", back)
    for now in (back + 1, back + HOUR_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [days(START + 3 * DAY_MS, back)]
    assert await actions(ward) == ["raised", "resolved"]


async def test_who_never_sent_anything_is_awaited_since_they_have_a_device(ward: Ward) -> None:
    ada = await patient(ward, since=moment(START))
    eve = await patient(ward, "cgm-2", since=moment(START - 10 * DAY_MS))
    always = await ward.provisioning.add_patient("Bob", "UTC", expected=EVERY_5_MIN)
    await ward.provisioning.add_device("cgm-3", "cgm")
    await ward.clinic.rows(
        "insert into assignment (device_key, patient_id, valid, created_at)"
        " select key, %s, '(,)', %s from device where id = 'cgm-3' returning id",
        always,
        moment(START),
    )
    await tick(ward, START + MINUTE_MS)
    assert await told(ward, eve) == [], "somebody is about to upload what the device holds"
    await tick(ward, START + 2 * MINUTE_MS)
    assert await told(ward, eve) == [days(START - 7 * DAY_MS)]
    assert await evidence(ward) == {"last_at": None, "since_at": START - 10 * DAY_MS}
    assert await told(ward, ada) == await told(ward, always) == []
    await tick(ward, START + 3 * DAY_MS)
    assert await told(ward, ada) == await told(ward, always) == [days(START + 3 * DAY_MS)]


async def test_only_those_of_whom_it_is_expected_and_who_can(ward: Ward) -> None:
    nobody = await patient(ward, expected={})
    heart = await patient(ward, "cgm-2", expected={Code.HEART_RATE: timedelta(minutes=1)})
    cuff = await ward.provisioning.add_patient("Cuff", "UTC", expected=EVERY_5_MIN)
    await ward.provisioning.add_device("cuff", "blood_pressure", cuff, moment(START - 30 * DAY_MS))
    refused = await patient(ward, "cgm-3", consent=False, since=moment(START - 30 * DAY_MS))
    disabled = await patient(ward, "cgm-4", since=moment(START - 30 * DAY_MS))
    await ward.provisioning.disable_device("cgm-4")
    await tick(ward, START + 10 * DAY_MS)
    for one in (nobody, heart, cuff, refused, disabled):
        assert await told(ward, one) == []


async def test_readings_that_say_nothing_do_not_break_the_silence(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    ward.now = START + DAY_MS
    await send(ward, "cgm", ward.now, flags=("warmup",))
    await tick(ward, START + 3 * DAY_MS)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)]


async def test_late_readings_move_a_silence_that_lasts_or_undo_it(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    now = START + 4 * DAY_MS
    await tick(ward, now)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)]
    await send(ward, "cgm", START + HOUR_MS)
    await tick(ward, now + 15_000)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)], "more is on its way"
    await tick(ward, now + 45_000)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS + HOUR_MS)]
    await send(ward, "cgm", START + 2 * DAY_MS)
    await tick(ward, now + 2 * MINUTE_MS)
    assert await told(ward, ada) == []
    assert len(await told(ward, ada, withdrawn=True)) == 1
    assert await actions(ward) == ["raised", "updated", "withdrawn"]
    await tick(ward, START + 5 * DAY_MS)
    assert await told(ward, ada) == [days(START + 5 * DAY_MS)]


async def test_late_readings_split_a_silence_that_is_over(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    await tick(ward, START + 8 * DAY_MS)
    back = START + 8 * DAY_MS
    await send(ward, "cgm", back)
    await tick(ward, back + MINUTE_MS)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS, back)]
    ward.now = back + 2 * HOUR_MS
    late = START + 4 * DAY_MS
    await send(ward, "cgm", late)
    alert_id = await ward.clinic.value("select id from alert")
    begin = (ward.now + MINUTE_MS) // SHARE_MS
    turns = [turn * SHARE_MS for turn in range(begin, begin + SHARES)]
    its_own = next(now for now in turns if now // SHARE_MS % SHARES == alert_id % SHARES)
    await tick(ward, next(now for now in turns if now != its_own))
    assert await told(ward, ada) == [days(START + 3 * DAY_MS, back)], "it is not its turn"
    await tick(ward, its_own)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS, late), days(late + 3 * DAY_MS, back)]
    await send(ward, "cgm", START + 2 * DAY_MS, START + 6 * DAY_MS)
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == []
    assert len(await told(ward, ada, withdrawn=True)) == 2


async def test_a_rest_and_a_rule_that_is_off(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    opened = START + 3 * DAY_MS
    await tick(ward, opened)
    ward.now = opened + HOUR_MS
    await ward.provisioning.pause(ada, moment(ward.now + 5 * DAY_MS), "hospital")
    for now in (ward.now, ward.now + 4 * DAY_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [days(opened, opened + HOUR_MS)]
    assert (await evidence(ward))["ended_by"] == "rest"
    over = opened + HOUR_MS + 5 * DAY_MS
    await tick(ward, over + 3 * DAY_MS - 1)
    assert len(await told(ward, ada)) == 1, "after a rest the days are counted anew"
    await tick(ward, over + 3 * DAY_MS)
    assert (await told(ward, ada))[1:] == [days(over + 3 * DAY_MS)]
    ward.now += HOUR_MS
    await ward.provisioning.set_rule(ada, "data_silence", {"enabled": False})
    off = ward.now
    await tick(ward, off + HOUR_MS)
    assert (await told(ward, ada))[1:] == [days(over + 3 * DAY_MS, off)]
    ward.now = off + DAY_MS
    await ward.provisioning.set_rule(ada, "data_silence", {"enabled": True})
    await tick(ward, ward.now)
    assert (await told(ward, ada))[2:] == [days(off + DAY_MS)], "switched on, it tells at once what lasts"


async def test_other_days_for_one_patient_and_for_a_group(ward: Ward) -> None:
    ada, eve = await patient(ward), await patient(ward, "cgm-2", group="new")
    ward.now = START + 1
    await ward.provisioning.set_rule(ada, "data_silence", {"days": 2})
    await send(ward, "cgm", START)
    await send(ward, "cgm-2", START)
    await tick(ward, START + DAY_MS)
    assert (await told(ward, ada), await told(ward, eve)) == ([], [days(START + DAY_MS)])
    await tick(ward, START + 2 * DAY_MS)
    assert await told(ward, ada) == [days(START + 2 * DAY_MS)]
    ward.now = START + 2 * DAY_MS + HOUR_MS
    await ward.provisioning.set_rule(ada, "data_silence", {"days": 4})
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == [days(START + 2 * DAY_MS, START + 2 * DAY_MS + HOUR_MS)]
    assert (await evidence(ward))["ended_by"] == "settings"
    await tick(ward, START + 4 * DAY_MS)
    assert (await told(ward, ada))[1:] == [days(START + 4 * DAY_MS)]


async def test_consent_withdrawn_device_taken_back_expectation_gone(ward: Ward) -> None:
    ada, eve, bob = await patient(ward), await patient(ward, "cgm-2"), await patient(ward, "cgm-3")
    for device in ("cgm", "cgm-2", "cgm-3"):
        await send(ward, device, START)
    opened = START + 3 * DAY_MS
    await tick(ward, opened + HOUR_MS)
    ward.now = opened + 2 * HOUR_MS
    await ward.provisioning.withdraw_consent(ada, moment(ward.now - MINUTE_MS))
    await ward.provisioning.unassign("cgm-2", moment(ward.now - 2 * MINUTE_MS))
    await ward.provisioning.expect(bob, {})
    ended = ward.now
    for now in (ended, ended + DAY_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [days(opened, ended - MINUTE_MS)]
        assert await told(ward, eve) == [days(opened, ended - 2 * MINUTE_MS)]
        assert await told(ward, bob) == [days(opened, ended)]
    ended_by = await ward.clinic.rows("select evidence #>> '{finding,ended_by}' from alert order by id")
    assert ended_by == [("not_watched",), ("not_watched",), ("not_expected",)]


async def test_a_change_of_sensor_is_no_new_beginning_and_another_wearer_is(ward: Ward) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    ward.now = START + 2 * DAY_MS
    await ward.provisioning.add_device("next", "cgm", ada, moment(ward.now))
    await ward.provisioning.unassign("cgm", moment(ward.now))
    await tick(ward, START + 3 * DAY_MS)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)]
    ward.now = START + 40 * DAY_MS
    await ward.provisioning.unassign("next", moment(ward.now))
    ward.now += DAY_MS
    await ward.provisioning.add_device("third", "cgm", ada, moment(ward.now))
    await tick(ward, ward.now + 3 * DAY_MS - 1)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS, START + 40 * DAY_MS)]
    await tick(ward, START + 44 * DAY_MS)
    assert (await told(ward, ada))[1:] == [days(START + 44 * DAY_MS)]


async def test_two_workers_at_once_and_a_gateway_beside_them_tell_it_once(ward: Ward, database_url: str) -> None:
    patients = [await patient(ward, f"cgm-{number}") for number in range(8)]
    for number in range(8):
        await send(ward, f"cgm-{number}", START)
    now = START + 3 * DAY_MS
    other = await connect(database_url, "another worker")
    try:
        for later in range(5):
            ward.now = now + later * MINUTE_MS
            await asyncio.gather(
                ward.worker.do("silence", ward.connection, ward.now),
                new_worker(database_url).do("silence", other, ward.now),
                send(ward, f"cgm-{later}", ward.now),
            )
            await tick(ward, ward.now + 1)
    finally:
        await other.close()
    for number, one in enumerate(patients):
        found = await told(ward, one)
        if number < 5:
            back = now + number * MINUTE_MS
            assert found in ([days(now, back)], [])
        else:
            assert found == [days(now)]
    twice = "select 1 from outbox group by alert_id, action having count(*) > 1"
    assert await ward.clinic.rows(twice) == []


async def test_one_who_cannot_be_settled_does_not_keep_the_others_waiting(ward: Ward) -> None:
    ada, eve = await patient(ward), await patient(ward, "cgm-2")
    for device in ("cgm", "cgm-2"):
        await send(ward, device, START)
    await tick(ward, START + 3 * DAY_MS)
    await ward.connection.execute(BROKEN.encode().replace(b"ADA", str(ada).encode()))
    ward.now = START + 3 * DAY_MS + HOUR_MS
    for device in ("cgm", "cgm-2"):
        await send(ward, device, ward.now)
    await tick(ward, ward.now)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)]
    assert await told(ward, eve) == [days(START + 3 * DAY_MS, ward.now)]
    await ward.connection.execute("drop trigger broken on alert")
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == [days(START + 3 * DAY_MS, START + 3 * DAY_MS + HOUR_MS)]


# Nights ---------------------------------------------------------------------------------------------------------------

MIDNIGHT = at("2026-03-11T00:00Z")


async def test_a_signal_lost_at_night_is_told_after_20_minutes_and_ends_with_the_next_reading(ward: Ward) -> None:
    ada = await patient(ward, at_risk=True)
    last = MIDNIGHT + 2 * HOUR_MS
    ward.now = last
    await send(ward, "cgm", last)
    await tick(ward, last + 20 * MINUTE_MS)
    assert await told(ward, ada) == []
    for now in (last + 21 * MINUTE_MS, last + 22 * MINUTE_MS, last + HOUR_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [night(last + 20 * MINUTE_MS)]
    summary = await ward.clinic.value("select summary from alert")
    assert summary == "No glucose since 11 Mar 02:00, signal lost at night"
    await send(ward, "cgm", ward.now)
    await tick(ward, ward.now + 1)
    assert await told(ward, ada) == [night(last + 20 * MINUTE_MS, last + HOUR_MS)]
    assert await actions(ward) == ["raised", "resolved"]


async def test_what_began_in_the_evening_is_told_at_midnight_and_left_to_the_day(ward: Ward) -> None:
    ada, eve = await patient(ward, at_risk=True), await patient(ward, "cgm-2")
    ward.now = MIDNIGHT - 3 * HOUR_MS
    for device in ("cgm", "cgm-2"):
        await send(ward, device, ward.now)
    await tick(ward, MIDNIGHT - 1)
    assert await told(ward, ada) == []
    for now in (MIDNIGHT, MIDNIGHT + HOUR_MS, MIDNIGHT + 6 * HOUR_MS - 1):
        await tick(ward, now)
        assert await told(ward, ada) == [night(MIDNIGHT)]
    for now in (MIDNIGHT + 6 * HOUR_MS, MIDNIGHT + 12 * HOUR_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [night(MIDNIGHT, MIDNIGHT + 6 * HOUR_MS)]
    assert (await evidence(ward))["ended_by"] == "morning"
    third = MIDNIGHT + 2 * DAY_MS
    silent = MIDNIGHT - 3 * HOUR_MS + 3 * DAY_MS
    for now in (MIDNIGHT + DAY_MS, third, silent, MIDNIGHT + 3 * DAY_MS, MIDNIGHT + 3 * DAY_MS + HOUR_MS):
        await tick(ward, now)
    assert await told(ward, ada) == [
        night(MIDNIGHT, MIDNIGHT + 6 * HOUR_MS),
        night(MIDNIGHT + DAY_MS, MIDNIGHT + DAY_MS + 6 * HOUR_MS),
        night(third, third + 6 * HOUR_MS),
        days(silent),
    ]
    assert await told(ward, eve) == [days(silent)], "nights matter to those at risk"


async def test_late_readings_undo_a_night_that_is_over(ward: Ward) -> None:
    ada = await patient(ward, at_risk=True)
    last = MIDNIGHT + HOUR_MS
    ward.now = last
    await send(ward, "cgm", last)
    await tick(ward, last + HOUR_MS)
    ward.now = last + 2 * HOUR_MS
    await send(ward, "cgm", ward.now)
    await tick(ward, ward.now + 1)
    assert await told(ward, ada) == [night(last + 20 * MINUTE_MS, last + 2 * HOUR_MS)]
    await send(ward, "cgm", *range(last, last + HOUR_MS, 5 * MINUTE_MS))
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == [night(last + HOUR_MS + 15 * MINUTE_MS, last + 2 * HOUR_MS)]
    await send(ward, "cgm", *range(last + HOUR_MS, last + 2 * HOUR_MS, 5 * MINUTE_MS))
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == []


@pytest.mark.parametrize(
    ("zone", "last", "first_minute", "end"),
    [
        ("Asia/Shanghai", "2026-03-10T22:00+08:00", "2026-03-11T00:00+08:00", "2026-03-11T06:00+08:00"),
        ("America/New_York", "2026-03-10T03:00-04:00", "2026-03-10T03:20-04:00", "2026-03-10T06:00-04:00"),
        # The clocks go forward at 02:00 in New York and back at 03:00 in Berlin.
        ("America/New_York", "2026-03-08T01:50-05:00", "2026-03-08T03:10-04:00", "2026-03-08T06:00-04:00"),
        ("Europe/Berlin", "2026-10-25T02:50+02:00", "2026-10-25T02:10+01:00", "2026-10-25T06:00+01:00"),
        # In Havana and in Beirut there is no midnight on that day.
        ("America/Havana", "2026-03-07T23:00-05:00", "2026-03-08T01:00-04:00", "2026-03-08T06:00-04:00"),
        ("Asia/Beirut", "2026-03-28T23:00+02:00", "2026-03-29T01:00+03:00", "2026-03-29T06:00+03:00"),
    ],
)
async def test_the_night_is_the_patients_own(ward: Ward, zone: str, last: str, first_minute: str, end: str) -> None:
    ward.now = at(last) - DAY_MS
    ada = await patient(ward, zone=zone, at_risk=True, since=moment(ward.now))
    ward.now = at(last)
    await send(ward, "cgm", ward.now)
    await tick(ward, at(first_minute) - 1)
    assert await told(ward, ada) == []
    await tick(ward, at(first_minute) + 1)
    assert await told(ward, ada) == [night(at(first_minute))]
    await tick(ward, at(end) + HOUR_MS)
    assert await told(ward, ada) == [night(at(first_minute), at(end))]


async def test_nights_are_for_sensors_that_send_often_and_have_sent(ward: Ward) -> None:
    meter = await patient(ward, at_risk=True, expected={Code.GLUCOSE: timedelta(hours=6)})
    fresh = await patient(ward, "cgm-2", at_risk=True, since=moment(START))
    for device in ("cgm",):
        await send(ward, device, START)
    await tick(ward, MIDNIGHT + HOUR_MS)
    assert await told(ward, meter) == await told(ward, fresh) == []


async def test_a_rest_at_night_ends_and_withholds_it(ward: Ward) -> None:
    ada = await patient(ward, at_risk=True)
    ward.now = MIDNIGHT + HOUR_MS
    await send(ward, "cgm", ward.now)
    await tick(ward, MIDNIGHT + 90 * MINUTE_MS)
    ward.now = MIDNIGHT + 2 * HOUR_MS
    await ward.provisioning.pause(ada, moment(MIDNIGHT + 3 * HOUR_MS), "a new sensor")
    await tick(ward, ward.now)
    opened = MIDNIGHT + 80 * MINUTE_MS
    assert await told(ward, ada) == [night(opened, MIDNIGHT + 2 * HOUR_MS)]
    assert (await rules_of(ward.connection, ada)).at(ward.now).resting
    await tick(ward, MIDNIGHT + 200 * MINUTE_MS)
    assert len(await told(ward, ada)) == 1
    await tick(ward, MIDNIGHT + 201 * MINUTE_MS)
    assert (await told(ward, ada))[1:] == [night(MIDNIGHT + 200 * MINUTE_MS)]


# A worker that was away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [(0.5, 3.01, 3.5, 8), (8,), (2.9, 7.99)])
async def test_when_a_worker_looks_does_not_matter_in_the_end(ward: Ward, ticks: Sequence[float]) -> None:
    ada = await patient(ward)
    await send(ward, "cgm", START)
    for after in ticks:
        await tick(ward, START + round(after * DAY_MS))
    assert await told(ward, ada) == [days(START + 3 * DAY_MS)]


async def test_nobody_hears_of_a_silence_that_was_over_before_anybody_looked(ward: Ward) -> None:
    ada = await patient(ward, at_risk=True)
    await send(ward, "cgm", START)
    ward.now = START + 9 * DAY_MS
    await send(ward, "cgm", ward.now)
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == []


async def test_the_search_for_silence_reads_the_newest_chunks_only(ward: Ward) -> None:
    await patient(ward, at_risk=True)
    await send(ward, "cgm", *(START - day * DAY_MS for day in range(40)))
    plans = []
    async with looking_at_all(ward.connection):
        values = {**READINGS, **_limits({}, START), **_times(START)}
        for query in (SQL.fell_silent, SQL.silence_may_be_over):
            found = await ward.connection.execute(b"explain " + query.encode(), values)
            plans.append("\n".join(line for (line,) in await found.fetchall()))
    assert await ward.clinic.value("select count(*) from show_chunks('observation')") == 40
    days, late = (len(set(re.findall(r"_hyper_1_\d+_chunk ", plan))) for plan in plans)
    assert 0 < days <= 5
    assert 0 < late <= 16
