"""Keeps at the broker, retained, the roster of each edge box: the devices it reads. Any number of workers do so.

The broker's retained messages are the only memory of what was published. So whatever takes one away or brings one back
(a lost disk, an old backup, somebody's hand, another worker that looked a moment earlier) is seen and mended.
"""

import asyncio
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

import aiomqtt
import psycopg
from psycopg.rows import class_row

from devices.roster import RosterDevice, encode_roster
from devices.vocabulary import TOPIC_ROOT, DeviceModel, Topic, topic
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "roster.sql")

# Wearers, zones and consents also begin and end by themselves.
LOOK_EVERY_S = 15.0
# Retained messages arrive after the broker has granted the subscription; one that is late is published once more.
HELD_WITHIN_S = 1.0
NOBODY = encode_roster([])


class _Row(NamedTuple):
    edge: str
    id: str
    model: str
    address: str
    timezone: str


async def rosters(connection: psycopg.AsyncConnection[Any], now_ms: int) -> dict[str, bytes]:
    """Return the roster of every edge box; a disabled one has nothing to read.

    A device is listed only while somebody who consents wears it. What an edge box reads leaves the device, and without
    a wearer it would go to the quarantine: unread, it waits on the device until somebody says whose it is.
    """
    values = {"now": now_ms}
    async with connection.transaction(), connection.cursor(row_factory=class_row(_Row)) as cursor:
        edges = await (await connection.execute(SQL.edges)).fetchall()
        rows = await (await cursor.execute(SQL.rosters, values)).fetchall()
    wanted = {edge: NOBODY for (edge,) in edges}
    for edge, group in groupby(rows, lambda row: row.edge):
        wanted[edge] = encode_roster(
            RosterDevice(row.id, DeviceModel(row.model), row.address, row.timezone) for row in group
        )
    return wanted


class RosterKeeper:
    """Compares what the broker holds with what the store says, for as long as both connections last."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], client: aiomqtt.Client, now_ms: Callable[[], int]
    ) -> None:
        self._connection = connection
        self._client = client
        self._now_ms = now_ms
        self._held: dict[str, bytes] = {}

    async def run(self) -> None:
        """Publish what differs, whenever something changes, until cancelled.

        Raises an ExceptionGroup with what broke: aiomqtt.MqttError at once when the broker goes, since only a new
        connection shows what it still holds.
        """
        await self._connection.execute("listen vigil_directory")
        await self._client.subscribe(f"{TOPIC_ROOT}/+/{Topic.ROSTER}", qos=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hear(), name="rosters heard")
            group.create_task(self._keep(), name="rosters kept")

    async def _hear(self) -> None:
        async for message in self._client.messages:
            edge = message.topic.value.split("/")[-2]
            if message.payload:
                self._held[edge] = message.payload
            else:
                self._held.pop(edge, None)

    async def _keep(self) -> None:
        await asyncio.sleep(HELD_WITHIN_S)
        while True:
            await self.publish_changes()
            async for _ in self._connection.notifies(timeout=LOOK_EVERY_S, stop_after=1):
                pass

    async def publish_changes(self) -> int:
        """Publish what the broker lacks and clear what belongs to no edge box; return how many that were."""
        wanted = await rosters(self._connection, self._now_ms())
        changes = {edge: payload for edge, payload in wanted.items() if self._held.get(edge) != payload}
        changes |= dict.fromkeys(self._held.keys() - wanted.keys(), b"")
        for edge, payload in changes.items():
            await self._client.publish(topic(edge, Topic.ROSTER), payload, qos=1, retain=True)
        return len(changes)
