"""Opens the spool's file: one process at a time, durable, checked; a damaged file is moved aside and a fresh one begun.

SpoolError
├── SpoolInUseError   another process works on the file
├── SpoolFullError    there is no room: what was to be kept was not
└── SpoolBrokenError  the disk or the file fails while in use; opening it again says whether it can be mended
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gateway.store.queries import load_queries

SQL: Final = load_queries("gateway.ble", "spool.sql")
VERSION: Final = 1
APPLICATION_ID: Final = 0x56694742
"""Marks the file as a spool, so that we never write to another SQLite file that somebody names by mistake."""
# How much disk the write-ahead log may keep after a long transaction.
JOURNAL_BYTES: Final = 8 * 1024 * 1024

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})

log = logging.getLogger(__name__)


class SpoolError(Exception):
    """The root of what can go wrong with a spool."""


class SpoolInUseError(SpoolError):
    """Another process has the spool open; two would send two messages under one number."""


class SpoolFullError(SpoolError):
    """The spool has reached its cap, or the disk is full. Nothing of what was to be kept has been kept."""


class SpoolBrokenError(SpoolError):
    """The disk does not return what was written, or refuses to write."""


def open_spool(path: Path) -> sqlite3.Connection:
    """Return the connection to the spool at `path`, created if there is none.

    A damaged file is renamed, for later inspection, and a fresh one begun: the devices still have every record that was
    not receipted. Raises SpoolError if that would not help.
    """
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if _code(error) not in _DAMAGE:
            raise SpoolBrokenError(f"{path}: {error}") from error
        cause = str(error)
    aside = _move_aside(path)
    log.error("the spool was damaged: a fresh one is begun", extra={"cause": cause, "moved_to": str(aside)})
    with errors_of(path):
        return _connect(path)


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into SpoolError."""
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) == sqlite3.SQLITE_FULL:
            raise SpoolFullError(f"{path}: the disk is full") from error
        raise SpoolBrokenError(f"{path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # Health data are private to this user; SQLite gives its other files the mode of the first.
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise SpoolBrokenError(f"{path}: {error.strerror}") from error
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _prepare(db, path)
    except sqlite3.OperationalError as error:
        db.close()
        if _code(error) == sqlite3.SQLITE_BUSY:
            raise SpoolInUseError(f"{path} is in use by another process") from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    # Held while the connection is open, and released even by a killed process: no lock file that could be left over.
    db.execute("pragma locking_mode = exclusive")
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.execute("pragma foreign_keys = on")
    db.execute(f"pragma journal_size_limit = {JOURNAL_BYTES}")
    db.execute("begin immediate")
    ((found,), *_) = db.execute("pragma quick_check(1)").fetchall()
    if found != "ok":
        raise _damaged(found)
    (version,) = db.execute("pragma user_version").fetchone()
    (application,) = db.execute("pragma application_id").fetchone()
    (tables,) = db.execute("select count(*) from sqlite_schema").fetchone()
    if (version, application, tables) == (0, 0, 0):
        for statement in SQL.schema.split(";"):
            db.execute(statement)
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {VERSION}")
    elif application != APPLICATION_ID:
        raise SpoolError(f"{path} is a database, and not a spool")
    elif version != VERSION:
        raise SpoolError(f"{path} was written by another version: {version}, this one writes {VERSION}")
    db.execute("commit")


def _damaged(detail: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(detail)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors raised by Python itself have none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _move_aside(path: Path) -> Path:
    """Rename the file, and its write-ahead log with it, to the first free name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
        with suppress(FileNotFoundError):
            Path(f"{path}-wal").rename(f"{aside}-wal")
    except OSError as error:
        raise SpoolBrokenError(f"{path} is damaged and cannot be moved aside: {error.strerror}") from error
    return aside
