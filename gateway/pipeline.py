"""The way of one batch: decode, resolve, store, fold, alert, commit, and only then acknowledge.

Group commit without timers: while one batch commits the next one gathers at the source. If the database is away the
pipeline waits for it and takes no more; the broker holds the rest.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from devices.vocabulary import Code, Reason
from gateway.bridge.bridge import full_jitter
from gateway.directory import Directory, load_directory
from gateway.dosing import DoseKeeper
from gateway.glucose_watch import GlucoseWatch
from gateway.intake import Intake, Reader, Reading, Refused, Rows
from gateway.lanes import Lanes, split
from gateway.marks import Marks
from gateway.receipts import Heads, ReceiptBook
from gateway.runtime import clock
from gateway.runtime.metrics import GatewayMetrics
from gateway.source import Batch, Delivered, Source, SourceClosedError
from gateway.store import batch as store
from gateway.store.alerts import AlertWriter
from gateway.store.connect import connect

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]


# Messages decoded in one go: about half a millisecond.
READ_AT_ONCE = 256
# Up to here one INSERT in one round trip is quicker than COPY with its own.
EXPRESS_ROWS = 64

# What the store or the arithmetic on the way to it may say to one message, whoever is at fault.
POISON = (psycopg.DataError, psycopg.IntegrityError, ArithmeticError, LookupError, TypeError, ValueError)


class StaleDirectoryError(Exception):
    """Devices, assignments, zones or consents changed since the batch was resolved."""


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What the pipeline needs to know."""

    database_url: str
    retrospective_after_ms: int = 30 * 60_000
    contact_grace_ms: int = 120_000


@dataclass(slots=True)
class Outcome:
    """What a committed batch came to; applied to memory only after the commit."""

    intake: Intake
    stored: Rows
    heads: Heads
    journal_id: int | None
    last_beats: dict[int, int]
    results: Counter[str] = field(default_factory=Counter)
    raised: int = 0


