"""Sends commands to devices: rows of `command`, taken by one worker each, published over MQTT at QoS 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiomqtt
import psycopg
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg.rows import class_row

from devices.receipts import encode_command
from devices.vocabulary import CommandType, Topic, topic
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "worker.sql")

AT_ONCE = 100
# A time of day that waited at the broker for its device would set the clock wrong.
CLOCK_GOOD_FOR_MS = 30_000


@dataclass(frozen=True, slots=True)
class _Command:
    """A command that waits. `device` is named where the receiver is the edge box that reads it."""

    id: int
    receiver: str
    device: str | None
    type: str
    payload: Mapping[str, Any]
    expires_at: int

    def encode(self, now_ms: int) -> bytes:
        arguments = dict(self.payload)
        if self.type == CommandType.SET_CLOCK:
            arguments["clock"] = now_ms
        if self.device is not None:
            arguments["device"] = self.device
        return encode_command(str(self.id), CommandType(self.type), arguments)

    def properties(self, now_ms: int) -> Properties:
        """Have the broker forget the command when it is of no use any more."""
        lasts_ms = self.expires_at - now_ms
        if self.type == CommandType.SET_CLOCK:
            lasts_ms = min(lasts_ms, CLOCK_GOOD_FOR_MS)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = max(1, lasts_ms // 1_000)
        return properties


async def send_commands(connection: psycopg.AsyncConnection[Any], client: aiomqtt.Client, now_ms: int) -> int:
    """Publish what waits; a command counts as sent only once the broker has it. Return how many were sent.

    Raises aiomqtt.MqttError when the broker goes away; what it had by then is noted, the rest waits. A crash between
    its acknowledgement and the commit sends a command twice, with the same id: a device answers an id it knows without
    doing it again.
    """
    sent: list[int] = []
    lost: aiomqtt.MqttError | None = None
    async with connection.transaction():
        async with connection.cursor(row_factory=class_row(_Command)) as cursor:
            await cursor.execute(SQL.commands, {"now": now_ms, "limit": AT_ONCE})
            commands = await cursor.fetchall()
        try:
            for command in commands:
                where = topic(command.receiver, Topic.COMMAND)
                await client.publish(where, command.encode(now_ms), qos=1, properties=command.properties(now_ms))
                sent.append(command.id)
        except aiomqtt.MqttError as error:
            lost = error
        if sent:
            await connection.execute(SQL.sent, {"ids": sent, "now": now_ms})
    if lost is not None:
        raise lost
    return len(sent)
