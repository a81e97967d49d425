"""The newest stored time per device and code: what is later is new by construction (the fast lane)."""

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from devices.instants import DISTANT_PAST_MS
from devices.vocabulary import Code
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "batch.sql")

CODES = 16

assert max(Code) < CODES  # noqa: S101 - a new code must fit the table


class Marks:
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

    async def hydrate(
        self, connection: psycopg.AsyncConnection[Any], device: NDArray[np.int32], code: NDArray[np.int16]
    ) -> None:
        """Ask the store for every pair that is not known yet."""
        unknown = self.newest[device, code] == DISTANT_PAST_MS
        if not unknown.any():
            return
        pairs = np.unique(np.stack((device[unknown], code[unknown].astype(np.int32))), axis=1)
        parameters = {"device": pairs[0], "code": pairs[1].astype(np.int16)}
        cursor = await connection.execute(SQL.newest, parameters)
        self.newest[pairs[0], pairs[1]] = [row[0] for row in await cursor.fetchall()]

    async def hydrate_rr(self, connection: psycopg.AsyncConnection[Any], devices: set[int]) -> None:
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
