"""Devices that are not heard, as a timeline: by their last will, by their own interval, by a dose that waits for them."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from gateway.ingest.source import Message
from gateway.store.connect import connect
from streaming.silence.offline import EDGE_GRACE_MS, FIRST_CONTACT_MS, ONLINE_GRACE_MS
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, new_worker, open_ward
from tests.gateway.ward import ms as at

START = at("2026-03-10T12:00Z")
BEFORE = moment(START - 30 * DAY_MS)
AlertTuple = tuple[str, int, int | None, str]


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


async def wearer(ward: Ward, device: str, model: str = "wristband", *, at_risk: bool = False, **more: Any) -> int:
    found = await ward.provisioning.add_patient("Ada", "UTC", hypoglycaemia_risk=at_risk)
    await ward.provisioning.add_device(device, model, found, more.pop("since", BEFORE), **more)
    return found


async def tick(ward: Ward, now: int) -> None:
    ward.now = now
    await ward.worker.do("offline devices", ward.connection, now)


async def told(ward: Ward, patient: int) -> list[AlertTuple]:
    return await ward.clinic.rows(
        "select subject, to_ms(opened_at), to_ms(resolved_at), severity from alert where patient_id = %s"
        " and rule = 'device_offline' and technical and state <> 'withdrawn' order by opened_at, subject",
        patient,
    )


async def actions(ward: Ward) -> list[str]:
    return [action for (action,) in await ward.clinic.rows("select action from outbox order by id")]


async def evidence(ward: Ward) -> dict[str, Any]:
    return dict(await ward.clinic.value("select evidence -> 'finding' from alert order by id desc limit 1"))


async def alive(ward: Ward, *devices: str, now: int | None = None) -> None:
    ward.now = ward.now if now is None else now
    await ward.hear(*(ward.alive(device) for device in devices))


async def says(ward: Ward, device: str, *, online: bool, retained: bool = False, now: int | None = None) -> None:
    ward.now = ward.now if now is None else now
    body = json.dumps({"online": online}).encode()
    await ward.hear(Message(f"vigil/v1/{device}/status", body, None, 1, retain=retained))


# Not heard ------------------------------------------------------------------------------------------------------------


async def test_three_of_its_own_intervals_without_contact(ward: Ward) -> None:
    ada = await wearer(ward, "band")
    await alive(ward, "band")
    for now in (START + 15 * MINUTE_MS, START + 45 * MINUTE_MS - 1):
        await tick(ward, now)
        assert await told(ward, ada) == []
    opened = START + 45 * MINUTE_MS
    for now in (opened, opened + MINUTE_MS, opened + DAY_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [("band", opened, None, "low")]
    assert await evidence(ward) == {"device": "band", "model": "wristband", "contact_at": START, "cause": "interval"}
    assert await ward.clinic.value("select summary from alert") == (
        "Device band (wristband) is offline, last heard 10 Mar 12:00"
    )
    back = opened + DAY_MS + HOUR_MS
    await alive(ward, "band", now=back)
    for now in (back, back + MINUTE_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [("band", opened, back, "low")]
    assert await actions(ward) == ["raised", "resolved"]
    await tick(ward, back + 45 * MINUTE_MS)
    assert (await told(ward, ada))[1:] == [("band", back + 45 * MINUTE_MS, None, "low")]


@pytest.mark.parametrize(
    ("model", "at_risk", "after_ms", "severity"),
    [
        ("cgm", False, 45 * MINUTE_MS, "low"),
        ("cgm", True, 45 * MINUTE_MS, "medium"),
        ("pillbox", True, 3 * DAY_MS, "low"),
        ("glucose_meter", True, None, ""),
        ("blood_pressure", True, None, ""),
        ("thermometer", True, None, ""),
        ("scale", True, None, ""),
        ("oximeter", True, None, ""),
    ],
)
async def test_each_model_has_its_interval_and_its_weight(
    ward: Ward, model: str, *, at_risk: bool, after_ms: int | None, severity: str
) -> None:
    ada = await wearer(ward, "it", model, at_risk=at_risk)
    await alive(ward, "it")
    await tick(ward, START + (30 * DAY_MS if after_ms is None else after_ms))
    assert await told(ward, ada) == ([] if after_ms is None else [("it", START + after_ms, None, severity)])


async def test_a_device_has_an_interval_of_its_own_and_a_patient_settings(ward: Ward) -> None:
    ada = await wearer(ward, "meter", "glucose_meter", expected_interval=timedelta(hours=8))
    eve = await wearer(ward, "band")
    await ward.provisioning.set_rule(eve, "device_offline", {"intervals": 8})
    await alive(ward, "meter", "band", now=START + 1)
    await tick(ward, START + HOUR_MS)
    assert (await told(ward, ada), await told(ward, eve)) == ([], [])
    await tick(ward, START + DAY_MS + 1)
    assert await told(ward, ada) == [("meter", START + DAY_MS + 1, None, "low")]
    assert await told(ward, eve) == [("band", START + 2 * HOUR_MS + 1, None, "low")]


async def test_a_device_that_was_never_heard_has_an_hour_at_least(ward: Ward) -> None:
    ada = await wearer(ward, "band")
    box = await wearer(ward, "box", "pillbox", since=moment(START))
    await tick(ward, START + FIRST_CONTACT_MS - 1)
    assert await told(ward, ada) == []
    await tick(ward, START + FIRST_CONTACT_MS)
    assert await told(ward, ada) == [("band", START + FIRST_CONTACT_MS, None, "low")]
    assert await ward.clinic.value("select summary from alert") == "Device band (wristband) is offline, never heard"
    await tick(ward, START + 3 * DAY_MS)
    assert await told(ward, box) == [("box", START + 3 * DAY_MS, None, "low")]


# Last will ------------------------------------------------------------------------------------------------------------


async def test_a_last_will_counts_after_a_minute_and_not_for_one_who_is_back(ward: Ward) -> None:
    ada = await wearer(ward, "meter", "glucose_meter")
    await says(ward, "meter", online=True)
    left = START + MINUTE_MS
    await says(ward, "meter", online=False, now=left)
    await tick(ward, left + MINUTE_MS - 1)
    assert await told(ward, ada) == []
    await tick(ward, left + MINUTE_MS)
    assert await told(ward, ada) == [("meter", left + MINUTE_MS, None, "low")]
    assert (await evidence(ward))["cause"] == "last_will"
    await says(ward, "meter", online=True, now=left + HOUR_MS)
    await tick(ward, ward.now + 1)
    assert await told(ward, ada) == [("meter", left + MINUTE_MS, left + HOUR_MS, "low")]
    await says(ward, "meter", online=False, now=left + 2 * HOUR_MS)
    await alive(ward, "meter", now=left + 2 * HOUR_MS + MINUTE_MS // 2)
    await tick(ward, left + 3 * HOUR_MS)
    assert len(await told(ward, ada)) == 1, "it was heard after its last will"


async def test_contact_written_down_just_after_a_last_will_is_no_return(ward: Ward) -> None:
    ada = await wearer(ward, "meter", "glucose_meter")
    await says(ward, "meter", online=False)
    await alive(ward, "meter", now=START + 3000)
    await tick(ward, START + 2 * MINUTE_MS)
    assert await told(ward, ada) == [("meter", START + MINUTE_MS, None, "low")]


async def test_a_last_will_that_nobody_heard_counts_from_when_it_is_read(ward: Ward) -> None:
    ada = await wearer(ward, "meter", "glucose_meter")
    await says(ward, "meter", online=True)
    for read in (START + DAY_MS, START + DAY_MS + 30_000):
        await says(ward, "meter", online=False, retained=True, now=read)
    await tick(ward, START + DAY_MS + MINUTE_MS)
    assert await told(ward, ada) == [("meter", START + DAY_MS + MINUTE_MS, None, "low")]


async def test_away_and_back_and_away_between_two_ticks_are_two_alerts(ward: Ward) -> None:
    ada = await wearer(ward, "band")
    await alive(ward, "band")
    await tick(ward, START + HOUR_MS)
    await alive(ward, "band", now=START + 2 * HOUR_MS)
    await tick(ward, START + 9 * HOUR_MS)
    first, second = START + 45 * MINUTE_MS, START + 2 * HOUR_MS + 45 * MINUTE_MS
    assert await told(ward, ada) == [("band", first, START + 2 * HOUR_MS, "low"), ("band", second, None, "low")]


# A dose that waits ----------------------------------------------------------------------------------------------------


async def test_a_box_not_heard_since_a_window_closed_is_offline_until_it_is(ward: Ward) -> None:
    ada = await wearer(ward, "box", "pillbox")
    await ward.schedule(ada, "14:00", since="2026-03-10")
    await alive(ward, "box")
    window_end = START + 3 * HOUR_MS
    await ward.work(window_end + MINUTE_MS)
    await tick(ward, window_end + MINUTE_MS)
    assert await told(ward, ada) == [], "a box may be on the point of saying something"
    await ward.work(window_end + 2 * MINUTE_MS)
    for now in (window_end + 2 * MINUTE_MS, window_end + HOUR_MS):
        await tick(ward, now)
        assert await told(ward, ada) == [("box", window_end, None, "medium")]
    assert (await evidence(ward))["cause"] == "dose"
    await alive(ward, "box", now=window_end + 2 * HOUR_MS)
    await ward.work(ward.now)
    await tick(ward, ward.now)
    assert await told(ward, ada) == [("box", window_end, window_end + 2 * HOUR_MS, "medium")]
    await ward.work(ward.now + 3 * MINUTE_MS)
    await tick(ward, ward.now)
    assert len(await told(ward, ada)) == 1


@pytest.mark.parametrize(("kind", "grace_ms"), [("online", ONLINE_GRACE_MS), ("edge", EDGE_GRACE_MS)])
async def test_a_box_that_is_connected_or_read_by_another_has_longer(ward: Ward, kind: str, grace_ms: int) -> None:
    via = "edge" if kind == "edge" else None
    await ward.provisioning.add_device("edge", "edge")
    ada = await wearer(ward, "box", "pillbox", via=via)
    await ward.schedule(ada, "14:00", since="2026-03-10")
    await ward.hear(ward.alive("box", via=via))
    if via is None:
        await says(ward, "box", online=True)
    window_end = START + 3 * HOUR_MS
    await ward.work(window_end + grace_ms)
    await tick(ward, window_end + grace_ms - 1)
    assert await told(ward, ada) == []
    await tick(ward, window_end + grace_ms)
    assert await told(ward, ada) == [("box", window_end, None, "medium")]


async def test_a_box_that_left_matters_more_once_a_dose_waits_for_it(ward: Ward) -> None:
    ada = await wearer(ward, "box", "pillbox")
    schedule = await ward.schedule(ada, "14:00", since="2026-03-10")
    await says(ward, "box", online=True)
    await says(ward, "box", online=False, now=START + MINUTE_MS)
    opened = START + 2 * MINUTE_MS
    await tick(ward, opened)
    assert await told(ward, ada) == [("box", opened, None, "low")]
    await ward.work(START + 4 * HOUR_MS)
    await tick(ward, ward.now)
    assert await told(ward, ada) == [("box", opened, None, "medium")]
    assert await actions(ward) == ["raised", "severity_raised"]
    await ward.connection.execute("update dose_schedule set valid_until = '2026-03-09' where id = %s", (schedule,))
    await ward.work(START + 5 * HOUR_MS)
    await tick(ward, ward.now)
    assert await told(ward, ada) == [("box", opened, None, "low")]


async def test_a_box_whose_dose_was_taken_is_left_alone(ward: Ward) -> None:
    ada = await wearer(ward, "box", "pillbox")
    await ward.schedule(ada, "14:00", since="2026-03-10")
    ward.now = START + 2 * HOUR_MS
    await ward.hear(ward.opened("box", ward.now))
    await ward.work(START + 20 * HOUR_MS)
    await tick(ward, ward.now)
    assert await told(ward, ada) == []


# Behind an edge box ---------------------------------------------------------------------------------------------------


async def test_behind_an_edge_box_only_what_is_its_own_is_contact(ward: Ward) -> None:
    await ward.provisioning.add_device("edge", "edge")
    ada = await wearer(ward, "band", via="edge")
    eve = await wearer(ward, "box", "pillbox", via="edge")
    await ward.hear(ward.alive("band", via="edge"), ward.opened("box", START, via="edge"))
    await tick(ward, START + 44 * MINUTE_MS)
    await alive(ward, "edge", now=START + 45 * MINUTE_MS)
    await tick(ward, START + 45 * MINUTE_MS)
    assert await told(ward, ada) == [("band", START + 45 * MINUTE_MS, None, "low")]
    ward.now = START + HOUR_MS
    await ward.hear(ward.alive("band", via="edge"))
    await tick(ward, ward.now + 1)
    assert await told(ward, ada) == [("band", START + 45 * MINUTE_MS, START + HOUR_MS, "low")]
    assert await told(ward, eve) == []
    await tick(ward, START + 3 * DAY_MS)
    assert await told(ward, eve) == [("box", START + 3 * DAY_MS, None, "low")]
    assert len(await told(ward, ada)) == 2
    for later in range(10):
        await tick(ward, START + (10 + later * 30) * DAY_MS)
    assert await told(ward, eve) == [("box", START + 3 * DAY_MS, None, "low")], "its contact is remembered"
    assert len(await told(ward, ada)) == 2


# Who it is not about --------------------------------------------------------------------------------------------------


async def test_devices_that_nobody_wears_are_none_of_ours(ward: Ward) -> None:
    ada = await wearer(ward, "band")
    await ward.provisioning.add_device("shelf", "wristband")
    await ward.provisioning.add_device("edge", "edge", ada)
    refused = await ward.provisioning.add_patient("No", "UTC", consent=False)
    await ward.provisioning.add_device("refused", "cgm", refused, BEFORE)
    await alive(ward, "band", "shelf", "edge", "refused")
    await tick(ward, START + DAY_MS)
    assert await ward.clinic.rows("select subject from alert") == [("band",)]


async def test_taken_off_handed_on_disabled_without_consent(ward: Ward) -> None:
    devices = ("one", "two", "three", "four")
    people = [await wearer(ward, device) for device in devices]
    heir = await ward.provisioning.add_patient("Heir", "UTC")
    await alive(ward, *devices)
    opened, now = START + 45 * MINUTE_MS, START + 2 * HOUR_MS
    await tick(ward, opened)
    ward.now = now
    await ward.provisioning.unassign("one", moment(now - MINUTE_MS))
    await ward.provisioning.assign("two", heir, moment(now - 2 * MINUTE_MS))
    await ward.provisioning.disable_device("three")
    await ward.provisioning.withdraw_consent(people[3], moment(now - 3 * MINUTE_MS))
    ended = (now - MINUTE_MS, now - 2 * MINUTE_MS, now, now - 3 * MINUTE_MS)
    for later in (0, DAY_MS):
        await tick(ward, now + later)
        for person, device, over in zip(people, devices, ended, strict=True):
            assert await told(ward, person) == [(device, opened, over, "low")]
    by = await ward.clinic.rows("select distinct evidence #>> '{finding,ended_by}' from alert where not running")
    assert by == [("not_watched",)]
    assert await told(ward, heir) == [("two", now - 2 * MINUTE_MS + FIRST_CONTACT_MS, None, "low")]


async def test_a_rest_and_a_rule_that_is_off(ward: Ward) -> None:
    ada = await wearer(ward, "band")
    await alive(ward, "band")
    opened = START + 45 * MINUTE_MS
    await tick(ward, opened)
    ward.now = START + HOUR_MS
    await ward.provisioning.pause(ada, moment(START + DAY_MS), "holiday")
    await tick(ward, START + 2 * HOUR_MS)
    assert await told(ward, ada) == [("band", opened, START + HOUR_MS, "low")]
    assert (await evidence(ward))["ended_by"] == "rest"
    await tick(ward, START + DAY_MS + FIRST_CONTACT_MS - 1)
    assert len(await told(ward, ada)) == 1
    again = START + DAY_MS + FIRST_CONTACT_MS
    await tick(ward, again)
    assert (await told(ward, ada))[1:] == [("band", again, None, "low")]
    ward.now = again + HOUR_MS
    await ward.provisioning.set_rule(None, "device_offline", {"enabled": False})
    for now in (ward.now, ward.now + DAY_MS):
        await tick(ward, now)
        assert (await told(ward, ada))[1:] == [("band", again, again + HOUR_MS, "low")]


# Many at once ---------------------------------------------------------------------------------------------------------


async def test_two_workers_at_once_tell_each_device_once(ward: Ward, database_url: str) -> None:
    devices = [f"band-{number}" for number in range(12)]
    people = [await wearer(ward, device) for device in devices]
    await alive(ward, *devices)
    other = await connect(database_url, "another worker")
    opened = START + 45 * MINUTE_MS
    try:
        for number in range(4):
            ward.now = opened + number * MINUTE_MS
            await asyncio.gather(
                ward.worker.do("offline devices", ward.connection, ward.now),
                new_worker(database_url).do("offline devices", other, ward.now),
                alive(ward, devices[number]),
            )
            await tick(ward, ward.now + 1)
    finally:
        await other.close()
    for number, (person, device) in enumerate(zip(people, devices, strict=True)):
        back = opened + number * MINUTE_MS
        # The first is heard at the very instant at which it would be offline, and may be told or not.
        wanted = [[(device, opened, back if number < 4 else None, "low")], *([[]] if number == 0 else [])]
        assert await told(ward, person) in wanted
    assert await ward.clinic.rows("select 1 from outbox group by alert_id, action having count(*) > 1") == []


async def test_healthy_devices_raise_nothing(ward: Ward) -> None:
    people = [await wearer(ward, "band"), await wearer(ward, "cgm", "cgm"), await wearer(ward, "box", "pillbox")]
    await ward.schedule(people[2], "14:00", "20:00", since="2026-03-10")
    for quarter in range(36):
        ward.now = START + quarter * 15 * MINUTE_MS
        boxes = ["box"] if quarter % 4 == 0 else []
        await alive(ward, "band", "cgm", *boxes)
        if ward.now in (START + 2 * HOUR_MS, START + 8 * HOUR_MS):
            await ward.hear(ward.opened("box", ward.now))
        now = ward.now + 14 * MINUTE_MS
        await ward.work(now)
        await tick(ward, now)
    assert await ward.clinic.rows("select subject from alert") == []
