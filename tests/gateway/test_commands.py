"""Commands from rows to devices: once, to the right topic, in time, and across a broker that goes away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
import psycopg
import pytest

from deploy.stack.embedded import MosquittoServer
from devices.vocabulary import CommandType
from gateway.runtime import clock
from gateway.runtime.broker_address import mqtt_client, parse_url
from gateway.runtime.metrics import WorkerMetrics
from gateway.store.connect import connect
from gateway.worker.commands import send_commands
from gateway.worker.main import Worker, WorkerSettings
from tests.gateway.clinic import Clinic
from tests.gateway.processes import until
from tests.gateway.ward import Ward, open_ward
from tests.gateway.wire import client

MINUTE = 60_000
Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, clock.now_ms()) as ward:
        await ward.patient("box", "other")
        yield ward


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Heard]:
    """Collect every command that is published."""
    heard: Heard = []

    async def collect(connection: aiomqtt.Client) -> None:
        async for message in connection.messages:
            assert message.qos == 1
            assert isinstance(message.payload, bytes)
            heard.append((message.topic.value, json.loads(message.payload)))

    async with client(url) as connection:
        await connection.subscribe("vigil/v1/+/command", qos=1)
        collecting = asyncio.create_task(collect(connection))
        yield heard
        collecting.cancel()


async def command(ward: Ward, device: str, kind: str, *, lasts_ms: int = 60 * MINUTE, **payload: Any) -> str:
    number = await ward.clinic.value(
        "insert into command (device_key, type, payload, created_at, expires_at)"
        " select key, %s, %s, from_ms(%s), from_ms(%s) from device where id = %s returning id",
        kind,
        json.dumps(payload),
        ward.now,
        ward.now + lasts_ms,
        device,
    )
    await ward.clinic.connection.execute("notify vigil_commands")
    return str(number)


async def unsent(ward: Ward) -> int:
    return int(await ward.clinic.value("select count(*) from command where sent_at is null"))


async def test_each_command_goes_to_its_device_once(ward: Ward, mqtt_url: str) -> None:
    remind = await command(ward, "box", "remind", due_at=5)
    set_clock = await command(ward, "other", "set_clock")
    await command(ward, "box", "remind", lasts_ms=0)
    async with listening(mqtt_url) as heard, mqtt_client(parse_url(mqtt_url), "worker") as sender:
        assert await send_commands(ward.connection, sender, ward.now) == 2
        assert await send_commands(ward.connection, sender, ward.now) == 0
        await until(lambda: len(heard) == 2)
        await asyncio.sleep(0.1)
    assert heard == [
        ("vigil/v1/box/command", {"id": remind, "type": "remind", "due_at": 5}),
        ("vigil/v1/other/command", {"id": set_clock, "type": "set_clock", "clock": ward.now}),
    ]
    assert await unsent(ward) == 1
    sent = await ward.clinic.rows("select to_ms(sent_at) from command where sent_at is not null")
    assert sent == [(ward.now,)] * 2


async def test_a_device_behind_an_edge_box_is_told_through_it(ward: Ward, mqtt_url: str) -> None:
    await ward.provisioning.add_device("edge", "edge")
    await ward.patient("near", via="edge")
    number = await command(ward, "near", "remind", due_at=5)
    later = await command(ward, "near", "set_clock")
    async with listening(mqtt_url) as heard, mqtt_client(parse_url(mqtt_url), "worker") as sender:
        await send_commands(ward.connection, sender, ward.now)
        await until(lambda: len(heard) == 2)
    assert heard == [
        ("vigil/v1/edge/command", {"id": number, "type": "remind", "due_at": 5, "device": "near"}),
        ("vigil/v1/edge/command", {"id": later, "type": "set_clock", "clock": ward.now, "device": "near"}),
    ]
    answer = {"type": "command_done", "at": ward.now, "id": number, "ok": True}
    await ward.hear(ward.message("near", "event", {"events": [answer]}, None, "edge"))
    assert await ward.clinic.value("select ok from command where done_at is not null") is True


@pytest.mark.parametrize("ok", [True, False])
async def test_the_answer_marks_a_command_done_whoever_else_says_so(ward: Ward, ok: bool) -> None:  # noqa: FBT001
    number = await command(ward, "box", "remind")
    answer = {"type": "command_done", "at": ward.now, "id": number, "ok": ok}
    await ward.hear(ward.message("other", "event", {"events": [answer]}, None, None))
    assert await ward.clinic.value("select done_at from command") is None
    await ward.hear(ward.message("box", "event", {"events": [answer]}, None, None))
    assert await ward.clinic.rows("select to_ms(done_at), ok from command") == [(ward.now, ok)]


async def test_two_workers_send_nothing_twice(ward: Ward, mqtt_url: str, database_url: str) -> None:
    numbers = [await command(ward, "box", "remind", due_at=i) for i in range(150)]
    other = await connect(database_url, "another worker")
    address = parse_url(mqtt_url)
    try:
        async with (
            listening(mqtt_url) as heard,
            mqtt_client(address, "one") as one,
            mqtt_client(address, "two") as two,
        ):
            await asyncio.gather(_all(ward.connection, one, ward.now), _all(other, two, ward.now))
            assert await unsent(ward) == 0
            await until(lambda: len(heard) >= len(numbers))
            await asyncio.sleep(0.2)
    finally:
        await other.close()
    assert sorted(body["id"] for _, body in heard) == sorted(numbers)


async def _all(connection: psycopg.AsyncConnection[Any], sender: aiomqtt.Client, now: int) -> None:
    while await send_commands(connection, sender, now):
        pass


async def test_a_time_of_day_does_not_wait_for_a_device_that_is_away(ward: Ward, mqtt_url: str) -> None:
    """The broker keeps a reminder for the hour it is good for; an old time would set the clock wrong."""
    lasting: dict[str, int] = {}
    await command(ward, "box", "remind", due_at=5)
    await command(ward, "box", "set_clock")
    async with client(mqtt_url) as receiver, mqtt_client(parse_url(mqtt_url), "worker") as sender:
        await receiver.subscribe("vigil/v1/box/command", qos=1)
        await send_commands(ward.connection, sender, ward.now)
        async for message in receiver.messages:
            assert isinstance(message.payload, bytes)
            lasting[json.loads(message.payload)["type"]] = message.properties.MessageExpiryInterval  # type: ignore[union-attr]
            if len(lasting) == 2:
                break
    assert lasting[CommandType.SET_CLOCK] <= 30
    assert 3_500 < lasting[CommandType.REMIND] <= 3_600


async def test_commands_wait_for_a_broker_that_is_away(ward: Ward, broker: MosquittoServer, database_url: str) -> None:
    worker = Worker(WorkerSettings(database_url, parse_url(broker.url)), WorkerMetrics())
    working = asyncio.create_task(worker.run())
    try:
        async with listening(broker.url) as heard:
            first = await command(ward, "box", "remind", due_at=1)
            await until(lambda: heard)
        broker.stop()
        await asyncio.sleep(0.2)
        second = await command(ward, "box", "remind", due_at=2)
        await asyncio.sleep(0.3)
        assert await unsent(ward) == 1
        await _restart_and_hear(broker, second)
        assert [body["id"] for _, body in heard] == [first]
        await until(lambda: _none_unsent(ward))
        assert not working.done()
    finally:
        working.cancel()
        await asyncio.wait({working})


async def _restart_and_hear(broker: MosquittoServer, number: str) -> None:
    broker.start()
    async with listening(broker.url) as heard:
        await until(lambda: any(body["id"] == number for _, body in heard), within_s=20)


async def _none_unsent(ward: Ward) -> bool:
    return await unsent(ward) == 0


async def test_a_clock_that_is_off_is_told_the_time(ward: Ward, mqtt_url: str) -> None:
    """From the message that shows it to the command: the field is the simulated firmware's, `clock` in ms."""
    body = {"observations": [], "seq": 1, "sent_at": ward.now + 2 * MINUTE}
    await ward.hear(ward.message("box", "telemetry", body, None, None))
    assert await ward.commands() == [("box", "set_clock")]
    async with listening(mqtt_url) as heard, mqtt_client(parse_url(mqtt_url), "worker") as sender:
        await send_commands(ward.connection, sender, ward.now)
        await until(lambda: heard)
    assert heard[0][1] == {"id": heard[0][1]["id"], "type": "set_clock", "clock": ward.now}
