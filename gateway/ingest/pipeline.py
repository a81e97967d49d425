"""The way of one batch: decode, resolve, store, fold, alert, commit, and only then acknowledge.

Group commit without timers: while one batch commits the next one gathers at the source. If the database is away the
pipeline waits for it and takes no more; the broker holds the rest.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from devices.vocabulary import Reason
from gateway.clinic.directory import load_directory
from gateway.ingest.decoding import Decoder, Intake, IntakeBuilder, Refused
from gateway.ingest.receipts import ReceiptBook
from gateway.ingest.source import Batch, Delivered, Source, SourceClosedError
from gateway.ingest.transaction import BatchWriter, Outcome, StaleDirectoryError
from gateway.runtime import clock
from gateway.runtime.backoff import full_jitter
from gateway.runtime.metrics import GatewayMetrics
from gateway.store.connect import connect
from gateway.store.errors import AWAY, BROKEN, POISON

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]


# Messages decoded in one go: about half a millisecond.
DECODED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What the pipeline needs to know."""

    database_url: str
    retrospective_after_ms: int = 30 * 60_000
    contact_grace_ms: int = 120_000


class Pipeline:
    """Takes batches from a Source and commits each in one transaction."""

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
        self._metrics = metrics
        self._now_ms = now_ms
        self._writer = BatchWriter(book, settings.retrospective_after_ms, settings.contact_grace_ms)
        self._connection: Connection | None = None
        self._decoder: Decoder | None = None
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def journalled(self) -> int:
        """The newest journal entry whose messages are in the book of receipts."""
        return self._writer.journalled

    async def run(self) -> None:
        """Commit batches until the source is closed. A batch under way when cancelled is rolled back, not lost.

        While one batch is stored the next one is decoded; the database and this process work at the same time.
        """
        storing: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while (batch := await self._next_batch()) is not None:
                    ahead = await self._decode_ahead(batch.messages)
                    if storing is not None:
                        await storing
                    storing = group.create_task(self._commit_and_acknowledge(batch, ahead), name="store")
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _next_batch(self) -> Batch | None:
        try:
            return await self._source.batch()
        except SourceClosedError:
            return None

    async def _decode_ahead(self, messages: Sequence[Delivered]) -> Intake | None:
        """Decode a batch in parts, so that the batch being stored never waits long for the processor.

        None: there is no directory yet, or something is wrong; `commit` decodes the batch again and deals with it.
        """
        if self._decoder is None:
            return None
        try:
            builder = IntakeBuilder(self._decoder, self._now_ms())
            for start in range(0, len(messages), DECODED_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                builder.add(messages[start : start + DECODED_AT_ONCE])
            return builder.finish()
        except POISON:
            log.exception("a batch could not be decoded; it is decoded again, in halves")
            return None

    async def _commit_and_acknowledge(self, batch: Batch, ahead: Intake | None) -> None:
        await self.commit(batch.messages, ahead)
        self._source.ack(batch)

    async def commit(self, messages: Sequence[Delivered], ahead: Intake | None = None) -> None:
        """Commit a batch, `ahead` if it was decoded already, however often the database goes away meanwhile.

        A message that the store cannot take for a reason of its own is found by halving, tried once more with nothing
        in memory that could be stale, and quarantined; its neighbours are stored.
        """
        attempt = 0
        poison: Exception | None = None
        tried_afresh = False
        while True:
            try:
                if poison is None:
                    await self._commit_once(messages, ahead)
                else:
                    await self._quarantine_poison(messages, poison)
            except AWAY as error:
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
                    await self.commit(messages[:middle])
                    await self.commit(messages[middle:])
                    return
                if tried_afresh:
                    log.exception("a message could not be stored; it goes to the quarantine")
                    poison = error
                else:
                    await self._forget()
                    tried_afresh = True
            else:
                return

    async def _commit_once(self, messages: Sequence[Delivered], ahead: Intake | None) -> None:
        started = clock.monotonic()
        connection = await self._connected()
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = Decoder(await load_directory(connection))
        intake = ahead
        if intake is None or intake.directory is not decoder.directory:
            intake = decoder.decode(messages, self._now_ms())
        outcome = await self._writer.write(connection, messages, intake)
        self._writer.apply(outcome)
        self._count(len(messages), outcome, clock.monotonic() - started)

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
            metrics.alert_latency.observe((self._now_ms() - outcome.intake.now_ms) / 1000)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._settings.database_url, "vigil gateway")
            self._decoder = None
            await self._writer.hydrate(self._connection)
            self._metrics.database_up.set(1)
        return self._connection

    async def _after_failure(self, cause: str) -> None:
        """Drop everything the failed transaction touched; a broken connection is replaced by the next attempt."""
        self._metrics.retries.labels(cause).inc()
        self._writer.roll_back()
        self._decoder = None
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.rollback()
        except BROKEN:
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
        device = messages[0].topic.split("/")
        device_id = device[2] if len(device) > 2 else None
        detail = f"could not be stored: {type(error).__name__}: {error}"[:500]
        refused = Refused(0, Reason.MALFORMED, detail, None, device_id)
        intake = Decoder(await load_directory(connection)).decode(messages, self._now_ms())
        await self._writer.quarantine_alone(connection, messages, refused, intake)
        self._metrics.messages.inc()
        self._metrics.quarantined.labels(Reason.MALFORMED.value).inc()
