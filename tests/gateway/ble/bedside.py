"""A room with simulated devices, the real collector and the real spool, in time that tests move or let fly."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from devices.messages import EventItem, Series
from devices.roster import Roster, RosterDevice
from devices.vocabulary import DeviceModel, Topic
from firmware_sim.ble.backend import Central
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.peripherals import Peripherals, start_all
from firmware_sim.ble.plan import BlePlan, Traits
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.stories import MAKERS
from firmware_sim.ble.virtual_time import VirtualTimeLoop
from firmware_sim.scenarios import Start
from gateway.ble.collector import LINKS, Collector
from gateway.ble.link import Radio
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import Spool

NOW_MS = 1_795_000_000_000
"""A whole second, 19:06:40 in Shanghai."""
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
SHANGHAI = ZoneInfo("Asia/Shanghai")
START = Start(NOW_MS, 3, 1, "bed")
END_WITHIN_S = 60.0
T = TypeVar("T")


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function where nobody waits."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def plan(model: DeviceModel, traits: Traits | None = None, name: str = "bed", **fields: Any) -> BlePlan:
    """Return a healthy device that advertises once a second, as a battery wants it; an ordinary one without traits."""
    made = traits or MAKERS[model](SHANGHAI, START)
    one = BlePlan(f"{name}-{model.replace('_', '-')}", model, (1, 0), made, advertising_interval_ms=1000)
    return replace(one, **fields)


def roster_of(plans: Iterable[BlePlan]) -> Roster:
    """Return what the gateway would tell an edge box to which these devices are bound."""
    return Roster(tuple(RosterDevice(plan.id, plan.model, plan.address, str(plan.traits.zone)) for plan in plans))


@dataclass(slots=True)
class Told:
    """What was handed on of one device: samples by (code, time in ms), events by (type, time in ms)."""

    samples: dict[tuple[str, int], float | None] = field(default_factory=dict)
    flags: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    units: dict[tuple[str, int], str] = field(default_factory=dict)
    beats: list[tuple[float, float]] = field(default_factory=list)
    """Time of each beat and the interval before it, both in ms."""
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
            elif series.code == "rr_interval":
                self._beats(series)
            else:
                self._samples(series)

    def _beats(self, series: Series) -> None:
        assert isinstance(series.values, list)
        at_ms = float(series.at)
        for position, interval in enumerate(series.values):
            assert interval is not None
            at_ms += interval if position else 0
            self.beats.append((at_ms, interval))

    def _samples(self, series: Series) -> None:
        values = [series.value] if series.values is msgspec.UNSET else series.values
        assert isinstance(values, list)
        for position, value in enumerate(values):
            key = (series.code, series.at + position * series.period_ms)
            self.repeated += key in self.samples
            self.samples[key] = None if isinstance(value, msgspec.UnsetType) else value
            self.flags[key] = series.flags
            self.units[key] = series.unit


@dataclass(slots=True)
class Bedside:
    """The room; `now_ms` follows the loop's clock, from NOW_MS on."""

    radio: VirtualRadio
    central: Central
    ward: Peripherals
    now_ms: Callable[[], int]
    folder: Path
    roster: Roster
    links: int
    metrics: BleMetrics = field(default_factory=BleMetrics)
    spool: Spool = field(init=False)
    spool_path: Path = field(init=False)
    collector: Collector = field(init=False)
    _lives: int = 0
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

    async def kill(self) -> None:
        """Have the process die and a new one begin: what lay on disk is there, everything else is gone.

        The spool's files are copied as they are at this moment; what the old collector does at its end nobody sees.
        """
        self._lives += 1
        path = self.folder / f"spool-{self._lives}.db"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{self.spool_path}{suffix}", f"{path}{suffix}")
        self.radio.devices[0].controller.drop_links()  # the adapter's own
        await self.leave()
        self.spool.close()
        self.open(path)

    async def restart(self, links: int) -> None:
        """Have the process end in order and a new one begin."""
        await self.leave()
        self.spool.close()
        self.links = links
        self.open(self.spool_path)
        self.arrive()

    def open(self, path: Path) -> None:
        """Begin with a spool file and a new collector."""
        self.spool_path = path
        self.spool = Spool(path)
        radio = Radio(self.central.scanner_backend, self.central.client_backend)
        loop = asyncio.get_running_loop()
        self.collector = Collector(
            radio, self.spool, self.metrics, self.now_ms, lambda: round(loop.time() * 1000), self.links
        )
        self.collector._chance = random.Random(self._lives)
        self.collector.set_roster(self.roster)

    async def until(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Let time pass until the condition holds."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is waited for is in the simulation and tells nobody
                await asyncio.sleep(0.5)

    def told(self, device_id: str) -> Told:
        """Return everything the spool was given for a device so far; the spool must not have freed it unseen."""
        while waiting := self.spool.waiting(1_000, self._read_to):
            for message in waiting:
                self._told.setdefault(message.device, Told()).add(message.body.topic, message.body.items)
                self._read_to = message.seq
        return self._told.setdefault(device_id, Told())

    def receipt(self, part: float = 1.0) -> None:
        """Receipt what was told so far, as the gateway would, or a part of what still waits for that."""
        self.told("")
        self.spool.begin_sending()
        first = self.spool.oldest
        self.spool.receipt(first + round(part * (self._read_to - first)))


@asynccontextmanager
async def bedside(
    folder: Path,
    plans: Iterable[BlePlan],
    *,
    strangers: Iterable[BlePlan] = (),
    absent_ms: int = 8 * HOUR_MS,
    shift_ms: int = 0,
    links: int = LINKS,
) -> AsyncIterator[Bedside]:
    """Give a room whose devices have been measuring for `absent_ms` with nobody there; strangers are on no roster.

    `shift_ms`: so long before NOW_MS.
    """
    plans = list(plans)
    loop = asyncio.get_running_loop()
    began = loop.time()

    def now_ms() -> int:
        return NOW_MS - shift_ms + round((loop.time() - began) * 1000)

    radio = VirtualRadio()
    central = await radio.central("edge")
    ward = await start_all(radio, [*plans, *strangers], now_ms, started_ms=now_ms() - absent_ms)
    room = Bedside(radio, central, ward, now_ms, folder, roster_of(plans), links)
    room.open(folder / "spool.db")
    try:
        yield room
    finally:
        async with asyncio.timeout(END_WITHIN_S):
            await room.leave()
            room.spool.close()
            await radio.close()