class Pipeline:
    """Takes batches from a Source and settles each in one transaction."""

    def __init__(
        self,
        settings: PipelineSettings,
        source: Source,
        book: ReceiptBook,
        metrics: GatewayMetrics,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        """Begin with a book of receipts that the store filled."""
        self._settings = settings
        self._source = source
        self._book = book
        self._metrics = metrics
        self._now_ms = now_ms
        self._marks = Marks()
        self._glucose = GlucoseWatch()
        self._doses = DoseKeeper(settings.contact_grace_ms)
        self._connection: Connection | None = None
        self._reader: Reader | None = None
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret
        self.journalled = 0
        """The newest journal entry whose messages are in the book."""

    async def run(self) -> None:
        """Settle batches until the source is closed. A batch under way when cancelled is rolled back, not lost.

        While one batch is stored the next one is decoded; the database and this process work at the same time.
        """
        storing: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while (batch := await self._next_batch()) is not None:
                    ahead = await self._read_ahead(batch.messages)
                    if storing is not None:
                        await storing
                    storing = group.create_task(self._settle_and_acknowledge(batch, ahead), name="store")
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _next_batch(self) -> Batch | None:
        try:
            return await self._source.batch()
        except SourceClosedError:
            return None

    async def _read_ahead(self, messages: Sequence[Delivered]) -> Intake | None:
        """Decode a batch in parts, so that the batch being stored never waits long for the processor.

        None: there is no directory yet, or something is wrong; `settle` reads the batch again and deals with it.
        """
        if self._reader is None:
            return None
        try:
            reading = Reading(self._reader, self._now_ms())
            for start in range(0, len(messages), READ_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                reading.add(messages[start : start + READ_AT_ONCE])
            return reading.finish()
        except POISON:
            log.exception("a batch could not be read; it is read again, in halves")
            return None

    async def _settle_and_acknowledge(self, batch: Batch, ahead: Intake | None) -> None:
        await self.settle(batch.messages, ahead)
        self._source.ack(batch)

    async def settle(self, messages: Sequence[Delivered], ahead: Intake | None = None) -> None:
        """Commit a batch, `ahead` if it was read already, however often the database goes away meanwhile.

        A message that the store cannot take for a reason of its own is found by halving, tried once more with nothing
        in memory that could be stale, and quarantined; its neighbours are stored.
        """
        attempt = 0
        poison: Exception | None = None
        tried_afresh = False
        while True:
            try:
                if poison is None:
                    await self._settle_once(messages, ahead)
                else:
                    await self._quarantine_poison(messages, poison)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                await self._after_failure("database")
                wait = full_jitter(attempt, self._chance)
                attempt += 1
                log.warning(
                    "the database is away; the broker holds the messages",
                    extra={"cause": str(error).strip(), "retry_s": round(wait, 2)},
                )
                await asyncio.sleep(wait)
            except StaleDirectoryError:
                await self._after_failure("directory")
            except POISON as error:
                if poison is not None:
                    raise
                await self._after_failure("poison")
                if len(messages) > 1:
                    middle = len(messages) // 2
                    await self.settle(messages[:middle])
                    await self.settle(messages[middle:])
                    return
                if tried_afresh:
                    log.exception("a message could not be stored; it goes to the quarantine")
                    poison = error
                else:
                    await self._forget()
                    tried_afresh = True
            else:
                return

    async def _settle_once(self, messages: Sequence[Delivered], ahead: Intake | None) -> None:
        started = clock.monotonic()
        connection = await self._connected()
        reader = self._reader
        if reader is None:
            reader = self._reader = Reader(await load_directory(connection))
        intake = ahead
        if intake is None or intake.directory is not reader.directory:
            intake = reader.read(messages, self._now_ms())
        now_ms = intake.now_ms
        self._marks.grow(reader.directory.size)
        outcome = await self._transact(connection, messages, intake, reader.directory, now_ms)
        self._apply(outcome, now_ms)
        elapsed = clock.monotonic() - started
        self._count(len(messages), outcome, elapsed)

    async def _transact(
        self, connection: Connection, messages: Sequence[Delivered], intake: Intake, directory: Directory, now_ms: int
    ) -> Outcome:
        rows = intake.rows
        marks = self._marks
        if len(rows):
            await marks.hydrate(connection, rows.device, rows.code)
            await self._glucose.prepare(connection, rows, directory)
        await marks.hydrate_rr(connection, {worn.device for worn in intake.runs})
        lanes = split(rows, marks.newest[rows.device, rows.code])
        if self._is_plain(intake, lanes, rows):
            try:
                return await self._express(connection, intake, rows.take(lanes.fast), directory, now_ms)
            except psycopg.errors.UniqueViolation:
                log.info("rows taken for new were stored already; the batch takes the long way")
        results: Counter[str] = Counter(missing=intake.missing)
        stored = await self._store_rows(connection, rows, lanes, directory, results, now_ms)
        writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
        news = set(np.unique(stored.message).tolist())
        outcome = Outcome(intake, stored, self._heads(intake, news), None, {}, results)
        await self._store_beats_and_events(connection, outcome, news, directory, writer, now_ms)
        outcome.heads = self._heads(intake, news)
        await self._glucose.step(stored, directory, writer)
        if intake.statuses:
            without_gap = {device: not self._book.has_gap(device) for device in intake.statuses}
            await store.store_statuses(connection, intake.statuses, without_gap, now_ms)
        if intake.refused:
            await store.quarantine(connection, intake.refused, messages, now_ms)
        await writer.finish()
        outcome.raised = len(writer.raised)
        outcome.journal_id = await self._commit(connection, outcome.heads, now_ms)
        return outcome

    @staticmethod
    async def _commit(connection: Connection, heads: Heads, now_ms: int) -> int | None:
        """Note the numbered messages and commit, in one round trip; return the journal entry's id."""
        if not len(heads):
            await connection.execute("commit")
            return None
        async with connection.pipeline():
            entry = await connection.execute(store.SQL.journal, store.journal_parameters(heads, now_ms))
            await connection.execute("commit")
        row = await entry.fetchone()
        return int(row[0]) if row else None

    def _is_plain(self, intake: Intake, lanes: Lanes, rows: Rows) -> bool:
        """Whether a batch is small, new by construction, and nothing follows from it but its rows."""
        return (
            0 < len(lanes.fast) <= EXPRESS_ROWS
            and not (len(lanes.slow) or len(lanes.repeats))
            and not (intake.runs or intake.events or intake.statuses or intake.refused)
            and not self._glucose.matters(rows)
        )

    async def _express(
        self, connection: Connection, intake: Intake, fast: Rows, directory: Directory, now_ms: int
    ) -> Outcome:
        """Store a plain batch in one round trip: at light load a reading is visible at once."""
        heads = self._heads(intake, set(fast.message.tolist()))
        version, journal_id = await store.express(connection, fast, heads, directory.version, now_ms)
        if version != directory.version:
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
        outcome: Outcome,
        news: set[int],
        directory: Directory,
        writer: AlertWriter,
        now_ms: int,
    ) -> None:
        intake = outcome.intake
        if intake.runs:
            last_beats = {w.device: int(self._marks.newest[w.device, Code.RR_INTERVAL]) for w in intake.runs}
            fresh, positions, duplicates = await store.store_runs(connection, intake.runs, last_beats, now_ms)
            outcome.results["stored"] += sum(len(run[-1]) for run in fresh)
            outcome.results["duplicate"] += duplicates
            news.update(intake.runs[position].run.message for position in positions)
            for _, ends_at, device, *_ in fresh:
                outcome.last_beats[device] = max(outcome.last_beats.get(device, 0), int(ends_at))
        if intake.events:
            new = await store.store_events(connection, intake.events, now_ms)
            news.update(worn.event.message for worn in new)
            if new:
                await self._doses.take_events(new, directory, writer, now_ms)

    @staticmethod
    def _heads(intake: Intake, news: set[int]) -> Heads:
        brought = np.isin(intake.head_message, np.fromiter(news, np.int32, len(news)))
        return Heads(intake.head_device, intake.seq, intake.oldest, intake.sent_at, brought)

    def _apply(self, outcome: Outcome, now_ms: int) -> None:
        """Make true in memory what the commit made true in the store."""
        self._glucose.commit()
        if len(outcome.stored):
            self._marks.advance(outcome.stored.device, outcome.stored.code, outcome.stored.at)
        for device, beat in outcome.last_beats.items():
            self._marks.newest[device, Code.RR_INTERVAL] = max(self._marks.newest[device, Code.RR_INTERVAL], beat)
        self._book.add(outcome.heads, now_ms)
        if outcome.journal_id is not None:
            self.journalled = outcome.journal_id

    def _count(self, messages: int, outcome: Outcome, elapsed: float) -> None:
        metrics = self._metrics
        metrics.messages.inc(messages)
        metrics.batch.observe(messages)
        metrics.commit.observe(elapsed)
        for result, count in outcome.results.items():
            if count:
                metrics.readings.labels(result).inc(count)
        for refusal in outcome.intake.refused:
            metrics.quarantined.labels(refusal.reason.value).inc()
        for _ in range(outcome.raised):
            metrics.alert_latency.observe(elapsed)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._settings.database_url, "vigil gateway")
            self._reader = None
            self._marks.forget()
            await self._glucose.hydrate(self._connection)
            self._metrics.database_up.set(1)
        return self._connection

    async def _after_failure(self, cause: str) -> None:
        """Drop everything the failed transaction touched; a broken connection is replaced by the next attempt."""
        self._metrics.retries.labels(cause).inc()
        self._glucose.roll_back()
        self._marks.forget()
        self._reader = None
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.rollback()
        except (psycopg.Error, OSError):
            await connection.close()
        if connection.closed:
            self._connection = None
            self._metrics.database_up.set(0)

    async def _forget(self) -> None:
        """Know nothing but what the store says: the next attempt begins with a connection of its own."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _quarantine_poison(self, messages: Sequence[Delivered], error: Exception) -> None:
        """Keep the one message that the store refuses, so that it blocks nobody and is lost to nobody.

        Its number counts as committed, as that of everything in the quarantine.
        """
        connection = await self._connected()
        now_ms = self._now_ms()
        device = messages[0].topic.split("/")
        device_id = device[2] if len(device) > 2 else None
        detail = f"could not be stored: {type(error).__name__}: {error}"[:500]
        refused = [Refused(0, Reason.MALFORMED, detail, None, device_id)]
        intake = Reader(await load_directory(connection)).read(messages, now_ms)
        heads = self._heads(intake, set())
        await connection.execute("begin")
        await store.quarantine(connection, refused, messages, now_ms)
        self.journalled = await self._commit(connection, heads, now_ms) or self.journalled
        self._book.add(heads, now_ms)
        self._metrics.messages.inc()
        self._metrics.quarantined.labels(Reason.MALFORMED.value).inc()
