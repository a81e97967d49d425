"""Devices that a person uses now and then: when, with what clock, and what a body would show."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from bumble.att import ATT_INVALID_ATTRIBUTE_LENGTH_ERROR, ATT_Error
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import Code, Unit
from firmware_sim.ble.gatt_table import Properties, Read, characteristic, uuid
from firmware_sim.ble.packets import calendar_ms, current_time, date_time
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.truth import Measured
from firmware_sim.clock import WallMs
from firmware_sim.physiology.local_time import local_day, utc_ms
from firmware_sim.physiology.noise import DAY_MS, MINUTE_MS

OUT_OF_RANGE: Final = 0xFF


class ClockKind(StrEnum):
    """The characteristic by which a device's calendar can be read and set."""

    CURRENT_TIME = "current_time"
    """Current Time Service."""
    DATE_TIME = "date_time"
    """Date Time inside the device's own service, as in many cuffs, scales and meters."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Use:
    """When a person uses a device, and how the device exposes its time."""

    minutes: tuple[int, ...] = (8 * 60,)
    """Local minutes of the day."""
    scatter_minutes: float = 10.0
    clock: ClockKind = ClockKind.CURRENT_TIME
    advertises_for_s: float | None = None
    """How long it advertises after each use; None: always."""

    def between(self, seed: Sequence[int], zone: ZoneInfo, after: int, until: int) -> list[int]:
        """Return the times in `(after, until]` at which the device is used; a pure function."""
        times = []
        for day in range(local_day(after, zone) - 1, local_day(until, zone) + 2):
            for minute in self.minutes:
                rng = np.random.default_rng([*seed, 60, day, minute])
                scatter = float(np.clip(rng.standard_normal(), -3.0, 3.0)) * self.scatter_minutes
                times.append(utc_ms(day, minute, zone) + round(scatter * MINUTE_MS))
        return sorted(at for at in set(times) if after < at <= until)


class SpotTraits(Protocol):
    """Traits of a device that is used now and then."""

    @property
    def zone(self) -> ZoneInfo:
        """The wearer's zone."""

    @property
    def use(self) -> Use:
        """When the device is used."""


class SpotPeripheral(Peripheral):
    """Takes a measurement whenever its person does, or a test calls `use_now`; records are numbered from 1."""

    def __init__(self, plan: BlePlan, traits: SpotTraits, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the device out at `started_ms`."""
        super().__init__(plan, wall_ms, started_ms=started_ms)
        self._use = traits.use
        self._zone = traits.zone
        self._used = asyncio.Event()
        self._attention: asyncio.Task[None] | None = None

    @abstractmethod
    def take(self, at: int) -> None:
        """Store a measurement made at `at` (ticks)."""

    def use_now(self) -> None:
        """Use the device now."""
        self.catch_up()
        self.take(self.clock.ticks())
        self._used.set()
        self.wake()

    def measure(self, after: int, until: int) -> None:
        """Take a measurement for each use."""
        for at in self._use.between(self.plan.seed, self._zone, after, until):
            self.take(at)

    def next_due(self, after: int) -> int:
        """Return the next use."""
        uses = self._use.between(self.plan.seed, self._zone, after, after + 2 * DAY_MS)
        return uses[0] if uses else after + 2 * DAY_MS

    def record(self, at: int, values: Sequence[tuple[Code, Unit, float]], *packets: bytes) -> None:
        """Store a record under the next number, and remember what is in it."""
        key = self.memory.newest + 1
        self.memory.append(key, *packets)
        at_ms = self.clock.wall_of(at)
        self.truth += [Measured(key, at_ms, code, unit, value) for code, unit, value in values]

    # Advertising

    async def start(self, radio: VirtualRadio) -> None:
        """Go on the air: always, or only after each use."""
        await super().start(radio)
        if self._use.advertises_for_s is not None:
            await self.device.stop_advertising()
            self._attention = asyncio.create_task(self._attend(self._use.advertises_for_s), name=self.plan.id)

    async def stop(self) -> None:
        """Go off the air; the flash stays."""
        if self._attention is not None:
            self._attention.cancel()
            await asyncio.gather(self._attention, return_exceptions=True)
        await super().stop()

    async def _attend(self, seconds: float) -> None:
        while True:
            self._used.clear()
            due = self.clock.wall_of(self.next_due(self.clock.ticks()))
            try:
                async with asyncio.timeout(max(due - self._wall_ms() + 1, 1) / 1000):
                    await self._used.wait()
            except TimeoutError:
                self.catch_up()
            await self.advertise()
            await asyncio.sleep(seconds)
            while not self.idle.is_set():
                await self.idle.wait()
                await asyncio.sleep(seconds)
            await self.device.stop_advertising()

    # The calendar

    def displayed_ms(self) -> int:
        """Return the calendar as its person sees it."""
        return self.clock.now_ms()

    def clock_services(self) -> list[Service]:
        """Return a Current Time Service, if that is how the clock is read."""
        if self._use.clock is not ClockKind.CURRENT_TIME:
            return []
        return [Service(uuid(0x1805), [self._clock(0x2A2B, lambda: current_time(self.displayed_ms()), 10)])]

    def clock_characteristics(self) -> list[Characteristic[bytes]]:
        """Return a Date Time for the device's own service, if that is how the clock is read."""
        if self._use.clock is not ClockKind.DATE_TIME:
            return []
        return [self._clock(0x2A08, lambda: date_time(self.displayed_ms()), 7)]

    def _clock(self, number: int, read: Read, length: int) -> Characteristic[bytes]:
        def write(_connection: Connection, packet: bytes) -> None:
            if len(packet) != length:
                raise ATT_Error(ATT_INVALID_ATTRIBUTE_LENGTH_ERROR)
            try:
                wanted = calendar_ms(packet[:7])
            except ValueError:
                raise ATT_Error(OUT_OF_RANGE) from None
            self.catch_up()
            self.clock.jump(wanted - self.displayed_ms())

        both = Properties.READ | Properties.WRITE
        return characteristic(number, both, read=read, write=write, encrypted=self.plan.encrypted)


class ForwardingPeripheral(SpotPeripheral):
    """Keeps each measurement until a central has confirmed its indication; there is no record access."""

    indicated: Characteristic[bytes]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the measurement."""
        return [self.indicated]

    def begin_stream(self) -> None:
        """Send from the beginning: everything in the flash is still unconfirmed."""

    async def send_live(self, connection: Connection) -> None:
        """Indicate the records in the flash, the oldest first; confirmed ones are deleted."""
        for record in self.memory.between():
            await self.send(connection, self.indicated, record.packets[0])
            self.memory.delete([record])
