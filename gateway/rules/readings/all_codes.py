"""All rules about readings: glucose for everybody, another vital sign where somebody has a threshold for it."""

from typing import Any, Final

import psycopg

from devices.vocabulary import Code
from gateway.clinic.directory import Directory
from gateway.rules.readings.one_code import ReadingWatch
from gateway.store.alerts import AlertWriter
from gateway.store.rows import Rows
from streaming.limits.detectors import detectors_ever

Connection = psycopg.AsyncConnection[Any]

VITAL_SIGNS: Final = tuple(code for code in Code if code not in {Code.GLUCOSE, Code.RR_INTERVAL})


class RuleWatch:
    """One watch for each code that a rule is about. Memory changes only with `commit`, after the transaction."""

    def __init__(self) -> None:
        """Watch glucose; the directory says what else."""
        self._watches = {Code.GLUCOSE: ReadingWatch(Code.GLUCOSE)}
        self._directory: Directory | None = None

    async def hydrate(self, connection: Connection) -> None:
        """Forget everything and begin from what the store says."""
        for watch in self._watches.values():
            await watch.hydrate(connection)
        self._directory = None

    async def adopt(self, connection: Connection, directory: Directory) -> None:
        """Take the patients' rules as a directory has them. To be called before the batch's transaction."""
        if directory is self._directory:
            return
        histories = set(directory.rules.values())
        for code in VITAL_SIGNS:
            if code not in self._watches and any(detectors_ever(code, rules) for rules in histories):
                watch = ReadingWatch(code)
                await watch.hydrate(connection)
                self._watches[code] = watch
        began = self._directory is None
        for watch in self._watches.values():
            watch.adopt(directory)
            if began:
                await watch.warm(connection, directory)
            await watch.prepare_changed(connection, directory)
        self._directory = directory

    async def prepare(self, connection: Connection, rows: Rows, directory: Directory) -> None:
        """Ask the store what is not known of the patients among rows that are about to be stored."""
        for watch in self._watches.values():
            await watch.prepare(connection, rows, directory)

    def matters(self, rows: Rows) -> bool:
        """Whether anything follows from fresh rows; if not they are only noted, and `step` need not be called."""
        found = False
        for watch in self._watches.values():  # each notes its own rows, so all are asked
            found = watch.matters(rows) or found
        return found

    async def step(self, rows: Rows, directory: Directory, writer: AlertWriter) -> None:
        """Fold fresh rows, which are stored in this transaction, and write what follows."""
        for watch in self._watches.values():
            await watch.step(rows, directory, writer)

    def commit(self) -> None:
        """Keep what the transaction found; it is committed."""
        for watch in self._watches.values():
            watch.commit()

    def roll_back(self) -> None:
        """Drop what the failed transaction touched."""
        for watch in self._watches.values():
            watch.roll_back()
