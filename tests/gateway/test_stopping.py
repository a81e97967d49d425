"""What runs ends when it is told to, also where Python swallows the first cancellation."""

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import gateway.worker.main
from gateway.ingest.main import GatewaySettings, run_gateway
from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.runtime import process
from gateway.runtime.broker_address import parse_url
from gateway.runtime.metrics import WorkerMetrics
from gateway.worker.main import Errand, Worker, WorkerSettings

NEVER_ASKED_AGAIN_S = 30.0


class Deaf:
    """Work that goes on after its first `swallows` cancellations, and says when it began."""

    def __init__(self, swallows: int = 1) -> None:
        self.began = asyncio.Event()
        self.left = swallows

    async def work(self, *_: Any) -> None:
        self.began.set()
        while True:
            try:
                await asyncio.sleep(NEVER_ASKED_AGAIN_S)
                raise AssertionError("nobody asked again")
            except asyncio.CancelledError:
                if not self.left:
                    raise
                self.left -= 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AGAIN_S", 0.01)


async def test_a_task_is_asked_until_it_ends() -> None:
    deaf = Deaf(swallows=3)
    task = asyncio.create_task(deaf.work())
    await deaf.began.wait()
    await process.ended(task)
    assert task.cancelled()
    assert deaf.left == 0


async def test_what_a_task_died_of_by_itself_is_raised() -> None:
    async def die() -> None:
        raise ValueError("by itself")

    task = asyncio.create_task(die())
    await asyncio.wait({task})
    with pytest.raises(ValueError, match="by itself"):
        await process.ended(task)


async def test_who_is_cancelled_while_they_cancel_stays_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AGAIN_S", 3600.0)
    deaf = Deaf(swallows=2)
    task = asyncio.create_task(deaf.work())
    await deaf.began.wait()
    stopping = asyncio.create_task(process.cancelled([task]))
    while deaf.left:
        await asyncio.sleep(0)
        stopping.cancel()
    await asyncio.wait({stopping})
    assert stopping.cancelled()
    assert task.cancelled()


async def test_a_worker_ends_although_an_errand_swallows_its_cancellation(
    database_url: str, mqtt_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = Deaf()
    monkeypatch.setattr(gateway.worker.main, "ERRANDS", (Errand("deaf", deaf.work),))
    worker = Worker(WorkerSettings(database_url, parse_url(mqtt_url)), WorkerMetrics())
    working = asyncio.create_task(worker.run())
    await deaf.began.wait()
    await process.ended(working)
    assert deaf.left == 0


@pytest.fixture
def garbage_collector() -> Iterator[None]:
    """Undo what a gateway does for its process; what it collects as it begins is not what other tests left behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture
async def deaf_receipts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deaf]:
    deaf = Deaf()
    monkeypatch.setattr(ReceiptKeeper, "run", deaf.work)
    yield deaf
    assert deaf.left == 0


@pytest.mark.usefixtures("garbage_collector")
async def test_a_gateway_ends_although_a_part_swallows_its_cancellation(
    deaf_receipts: Deaf, database_url: str, mqtt_url: str
) -> None:
    running = asyncio.create_task(run_gateway(GatewaySettings(database_url, parse_url(mqtt_url))))
    await deaf_receipts.began.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await running
