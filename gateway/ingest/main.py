"""The gateway process: lock, bridge, pipeline and receipts, started and stopped in a written order."""

import asyncio
import gc
import logging
from contextlib import suppress
from dataclasses import dataclass

from gateway.ingest.mqtt.bridge import Bridge, State
from gateway.ingest.mqtt.connection import RECEIVE_MAXIMUM
from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.ingest.standby import RETRY_S, ActiveLock, LockLostError, active_lock
from gateway.runtime.broker_address import Address
from gateway.runtime.metrics import GatewayMetrics
from gateway.runtime.process import cancelled, ended, told_to_stop
from gateway.store.errors import AWAY

log = logging.getLogger(__name__)

LONGEST_STOP_S = 10.0
LAST_RECEIPTS_S = 5.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the process needs to know."""

    database_url: str
    broker: Address
    receive_maximum: int = RECEIVE_MAXIMUM
    receipt_interval_s: float = 3.0
    retrospective_after_ms: int = 30 * 60_000
    contact_grace_ms: int = 120_000
    metrics_port: int = 0


async def run_gateway(settings: GatewaySettings) -> None:
    """Work until SIGTERM or SIGINT. Losing the database or the broker is survived; losing the lock starts over."""
    metrics = GatewayMetrics()
    with told_to_stop(metrics.registry, settings.metrics_port) as stop:
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        try:
            while not stop.is_set():
                await _work_until(stop, stopping, settings, metrics)
        finally:
            stopping.cancel()
    log.info("gateway stopped")


async def _work_until(
    stop: asyncio.Event, stopping: asyncio.Task[bool], settings: GatewaySettings, metrics: GatewayMetrics
) -> None:
    """Work until told to stop, or until the lock is lost; stand by no longer once told to stop."""
    active = asyncio.Event()
    working = asyncio.create_task(_hold_and_work(settings, metrics, active, stop), name="gateway")
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        await asyncio.wait({working}, timeout=LONGEST_STOP_S if active.is_set() else 0)
    await ended(working)


async def _hold_and_work(
    settings: GatewaySettings, metrics: GatewayMetrics, active: asyncio.Event, stop: asyncio.Event
) -> None:
    """Wait for the lock and work until told to stop; return early when the lock, or the database, is lost."""
    try:
        async with active_lock(settings.database_url) as lock:
            active.set()
            await _work(settings, metrics, lock, stop)
    except* (LockLostError, *AWAY) as lost:
        log.warning("lost the lock; starting over", extra={"cause": str(lost.exceptions[0]).strip()})
        await asyncio.sleep(RETRY_S)


def _collect_garbage_rarely() -> None:
    """Freeze long-lived objects and collect rarely: batches leave no cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


async def _work(settings: GatewaySettings, metrics: GatewayMetrics, lock: ActiveLock, stop: asyncio.Event) -> None:
    """Start: receipts from the store, then the pipeline, then the bridge. Stop: the other way round."""
    bridge = Bridge(
        settings.broker,
        receive_maximum=settings.receive_maximum,
        on_state=lambda state: metrics.connected.set(state is State.CONNECTED),
    )
    keeper = ReceiptKeeper(settings.database_url, bridge, metrics, settings.receipt_interval_s)
    book = await keeper.hydrate()
    _collect_garbage_rarely()
    pipeline = Pipeline(
        PipelineSettings(settings.database_url, settings.retrospective_after_ms, settings.contact_grace_ms),
        bridge,
        book,
        metrics,
    )
    try:
        async with asyncio.TaskGroup() as group:
            storing = group.create_task(pipeline.run(), name="pipeline")
            keeping = group.create_task(keeper.run(lambda: pipeline.journalled), name="receipts")
            watching = group.create_task(lock.watch(), name="lock")
            bridging = group.create_task(bridge.run(), name="bridge")
            log.info("gateway active")
            try:
                await stop.wait()
                bridge.stop()
                await storing
                await cancelled([keeping])
                if bridge.state is State.CONNECTED:
                    with suppress(TimeoutError):  # what is not told now is told after the next start
                        async with asyncio.timeout(LAST_RECEIPTS_S):
                            await keeper.flush(pipeline.journalled)
            finally:
                await cancelled([storing, keeping, watching, bridging])
    finally:
        await keeper.close()
