"""Thousands of devices in one process: one scheduler for measuring, one MQTT connection each."""

import asyncio
import gc
import heapq
import math
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from firmware_sim.broker import Broker
from firmware_sim.clock import WallMs
from firmware_sim.device import Device
from firmware_sim.link import Air, Link
from firmware_sim.meter import Meter, Summary
from firmware_sim.plan import DevicePlan

SPARE_DESCRIPTORS = 64
BACKLOG_OF_A_FLEET = 20_000
"""Messages of history that a whole fleet may have waiting for receipts; divided among its devices."""
PROGRESS_EVERY_S = 0.5
CONNECTIONS_A_FREEZE = 250
SLICE_MS = 5
"""After measuring for this long, the connections get their turn."""
RECEIPT_STEP_S = 0.1
RECEIPT_WAIT_S = 6.0
"""At the end: how long to wait for one more receipt; a gateway sends one every few seconds."""


class TooManyDevices(Exception):
    """The system does not allow as many connections as there are devices."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The settings of a whole fleet."""

    history_from_ms: int
    """True time at which the devices began to measure."""
    speed: float = math.inf
    """History seconds sent per real second until now is reached; inf: as fast as receipts allow."""
    window: int = 8
    """Messages of one device without a PUBACK."""
    flash: int = 2_880
    """Messages one device can hold: two days at one a minute."""
    connects: int = 64
    """Connections being made at once."""
    connects_per_s: float = 400.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a running fleet."""

    devices: int
    connected: int
    history: float
    """0 … 1 of the history has reached flash."""
    live: int
    """Devices that have sent their history and measure in real time."""
    messages: int
    readings: int
    waiting: int
    """Messages no receipt has named yet."""


class Fleet:
    """Runs devices until told to stop; `caught_up` is set once all are live and all their history is receipted."""

    def __init__(
        self,
        plans: Sequence[DevicePlan],
        secrets: Mapping[str, str],
        broker: Broker,
        settings: FleetSettings,
        wall_ms: WallMs,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """Create the devices; `secrets` has each one's password. Call inside a running event loop."""
        self.caught_up = asyncio.Event()
        self.meter = Meter()
        self._settings = settings
        self._wall_ms = wall_ms
        self._started_ms = wall_ms()
        self._on_progress = on_progress
        self._connect_seconds = math.nan
        self._freeze_at = CONNECTIONS_A_FREEZE
        self._history_done = asyncio.Event()
        self._stopped = asyncio.Event()
        self._due: list[tuple[int, int]] = []
        self._next_due: dict[int, int] = {}
        self._earlier = asyncio.Event()
        air = Air(broker, wall_ms, self.meter, asyncio.Semaphore(settings.connects), settings.window, self._reschedule)
        self._devices = [
            Device(
                plan, wall_ms, history_from_ms=settings.history_from_ms, flash=settings.flash, window=settings.window
            )
            for plan in plans
        ]
        self._links = [Link(device, secrets[device.plan.id], air) for device in self._devices]
        self._index = {device.plan.id: index for index, device in enumerate(self._devices)}

    def stop(self) -> None:
        """Have `run` end, whether or not all history has been sent."""
        self._history_done.set()
        self._stopped.set()

    async def run(self, seconds: float | None = None) -> Summary:
        """Run for `seconds` of real time after the history (None: until `stop`), await receipts, and sum up.

        TooManyDevices: the descriptor limit is too low and cannot be raised.
        """
        raise_descriptor_limit(len(self._devices) + SPARE_DESCRIPTORS)
        measuring = asyncio.create_task(self._measure(), name="measure")
        links = asyncio.create_task(self._run_links(), name="links")
        watching = asyncio.create_task(self._watch(), name="watch")
        timer = asyncio.create_task(self._stop_after(seconds), name="timer")
        tasks = (measuring, links, watching, timer)
        try:
            # Only the timer ends by itself; any other task that ends has a defect, and raises it here.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            measuring.cancel()
            await self._await_receipts()
            self._look()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.summary()

    def progress(self) -> Progress:
        """Return how far the fleet is."""
        elapsed = max(self._wall_ms() - self._settings.history_from_ms, 1)
        done = sum(min(device.history_ms / elapsed, 1.0) if not device.live else 1.0 for device in self._devices)
        return Progress(
            devices=len(self._devices),
            connected=sum(link.connected for link in self._links),
            history=done / max(len(self._devices), 1),
            live=sum(device.live for device in self._devices),
            messages=self.meter.messages,
            readings=self.meter.readings,
            waiting=sum(len(device.flash) for device in self._devices),
        )

    def summary(self) -> Summary:
        """Return the totals so far."""
        meter = self.meter
        late = np.array(meter.lateness_ms) if meter.lateness_ms else np.array([math.nan])
        return Summary(
            devices=len(self._devices),
            messages=meter.messages,
            readings=meter.readings,
            resends=meter.resends,
            duplicates=meter.duplicates,
            connects=meter.connects,
            disconnects=meter.disconnects,
            refusals=meter.refusals,
            commands=meter.commands,
            overwritten=sum(device.flash.overwritten for device in self._devices),
            unreceipted=sum(len(device.flash) for device in self._devices),
            connect_seconds=self._connect_seconds,
            lateness_p50_ms=float(np.percentile(late, 50)),
            lateness_p99_ms=float(np.percentile(late, 99)),
        )

    async def _measure(self) -> None:
        """Call each device when it is due; the earliest first."""
        now = self._wall_ms()
        for index in range(len(self._devices)):
            self._schedule(index, now)
        backlog = min(max(BACKLOG_OF_A_FLEET // max(len(self._devices), 1), 8), self._settings.flash // 2)
        resumed = now
        while self._due:
            due, index = self._due[0]
            wait_ms = due - self._wall_ms()
            if wait_ms > 0:
                self._earlier.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._earlier.wait(), wait_ms / 1000)
                resumed = self._wall_ms()
                continue
            heapq.heappop(self._due)
            if self._next_due[index] != due:
                continue  # it has been rescheduled meanwhile
            device = self._devices[index]
            before = device.flash.next_seq
            self._schedule(index, device.advance(self._horizon_ms(), backlog=backlog))
            if device.flash.next_seq > before:
                self._links[index].wake()
            if self._wall_ms() - resumed >= SLICE_MS:
                await asyncio.sleep(0)
                resumed = self._wall_ms()

    def _schedule(self, index: int, due_ms: int) -> None:
        self._next_due[index] = due_ms
        heapq.heappush(self._due, (due_ms, index))

    def _horizon_ms(self) -> int:
        """Return the true time up to which history may have been sent by now."""
        now = self._wall_ms()
        if math.isinf(self._settings.speed):
            return now
        return min(now, self._settings.history_from_ms + round((now - self._started_ms) * self._settings.speed))

    def _reschedule(self, device: Device) -> None:
        self._schedule(self._index[device.plan.id], self._wall_ms())
        self._earlier.set()

    async def _run_links(self) -> None:
        """Connect one after the other at a bearable rate, then keep all connections."""
        async with asyncio.TaskGroup() as tasks:
            for link in self._links:
                tasks.create_task(link.run(), name=f"link {link.device.plan.id}")
                await asyncio.sleep(1.0 / self._settings.connects_per_s)

    async def _watch(self) -> None:
        """Report progress, and notice milestones."""
        while True:
            self._look()
            await asyncio.sleep(PROGRESS_EVERY_S)

    def _look(self) -> None:
        progress = self.progress()
        if math.isnan(self._connect_seconds) and all(link.ever_connected for link in self._links):
            self._connect_seconds = (self._wall_ms() - self._started_ms) / 1000
            self._freeze_at = self.meter.connects
        if progress.live == progress.devices:
            self._history_done.set()
            if all(device.history_receipted for device in self._devices):
                self.caught_up.set()
        if self.meter.connects >= self._freeze_at:
            # Freeze long-lived objects: thousands of connections are some million of them, and walking them at every
            # collection takes half of the processor and stops everything for a second each time.
            gc.freeze()
            self._freeze_at = self.meter.connects + CONNECTIONS_A_FREEZE
        self._on_progress(progress)

    async def _stop_after(self, seconds: float | None) -> None:
        """End once stopped, or `seconds` after the whole history has been sent."""
        if seconds is not None:
            await self._history_done.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _await_receipts(self) -> None:
        """Wait for the receipts of sent messages, as long as they keep coming. Nothing new is measured."""
        least, still_s = math.inf, 0.0
        while still_s < RECEIPT_WAIT_S and (waiting := sum(len(device.flash) for device in self._devices)):
            still_s = still_s + RECEIPT_STEP_S if waiting >= least else 0.0
            least = min(least, waiting)
            await asyncio.sleep(RECEIPT_STEP_S)


def raise_descriptor_limit(wanted: int) -> None:
    """Raise this process's soft limit on open files to `wanted`; TooManyDevices if the hard limit is below."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise TooManyDevices(
                f"{wanted} open files are needed and {hard} are allowed: raise the hard limit (ulimit -Hn {wanted}) "
                f"or simulate fewer devices"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
