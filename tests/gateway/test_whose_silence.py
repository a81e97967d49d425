"""Whose silence it is: sensors that are handed on or disabled, devices that measure something else, readings of long ago."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from devices.vocabulary import Code
from gateway.ingest.source import Message
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

START = at("2026-03-10T12:00Z")
EVERY_5_MIN = {Code.GLUCOSE: timedelta(minutes=5)}
TOLD = START + 3 * DAY_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


async def patient(ward: Ward, *devices: str, **more: Any) -> int:
    found = await ward.provisioning.add_patient("Ada", "UTC", **{"expected": EVERY_5_MIN, **more})
    for device in devices:
        await ward.provisioning.add_device(device, "cgm", found, EVER)
    return found


async def send(ward: Ward, device: str, *ats: int) -> None:
    """Let readings come now, all in range."""
    message = readings_message(device, [Reading(one, 6.0) for one in ats])
    await ward.hear(Message(message.topic, message.payload, None, 1))


async def tick(ward: Ward, now: int) -> None:
    ward.now = now
    await ward.worker.do("silence", ward.connection, now)


async def told(ward: Ward, patient: int) -> list[tuple[int, int | None]]:
    return await ward.clinic.rows(
        "select to_ms(opened_at), to_ms(resolved_at) from alert where patient_id = %s"
        " and rule = 'data_silence' and state <> 'withdrawn' order by opened_at",
        patient,
    )


async def finding(ward: Ward, name: str) -> Any:
    return await ward.clinic.value("select evidence -> 'finding' -> %s from alert order by id desc limit 1", name)


async def one_whose_sensor_went_to_another(ward: Ward) -> tuple[int, int]:
    """Ada has been silent since noon, with a second sensor on; Bob has worn her first one for an hour."""
    ada, bob = await patient(ward, "cgm", "second"), await patient(ward)
    await send(ward, "cgm", START)
    ward.now = START + HOUR_MS
    await ward.provisioning.assign("cgm", bob, since=moment(ward.now))
    return ada, bob


async def test_readings_of_the_next_wearer_are_no_news_of_the_one_before(ward: Ward) -> None:
    ada, bob = await one_whose_sensor_went_to_another(ward)
    for day in (1, 2, 3):
        ward.now = START + day * DAY_MS - 5 * MINUTE_MS
        await send(ward, "cgm", ward.now)
    await tick(ward, TOLD)
    assert await told(ward, ada) == [(TOLD, None)]
    assert await finding(ward, "last_at") == START
    ward.now = TOLD + HOUR_MS
    await send(ward, "cgm", ward.now)
    await tick(ward, ward.now + HOUR_MS)
    assert await told(ward, ada) == [(TOLD, None)]
    back = TOLD + 3 * HOUR_MS
    ward.now = back
    await send(ward, "second", back)
    await tick(ward, back + MINUTE_MS)
    assert await told(ward, ada) == [(TOLD, back)]
    assert await told(ward, bob) == []


async def test_late_readings_move_what_a_rest_ended_whatever_the_next_wearer_sent_since(ward: Ward) -> None:
    ada, _ = await one_whose_sensor_went_to_another(ward)
    await tick(ward, TOLD)
    rest = TOLD + DAY_MS
    ward.now = rest
    await ward.provisioning.pause(ada, moment(rest + DAY_MS), "hospital")
    await tick(ward, rest + MINUTE_MS)
    assert await told(ward, ada) == [(TOLD, rest)]
    ward.now = rest + 10 * MINUTE_MS
    await send(ward, "cgm", ward.now)
    late = START + DAY_MS // 2
    await send(ward, "second", late)
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == [(late + 3 * DAY_MS, rest)]


async def test_a_sensor_that_is_disabled_ends_the_silence_there(ward: Ward) -> None:
    ada = await patient(ward, "cgm")
    await send(ward, "cgm", START)
    await tick(ward, TOLD)
    ward.now = TOLD + HOUR_MS
    await ward.provisioning.disable_device("cgm")
    await tick(ward, TOLD + 2 * HOUR_MS)
    assert await told(ward, ada) == [(TOLD, TOLD + HOUR_MS)]
    assert await finding(ward, "ended_by") == "not_watched"


async def test_a_cuff_sends_no_glucose_that_one_could_wait_for(ward: Ward) -> None:
    ada = await patient(ward, "cgm")
    await ward.provisioning.add_device("cuff", "blood_pressure", ada, EVER)
    await send(ward, "cgm", START)
    await tick(ward, TOLD)
    ward.now = TOLD + HOUR_MS
    await ward.provisioning.unassign("cgm", moment(ward.now))
    for now in (TOLD + 2 * HOUR_MS, TOLD + 5 * DAY_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [(TOLD, TOLD + HOUR_MS)]


async def test_the_last_reading_is_told_however_long_ago_it_was(ward: Ward) -> None:
    ada = await patient(ward, "cgm", expected={})
    await send(ward, "cgm", START)
    ward.now = START + 20 * DAY_MS
    await tick(ward, ward.now)
    assert await told(ward, ada) == []
    await ward.provisioning.expect(ada, EVERY_5_MIN)
    await tick(ward, ward.now + MINUTE_MS)
    assert await told(ward, ada) == [(TOLD, None)]
    assert await finding(ward, "last_at") == START


async def test_the_alert_carries_the_settings_it_opened_by(ward: Ward) -> None:
    ada = await patient(ward, "cgm")
    ward.now = START + 1
    await ward.provisioning.set_rule(ada, "data_silence", {"days": 2})
    await send(ward, "cgm", START)
    await tick(ward, START + 2 * DAY_MS)
    assert await ward.clinic.value("select settings ->> 'days' from alert where patient_id = %s", ada) == "2.0"


async def test_one_at_no_risk_any_more_has_no_nights_that_are_told(ward: Ward) -> None:
    ada = await patient(ward, "cgm", hypoglycaemia_risk=True)
    night = at("2026-03-11T02:00Z")
    ward.now = night
    await send(ward, "cgm", night)
    await tick(ward, night + 21 * MINUTE_MS)
    opened = night + 20 * MINUTE_MS
    assert await told(ward, ada) == [(opened, None)]
    await ward.clinic.connection.execute("update patient set hypoglycaemia_risk = false where id = %s", [ada])
    await tick(ward, night + 30 * MINUTE_MS)
    assert await told(ward, ada) == [(opened, night + 30 * MINUTE_MS)]
    assert await finding(ward, "ended_by") == "not_expected"
