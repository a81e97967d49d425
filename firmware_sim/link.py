"""A device's radio: one MQTT connection, kept up, with the device's delivery rules on it."""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from aiomqtt import Client, Message, MqttError, Will

from devices.vocabulary import Topic, topic
from firmware_sim.broker import Broker
from firmware_sim.clock import WallMs
from firmware_sim.device import Device
from firmware_sim.flash import Record
from firmware_sim.meter import Meter

FIRST_RETRY_S = 1.0
MAX_DOUBLINGS = 6
RETAINED_RECEIPT_S = 1.0
"""How long to wait for a retained receipt before concluding that there is none."""
FIRST_PROBE_S = 60.0
LONGEST_PROBE_S = 3600.0
FAREWELL_S = 2.0


@dataclass(frozen=True, slots=True)
class Air:
    """Shared by all links of a fleet."""

    broker: Broker
    wall_ms: WallMs
    meter: Meter
    gate: asyncio.Semaphore
    """Limits how many connections are being made at once."""
    window: int
    reschedule: Callable[[Device], None]
    """Called when something other than time gave the device work."""


class Link:
    """Connects, subscribes, reads the retained receipt, resends everything after it, then sends new messages."""

    def __init__(self, device: Device, secret: str, air: Air) -> None:
        """Nothing is connected before `run`."""
        self.device = device
        self.connected = False
        self.ever_connected = False
        self._secret = secret
        self._air = air
        self._wake = asyncio.Event()
        self._receipt_known = asyncio.Event()
        self._random = random.Random(device.plan.id)
        self._probe_s = FIRST_PROBE_S
        self._probe_at = 0.0
        self._ready_ms = 0

    def wake(self) -> None:
        """Say that there may be something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Keep the connection until cancelled. Retries with full jitter: a fleet must not come back in step."""
        attempt = 0
        while True:
            await self._until_signal()
            try:
                await self._connection()
            except* MqttError:
                self._air.meter.refusals += not self.connected
            attempt = 0 if self.connected else min(attempt + 1, MAX_DOUBLINGS)
            self.connected = False
            await asyncio.sleep(self._random.uniform(0.0, FIRST_RETRY_S * 2.0**attempt))

    async def _connection(self) -> None:
        """Make one connection and use it until it breaks (MqttError, alone or in a group)."""
        device, air = self.device, self._air
        client = air.broker.client(
            identifier=device.plan.id,
            username=device.plan.id,
            password=self._secret,
            will=Will(self._topic(Topic.STATUS), device.encoder.plain({"online": False}), qos=1, retain=True),
            window=air.window,
        )
        async with AsyncExitStack() as stack:
            async with air.gate:
                await stack.enter_async_context(client)
            self.connected = self.ever_connected = True
            air.meter.connects += 1
            try:
                await self._session(client)
            except asyncio.CancelledError:
                await self._farewell(client)
                raise
            finally:
                air.meter.disconnects += 1

    async def _session(self, client: Client) -> None:
        """Announce the device, then listen and send."""
        self.device.uplink.connect()
        self._receipt_known.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(client), name=f"listen {self.device.plan.id}")
            await client.subscribe([(self._topic(Topic.RECEIPT), 1), (self._topic(Topic.COMMAND), 1)])
            tasks.create_task(self._report_status(client), name=f"status {self.device.plan.id}")
            if self.device.plan.coverage is not None:
                tasks.create_task(self._lose_signal(client), name=f"signal {self.device.plan.id}")
            with suppress(TimeoutError):
                async with asyncio.timeout(RETAINED_RECEIPT_S):
                    await self._receipt_known.wait()
            self.device.uplink.start()
            self._ready_ms = self._air.wall_ms()
            await self._pump(client, tasks)

    async def _pump(self, client: Client, tasks: asyncio.TaskGroup) -> None:
        """Send what the uplink gives; when it gives nothing, wait for a PUBACK, a receipt or a measurement."""
        self._count_from_now()
        while True:
            self._wake.clear()
            while (record := self.device.uplink.take()) is not None:
                tasks.create_task(self._send(client, record))
            try:
                async with asyncio.timeout_at(self._probe_at):
                    await self._wake.wait()
            except TimeoutError:
                self._count_from_now(min(2 * self._probe_s, LONGEST_PROBE_S))
                if (lowest := self.device.uplink.probe()) is not None:
                    tasks.create_task(self._send(client, lowest))

    def _count_from_now(self, seconds: float = FIRST_PROBE_S) -> None:
        """Probe if no receipt frees anything within `seconds` from now."""
        self._probe_s = seconds
        self._probe_at = asyncio.get_running_loop().time() + seconds

    async def _send(self, client: Client, record: Record) -> None:
        """Publish one message and wait for its PUBACK; occasionally repeat it byte for byte."""
        device, meter = self.device, self._air.meter
        payload = device.payload(record)
        if device.first_time(record):
            meter.messages += 1
            meter.readings += record.readings
            if record.seq == device.flash.oldest:
                self._count_from_now()
            due_ms = device.clock.wall_of(record.due_ms)
            if device.is_live(record) and due_ms >= self._ready_ms:
                meter.lateness_ms.append(self._air.wall_ms() - due_ms)
        else:
            meter.resends += 1
        await client.publish(self._topic(record.topic), payload, qos=1)
        meter.pubacks += 1
        device.uplink.puback(record.seq)
        self._wake.set()
        if self._random.random() < device.plan.duplicate_probability:
            meter.duplicates += 1
            await client.publish(self._topic(record.topic), payload, qos=1)

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            self._receive(message)

    def _receive(self, message: Message) -> None:
        payload = message.payload
        if str(message.topic) == self._topic(Topic.RECEIPT):
            if self.device.receive_receipt(payload):
                self._count_from_now()
            self._receipt_known.set()
        elif self.device.receive_command(payload):
            self._air.meter.commands += 1
            self._air.reschedule(self.device)
        self._wake.set()

    async def _report_status(self, client: Client) -> None:
        while True:
            await client.publish(self._topic(Topic.STATUS), self.device.status(), qos=1, retain=True)
            await asyncio.sleep(self.device.plan.status_every_s)

    async def _until_signal(self) -> None:
        coverage = self.device.plan.coverage
        if coverage is not None:
            await asyncio.sleep(coverage.lost_for(self._air.wall_ms()) / 1000)

    async def _lose_signal(self, client: Client) -> None:
        """Break the connection as a lost radio signal does, without DISCONNECT: the broker publishes the last will."""
        coverage = self.device.plan.coverage
        if coverage is None:
            return
        await asyncio.sleep(coverage.good_for(self._air.wall_ms()) / 1000)
        if coverage.reboots:
            self.device.reboot()
        connection = client._client.socket()  # noqa: SLF001 - aiomqtt has no public way to be rude
        if isinstance(connection, socket.socket):
            connection.shutdown(socket.SHUT_RDWR)

    async def _farewell(self, client: Client) -> None:
        """Report that the device is switched off; a DISCONNECT alone would leave it online forever."""
        with suppress(MqttError):
            await client.publish(
                self._topic(Topic.STATUS),
                self.device.encoder.plain({"online": False}),
                qos=1,
                retain=True,
                timeout=FAREWELL_S,
            )

    def _topic(self, name: Topic) -> str:
        return topic(self.device.plan.id, name)
