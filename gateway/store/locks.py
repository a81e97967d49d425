"""Locks: the register of the advisory ones, every number that any program or SQL file takes, and those on patients.

An advisory lock is two integers, the space and the key, and belongs to one database. The SQL files name them as literals;
`tests/deploy/test_locks.py` holds each literal against this register. The numbers stay as they are: an old and a new
version that run beside each other exclude each other by them.
"""

from typing import Any, Final, NamedTuple

import psycopg

from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "patients.sql")

Connection = psycopg.AsyncConnection[Any]


class AdvisoryLock(NamedTuple):
    """What PostgreSQL knows a lock by."""

    space: int
    key: int


SPACE: Final = 7316
GATEWAY: Final = AdvisoryLock(SPACE, 0)
"""The one gateway that works; held by its session as long as it lives."""
OUTBOX: Final = AdvisoryLock(SPACE, 1)
"""Writers of the outbox, for the end of their transaction: its ids appear in the order of commits."""
PROVISIONING: Final = AdvisoryLock(SPACE, 2)
"""The one provisioning of devices that works; held by its session while the broker is asked."""
MIGRATION: Final = AdvisoryLock(SPACE, 3)
"""The one migrator that works; held by its session. Programs do not take it, so they may run meanwhile."""

RULES_SPACE: Final = 7317
RULES_OF_CLINIC: Final = AdvisoryLock(RULES_SPACE, 0)
"""Who changes the clinic's rules; shared by all who change a patient's. Any other key of the space is a patient's id."""

LOCKS: Final = (GATEWAY, OUTBOX, PROVISIONING, MIGRATION, RULES_OF_CLINIC)


async def lock_patient(connection: Connection, patient: int) -> None:
    """Wait until nobody else is at this patient; until the transaction ends nobody will be."""
    await connection.execute(SQL.lock_patient, {"patient": patient})


async def try_lock_patient(connection: Connection, patient: int) -> bool:
    """Whether nobody else is at this patient; if so, until the transaction ends nobody will be."""
    return await (await connection.execute(SQL.try_lock_patient, {"patient": patient})).fetchone() is not None
