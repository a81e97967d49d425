"""The edge program: starts and stops spool, uplink and collector in a fixed order."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devices.vocabulary import EventType
from gateway.ble.collector import LINKS, Collector
from gateway.ble.findings import Happening
from gateway.ble.link import Radio
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import MAX_BYTES, Command, Spool, SpoolFullError
from gateway.ble.uplink import Uplink, clock_is_set
from gateway.runtime import clock
from gateway.runtime.broker_address import Address
from gateway.runtime.process import ended, told_to_stop

LOOK_S: Final = 0.05
CLOCK_LOOK_S: Final = 1.0
LAST_WORDS_S: Final = 5.0
"""At the end, how long the last spooled messages may still take to go out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BleRunSettings:
    """The settings of the program."""

    edge_id: str
    broker: Address
    spool_path: Path
    spool_bytes: int = MAX_BYTES
    links: int = LINKS
    metrics_port: int = 0


async def run_ble(settings: BleRunSettings, radio: Radio) -> None:
    """Read devices and deliver their data until SIGTERM or SIGINT.

    Raises SpoolError when the spool cannot be used. The broker and the radio may come and go.
    """
    metrics = BleMetrics()
    with told_to_stop(metrics.registry, settings.metrics_port) as stop:
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        try:
            if await _clock_set(stop):
                with Spool(settings.spool_path, max_bytes=settings.spool_bytes) as spool:
                    await _work(settings, radio, spool, metrics, stopping)
        finally:
            stopping.cancel()
    log.info("edge box stopped")


async def _clock_set(stop: asyncio.Event) -> bool:
    """Wait until this box knows the time, because earlier stamps would be refused. False when told to stop first."""
    said = False
    while not clock_is_set(clock.now_ms()) and not stop.is_set():
        if not said:
            log.error("the clock of this box is not set; waiting for it", extra={"clock_ms": clock.now_ms()})
        said = True
        await asyncio.sleep(CLOCK_LOOK_S)
    return not stop.is_set()


async def _work(
    settings: BleRunSettings, radio: Radio, spool: Spool, metrics: BleMetrics, stopping: asyncio.Task[bool]
) -> None:
    """Start the uplink, then the collector. Stop in reverse order, so that what visits leave behind still goes out."""
    collector = Collector(radio, spool, metrics, clock.now_ms, lambda: round(clock.monotonic() * 1000), settings.links)

    def on_command(command: Command) -> None:
        if not collector.hurry(command.device, command.type):
            # Answer it all the same, so that whoever sent it is not left waiting.
            with suppress(SpoolFullError):
                spool.keep(command.device, [Happening(EventType.COMMAND_DONE, clock.now_ms(), id=command.id, ok=False)])
            spool.finish_command(command.id)

    uplink = Uplink(settings.broker, settings.edge_id, spool, clock.now_ms, on_command, collector.set_roster)
    metrics.watch(lambda: len(spool), lambda: uplink.connected)
    handing_on = asyncio.create_task(uplink.run(), name="uplink")
    collecting = asyncio.create_task(collector.run(), name="collector")
    log.info("edge box active", extra={"edge": settings.edge_id, "spooled": len(spool)})
    try:
        try:
            await asyncio.wait({handing_on, collecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(collecting)
        with suppress(TimeoutError):  # the remainder goes out after the next start
            async with asyncio.timeout(LAST_WORDS_S if uplink.connected else 0):
                while not (uplink.idle or handing_on.done()):  # noqa: ASYNC110 - a few looks, once
                    await asyncio.sleep(LOOK_S)
    finally:
        await ended(handing_on)
