"""One MQTT 5 connection of the gateway: log-in, subscriptions, messages in, acknowledgements and receipts out."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import mqtt5
import numpy as np

from gateway.ingest.mqtt.framing import StreamBrokenError, cut
from gateway.ingest.source import Delivered

log = logging.getLogger(__name__)

SESSION_KEPT_FOR_EVER = 0xFFFF_FFFF
# How much the broker may send ahead of our acknowledgements. Several batches, so that it never waits for a commit.
RECEIVE_MAXIMUM = 32_768
BATCH_CAP = 4_096
# QoS 0 messages are outside the receive maximum; with this many waiting we stop reading the socket instead.
WAITING_CAP = RECEIVE_MAXIMUM + BATCH_CAP
_ACK = np.dtype([("header", ">u2"), ("packet_id", ">u2")])
_ACK_HEADER = 0x4002
_GRANTED = (mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, mqtt5.SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What a connection needs to know of its session."""

    client_id: str
    username: str | None
    password: bytes | None
    subscriptions: tuple[str, ...]
    receive_maximum: int = RECEIVE_MAXIMUM
    keep_alive_s: int = 30

    def connect_packet(self) -> bytes:
        """Return the CONNECT that begins or goes on with the session."""
        packet = mqtt5.ConnectPacket(
            self.client_id,
            username=self.username,
            password=self.password,
            clean_start=False,
            keep_alive=self.keep_alive_s,
            session_expiry_interval=SESSION_KEPT_FOR_EVER,
            receive_max=self.receive_maximum,
        )
        return packet.write()

    def subscribe_packet(self, packet_id: int) -> bytes:
        """Return the SUBSCRIBE for everything that is taken in."""
        filters = [
            mqtt5.TopicFilter(
                pattern,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                # So that the flag tells an old status the broker kept from one that is said now; and what changed
                # while we were away is in the session's queue, there is no need to be told again.
                retain_as_published=False,
                retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
            )
            for pattern in self.subscriptions
        ]
        return mqtt5.SubscribePacket(packet_id, filters).write()


class ConnectionLostError(Exception):
    """The connection ended; `cause` in a sentence. The session at the broker lives on."""


class LoginRefusedError(ConnectionLostError):
    """The broker refused us by name: credentials, client id or rights are wrong."""


