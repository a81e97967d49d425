"""One batch's transaction as a list of steps: `BatchWriter.steps`. Memory follows the store only after the commit.

What the gateway remembers between two batches is a cache of the store: the high-water marks of readings, what the rules
remember of patients, and the book of receipts. A step may read memory; only `apply`, called after the commit, changes
it. Whatever fails in a step, `roll_back` forgets all that the transaction touched, and the next one asks the store.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from devices.instants import DISTANT_PAST_MS
from devices.vocabulary import Code
from gateway.ingest.decoding import Intake, Refused
from gateway.ingest.events import store_events, store_statuses
from gateway.ingest.quarantine import quarantine
from gateway.ingest.readings import columns_of, store_readings
from gateway.ingest.receipts import NumberedMessages, ReceiptBook
from gateway.ingest.rr_runs import store_runs
from gateway.ingest.source import Delivered
from gateway.rules.doses.keeper import DoseKeeper
from gateway.rules.readings.all_codes import RuleWatch
from gateway.store.alerts import AlertWriter
from gateway.store.queries import load_queries
from gateway.store.rows import Rows, WornEvent

SQL = load_queries("gateway.store", "batch.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

Positions = NDArray[np.int64]

CODE_SLOTS = 16

assert max(Code) < CODE_SLOTS  # noqa: S101 - a new code must fit the table

# Up to here one INSERT in one round trip is quicker than COPY with its own.
MAX_PLAIN_ROWS = 64


class StaleDirectoryError(Exception):
    """Devices, assignments, zones or consents changed since the batch was resolved."""


class HighWaterMarks:
    """A table int64[devices, CODE_SLOTS] of newest stored times in ms; of RR intervals the last stored beat.

    `DISTANT_PAST_MS` where the store has not been asked yet, -1 where it answered that nothing is stored.
    """

    def __init__(self) -> None:
        """Begin knowing nothing; every device is asked for once."""
        self.newest: NDArray[np.int64] = np.full((0, CODE_SLOTS), DISTANT_PAST_MS, np.int64)

    def grow(self, devices: int) -> None:
        """Make room for device keys below `devices`."""
        if devices > len(self.newest):
            bigger = np.full((max(devices, 2 * len(self.newest)), CODE_SLOTS), DISTANT_PAST_MS, np.int64)
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
    key = rows.device.astype(np.int64) * CODE_SLOTS + rows.code
    order = np.lexsort((rows.at, key))
    sorted_key, sorted_at = key[order], rows.at[order]
    repeat = np.zeros(len(order), np.bool_)
    repeat[1:] = (sorted_key[1:] == sorted_key[:-1]) & (sorted_at[1:] == sorted_at[:-1])
    late = sorted_at <= newest[order]
    return Lanes(fast=order[~repeat & ~late], slow=order[~repeat & late], repeats=order[repeat])


@dataclass(slots=True)
class Transaction:
    """A batch on its way into the store, and what the steps so far have made of it.

    `news`: the messages (positions in the batch) that brought something that was not stored yet. `last_beats`: the last
    stored beat of each device (ms). `results`: how many readings were stored, duplicate, in conflict, missing.
    """

    connection: Connection
    messages: Sequence[Delivered]
    intake: Intake
    lanes: Lanes
    writer: AlertWriter
    stored: Rows
    new_events: Sequence[WornEvent] = ()
    news: set[int] = field(default_factory=set)
    last_beats: dict[int, int] = field(default_factory=dict)
    results: Counter[str] = field(default_factory=Counter)


Step = Callable[[Transaction], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed batch came to; applied to memory only after the commit."""

    intake: Intake
    stored: Rows
    numbered: NumberedMessages
    journal_id: int | None
    last_beats: dict[int, int] = field(default_factory=dict)
    results: Counter[str] = field(default_factory=Counter)
    raised: int = 0


