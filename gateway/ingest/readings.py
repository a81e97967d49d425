"""Stores the readings of a batch. What is later than all that is stored is new by construction and takes the fast lane.

The slow lane asks the store: what is stored already repeats a reading, or contradicts one and is kept beside it.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from gateway.store.binary import observation_rows
from gateway.store.queries import load_queries
from gateway.store.rows import Rows

SQL = load_queries("gateway.store", "batch.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class StoredReadings:
    """The rows that were stored, and how many others repeat a stored one or contradict it."""

    rows: Rows
    duplicates: int = 0
    conflicts: int = 0


async def store_readings(connection: Connection, fast: Rows, slow: Rows, repeats: Rows, now_ms: int) -> StoredReadings:
    """Store what is new among rows, fast lane first, in a transaction whose savepoint `fast_lane` was just set.

    `fast` is new by construction, `slow` may be stored already, `repeats` share a key with a row of the other two.
    """
    known = repeats
    if len(fast):
        try:
            await copy_observations(connection, fast, now_ms)
        except psycopg.errors.UniqueViolation:
            log.info("rows taken for new were stored already; the batch goes through the slow lane")
            await connection.execute("rollback to savepoint fast_lane")
            slow, fast = Rows.join([slow, fast]), fast.take(np.zeros(0, np.int64))
    if len(slow):
        new = await _insert_late(connection, slow, now_ms)
        fast, known = Rows.join([fast, slow.take(new)]), Rows.join([known, slow.take(~new)])
    if not len(known):
        return StoredReadings(fast)
    conflicts = await _keep_conflicts(connection, known, now_ms)
    return StoredReadings(fast, len(known) - conflicts, conflicts)


async def copy_observations(connection: Connection, rows: Rows, now_ms: int) -> None:
    """Store rows that are new by construction. Raises psycopg.errors.UniqueViolation when one is not."""
    data = observation_rows(rows.at, now_ms, rows.device, rows.patient, rows.code, rows.unit, rows.flags, rows.value)
    async with connection.cursor() as cursor, cursor.copy(SQL.copy_observations) as copy:
        await copy.write(data)


async def _insert_late(connection: Connection, rows: Rows, now_ms: int) -> NDArray[np.bool_]:
    """Store rows that may be stored already; return which ones were new. Keys must be distinct."""
    new = np.zeros(len(rows), np.bool_)
    cursor = await connection.execute(SQL.insert_late, {**columns_of(rows), "now": now_ms})
    for (position,) in await cursor.fetchall():
        new[position] = True
    return new


async def _keep_conflicts(connection: Connection, rows: Rows, now_ms: int) -> int:
    """Tell repeats of stored readings from contradictions, keep the contradictions, and return how many those are."""
    columns = columns_of(rows)
    span = {"oldest": int(rows.at.min()), "newest": int(rows.at.max())}
    cursor = await connection.execute(SQL.stored, {**columns, **span})
    value, unit = rows.value.copy(), rows.unit.copy()
    for position, kept_value, kept_unit in await cursor.fetchall():
        value[position] = np.nan if kept_value is None else kept_value
        unit[position] = kept_unit
    same = ((value == rows.value) | (np.isnan(value) & np.isnan(rows.value))) & (unit == rows.unit)
    contrary = ~same
    conflicts = int(contrary.sum())
    if conflicts:
        kept = {"kept_value": value[contrary], "kept_unit": unit[contrary]}
        await connection.execute(SQL.conflicts, {**columns_of(rows.take(contrary)), **kept, "now": now_ms})
    return conflicts


def columns_of(rows: Rows) -> dict[str, NDArray[Any]]:
    """Return rows as the parameters of the statements that store or look for them."""
    return {
        "at": rows.at,
        "device": rows.device,
        "patient": rows.patient,
        "code": rows.code,
        "unit": rows.unit,
        "flags": rows.flags,
        "value": rows.value,
    }