class Connection(asyncio.Protocol):
    """Speaks MQTT 5 on one transport. Nothing is acknowledged but by `ack`."""

    def __init__(self, settings: ConnectionSettings, on_messages: Callable[[], None], number: int) -> None:
        self.settings = settings
        self.number = number
        self.waiting: deque[Delivered] = deque()
        self.session_present = False
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._on_messages = on_messages
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._paused = False
        self._last_heard = loop.time()
        self._last_sent = loop.time()
        self._keep_alive_s = settings.keep_alive_s
        self._timer: asyncio.TimerHandle | None = None
        self._sent: dict[int, asyncio.Future[None]] = {}
        self._send_quota = 65_535
        self._next_packet_id = 1

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in."""
        self._transport = cast("asyncio.Transport", transport)
        self._write(self.settings.connect_packet())
        self._timer = self._loop.call_later(self._keep_alive_s / 2, self._tick)

    def data_received(self, data: bytes) -> None:
        """Cut packets off the stream; messages wait in order until the pipeline takes them."""
        self._last_heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        try:
            found = cut(data)
        except StreamBrokenError as error:
            self.fail(str(error))
            return
        self._rest = data[found.size :] if found.size < len(data) else b""
        for packet in found.others:
            self._handle(packet)
        if found.messages:
            self.waiting.extend(found.messages)
            if len(self.waiting) >= WAITING_CAP and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._on_messages()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self._end(ConnectionLostError(str(exc) if exc else "the broker closed the connection"))

    # What the bridge uses -----------------------------------------------------------------------------------------

    def take(self) -> list[Delivered]:
        """Return up to BATCH_CAP waiting messages, oldest first."""
        waiting = self.waiting
        if len(waiting) <= BATCH_CAP:
            batch = list(waiting)
            waiting.clear()
        else:
            batch = [waiting.popleft() for _ in range(BATCH_CAP)]
        if self._paused and len(waiting) < WAITING_CAP // 2 and self._transport is not None:
            self._paused = False
            self._last_heard = self._loop.time()
            self._transport.resume_reading()
        return batch

    def ack(self, messages: Sequence[Delivered]) -> None:
        """Send the PUBACK of every message that wants one."""
        identifiers = [m.packet_id for m in messages if m.packet_id is not None]
        if not identifiers or self._transport is None or self._transport.is_closing():
            return
        acks = np.empty(len(identifiers), _ACK)
        acks["header"] = _ACK_HEADER
        acks["packet_id"] = identifiers
        self._write(acks.tobytes())

    async def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish at QoS 1 and wait for the PUBACK. Raises ConnectionLostError when the connection ends first."""
        while len(self._sent) >= self._send_quota:
            await asyncio.wait(list(self._sent.values()), return_when=asyncio.FIRST_COMPLETED)
        if self.closed.done():
            raise ConnectionLostError("not connected")
        packet_id = self._free_packet_id()
        done: asyncio.Future[None] = self._loop.create_future()
        self._sent[packet_id] = done
        packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain, packet_id=packet_id)
        self._write(packet.write())
        await done

    def close(self) -> None:
        """Say good-bye; the session stays at the broker."""
        if self._transport is not None and not self._transport.is_closing():
            self._write(mqtt5.DisconnectPacket().write())
            self._transport.close()

    def fail(self, cause: str) -> None:
        """Give the connection up at once."""
        self._end(ConnectionLostError(cause))
        if self._transport is not None:
            self._transport.abort()

    # Inside -------------------------------------------------------------------------------------------------------

    def _handle(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                done = self._sent.pop(packet.packet_id, None)
                if done is not None and not done.done():
                    done.set_result(None)
            case mqtt5.ConnAckPacket():
                self._on_connack(packet)
            case mqtt5.SubAckPacket():
                self._on_suback(packet)
            case mqtt5.DisconnectPacket():
                reason = packet.reason_code.name.lower().replace("_", " ")
                self.fail(f"the broker disconnected us: {packet.reason_str or reason}")
            case mqtt5.PingRespPacket():
                pass
            case _:
                log.warning("unexpected packet", extra={"packet": type(packet).__name__})

    def _on_connack(self, packet: mqtt5.ConnAckPacket) -> None:
        if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            reason = packet.reason_code.name.lower().replace("_", " ")
            self._end(LoginRefusedError(f"the broker refused the log-in: {packet.reason_str or reason}"))
            return
        self.session_present = packet.session_present
        self._send_quota = packet.receive_max
        if packet.server_keep_alive is not None:
            self._keep_alive_s = packet.server_keep_alive
        self._write(self.settings.subscribe_packet(self._free_packet_id()))

    def _on_suback(self, packet: mqtt5.SubAckPacket) -> None:
        refused = [code for code in packet.reason_codes if code not in _GRANTED]
        if refused:
            self._end(LoginRefusedError(f"the broker refused a subscription: {refused[0].name.lower()}"))
        elif not self.ready.done():
            self.ready.set_result(None)

    def _free_packet_id(self) -> int:
        while self._next_packet_id in self._sent:
            self._next_packet_id = self._next_packet_id % 65_535 + 1
        packet_id = self._next_packet_id
        self._next_packet_id = packet_id % 65_535 + 1
        return packet_id

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            self._last_sent = self._loop.time()

    def _tick(self) -> None:
        """Keep the connection alive, and notice when it is not. While we do not read, silence proves nothing."""
        now = self._loop.time()
        if not self._paused and now - self._last_heard > 1.5 * self._keep_alive_s:
            self.fail(f"nothing heard from the broker for {now - self._last_heard:.0f} s")
            return
        self._write(mqtt5.PingReqPacket().write())
        self._timer = self._loop.call_later(self._keep_alive_s / 2, self._tick)

    def _end(self, error: ConnectionLostError) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # seen, also when nobody waits any more
        for done in self._sent.values():
            if not done.done():
                done.set_exception(error)
                done.exception()
        self._sent.clear()
        if not self.closed.done():
            self.closed.set_exception(error)
            self.closed.exception()
        if isinstance(error, LoginRefusedError) and self._transport is not None:
            self._transport.abort()
        self._on_messages()
