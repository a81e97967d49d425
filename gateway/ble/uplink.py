"""Delivers what waits in the spool: one MQTT connection, kept up, with the delivery rules of a device on it.

The spool is freed by a receipt and by nothing else. A PUBACK only makes room in the window: a broker that dies can lose
what it acknowledged. So every connection starts over from the receipt, and if the receipt stands still although the
broker took everything, one message is sent again as a probe.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from aiomqtt import Client, Message, MqttError, Will
from aiomqtt.exceptions import MqttConnectError
from msgspec import Meta, Struct
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.errors import PayloadError
from devices.messages import Identifier
from devices.payload import DECODE_ERRORS, explain
from devices.receipts import decode_receipt
from devices.roster import Roster, decode_roster
from devices.status import Status, encode_status
from devices.vocabulary import MAX_PAYLOAD_BYTES, Reason, Topic, topic
from gateway.ble.delivery import WINDOW, Delivery
from gateway.ble.outgoing import Outgoing
from gateway.ble.spool import Command, Spool, SpoolFullError
from gateway.runtime.backoff import full_jitter
from gateway.runtime.broker_address import Address, mqtt_client

KEEPALIVE_S: Final = 60
PATIENCE_S: Final = 60.0
"""How long to wait for an answer of the broker: a full window takes its time over a mobile network."""
STABLE_AFTER_S: Final = 10.0
"""A shorter connection does not reset the back-off: two boxes of one id would otherwise evict each other forever."""
STATUS_EVERY_S: Final = 300.0
CLOCK_LOOK_S: Final = 1.0
FAREWELL_S: Final = 2.0

# How long the broker keeps commands for a box that is away; most expire sooner by themselves.
SESSION_S: Final = 24 * 3_600
# What a broker may send us before we have stored what came before, and how much at once.
RECEIVE_MAXIMUM: Final = 16
LARGEST_PACKET: Final = 2 * MAX_PAYLOAD_BYTES
SUBACK_REFUSED: Final = 0x80

CLOCK_IS_SET_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00Z: before this was written. A box whose clock has no battery starts up earlier than that."""

OFFLINE: Final = encode_status(Status(online=False))

log = logging.getLogger(__name__)


def clock_is_set(now_ms: int) -> bool:
    """Whether a clock that reads `now_ms` was set since the box was switched on: only then may it stamp anything."""
    return now_ms >= CLOCK_IS_SET_MS


@dataclass(slots=True)
class UplinkCounts:
    """What an operator watches."""

    connects: int = 0
    failures: int = 0
    messages: int = 0
    resends: int = 0
    receipts: int = 0
    rubbish: int = 0


class _CommandWords(Struct):
    """The fields that a command must have to be kept; further keys are the profile's business."""

    id: Identifier
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    device: Identifier | None = None


_COMMAND: Final = msgspec.json.Decoder(_CommandWords)