class BatchWriter:
    """Writes batches, and remembers what the next one needs to know of the store."""

    def __init__(self, book: ReceiptBook, retrospective_after_ms: int, contact_grace_ms: int) -> None:
        """Begin with a book of receipts that the store filled; all else is asked of the store when it is needed."""
        self._book = book
        self._retrospective_after_ms = retrospective_after_ms
        self._marks = HighWaterMarks()
        self._watch = RuleWatch()
        self._doses = DoseKeeper(contact_grace_ms)
        self.journalled = 0
        """The newest journal entry whose messages are in the book."""
        self.steps: Sequence[Step] = (
            self._begin,
            self._store_readings,
            self._store_rr_runs,
            self._store_events,
            self._settle_doses,
            self._judge_readings,
            self._store_statuses,
            self._quarantine_refused,
            self._write_alert_events,
        )
        """What happens to a batch, in this order; then its numbers are noted and it is committed."""

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
        lanes = await self._look_up(connection, intake)
        if self._is_plain(intake, lanes):
            try:
                return await self._write_plain(connection, intake, intake.rows.take(lanes.fast))
            except psycopg.errors.UniqueViolation:
                log.info("rows taken for new were stored already; the batch takes the long way")
        writer = AlertWriter(connection, intake.now_ms, self._retrospective_after_ms)
        nothing = intake.rows.take(np.zeros(0, np.int64))
        batch = Transaction(connection, messages, intake, lanes, writer, nothing)
        for step in self.steps:
            await step(batch)
        numbered = _numbered(intake, batch.news)
        journal_id = await _commit(connection, numbered, intake.now_ms)
        batch.results["missing"] = intake.missing
        return Outcome(intake, batch.stored, numbered, journal_id, batch.last_beats, batch.results, len(writer.raised))

    def apply(self, outcome: Outcome) -> None:
        """Make true in memory what the commit made true in the store."""
        self._watch.commit()
        if len(outcome.stored):
            self._marks.advance(outcome.stored.device, outcome.stored.code, outcome.stored.at)
        for device, beat in outcome.last_beats.items():
            self._marks.newest[device, Code.RR_INTERVAL] = max(self._marks.newest[device, Code.RR_INTERVAL], beat)
        self._note(outcome.numbered, outcome.journal_id, outcome.intake.now_ms)

    # Before the transaction ----------------------------------------------------------------------------------------

    async def _look_up(self, connection: Connection, intake: Intake) -> Lanes:
        """Ask the store what memory does not know yet about the devices and patients of a batch; return its lanes."""
        rows, directory, marks = intake.rows, intake.directory, self._marks
        marks.grow(directory.size)
        await self._watch.adopt(connection, directory)
        if len(rows):
            await marks.hydrate(connection, rows.device, rows.code)
            await self._watch.prepare(connection, rows, directory)
        await marks.hydrate_rr(connection, {worn.device for worn in intake.runs})
        return split(rows, marks.newest[rows.device, rows.code])

    def _is_plain(self, intake: Intake, lanes: Lanes) -> bool:
        """Whether a batch is small, new by construction, and nothing follows from it but its rows."""
        return (
            0 < len(lanes.fast) <= MAX_PLAIN_ROWS
            and not (len(lanes.slow) or len(lanes.repeats))
            and not (intake.runs or intake.events or intake.statuses or intake.refused)
            and not self._watch.matters(intake.rows)
        )

    async def _write_plain(self, connection: Connection, intake: Intake, rows: Rows) -> Outcome:
        """Store a plain batch and its journal entry in one statement: at light load a reading is visible at once.

        Raises psycopg.errors.UniqueViolation when a row is not new.
        """
        numbered, version = _numbered(intake, set(rows.message.tolist())), intake.directory.version
        journal = {**_journal(numbered, intake.now_ms), "numbered_device": numbered.device}
        cursor = await connection.execute(SQL.plain, {**journal, **columns_of(rows), "version": version})
        found, journal_id = await cursor.fetchone() or (None, None)
        if found != version:
            raise StaleDirectoryError
        return Outcome(intake, rows, numbered, journal_id, results=Counter(missing=intake.missing, stored=len(rows)))

    # The steps -----------------------------------------------------------------------------------------------------

    async def _begin(self, batch: Transaction) -> None:
        """Open the transaction, and make sure that nobody's wearer, zone, consent or rule changed since decoding."""
        async with batch.connection.pipeline():
            await batch.connection.execute("begin")
            version = await batch.connection.execute(SQL.directory_version)
            if len(batch.lanes.fast):
                await batch.connection.execute("savepoint fast_lane")
        if (await version.fetchone() or (None,))[0] != batch.intake.directory.version:
            raise StaleDirectoryError

    async def _store_readings(self, batch: Transaction) -> None:
        rows, lanes = batch.intake.rows, batch.lanes
        fast, slow, repeats = (rows.take(positions) for positions in (lanes.fast, lanes.slow, lanes.repeats))
        stored = await store_readings(batch.connection, fast, slow, repeats, batch.intake.now_ms)
        batch.stored = stored.rows
        batch.news.update(np.unique(stored.rows.message).tolist())
        batch.results += Counter(stored=len(stored.rows), duplicate=stored.duplicates, conflict=stored.conflicts)

    async def _store_rr_runs(self, batch: Transaction) -> None:
        runs, last = batch.intake.runs, self._marks.newest[:, Code.RR_INTERVAL]
        if not runs:
            return
        last_beats = {worn.device: int(last[worn.device]) for worn in runs}
        fresh, positions, duplicates = await store_runs(batch.connection, runs, last_beats, batch.intake.now_ms)
        batch.news.update(runs[position].run.message for position in positions)
        batch.results += Counter(stored=sum(len(run[-1]) for run in fresh), duplicate=duplicates)
        for _, ends_at, device, *_ in fresh:
            batch.last_beats[device] = max(batch.last_beats.get(device, 0), int(ends_at))

    async def _store_events(self, batch: Transaction) -> None:
        if batch.intake.events:
            batch.new_events = await store_events(batch.connection, batch.intake.events, batch.intake.now_ms)
            batch.news.update(worn.event.message for worn in batch.new_events)

    async def _settle_doses(self, batch: Transaction) -> None:
        if batch.new_events:
            await self._doses.take_events(batch.new_events, batch.intake.directory, batch.writer, batch.intake.now_ms)

    async def _judge_readings(self, batch: Transaction) -> None:
        await self._watch.step(batch.stored, batch.intake.directory, batch.writer)

    async def _store_statuses(self, batch: Transaction) -> None:
        statuses = batch.intake.statuses
        if statuses:
            without_gap = {device: not self._book.has_gap(device) for device in statuses}
            await store_statuses(batch.connection, statuses, without_gap, batch.intake.now_ms)

    async def _quarantine_refused(self, batch: Transaction) -> None:
        if batch.intake.refused:
            intake = batch.intake
            await quarantine(batch.connection, intake.refused, batch.messages, intake.directory, intake.now_ms)

    async def _write_alert_events(self, batch: Transaction) -> None:
        await batch.writer.finish()

    # A message that the store refuses ------------------------------------------------------------------------------

    async def quarantine_alone(
        self, connection: Connection, messages: Sequence[Delivered], refused: Refused, intake: Intake
    ) -> None:
        """Keep a message that the store refuses and nothing of what is in it; its number counts as committed."""
        numbered = _numbered(intake, set())
        await connection.execute("begin")
        await quarantine(connection, [refused], messages, intake.directory, intake.now_ms)
        self._note(numbered, await _commit(connection, numbered, intake.now_ms), intake.now_ms)

    def _note(self, numbered: NumberedMessages, journal_id: int | None, now_ms: int) -> None:
        self._book.add(numbered, now_ms)
        if journal_id is not None:
            self.journalled = journal_id


async def _commit(connection: Connection, numbered: NumberedMessages, now_ms: int) -> int | None:
    """Note the numbered messages and commit, in one round trip; return the journal entry's id."""
    if not len(numbered):
        await connection.execute("commit")
        return None
    async with connection.pipeline():
        entry = await connection.execute(SQL.journal, _journal(numbered, now_ms))
        await connection.execute("commit")
    row = await entry.fetchone()
    return int(row[0]) if row else None


def _journal(numbered: NumberedMessages, now_ms: int) -> dict[str, Any]:
    """Return the parameters of SQL.journal, which notes the numbered messages that a transaction holds."""
    return {
        "now": now_ms,
        "device": numbered.device,
        "seq": numbered.seq,
        "oldest": numbered.oldest,
        "stamp": numbered.stamp,
        "news": numbered.news,
    }


def _numbered(intake: Intake, news: set[int]) -> NumberedMessages:
    """Return the numbered messages of a batch; `news`: those that brought something that was not stored yet."""
    brought = np.isin(intake.head_message, np.fromiter(news, np.int32, len(news)))
    return NumberedMessages(intake.head_device, intake.seq, intake.oldest, intake.sent_at, brought)
