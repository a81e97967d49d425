"""The pipeline without a broker: batches of messages straight into `commit`, against the real database."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipts import ReceiptBook
from gateway.ingest.source import Batch, Message, SourceClosedError
from gateway.runtime.metrics import GatewayMetrics
from tests.gateway.clinic import NOW_MS
from tests.gateway.wire import Outgoing


class ListSource:
    """A Source that gives the batches it was made with and remembers what was acknowledged."""

    def __init__(self, batches: Sequence[Sequence[Outgoing]]) -> None:
        self._batches = [Batch(messages_of(batch), 1) for batch in batches]
        self.acknowledged: list[Batch] = []

    async def batch(self) -> Batch:
        if not self._batches:
            raise SourceClosedError
        return self._batches.pop(0)

    def ack(self, batch: Batch) -> None:
        self.acknowledged.append(batch)


def messages_of(outgoing: Sequence[Outgoing]) -> list[Message]:
    return [Message(one.topic, one.payload, one.content_type, 1) for one in outgoing]


async def settle_all(database_url: str, batches: Sequence[Sequence[Outgoing]]) -> ListSource:
    """Run a pipeline of its own over the batches, as a gateway that was started anew would."""
    source = ListSource(batches)
    await Pipeline(PipelineSettings(database_url), source, ReceiptBook(), GatewayMetrics(), lambda: NOW_MS).run()
    assert len(source.acknowledged) == len(batches)
    return source


@asynccontextmanager
async def pipeline(
    database_url: str, book: ReceiptBook | None = None, now_ms: Callable[[], int] = lambda: NOW_MS
) -> AsyncIterator[Pipeline]:
    """A pipeline whose `commit` the test calls itself, at the time that `now_ms` says."""
    receipts = ReceiptBook() if book is None else book
    made = Pipeline(PipelineSettings(database_url), ListSource([]), receipts, GatewayMetrics(), now_ms)
    try:
        yield made
    finally:
        await made.run()  # the source is at its end: this closes the connection
