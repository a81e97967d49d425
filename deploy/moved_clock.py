"""Keeps programs whose clock was moved for a test off the store of a clinic.

What a store is told with a moved clock is wrong for ever: doses missed that were not due, alerts of a night that was
day. So a program with a moved clock works only on a store whose first migration is less than a day old by the real
time: such a store is a test's, or the test's of a minute ago. The age of the schema is one row, however much is
stored, and unlike the age of readings it says the same whatever history a simulator has sent into the store.
"""

from datetime import timedelta
from typing import Final

import psycopg

from gateway.runtime import clock
from gateway.store.queries import load_queries

SQL = load_queries("deploy", "migrate.sql")

OLDEST_STORE: Final = timedelta(days=1)


class MovedClock(Exception):
    """The clock of this program is moved, and the store is a clinic's; one clear sentence."""


def refuse_moved_clock(database_url: str) -> None:
    """Return if the clock is the real one, or the store is a test's: younger than a day, or without a schema.

    Raises MovedClock, and psycopg.OperationalError when a moved clock meets a store that cannot be asked.
    """
    if not clock.OFFSET_MS:
        return
    with psycopg.connect(database_url) as connection:
        record = connection.execute(SQL.has_record).fetchone()
        row = connection.execute(SQL.first_applied).fetchone() if record is not None and record[0] else None
    real_now = clock.now() - timedelta(milliseconds=clock.OFFSET_MS)
    if row is not None and row[0] is not None and real_now - row[0] > OLDEST_STORE:
        raise MovedClock(
            f"{clock.OFFSET_VARIABLE} moves the clock by {clock.OFFSET_MS} ms, which is for tests; this store is in use"
            f" since {row[0]:%Y-%m-%d}, so nothing works on it with that"
        )
