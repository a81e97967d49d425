"""Brings a database to the current schema: numbered SQL files, forward only, each in one transaction, each once.

Afterwards the vocabulary tables are filled from `devices.vocabulary`, so that SQL and Python say the same. Migrators
wait for each other. It needs no superuser where the extensions exist already.

MigrationError
├── ChangedMigration   a file that was applied has changed since
└── UnknownMigration   the database is ahead of this program
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from psycopg.rows import scalar_row

from devices.vocabulary import CODES, FLAG_NAMES, UCUM
from gateway.store.queries import load_queries

SQL = load_queries("deploy", "migrate.sql")
_FILE_NAME = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")


class MigrationError(Exception):
    """The database cannot be brought to the current schema; one clear sentence."""


class ChangedMigration(MigrationError):
    """A file that was applied has changed since: write a new one instead."""


class UnknownMigration(MigrationError):
    """The database has a migration this program does not know: the program is older than the database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The fingerprint kept in the database, in hexadecimal."""
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
    """Apply what is missing, then the vocabulary; returns what was applied. Raises MigrationError, psycopg.Error."""
    known = load_migrations() if migrations is None else list(migrations)
    with psycopg.connect(database_url, autocommit=True) as connection, _alone(connection):
        connection.execute(SQL.create_record)
        missing = pending(connection, known)
        for migration in missing:
            _apply(connection, migration, now)
        _grant(connection)
        _fill_vocabulary(connection)
    return missing


def pending(connection: psycopg.Connection, known: Sequence[Migration]) -> list[Migration]:
    """Return the migrations that the database lacks. Raises MigrationError if what it has is not what we know."""
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
    connection.execute(SQL.lock)
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(SQL.unlock)


def _apply(connection: psycopg.Connection, migration: Migration, now: datetime) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.text.encode())
            connection.execute(SQL.record, (migration.version, migration.name, migration.sha256, now))
    except psycopg.Error as error:
        raise MigrationError(f"Migration {migration.version:04}_{migration.name} failed: {error}") from error


def _grant(connection: psycopg.Connection) -> None:
    """See to it that the API can step down to its role, whoever created it."""
    connection.execute(SQL.let_api_look)
    if not _scalar(connection, SQL.may_become_api):
        connection.execute(SQL.become_api)


def _fill_vocabulary(connection: psycopg.Connection) -> None:
    with connection.transaction(), connection.cursor() as cursor:
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
