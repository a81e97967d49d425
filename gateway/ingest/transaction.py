"""One batch's transaction: rows by their lanes, folds, alerts, quarantine, journal, commit; then memory follows."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from devices.vocabulary import Code
from gateway.clinic.directory import Directory
from gateway.ingest import storing as store
from gateway.ingest.decoding import Intake, Refused
from gateway.ingest.high_water import Marks
from gateway.ingest.lanes import Lanes, split
from gateway.ingest.receipts import NumberedMessages, ReceiptBook
from gateway.ingest.source import Delivered
from gateway.rules.doses.keeper import DoseKeeper
from gateway.rules.readings.all_codes import RuleWatch
from gateway.store.alerts import AlertWriter
from gateway.store.rows import Rows

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

# Up to here one INSERT in one round trip is quicker than COPY with its own.
EXPRESS_ROWS = 64


class StaleDirectoryError(Exception):
    """Devices, assignments, zones or consents changed since the batch was resolved."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed batch came to; applied to memory only after the commit."""

    intake: Intake
    stored: Rows
    heads: NumberedMessages
    journal_id: int | None
    last_beats: dict[int, int]
    results: Counter[str] = field(default_factory=Counter)
    raised: int = 0


class Ledger:
    """Writes batches, and remembers what was stored last. Memory changes only after a commit."""

    def __init__(self, book: ReceiptBook, retrospective_after_ms: int, contact_grace_ms: int) -> None:
        """Begin with a book of receipts that the store filled; all else is asked of the store when it is needed."""
        self._book = book
        self._retrospective_after_ms = retrospective_after_ms
        self._marks = Marks()
        self._watch = RuleWatch()
        self._doses = DoseKeeper(contact_grace_ms)
        self.journalled = 0
        """The newest journal entry whose messages are in the book."""

    async def hydrate(self, connection: Connection) -> None:
        """Forget everything and begin from what the store says."""
        self._marks.forget()
        await self._watch.hydrate(connection)

    def roll_back(self) -> None:
        """Drop what a failed transaction touched."""
        self._watch.roll_back()
        self._marks.forget()

    async def write(self, connection: Connection, messages: Sequence[Delivered], intake: Intake) -> Outcome:
        """Store a batch with everything that follows from it, in one transaction, and commit it.

        Raises StaleDirectoryError, or what the database says; then call `roll_back`.
        """
        rows, directory, now_ms, marks = intake.rows, intake.directory, intake.now_ms, self._marks
        marks.grow(directory.size)
        await self._watch.adopt(connection, directory)
        if len(rows):
            await marks.hydrate(connection, rows.device, rows.code)
            await self._watch.prepare(connection, rows, directory)
        await marks.hydrate_rr(connection, {worn.device for worn in intake.runs})
        lanes = split(rows, marks.newest[rows.device, rows.code])
        if self._is_plain(intake, lanes, rows):
            try:
                return await self._express(connection, intake, rows.take(lanes.fast))
            except psycopg.errors.UniqueViolation:
                log.info("rows taken for new were stored already; the batch takes the long way")
        results: Counter[str] = Counter(missing=intake.missing)
        stored = await self._store_rows(connection, rows, lanes, directory, results, now_ms)
        writer = AlertWriter(connection, now_ms, self._retrospective_after_ms)
        news = set(np.unique(stored.message).tolist())
        last_beats = await self._store_beats_and_events(connection, intake, results, news, writer)
        await self._watch.step(stored, directory, writer)
        if intake.statuses:
            without_gap = {device: not self._book.has_gap(device) for device in intake.statuses}
            await store.store_statuses(connection, intake.statuses, without_gap, now_ms)
        if intake.refused:
            await store.quarantine(connection, intake.refused, messages, now_ms)
        await writer.finish()
        heads = _heads(intake, news)
        journal_id = await _commit(connection, heads, now_ms)
        return Outcome(intake, stored, heads, journal_id, last_beats, results, len(writer.raised))

    def _is_plain(self, intake: Intake, lanes: Lanes, rows: Rows) -> bool:
        """Whether a batch is small, new by construction, and nothing follows from it but its rows."""
        return (
            0 < len(lanes.fast) <= EXPRESS_ROWS
            and not (len(lanes.slow) or len(lanes.repeats))
            and not (intake.runs or intake.events or intake.statuses or intake.refused)
            and not self._watch.matters(rows)
        )

    async def _express(self, connection: Connection, intake: Intake, fast: Rows) -> Outcome:
        """Store a plain batch in one round trip: at light load a reading is visible at once."""
        heads = _heads(intake, set(fast.message.tolist()))
        version = intake.directory.version
        found, journal_id = await store.express(connection, fast, heads, version, intake.now_ms)
        if found != version:
            raise StaleDirectoryError
        results = Counter(missing=intake.missing, stored=len(fast))
        return Outcome(intake, fast, heads, journal_id, {}, results)

    async def _store_rows(
        self,
        connection: Connection,
        rows: Rows,
        lanes: Lanes,
        directory: Directory,
        results: Counter[str],
        now_ms: int,
    ) -> Rows:
        """Open the transaction and store what is new, fast lane first; return the rows that were stored."""
        async with connection.pipeline():
            await connection.execute("begin")
            version = await connection.execute(store.SQL.directory_version)
            if len(lanes.fast):
                await connection.execute("savepoint fast_lane")
        if (await version.fetchone() or (None,))[0] != directory.version:
            raise StaleDirectoryError
        fast, slow = rows.take(lanes.fast), rows.take(lanes.slow)
        if len(fast):
            try:
                await store.copy_observations(connection, fast, now_ms)
            except psycopg.errors.UniqueViolation:
                log.info("rows taken for new were stored already; the batch goes through the slow lane")
                await connection.execute("rollback to savepoint fast_lane")
                slow, fast = Rows.join([slow, fast]), fast.take(np.zeros(0, np.int64))
        stored = fast
        if len(slow) or len(lanes.repeats):
            stored = await self._slow_lane(connection, fast, slow, rows.take(lanes.repeats), results, now_ms)
        results["stored"] += len(stored)
        return stored

    async def _slow_lane(
        self, connection: Connection, fast: Rows, slow: Rows, repeats: Rows, results: Counter[str], now_ms: int
    ) -> Rows:
        """Store what is new among late rows; compare the others with what is stored. Returns all rows stored."""
        parts = [fast]
        known = [repeats] if len(repeats) else []
        if len(slow):
            new = await store.insert_late(connection, slow, now_ms)
            parts.append(slow.take(new))
            if not new.all():
                known.append(slow.take(~new))
        if known:
            compared = await store.compare(connection, Rows.join(known), now_ms)
            results["duplicate"] += compared.duplicates
            results["conflict"] += compared.conflicts
        return Rows.join(parts)

    async def _store_beats_and_events(
        self,
        connection: Connection,
        intake: Intake,
        results: Counter[str],
        news: set[int],
        writer: AlertWriter,
    ) -> dict[int, int]:
        """Store RR runs and events; add to `news` the messages that brought any. Returns the devices' last beats, ms."""
        newest: dict[int, int] = {}
        now_ms = intake.now_ms
        if intake.runs:
            last_beats = {w.device: int(self._marks.newest[w.device, Code.RR_INTERVAL]) for w in intake.runs}
            fresh, positions, duplicates = await store.store_runs(connection, intake.runs, last_beats, now_ms)
            results["stored"] += sum(len(run[-1]) for run in fresh)
            results["duplicate"] += duplicates
            news.update(intake.runs[position].run.message for position in positions)
            for _, ends_at, device, *_ in fresh:
                newest[device] = max(newest.get(device, 0), int(ends_at))
        if intake.events:
            new = await store.store_events(connection, intake.events, now_ms)
            news.update(worn.event.message for worn in new)
            if new:
                await self._doses.take_events(new, intake.directory, writer, now_ms)
        return newest

    def apply(self, outcome: Outcome) -> None:
        """Make true in memory what the commit made true in the store."""
        self._watch.commit()
        if len(outcome.stored):
            self._marks.advance(outcome.stored.device, outcome.stored.code, outcome.stored.at)
        for device, beat in outcome.last_beats.items():
            self._marks.newest[device, Code.RR_INTERVAL] = max(self._marks.newest[device, Code.RR_INTERVAL], beat)
        self._note(outcome.heads, outcome.journal_id, outcome.intake.now_ms)

    async def quarantine_alone(
        self, connection: Connection, messages: Sequence[Delivered], refused: Refused, intake: Intake
    ) -> None:
        """Keep a message that the store refuses and nothing of what is in it; its number counts as committed."""
        heads = _heads(intake, set())
        await connection.execute("begin")
        await store.quarantine(connection, [refused], messages, intake.now_ms)
        self._note(heads, await _commit(connection, heads, intake.now_ms), intake.now_ms)

    def _note(self, heads: NumberedMessages, journal_id: int | None, now_ms: int) -> None:
        self._book.add(heads, now_ms)
        if journal_id is not None:
            self.journalled = journal_id


async def _commit(connection: Connection, heads: NumberedMessages, now_ms: int) -> int | None:
    """Note the numbered messages and commit, in one round trip; return the journal entry's id."""
    if not len(heads):
        await connection.execute("commit")
        return None
    async with connection.pipeline():
        entry = await connection.execute(store.SQL.journal, store.journal_parameters(heads, now_ms))
        await connection.execute("commit")
    row = await entry.fetchone()
    return int(row[0]) if row else None


def _heads(intake: Intake, news: set[int]) -> NumberedMessages:
    brought = np.isin(intake.head_message, np.fromiter(news, np.int32, len(news)))
    return NumberedMessages(intake.head_device, intake.seq, intake.oldest, intake.sent_at, brought)
