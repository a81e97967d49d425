"""One gateway at a time works on a database; a second one waits as hot standby on an advisory lock."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from gateway.store.connect import connect
from gateway.store.errors import AWAY, BROKEN
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "lock.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

CHECK_EVERY_S = 2.0
RETRY_S = 0.5


class LockLostError(Exception):
    """The database let go of our lock: another gateway may be active, everything in memory may be stale."""


class ActiveLock:
    """The lock as long as it is held."""

    def __init__(self, connection: Connection) -> None:
        """Watch over the connection that holds the lock."""
        self._connection = connection

    async def watch(self) -> None:
        """Run until the lock is lost, then raise LockLostError."""
        while True:
            try:
                await self._connection.execute(SQL.still_here)
            except BROKEN as error:
                raise LockLostError(str(error).strip()) from error
            await asyncio.sleep(CHECK_EVERY_S)


@asynccontextmanager
async def active_lock(database_url: str) -> AsyncIterator[ActiveLock]:
    """Hold the lock inside the block, waiting for it, and for the database, as long as it takes."""
    connection = await _acquire(database_url)
    try:
        yield ActiveLock(connection)
    finally:
        await connection.close()


async def _acquire(database_url: str) -> Connection:
    away = False
    while True:
        try:
            connection = await connect(database_url, "vigil gateway lock")
            try:
                await _wait(connection)
            except BaseException:
                await connection.close()
                raise
        except AWAY as error:
            if not away:
                log.warning("the database is away; waiting for it", extra={"cause": str(error).strip()})
            away = True
            await asyncio.sleep(RETRY_S)
        else:
            return connection


async def _wait(connection: Connection) -> None:
    waiter = asyncio.ensure_future(connection.execute(SQL.wait))
    done, _ = await asyncio.wait({waiter}, timeout=RETRY_S)
    if not done:
        log.info("another gateway is active; standing by")
    await waiter
