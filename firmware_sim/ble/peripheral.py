"""The base of every simulated Bluetooth device: clock, flash, advertising, one connection, faults, the truth."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
from bumble.core import UUID
from bumble.device import Connection, Device
from bumble.gatt import Characteristic, Service
from bumble.pairing import PairingConfig, PairingDelegate

from devices.vocabulary import DeviceModel
from firmware_sim.ble.device_clock import Calendar
from firmware_sim.ble.gatt_table import (
    Properties,
    advertisement,
    characteristic,
    information_service,
    scan_response,
    uuid,
)
from firmware_sim.ble.memory import Memory
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.racp import RecordAccess
from firmware_sim.ble.radio import RadioDevice, VirtualRadio
from firmware_sim.ble.truth import Truth
from firmware_sim.clock import WallMs

log = logging.getLogger(__name__)

NOTIFY, INDICATE = 0x01, 0x02
"""Bits of a CCCD."""


class Unconfirmed(Exception):
    """The link was lost before the central had confirmed an indication."""


class Peripheral(ABC):
    """One device. Its flash has everything it should have measured since `started_ms`, even if nobody listened.

    It measures when somebody looks (`catch_up`); only a subscribed stream has a timer. With a wall clock that stands
    still until a test moves it, call `tick` after moving it.
    """

    model: ClassVar[DeviceModel]
    advertised: ClassVar[tuple[UUID, ...]]
    local_calendar: ClassVar[bool] = True
    """Whether its calendar shows local time (of the wearer's zone at the start, without saying so) or UTC."""

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Switch the device on; it has been running since `started_ms` (true time), by default since now."""
        self.plan = plan
        self.faults = replace(plan.faults)
        self.truth: list[Truth] = []
        self.defects: list[BaseException] = []
        """Errors in the simulator itself; if there are any, a test fails."""
        self.memory = Memory(plan.capacity)
        self.rng = np.random.default_rng([*plan.seed, 90])
        self.started_ticks = wall_ms() if started_ms is None else started_ms
        """Quartz and true time agree at this moment."""
        self.clock = Calendar(
            wall_ms,
            started_ms=self.started_ticks,
            drift_ppm=plan.drift_ppm,
            shift_ms=plan.clock_error_ms + (self.zone_offset_ms(self.started_ticks) if self.local_calendar else 0),
        )
        self.idle = asyncio.Event()
        """Set while no central is connected."""
        self.idle.set()
        self._wall_ms = wall_ms
        self._measured_to = self.started_ticks
        self._device: RadioDevice | None = None
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        level = Properties.READ | Properties.NOTIFY
        self._battery = characteristic(0x2A19, level, read=lambda: bytes([self.battery()]), encrypted=plan.encrypted)
        self._charge: int | None = None

    # For subclasses

    @abstractmethod
    def services(self) -> Sequence[Service]:
        """Return the services besides battery and device information; called once."""

    @abstractmethod
    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the characteristics whose subscription starts a stream."""

    @abstractmethod
    def measure(self, after: int, until: int) -> None:
        """Store the measurements of `(after, until]`, in ticks. Intervals ascend and do not overlap."""

    @abstractmethod
    def next_due(self, after: int) -> int:
        """Return the ticks of the next measurement later than `after`."""

    def next_look(self, after: int) -> int:
        """Return the ticks at which a stream next has something to send; for most devices the next measurement."""
        return self.next_due(after)

    @abstractmethod
    async def send_live(self, connection: Connection) -> None:
        """Send a subscriber everything since the last call."""

    @abstractmethod
    def begin_stream(self) -> None:
        """Note that somebody has just subscribed: everything from now on is live."""

    def access(self) -> RecordAccess | None:
        """Return the control point, if the device has one."""
        return None

    def battery(self) -> int:
        """Return the charge in %."""
        return 87

    # On the air

    async def start(self, radio: VirtualRadio) -> None:
        """Power the radio on and advertise, now and after each connection."""
        services = [
            *self.services(),
            Service(uuid(0x180F), [self._battery]),
            information_service(model=self.model, serial=self.plan.id, firmware=self.plan.firmware),
        ]
        self._device = await radio.device(
            self.plan.id,
            self.plan.address,
            services=services,
            encrypted=self.plan.encrypted,
            advertising_interval_ms=self.plan.advertising_interval_ms,
        )
        self._device.pairing_config_factory = lambda _: PairingConfig(delegate=_Bonding(self))
        self._device.on(Device.EVENT_CONNECTION, self._on_connection)
        for streamed in self.live():
            streamed.on(Characteristic.EVENT_SUBSCRIPTION, self._on_subscription)
        await self.advertise()

    async def stop(self) -> None:
        """Go off the air; the flash stays."""
        self.lose_link()
        await self._end_tasks()
        await self.device.stop_advertising()

    @property
    def device(self) -> RadioDevice:
        """The host and controller on the radio; RuntimeError before `start`."""
        if self._device is None:
            raise RuntimeError(f"{self.plan.id} has not been started")
        return self._device

    async def advertise(self) -> None:
        """Advertise, now and after each connection."""
        await self.device.start_advertising(
            advertising_data=advertisement(self.advertised),
            scan_response_data=scan_response(self.plan.id[:29]),
            auto_restart=True,
        )

    def _on_connection(self, connection: Connection) -> None:
        self._connection = connection
        self.idle.clear()
        connection.on(Connection.EVENT_DISCONNECTION, self._on_disconnection)
        self.device.controller.muted = self.faults.silent

    def _on_disconnection(self, _reason: int) -> None:
        self._connection = None
        self.idle.set()
        self.device.controller.muted = False
        for task in self._tasks:
            task.cancel()

    # Measuring and sending

    def catch_up(self) -> None:
        """Measure everything that was due by now."""
        now = self.clock.ticks()
        if now > self._measured_to:
            self.measure(self._measured_to, now)
            self._measured_to = now

    async def tick(self) -> None:
        """Measure what is due and send it to a subscriber."""
        self.catch_up()
        async with self._sending:
            connection, access = self._connection, self.access()
            if connection is not None and not (access and access.busy):
                with suppress(Unconfirmed):
                    await self.send_live(connection)
                    await self._send_charge(connection)

    async def _send_charge(self, connection: Connection) -> None:
        """Notify the battery level when it has changed."""
        charge = self.battery()
        if charge != self._charge and self.subscribed(connection, self._battery):
            self._charge = charge
            await self.device.notify_subscriber(connection, self._battery, bytes([charge]))

    def wake(self) -> None:
        """Have a stream check at once whether there is something to send."""
        self._wake.set()

    def _on_subscription(self, connection: Connection, notify: bool, indicate: bool) -> None:  # noqa: FBT001
        if self._stream is not None:
            self._stream.cancel()
        self._stream = None
        if notify or indicate or any(self.subscribed(connection, one) for one in self.live()):
            self.catch_up()
            self.begin_stream()
            self._stream = self.spawn(self._stream_on())

    async def _stream_on(self) -> None:
        while True:
            self._wake.clear()
            await self.tick()
            due = self.clock.wall_of(self.next_look(self.clock.ticks()))
            try:
                async with asyncio.timeout(max(due - self._wall_ms() + 1, 1) / 1000):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def subscribed(self, connection: Connection, characteristic: Characteristic[bytes]) -> bool:
        """Return whether the connection has subscribed to this characteristic."""
        bit = NOTIFY if characteristic.properties & Properties.NOTIFY else INDICATE
        cccds = self.device.gatt_server.subscribers.get(connection, {})
        return bool(cccds.get(characteristic.handle, b"\0")[0] & bit)

    async def send(self, connection: Connection, characteristic: Characteristic[bytes], packet: bytes) -> None:
        """Notify or indicate a measurement, corrupted if the faults say so; an indication returns once confirmed."""
        packet = self.faults.spoil(packet, self.rng)
        if characteristic.properties & Properties.NOTIFY:
            await self.device.notify_subscriber(connection, characteristic, packet)
        else:
            await self.indicate(connection, characteristic, packet)

    async def indicate(self, connection: Connection, characteristic: Characteristic[bytes], value: bytes) -> None:
        """Indicate and wait for the confirmation; Unconfirmed if the link is lost first.

        A central that never confirms is disconnected (Core Specification, volume 3, part F, 3.3.3).
        """
        confirmed = asyncio.ensure_future(self.device.indicate_subscriber(connection, characteristic, value))
        gone = asyncio.ensure_future(self.idle.wait())
        try:
            done, _ = await asyncio.wait({confirmed, gone}, return_when=asyncio.FIRST_COMPLETED)
            if confirmed not in done:
                raise Unconfirmed
            confirmed.result()
        except TimeoutError:
            self.lose_link()
            raise Unconfirmed from None
        finally:
            confirmed.cancel()
            gone.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something while the link lasts."""
        task = asyncio.create_task(work, name=self.plan.id)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unconfirmed):
            self.defects.append(error)
            log.error("defect of the simulated %s %s", self.plan.model, self.plan.id, exc_info=error)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Momentary faults; lasting ones are in `faults`

    def lose_link(self) -> None:
        """End the connection as a lost signal does, at both ends."""
        if self._device is not None:
            self._device.controller.drop_links()

    def reboot(self) -> None:
        """Lose the link and everything that is not in flash."""
        self.lose_link()

    def lose_power(self) -> None:
        """Reboot, and begin the calendar at 2000-01-01 unless it has a battery of its own."""
        self.catch_up()
        if not self.plan.keeps_clock:
            self.clock.lose()
        self.reboot()

    def jump_clock(self, by_ms: int) -> None:
        """Move the calendar; earlier measurements keep their stamps."""
        self.catch_up()
        self.clock.jump(by_ms)

    async def forget_bonds(self) -> None:
        """Delete every central's keys."""
        keystore: Any = self.device.keystore
        await keystore.delete_all()

    def zone_offset_ms(self, at_ms: int) -> int:
        """Return how far the wearer's local time is ahead of UTC at a true time."""
        local = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(self.plan.traits.zone)
        return (local.utcoffset() or timedelta()) // timedelta(milliseconds=1)


class _Bonding(PairingDelegate):
    """Pairs with anybody, without input or output, unless the device refuses."""

    def __init__(self, peripheral: Peripheral) -> None:
        super().__init__()
        self._peripheral = peripheral

    async def accept(self) -> bool:
        """Decide as the faults say."""
        return not self._peripheral.faults.refuses_bonding
