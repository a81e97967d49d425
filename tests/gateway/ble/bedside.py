"""A room with simulated devices, the real collector and the real spool, in time that tests move or let fly."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from devices.messages import EventItem, Series
from devices.roster import Roster, RosterDevice
from devices.vocabulary import Topic
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.virtual_time import VirtualTimeLoop
from firmware_sim.ble.ward import Ward, start_all
from gateway.ble.collector import LINKS, Collector
from gateway.ble.link import Radio
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import Spool

NOW_MS = 1_795_000_000_000
HOUR_MS = 3_600_000
T = TypeVar("T")


def in_virtual_time(main: Callable[[], "asyncio.Future[T] | object"]) -> None:
    """Run a coroutine function where nobody waits."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())  # type: ignore[arg-type]


def roster_of(plans: Iterable[BlePlan]) -> Roster:
    """Return what the gateway would tell an edge box to which these devices are bound."""
    return Roster(tuple(RosterDevice(plan.id, plan.model, plan.address, str(plan.traits.zone)) for plan in plans))


@dataclass(slots=True)
class Told:
    """What was handed on of one device: samples by (code, time in ms), events by (type, time in ms)."""

    samples: dict[tuple[str, int], float | None] = field(default_factory=dict)
    flags: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    events: list[EventItem] = field(default_factory=list)
    repeated: int = 0
    packets: int = 0

    def add(self, topic: Topic, items: bytes) -> None:
        if topic is Topic.EVENT:
            self.events += msgspec.json.decode(items, type=list[EventItem])
            return
        for series in msgspec.json.decode(items, type=list[Series]):
            if series.code == "gatt_packet":
                self.packets += 1
            elif series.code != "rr_interval":
                self._samples(series)

    def _samples(self, series: Series) -> None:
        values = [series.value] if series.values is msgspec.UNSET else series.values
        assert isinstance(values, list)
        for position, value in enumerate(values):
            key = (series.code, series.at + position * series.period_ms)
            self.repeated += key in self.samples
            self.samples[key] = None if isinstance(value, msgspec.UnsetType) else value
            self.flags[key] = series.flags


@dataclass(slots=True)
class Bedside:
    """The room; `now_ms` follows the loop's clock, from NOW_MS on."""

    radio: VirtualRadio
    ward: Ward
    spool: Spool
    collector: Collector
    metrics: BleMetrics
    now_ms: Callable[[], int]
    _running: asyncio.Task[None] | None = None
    _told: dict[str, Told] = field(default_factory=dict)
    _read_to: int = 0

    def device(self, device_id: str) -> Peripheral:
        return self.ward[device_id]

    def arrive(self) -> None:
        """Let the collector work."""
        self._running = asyncio.create_task(self.collector.run(), name="collector")

    async def leave(self) -> None:
        """End the collector in order."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
            self._running = None

    async def until(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Let time pass until the condition holds."""
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.5)

    def told(self, device_id: str) -> Told:
        """Return everything the spool was given for a device so far; the spool must not have freed it unseen."""
        while waiting := self.spool.waiting(1_000, self._read_to):
            for message in waiting:
                self._told.setdefault(message.device, Told()).add(message.body.topic, message.body.items)
                self._read_to = message.seq
        return self._told.setdefault(device_id, Told())

    def receipt(self) -> None:
        """Receipt everything that was told so far, as the gateway would."""
        self.told("")
        self.spool.sending(self._read_to)
        self.spool.receipt(self._read_to)


@asynccontextmanager
async def bedside(
    folder: Path, plans: Iterable[BlePlan], *, absent_ms: int = 8 * HOUR_MS, links: int = LINKS
) -> AsyncIterator[Bedside]:
    """Give a room whose devices have been measuring for `absent_ms` with nobody there."""
    plans = list(plans)
    loop = asyncio.get_running_loop()
    began = loop.time()

    def now_ms() -> int:
        return NOW_MS + round((loop.time() - began) * 1000)

    radio = VirtualRadio()
    central = await radio.central("edge")
    ward = await start_all(radio, plans, now_ms, started_ms=NOW_MS - absent_ms)
    metrics = BleMetrics()
    with Spool(folder / "spool.db") as spool:
        radios = Radio(central.scanner_backend, central.client_backend)
        collector = Collector(radios, spool, metrics, now_ms, lambda: round(loop.time() * 1000), links)
        collector.set_roster(roster_of(plans))
        room = Bedside(radio, ward, spool, collector, metrics, now_ms)
        try:
            yield room
        finally:
            await room.leave()
            await radio.close()
