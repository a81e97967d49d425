"""Sends commands to devices: rows of `command`, taken by one worker each, published over MQTT at QoS 1."""

from typing import Any

import aiomqtt
import psycopg

from devices.receipts import encode_command
from devices.vocabulary import CommandType, Topic, topic
from gateway.bridge.bridge import Address
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "worker.sql")

AT_ONCE = 100


def command_client(address: Address, identifier: str) -> aiomqtt.Client:
    """Return the client that commands are published with."""
    return aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        tls_context=address.tls,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
    )


async def send_commands(connection: psycopg.AsyncConnection[Any], client: aiomqtt.Client, now_ms: int) -> int:
    """Publish what waits; a command counts as sent only once the broker has it. Return how many were sent.

    A crash between the broker's acknowledgement and the commit sends a command twice, with the same id: a device
    answers an id it knows without doing it again.
    """
    async with connection.transaction():
        cursor = await connection.execute(SQL.commands, {"now": now_ms, "limit": AT_ONCE})
        commands = await cursor.fetchall()
        for command_id, device_id, kind, payload in commands:
            arguments = {**payload, "clock": now_ms} if kind == CommandType.SET_CLOCK else payload
            body = encode_command(str(command_id), CommandType(kind), arguments)
            await client.publish(topic(device_id, Topic.COMMAND), body, qos=1)
        await connection.execute(SQL.sent, {"ids": [command_id for command_id, *_ in commands], "now": now_ms})
    return len(commands)
