"""A broker that goes away between two commands: what it had is noted and not sent again, the rest waits."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiomqtt
import pytest

from deploy.stack.embedded import MosquittoServer
from gateway.runtime import clock
from gateway.runtime.broker_address import mqtt_client, parse_url
from gateway.worker.commands import send_commands
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, open_ward

MINUTE_MS = 60_000


class Cut(aiomqtt.Client):
    """A client whose broker is killed once it has acknowledged one message."""

    broker: MosquittoServer

    async def publish(self, *arguments: Any, **options: Any) -> None:
        await super().publish(*arguments, **options)
        self.broker.kill()


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, clock.now_ms()) as ward:
        await ward.patient("box")
        yield ward


async def commands(ward: Ward, *dues: int) -> None:
    for due in dues:
        await ward.clinic.connection.execute(
            "insert into command (device_key, type, payload, created_at, expires_at)"
            " select key, 'remind', %s, from_ms(%s), from_ms(%s) from device where id = 'box'",
            (json.dumps({"due_at": due}), ward.now, ward.now + 60 * MINUTE_MS),
        )


async def sent(ward: Ward) -> list[tuple[int, bool]]:
    return await ward.clinic.rows("select (payload ->> 'due_at')::int, sent_at is not null from command order by id")


async def test_what_the_broker_had_is_noted_when_it_goes_away(ward: Ward, broker: MosquittoServer) -> None:
    await commands(ward, 1, 2, 3)
    address = parse_url(broker.url)
    protocol = aiomqtt.ProtocolVersion.V5
    cut = Cut(
        address.host, address.port, username=address.username, password=address.password, protocol=protocol, timeout=2
    )
    cut.broker = broker
    with suppress(aiomqtt.MqttError):  # it cannot say goodbye to a broker that is gone
        async with cut:
            with pytest.raises(aiomqtt.MqttError):
                await send_commands(ward.connection, cut, ward.now)
    assert await sent(ward) == [(1, True), (2, False), (3, False)]
    broker.start()
    async with mqtt_client(parse_url(broker.url), "worker") as client:
        assert await send_commands(ward.connection, client, ward.now) == 2
    assert await sent(ward) == [(1, True), (2, True), (3, True)]


async def test_a_client_whose_broker_is_gone_sends_nothing_and_says_so(ward: Ward, broker: MosquittoServer) -> None:
    await commands(ward, 1)
    with suppress(aiomqtt.MqttError):
        async with mqtt_client(parse_url(broker.url), "worker", timeout=2) as client:
            broker.kill()
            with pytest.raises(aiomqtt.MqttError):
                await send_commands(ward.connection, client, ward.now)
    assert await sent(ward) == [(1, False)]
