"""Writes receipts down and publishes them: retained, at most one a device every few seconds, only when it moved."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import psycopg

from devices.instants import DISTANT_PAST_MS
from devices.receipts import encode_receipt
from devices.vocabulary import Topic, topic
from gateway.ingest.mqtt.connection import ConnectionLostError
from gateway.ingest.receipts import ABSENT, Contact, NumberedMessages, Receipt, ReceiptBook
from gateway.runtime import clock
from gateway.runtime.metrics import GatewayMetrics
from gateway.store.connect import connect
from gateway.store.errors import AWAY
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "receipts.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

# A clock that is off by less is left alone; set_clock is a nudge, not a metronome.
TOLERATED_CLOCK_OFFSET_MS = 60_000
PUBLISH_TOGETHER = 200


class Publisher(Protocol):
    """What receipts are published through."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1 and wait for the PUBACK. Raises ConnectionLostError."""


class ReceiptKeeper:
    """Folds what the pipeline committed into rows of `receipt` and tells the devices."""

    def __init__(
        self,
        database_url: str,
        publisher: Publisher,
        metrics: GatewayMetrics,
        interval_s: float,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        """Write and publish every `interval_s` seconds."""
        self._database_url = database_url
        self._publisher = publisher
        self._metrics = metrics
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._connection: Connection | None = None
        self._names: dict[int, str] = {}
        self._published: dict[int, int] = {}
        self._to_publish: set[int] = set()
        self._leftover = 0
        self.book = ReceiptBook()

    async def hydrate(self) -> ReceiptBook:
        """Return the book as the store knows it, with the journal that a crash may have left."""
        connection = await self._connected()
        receipts: dict[int, Receipt] = {}
        for key, first, seq, above, gap, lost, published, stamp in await (
            await connection.execute(SQL.load)
        ).fetchall():
            receipts[key] = Receipt(first, seq, parse_ranges(above), gap, lost, ABSENT if stamp is None else stamp)
            if published is not None:
                self._published[key] = published
            if published != seq:
                self._to_publish.add(key)
        self.book = ReceiptBook(receipts)
        for self._leftover, received, *columns in await (await connection.execute(SQL.leftover)).fetchall():
            device, seq, oldest, stamp, news = columns
            numbered = NumberedMessages(
                np.array(device, np.int32),
                np.array(seq, np.int64),
                np.array(oldest, np.int64),
                np.array(stamp, np.int64),
                np.array(news, np.bool_),
            )
            self.book.add(numbered, received)
        return self.book

    async def run(self, journalled: Callable[[], int]) -> None:
        """Write and publish until cancelled; `journalled` is the newest journal entry the book holds."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush(journalled())

    async def flush(self, journalled: int) -> None:
        """Write down and publish what moved; what fails, or is cancelled, is kept for the next time."""
        now_ms = self._now_ms()
        self._metrics.lost.inc(self.book.declare_lost(now_ms))
        contacts = self.book.take_contacts()
        moved = self.book.take_moved()
        done = False
        try:
            if moved:
                await self._write(moved, contacts, max(journalled, self._leftover), now_ms)
                contacts = {}
            self._to_publish.update(key for key, _ in moved)
            await self._publish()
            done = True
        except (*AWAY, ConnectionLostError) as error:
            log.warning("receipts wait", extra={"cause": str(error).strip()})
            if self._connection is not None and self._connection.broken:
                self._connection = None
        finally:
            if not done:
                self.book.mark_moved((key for key, _ in moved), contacts)

    async def close(self) -> None:
        """Close the connection to the database."""
        if self._connection is not None:
            await self._connection.close()

    async def _write(
        self, moved: list[tuple[int, Receipt]], contacts: dict[int, Contact], journalled: int, now_ms: int
    ) -> None:
        devices = [key for key, _ in moved]
        receipts = [receipt for _, receipt in moved]
        row_values = {
            "device": devices,
            "first_seq": [r.first_seq for r in receipts],
            "seq": [r.seq for r in receipts],
            "above": [format_ranges(r.above) for r in receipts],
            "gap_since": [r.gap_since_ms for r in receipts],
            "lost": [r.lost for r in receipts],
        }
        offsets = {key: one.offset_ms for key, one in contacts.items() if one.offset_ms != DISTANT_PAST_MS}
        statuses = {
            "device": devices,
            "contact_at": [contacts[key].heard_ms if key in contacts else None for key in devices],
            "stamp": [None if r.stamp_ms == ABSENT else min(r.stamp_ms, now_ms) for r in receipts],
            "clock_offset": [offsets.get(key) for key in devices],
        }
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute(SQL.write, row_values)
            await connection.execute(SQL.contact, statuses)
            await connection.execute(
                SQL.set_clocks, {"devices": devices, "tolerated": TOLERATED_CLOCK_OFFSET_MS, "now": now_ms}
            )
            await connection.execute(SQL.forget_journal, {"id": journalled})
        await self._learn_names(connection, devices)

    async def _publish(self) -> None:
        due = [
            (key, self.book.receipts[key].seq)
            for key in sorted(self._to_publish)
            if self._published.get(key) != self.book.receipts[key].seq
        ]
        self._to_publish = {key for key, _ in due}
        connection = await self._connected()
        await self._learn_names(connection, [key for key, _ in due])
        for start in range(0, len(due), PUBLISH_TOGETHER):
            part = due[start : start + PUBLISH_TOGETHER]
            await asyncio.gather(*(self._tell(self._names[key], seq) for key, seq in part))
            self._published.update(part)
            self._to_publish.difference_update(key for key, _ in part)
            await connection.execute(
                SQL.published, {"device": [key for key, _ in part], "seq": [seq for _, seq in part]}
            )

    async def _tell(self, device_id: str, seq: int) -> None:
        await self._publisher.publish(topic(device_id, Topic.RECEIPT), encode_receipt(max(seq, 0)), retain=True)

    async def _learn_names(self, connection: Connection, devices: list[int]) -> None:
        unknown = [key for key in devices if key not in self._names]
        if unknown:
            cursor = await connection.execute(SQL.names, {"devices": unknown})
            self._names.update(await cursor.fetchall())

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._database_url, "vigil gateway receipts")
        return self._connection


def format_ranges(ranges: list[tuple[int, int]]) -> str:
    """Return half-open ranges as an int8multirange literal."""
    return "{" + ",".join(f"[{start},{end})" for start, end in ranges) + "}"


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """Return the half-open ranges of an int8multirange in its canonical text form."""
    inside = text.strip("{}")
    if not inside:
        return []
    pairs = (part.strip("[)").split(",") for part in inside.split("),"))
    return [(int(start), int(end)) for start, end in pairs]