class Uplink:
    """The edge box at the broker: messages go up; receipts, commands and the roster come down."""

    def __init__(
        self,
        broker: Address,
        edge_id: str,
        spool: Spool,
        now_ms: Callable[[], int],
        on_command: Callable[[Command], None],
        on_roster: Callable[[Roster], None],
        *,
        chance: random.Random | None = None,
    ) -> None:
        """Nothing is connected before `run`. Commands and rosters are in the spool before they are passed on."""
        self.counts = UplinkCounts()
        self.connected = False
        self._broker = broker
        self._edge_id = edge_id
        self._spool = spool
        self._now_ms = now_ms
        self._on_command = on_command
        self._on_roster = on_roster
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not a secret
        self._wake = asyncio.Event()
        self._sent_through = 0
        self._said: tuple[str, str] | None = None
        self._downlink = {
            topic(edge_id, Topic.RECEIPT): self._take_receipt,
            topic(edge_id, Topic.COMMAND): self._take_command,
            topic(edge_id, Topic.ROSTER): self._take_roster,
        }
        self._delivery: Delivery | None = None
        spool.on_new = self.wake

    @property
    def idle(self) -> bool:
        """Whether the broker has acknowledged everything that waits (receipts may still be missing)."""
        return self._delivery is not None and self._delivery.idle

    def wake(self) -> None:
        """Say that there may be something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Keep a connection until cancelled, then disconnect. Raises SpoolBrokenError, in a group, on disk failure."""
        self._take_stored_roster()
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            began = loop.time()
            try:
                await self._connection()
            except* (MqttError, OSError, SpoolFullError) as lost:
                self.counts.failures += 1
                self._say_lost(lost)
            attempt = 0 if loop.time() - began >= STABLE_AFTER_S else attempt + 1
            await asyncio.sleep(full_jitter(attempt, self._chance))

    async def _connection(self) -> None:
        """Make one connection and use it until it breaks (MqttError, alone or in a group)."""
        client = self._client()
        # A command is acknowledged once it is in the spool, not once it is in memory.
        client._client.manual_ack_set(on=True)  # noqa: SLF001 - aiomqtt has no public way
        client.pending_calls_threshold = WINDOW + RECEIVE_MAXIMUM
        async with client:
            self.counts.connects += 1
            self._say(logging.INFO, "connected to the broker", self._broker.host)
            try:
                await self._use(client)
            except asyncio.CancelledError:
                with suppress(MqttError):
                    await client.publish(self._topic(Topic.STATUS), OFFLINE, qos=1, retain=True, timeout=FAREWELL_S)
                raise
            finally:
                self.connected = False
                self._delivery = None
                self._spool.end_sending()

    def _client(self) -> Client:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = LARGEST_PACKET
        return mqtt_client(
            self._broker,
            self._edge_id,
            will=Will(self._topic(Topic.STATUS), OFFLINE, qos=1, retain=True),
            clean_start=False,
            properties=properties,
            keepalive=KEEPALIVE_S,
            timeout=PATIENCE_S,
            max_inflight_messages=WINDOW,
        )

    async def _use(self, client: Client) -> None:
        """Announce the box, then listen and send.

        A broker answers in order: when it acknowledges the status, which is published after the subscriptions, the
        retained receipt has come, if there is one. The receipt is subscribed to at QoS 0 for that reason: at QoS 1 it
        would wait behind commands that we have not acknowledged yet. If a receipt is lost, the next one replaces it.
        """
        codes = await client.subscribe(
            [(self._topic(Topic.RECEIPT), 0), (self._topic(Topic.COMMAND), 1), (self._topic(Topic.ROSTER), 1)]
        )
        if any(getattr(code, "value", code) >= SUBACK_REFUSED for code in codes):
            log.error("the broker does not let this box hear its topics", extra={"edge": self._edge_id})
        await self._publish_status(client)
        delivery = self._delivery = Delivery(self._spool, asyncio.get_running_loop().time, self.wake)
        while len(client.messages):
            self._take(client, await anext(client.messages))
        delivery.begin()
        self.connected = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(client), name="uplink: listen")
            tasks.create_task(self._report_status(client), name="uplink: status")
            await self._pump(client, delivery, tasks)

    # Up

    async def _pump(self, client: Client, delivery: Delivery, tasks: asyncio.TaskGroup) -> None:
        """Send what the delivery gives; when it gives nothing, wait for a PUBACK, a receipt or a new message."""
        while True:
            self._wake.clear()
            ready = clock_is_set(self._now_ms())
            if ready:
                for message in delivery.take():
                    tasks.create_task(self._send(client, delivery, message))
            try:
                async with asyncio.timeout(delivery.probe_in() if ready else CLOCK_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                if ready and (lowest := delivery.probe()) is not None:
                    # The receipt itself may be lost: subscribing again has the broker repeat the last one.
                    await client.subscribe(self._topic(Topic.RECEIPT), 0)
                    tasks.create_task(self._send(client, delivery, lowest))

    async def _send(self, client: Client, delivery: Delivery, message: Outgoing) -> None:
        """Publish one message, stamped now, and wait for its PUBACK."""
        payload = message.payload(self._edge_id, sent_at=self._now_ms(), oldest=self._spool.oldest)
        if message.seq > self._sent_through:
            self._sent_through = message.seq
            self.counts.messages += 1
        else:
            self.counts.resends += 1
        await client.publish(self._topic(message.body.topic), payload, qos=1)
        delivery.puback(message.seq)

    async def _report_status(self, client: Client) -> None:
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            await self._publish_status(client)

    async def _publish_status(self, client: Client) -> None:
        now_ms = self._now_ms()
        status = Status(online=True, clock=now_ms if clock_is_set(now_ms) else None)
        await client.publish(self._topic(Topic.STATUS), encode_status(status), qos=1, retain=True)

    # Down

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            self._take(client, message)

    def _take(self, client: Client, message: Message) -> None:
        """Take in one message of the broker; garbage is counted and acknowledged, so that it never comes again."""
        name = str(message.topic)
        try:
            self._dispatch(name, message)
        except PayloadError as error:
            self.counts.rubbish += 1
            log.warning("rubbish from the broker", extra={"topic": name, "cause": error.detail})
        except SpoolFullError as error:
            # Not acknowledged, so that a command comes again with the next connection.
            log.error("no room for what the broker sent", extra={"topic": name, "cause": str(error)})  # noqa: TRY400
            return
        client._client.ack(message.mid, message.qos)  # noqa: SLF001 - aiomqtt has no public way

    def _dispatch(self, name: str, message: Message) -> None:
        take = self._downlink.get(name)
        if take is None:
            raise PayloadError("a topic that was not subscribed to")
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            raise PayloadError(f"{len(message.payload)} bytes", Reason.TOO_LARGE)
        take(message)

    def _take_receipt(self, message: Message) -> None:
        seq = decode_receipt(message.payload)
        if self._delivery is not None and self._delivery.receipt(seq):
            self.counts.receipts += 1

    def _take_command(self, message: Message) -> None:
        try:
            words = _COMMAND.decode(message.payload)
        except DECODE_ERRORS as error:
            raise PayloadError(explain(error)) from error
        lasts_s = getattr(message.properties, "MessageExpiryInterval", None)
        expires = None if lasts_s is None else self._now_ms() + lasts_s * 1_000
        command = Command(words.id, words.device or self._edge_id, words.type, message.payload, expires)
        if self._spool.add_command(command):
            self._on_command(command)

    def _take_roster(self, message: Message) -> None:
        roster = decode_roster(message.payload)
        if message.payload != self._spool.roster():
            self._spool.set_roster(message.payload)
            self._on_roster(roster)

    def _take_stored_roster(self) -> None:
        """Pass on the last roster: devices are read even while the broker is away."""
        stored = self._spool.roster()
        if stored is None:
            return
        try:
            self._on_roster(decode_roster(stored))
        except PayloadError as error:
            log.warning("the stored roster cannot be read", extra={"cause": error.detail})

    def _topic(self, name: Topic) -> str:
        return topic(self._edge_id, name)

    def _say_lost(self, lost: BaseExceptionGroup[MqttError | OSError | SpoolFullError]) -> None:
        error: BaseException = lost
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        event = "no broker"
        if isinstance(error, MqttConnectError):
            event = "the broker refuses this box"
        elif isinstance(error, SpoolFullError):
            event = "no room to send from"
        self._say(logging.WARNING, event, str(error) or type(error).__name__)

    def _say(self, level: int, event: str, detail: str) -> None:
        """Log a change of state once, however often it is retried."""
        if self._said != (event, detail):
            self._said = (event, detail)
            log.log(level, event, extra={"detail": detail})
