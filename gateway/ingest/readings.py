"""Stores the readings of a batch. What is later than all that is stored is new by construction and takes the fast lane.

The slow lane asks the store: what is stored already repeats a reading, or contradicts one and is kept beside it.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from devices.instants import DISTANT_PAST_MS
from devices.vocabulary import Code
from gateway.store.binary import observation_rows
from gateway.store.queries import load_queries
from gateway.store.rows import Rows

SQL = load_queries("gateway.store", "batch.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]
Positions = NDArray[np.int64]

CODES = 16

assert max(Code) < CODES  # noqa: S101 - a new code must fit the table


class HighWaterMarks:
    """A table int64[devices, CODES] of newest stored times in ms; of RR intervals the last stored beat.

    `DISTANT_PAST_MS` where the store has not been asked yet, -1 where it answered that nothing is stored.
    """

    def __init__(self) -> None:
        """Begin knowing nothing; every device is asked for once."""
        self.newest: NDArray[np.int64] = np.full((0, CODES), DISTANT_PAST_MS, np.int64)

    def grow(self, devices: int) -> None:
        """Make room for device keys below `devices`."""
        if devices > len(self.newest):
            bigger = np.full((max(devices, 2 * len(self.newest)), CODES), DISTANT_PAST_MS, np.int64)
            bigger[: len(self.newest)] = self.newest
            self.newest = bigger

    async def hydrate(self, connection: Connection, device: NDArray[np.int32], code: NDArray[np.int16]) -> None:
        """Ask the store for every pair that is not known yet."""
        unknown = self.newest[device, code] == DISTANT_PAST_MS
        if not unknown.any():
            return
        pairs = np.unique(np.stack((device[unknown], code[unknown].astype(np.int32))), axis=1)
        parameters = {"device": pairs[0], "code": pairs[1].astype(np.int16)}
        cursor = await connection.execute(SQL.newest, parameters)
        self.newest[pairs[0], pairs[1]] = [row[0] for row in await cursor.fetchall()]

    async def hydrate_rr(self, connection: Connection, devices: set[int]) -> None:
        """Ask the store for the last stored beat of devices that are not known yet."""
        unknown = sorted(device for device in devices if self.newest[device, Code.RR_INTERVAL] == DISTANT_PAST_MS)
        if unknown:
            cursor = await connection.execute(SQL.newest_rr, {"device": unknown})
            self.newest[unknown, Code.RR_INTERVAL] = [row[0] for row in await cursor.fetchall()]

    def advance(self, device: NDArray[np.int32], code: NDArray[np.int16], at: NDArray[np.int64]) -> None:
        """Note what a committed transaction stored."""
        np.maximum.at(self.newest, (device, code), at)

    def forget(self) -> None:
        """Ask the store again: a transaction failed, or another process wrote."""
        self.newest.fill(DISTANT_PAST_MS)


@dataclass(frozen=True, slots=True)
class Lanes:
    """Positions of rows: `fast` are later than all stored, `slow` are not, `repeats` share a key with one before."""

    fast: Positions
    slow: Positions
    repeats: Positions


def split(rows: Rows, newest: NDArray[np.int64]) -> Lanes:
    """Split rows by lane; `newest` is the newest stored time of each row's device and code. Order within is by key."""
    key = rows.device.astype(np.int64) * CODES + rows.code
    order = np.lexsort((rows.at, key))
    sorted_key, sorted_at = key[order], rows.at[order]
    repeat = np.zeros(len(order), np.bool_)
    repeat[1:] = (sorted_key[1:] == sorted_key[:-1]) & (sorted_at[1:] == sorted_at[:-1])
    late = sorted_at <= newest[order]
    return Lanes(fast=order[~repeat & ~late], slow=order[~repeat & late], repeats=order[repeat])


@dataclass(frozen=True, slots=True)
class StoredReadings:
    """The rows that were stored, and how many others repeat a stored one or contradict it."""

    rows: Rows
    duplicates: int = 0
    conflicts: int = 0


async def store_readings(connection: Connection, rows: Rows, lanes: Lanes, now_ms: int) -> StoredReadings:
    """Store what is new among rows, fast lane first, in a transaction whose savepoint `fast_lane` was just set."""
    fast, slow, known = rows.take(lanes.fast), rows.take(lanes.slow), rows.take(lanes.repeats)
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
