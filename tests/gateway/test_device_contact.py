"""What counts as contact of a device, and of which device: several of one patient, behind edge boxes, by any of its codes."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from gateway.ingest.source import Message
from streaming.silence.offline import FIRST_CONTACT_MS
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at

START = at("2026-03-10T12:00Z")
BEFORE = moment(START - 30 * DAY_MS)


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        await ward.provisioning.add_device("edge", "edge")
        yield ward


async def wearer(ward: Ward, *devices: str, model: str = "wristband", via: str | None = None) -> int:
    found = await ward.provisioning.add_patient("Ada", "UTC")
    for device in devices:
        await add(ward, device, found, BEFORE, model, via)
    return found


async def add(
    ward: Ward, device: str, patient: int, since: datetime, model: str = "wristband", via: str | None = None
) -> None:
    await ward.provisioning.add_device(device, model, patient, since, via=via)


async def tick(ward: Ward, now: int) -> None:
    ward.now = now
    await ward.worker.do("offline devices", ward.connection, now)


async def told(ward: Ward) -> list[tuple[Any, ...]]:
    return await ward.clinic.rows(
        "select subject, to_ms(opened_at), to_ms(resolved_at) from alert where rule = 'device_offline'"
        " and state <> 'withdrawn' order by opened_at, subject"
    )


def behind(ward: Ward, device: str, code: str, unit: str, value: float) -> Message:
    body = {"observations": [{"code": code, "unit": unit, "at": ward.now, "value": value}]}
    return ward.message(device, "telemetry", body, None, "edge")


@pytest.mark.parametrize(
    ("code", "unit"), [("heart_rate", "/min"), ("glucose", "mmol/L"), ("step_count", "{steps}"), ("battery", "%")]
)
async def test_a_band_behind_an_edge_box_is_heard_by_whatever_it_sends(ward: Ward, code: str, unit: str) -> None:
    await wearer(ward, "band", via="edge")
    await ward.hear(ward.alive("band", via="edge"))
    ward.now = START + 30 * MINUTE_MS
    await ward.hear(behind(ward, "band", code, unit, 60.0 if code != "glucose" else 6.0))
    await tick(ward, START + 75 * MINUTE_MS - 1)
    assert await told(ward) == []
    await tick(ward, START + 75 * MINUTE_MS)
    assert await told(ward) == [("band", START + 75 * MINUTE_MS, None)]


async def test_a_box_behind_an_edge_box_is_heard_by_its_battery_and_by_what_happened(ward: Ward) -> None:
    await wearer(ward, "box", model="pillbox", via="edge")
    await ward.hear(ward.opened("box", START, via="edge"))
    ward.now = START + 2 * DAY_MS
    await ward.hear(ward.alive("box", via="edge"))
    await tick(ward, START + 5 * DAY_MS - 1)
    assert await told(ward) == []
    await tick(ward, START + 5 * DAY_MS)
    assert await told(ward) == [("box", START + 5 * DAY_MS, None)]


async def test_one_that_may_be_silent_for_hours_is_looked_for_as_far_back(ward: Ward) -> None:
    ada = await wearer(ward, "band", via="edge")
    await ward.provisioning.set_rule(ada, "device_offline", {"intervals": 8})
    ward.now = START + 1
    await ward.hear(ward.alive("band", via="edge"))
    await tick(ward, START + 100 * MINUTE_MS)
    assert await told(ward) == []
    await tick(ward, START + 2 * HOUR_MS + 1)
    assert await told(ward) == [("band", START + 2 * HOUR_MS + 1, None)]
    assert await ward.clinic.value("select settings ->> 'intervals' from alert") == "8.0"


async def test_each_device_of_a_patient_is_awaited_since_it_was_given_to_them(ward: Ward) -> None:
    ada = await wearer(ward, "old")
    await ward.hear(ward.alive("old"))
    await add(ward, "new", ada, moment(START))
    await tick(ward, START + FIRST_CONTACT_MS)
    opened = START + 45 * MINUTE_MS
    assert await told(ward) == [("old", opened, None), ("new", START + FIRST_CONTACT_MS, None)]
    ward.now = START + 2 * HOUR_MS
    await ward.provisioning.unassign("old", moment(ward.now))
    await tick(ward, START + 3 * HOUR_MS)
    assert await told(ward) == [("old", opened, START + 2 * HOUR_MS), ("new", START + FIRST_CONTACT_MS, None)]
