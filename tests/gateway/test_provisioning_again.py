"""Provisioning asked twice, and at the very moment at which something begins."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from devices.roster import MAX_DEVICES
from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import InvalidValueError, NewDevice, Provisioning
from tests.gateway.test_provisioning import HOUR, NOW, rows

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def provisioning(connection: Connection) -> Provisioning:
    return Provisioning(connection, None, NOW)


async def test_who_is_disabled_again_was_disabled_when_it_happened_first(
    provisioning: Provisioning, connection: Connection
) -> None:
    await provisioning.add_device("wb-1", "wristband")
    await provisioning.add_user("dora@clinic.test", "doctor", "correct horse battery staple")
    for later in (provisioning, Provisioning(connection, None, NOW + HOUR)):
        await later.disable_device("wb-1")
        await later.disable_user("dora@clinic.test")
    assert [device.disabled_at for device in await provisioning.list_devices()] == [NOW]
    assert [user.disabled_at for user in await provisioning.list_users()] == [NOW]


async def test_a_disabled_user_s_refresh_tokens_stay_void_and_nobody_else_s_are(
    provisioning: Provisioning, connection: Connection
) -> None:
    for name in ("dora", "emil"):
        user = await provisioning.add_user(f"{name}@clinic.test", "doctor", "correct horse battery staple")
        await connection.execute(
            "insert into refresh_token values (%s, gen_random_uuid(), %s, %s, %s)",
            (name.encode(), user, NOW, NOW + timedelta(days=14)),
        )
    await provisioning.disable_user("dora@clinic.test")
    found = await rows(connection, "select token_hash, revoked_at from refresh_token order by token_hash")
    assert found == [(b"dora", NOW), (b"emil", None)]


async def test_consent_that_is_withdrawn_as_it_begins_never_held(
    provisioning: Provisioning, connection: Connection
) -> None:
    patient = await provisioning.add_patient("Ana", "UTC", consent=False)
    await provisioning.give_consent(patient, NOW)
    await provisioning.withdraw_consent(patient, NOW)
    assert await rows(connection, "select * from consent") == []


async def test_consent_given_before_others_reaches_to_the_next_of_them(
    provisioning: Provisioning, connection: Connection
) -> None:
    patient = await provisioning.add_patient("Ana", "UTC", consent=False)
    for begin, end in ((2, 3), (4, 5)):
        await provisioning.give_consent(patient, NOW + begin * HOUR)
        await provisioning.withdraw_consent(patient, NOW + end * HOUR)
    await provisioning.give_consent(patient, NOW)
    found = await rows(connection, "select lower(valid), upper(valid) from consent order by 1")
    assert [((begin - NOW) / HOUR, (end - NOW) / HOUR) for begin, end in found] == [(0, 2), (2, 3), (4, 5)]


async def test_an_edge_box_reads_as_many_devices_as_its_roster_holds_and_no_more(provisioning: Provisioning) -> None:
    edge = NewDevice("edge-1", DeviceModel.EDGE)
    devices = [
        NewDevice(f"cgm-{n}", DeviceModel.CGM, address=f"AA:BB:CC:DD:{n // 256:02X}:{n % 256:02X}", via="edge-1")
        for n in range(MAX_DEVICES + 1)
    ]
    await provisioning.add_devices([edge, *devices[:MAX_DEVICES]])
    with pytest.raises(InvalidValueError, match=f"at most {MAX_DEVICES} devices"):
        await provisioning.add_devices(devices[MAX_DEVICES:])
    assert len(await provisioning.list_devices()) == 1 + MAX_DEVICES


async def test_an_assignment_cannot_end_as_it_begins(provisioning: Provisioning, connection: Connection) -> None:
    patient = await provisioning.add_patient("Ana", "UTC")
    await provisioning.add_device("wb-1", "wristband", patient)
    for at in (NOW, NOW - HOUR):
        with pytest.raises(InvalidValueError, match="not worn by anybody"):
            await provisioning.unassign("wb-1", at)
    assert await rows(connection, "select lower(valid), upper(valid) from assignment") == [(NOW, None)]
