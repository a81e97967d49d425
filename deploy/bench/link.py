"""A plain MQTT 5 connection on a blocking socket: packets encoded beforehand, many in flight, PUBACKs counted."""

import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import mqtt5

from deploy.bench.errors import BenchError
from gateway.runtime import clock
from gateway.runtime.broker_address import Address

TIMEOUT_S: Final = 30.0
CHUNK: Final = 256
READ_BYTES: Final = 1 << 17
PACKET_IDS: Final = 60_000
_PLAIN_ACK: Final = b"\x40\x02"
_UNHEARD: Final = mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS


@dataclass(slots=True)
class Acks:
    """PUBACKs counted so far: all, those for a message without subscribers, and refusals."""

    all: int = 0
    unheard: int = 0
    refused: int = 0
    remainder: bytes = b""

    def take(self, data: bytes) -> None:
        """Count the PUBACKs in bytes from the stream. Most have four bytes, which is the fast path."""
        data = self.remainder + data
        count = len(data) // 4
        if len(data) % 4 == 0 and data[::4] == b"\x40" * count and data[1::4] == b"\x02" * count:
            self.all += count
            self.remainder = b""
            return
        position = 0
        while position + 2 <= len(data) and position + 2 + data[position + 1] <= len(data):
            length = data[position + 1]
            if data[position] == _PLAIN_ACK[0]:
                self.all += 1
                reason = data[position + 4] if length > 2 else 0
                self.unheard += reason == _UNHEARD
                self.refused += reason >= 0x80
            position += 2 + length
        self.remainder = data[position:]


@dataclass(frozen=True, slots=True)
class Sent:
    """When publishing began (monotonic seconds) and, for a paced one, when each message left."""

    started: float
    acks: Acks
    at: list[float] = field(default_factory=list)


class Link:
    """One connection; closes with its `with` block."""

    def __init__(self, address: Address, client_id: str) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is not None:
            self._socket = address.tls.wrap_socket(self._socket, server_hostname=address.host)
        self._unread = b""
        password = None if address.password is None else address.password.encode()
        # A clean start without expiry: the broker keeps nothing of this client, and drops what it kept before.
        connect = mqtt5.ConnectPacket(client_id, username=address.username, password=password, clean_start=True)
        self._socket.sendall(connect.write())
        answer = self._packet()
        if not isinstance(answer, mqtt5.ConnAckPacket) or answer.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise BenchError(f"the broker refused the log-in of {client_id}: {answer!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendall(mqtt5.DisconnectPacket().write())
        self._socket.close()

    def publish(self, packets: Sequence[bytes], window: int) -> Sent:
        """Publish as fast as the broker takes them, at most `window` unacknowledged; return when all are."""
        chunks = [b"".join(packets[start : start + CHUNK]) for start in range(0, len(packets), CHUNK)]
        acks, sent, position = Acks(), 0, 0
        started = clock.monotonic()
        while acks.all < len(packets):
            while position < len(chunks) and sent - acks.all + CHUNK <= window:
                self._socket.sendall(chunks[position])
                position += 1
                sent = min(sent + CHUNK, len(packets))
            acks.take(self._read())
        return Sent(started, acks)

    def publish_paced(self, packets: Sequence[bytes], rate: float) -> Sent:
        """Publish `rate` messages a second, whatever happens to them; return when all are acknowledged."""
        acks, at = Acks(), []
        started = clock.monotonic()
        for index, packet in enumerate(packets):
            while (wait := started + index / rate - clock.monotonic()) > 0:
                if select.select([self._socket], [], [], wait)[0]:
                    acks.take(self._read())
            at.append(clock.monotonic())
            self._socket.sendall(packet)
        while acks.all < len(packets):
            acks.take(self._read())
        return Sent(started, acks, at)

    def publish_until_heard(self, packet: bytes, within_s: float) -> None:
        """Publish one message repeatedly until somebody subscribes to it."""
        deadline = clock.monotonic() + within_s
        while clock.monotonic() < deadline:
            if not self.publish([packet], CHUNK).acks.unheard:
                return
            select.select([], [], [], 0.02)
        raise BenchError(f"nobody had subscribed after {within_s:.0f} s")

    def round_trips(self, topic: str, payload: bytes, count: int, rate: float) -> list[float]:
        """Publish to our own subscription, `rate` times a second; return each round trip in seconds."""
        filters = [mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_LEAST_ONCE)]
        self._socket.sendall(mqtt5.SubscribePacket(1, filters).write())
        while not isinstance(self._packet(), mqtt5.SubAckPacket):
            pass
        packets = encode([topic] * count, [payload] * count)
        started, found = clock.monotonic(), []
        for index, packet in enumerate(packets):
            while (wait := started + index / rate - clock.monotonic()) > 0:
                select.select([], [], [], wait)
            left = clock.monotonic()
            self._socket.sendall(packet)
            while not isinstance(arrived := self._packet(), mqtt5.PublishPacket):
                pass
            found.append(clock.monotonic() - left)
            self._socket.sendall(mqtt5.PubAckPacket(arrived.packet_id or 0).write())
        return found

    def _read(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise BenchError("the broker closed the connection")
        return data

    def _packet(self) -> mqtt5.Packet:
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._unread))
            except IndexError:
                self._unread += self._read()
            else:
                self._unread = self._unread[size:]
                return packet


def encode(topics: Sequence[str], payloads: Sequence[bytes]) -> list[bytes]:
    """Return the PUBLISH packets (QoS 1) of these messages."""
    at_least_once = mqtt5.QoS.AT_LEAST_ONCE
    return [
        mqtt5.PublishPacket(topic, payload, qos=at_least_once, packet_id=index % PACKET_IDS + 1).write()
        for index, (topic, payload) in enumerate(zip(topics, payloads, strict=True))
    ]


def forget_session(address: Address, client_id: str) -> None:
    """Delete the broker's session of a client, so that it queues nothing for one that is away on purpose."""
    with Link(address, client_id):
        pass
