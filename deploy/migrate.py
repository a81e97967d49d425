"""Brings a database to the current schema: numbered SQL files, forward only, each in one transaction, each once.

Afterwards the vocabulary tables are filled from `devices.vocabulary`, so that SQL and Python say the same. It needs no
superuser where the extensions exist already.

Programs may run meanwhile. Migrators wait for each other, and for the tables that programs use, but never for long:
whoever queues for a table makes everybody behind it wait as well, so a migration asks for it shortly and several times.

MigrationError
├── ChangedMigration   a file that was applied has changed since
├── LockedOut          another session holds what is needed and does not let go of it
└── UnknownMigration   the database is ahead of this program
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import LiteralString

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable
from psycopg.rows import scalar_row

from devices.vocabulary import CODES, FLAG_NAMES, UCUM
from gateway.store.queries import load_queries

SQL = load_queries("deploy", "migrate.sql")
NAME = "vigil migrate"
MIGRATOR_WAIT_MS = 10_000
# Beyond PostgreSQL's deadlock_timeout of 1 s, after which an autovacuum makes way.
TABLE_WAIT_MS = 2_000
TABLE_TRIES = 5
BETWEEN_TRIES_S = 1.0
_FILE_NAME = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")


class MigrationError(Exception):
    """The database cannot be brought to the current schema; one clear sentence."""


class ChangedMigration(MigrationError):
    """A file that was applied has changed since: write a new one instead."""


class LockedOut(MigrationError):
    """Another session holds what is needed and does not let go of it; nothing is half done."""


class UnknownMigration(MigrationError):
    """The database has a migration this program does not know: the program is older than the database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return f"Migration {self.version:04}_{self.name}"

    @property
    def sha256(self) -> str:
        """The fingerprint stored in the database, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Return the migrations in order. Raises MigrationError unless numbered 1, 2, 3 and so on."""
    found = []
    for entry in (folder or files("deploy").joinpath("migrations")).iterdir():
        if entry.name.endswith(".sql"):
            match = _FILE_NAME.match(entry.name)
            if match is None:
                raise MigrationError(f"{entry.name} is not named like 0001_what_it_does.sql.")
            found.append(Migration(int(match["version"]), match["name"], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise MigrationError(f"Migration {migration.version:04} stands where {expected:04} is expected.")
    return found


def migrate(database_url: str, now: datetime, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Apply missing migrations, then the vocabulary; return those applied. Raises MigrationError, psycopg.Error."""
    known = load_migrations() if migrations is None else list(migrations)
    with psycopg.connect(database_url, autocommit=True, application_name=NAME) as connection, _alone(connection):
        connection.execute(SQL.create_record)
        missing = pending(connection, known)
        for migration in missing:
            _patiently(connection, migration.title, partial(_apply, connection, migration, now))
        _patiently(connection, "The vocabulary", partial(_complete, connection))
    return missing


def pending(connection: psycopg.Connection, known: Sequence[Migration]) -> list[Migration]:
    """Return the migrations that the database lacks. Raises MigrationError if it has others than we know."""
    by_version = {migration.version: migration for migration in known}
    applied = connection.execute(SQL.applied).fetchall() if _scalar(connection, SQL.has_record) else []
    for version, name, sha256 in applied:
        if version not in by_version:
            raise UnknownMigration(
                f"The database has migration {version:04}_{name}, which this version of vigil lacks."
            )
        if by_version[version].sha256 != sha256:
            raise ChangedMigration(f"Migration {version:04}_{name} was changed after it had been applied.")
    done = {version for version, _, _ in applied}
    return [migration for migration in known if migration.version not in done]


@contextmanager
def _alone(connection: psycopg.Connection) -> Iterator[None]:
    """Be the only migrator inside the block. Raises LockedOut when another one takes too long."""
    connection.execute(SQL.wait_for_locks, (MIGRATOR_WAIT_MS,))
    try:
        connection.execute(SQL.lock)
    except LockNotAvailable as error:
        raise LockedOut(
            f"Another migration is running: {_named(connection, SQL.migrators)} has been at it for more than"
            f" {MIGRATOR_WAIT_MS // 1_000} s. Wait until it has ended, then run `vigil migrate` again."
        ) from error
    try:
        connection.execute(SQL.wait_for_locks, (TABLE_WAIT_MS,))
        yield
    finally:
        if not connection.broken:
            connection.execute(SQL.unlock)


def _patiently(connection: psycopg.Connection, title: str, step: Callable[[], None]) -> None:
    """Do a step that is all or nothing, again while others hold its tables. Raises LockedOut when they keep them."""
    for _ in range(TABLE_TRIES - 1):
        try:
            return step()
        except (LockNotAvailable, DeadlockDetected):
            time.sleep(BETWEEN_TRIES_S)
    try:
        return step()
    except (LockNotAvailable, DeadlockDetected) as error:
        raise LockedOut(
            f"{title} needs tables that are in use: {_named(connection, SQL.table_holders)} held"
            f" them through {TABLE_TRIES} tries. Nothing of it was applied. Wait until that has ended, or stop it, then"
            " run `vigil migrate` again."
        ) from error


def _named(connection: psycopg.Connection, holders: LiteralString) -> str:
    """Return who holds what is needed, as part of a sentence."""
    found = connection.execute(holders).fetchall()
    return ", ".join(f"{name} (process {pid})" for name, pid in found) or "a session that is gone by now"


def _apply(connection: psycopg.Connection, migration: Migration, now: datetime) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.text.encode())
            connection.execute(SQL.record, (migration.version, migration.name, migration.sha256, now))
    except (LockNotAvailable, DeadlockDetected):
        raise
    except psycopg.Error as error:
        raise MigrationError(f"{migration.title} failed: {error}") from error


def _complete(connection: psycopg.Connection) -> None:
    """Do what every run does, whether a migration was missing or not."""
    with connection.transaction():
        _grant(connection)
        _fill_vocabulary(connection)


def _grant(connection: psycopg.Connection) -> None:
    """Ensure that the API can step down to its role, whoever created it."""
    connection.execute(SQL.let_api_look)
    if not _scalar(connection, SQL.may_become_api):
        connection.execute(SQL.become_api)


def _fill_vocabulary(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(SQL.upsert_unit, [(int(unit), ucum) for unit, ucum in UCUM.items()])
        cursor.executemany(
            SQL.upsert_code, [(int(code), code.wire, int(rule.canonical)) for code, rule in CODES.items()]
        )
        cursor.executemany(
            SQL.upsert_conversion,
            [
                (int(code), int(unit), use.factor, use.shift)
                for code, rule in CODES.items()
                for unit, use in rule.units.items()
            ],
        )
        cursor.executemany(SQL.upsert_flag, [(int(flag), name) for flag, name in FLAG_NAMES.items()])


def _scalar(connection: psycopg.Connection, query: str) -> bool:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(cursor.execute(query.encode()).fetchone())
