"""The reference for ingest: a subscriber that only acknowledges, on the gateway's codec, subscription and window.

`python -m deploy.bench.null_subscriber`: one JSON line in (broker, number of messages), one out when the last of them
is acknowledged. The broker keeps its session, as it does the gateway's.
"""

import asyncio
import sys
from typing import Final, cast

import mqtt5
import msgspec
import uvloop

from gateway.ingest.mqtt.bridge import SUBSCRIPTIONS
from gateway.ingest.mqtt.connection import ConnectionSettings
from gateway.runtime import clock
from gateway.runtime.broker_address import Address, parse_url

CLIENT_ID: Final = "vigil-bench-null"


class Task(msgspec.Struct, frozen=True):
    """The broker, and how many messages to acknowledge."""

    mqtt_url: str
    messages: int
    ca_file: str | None = None


class Acknowledged(msgspec.Struct, frozen=True):
    """When the last acknowledgement was written (monotonic seconds)."""

    ended: float


class NullSubscriber(asyncio.Protocol):
    """Acknowledges every message as soon as it is read."""

    def __init__(self, settings: ConnectionSettings, messages: int) -> None:
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._left = messages
        self._unread = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in as the gateway does."""
        self._transport = cast("asyncio.Transport", transport)
        self._write(self._settings.connect_packet())

    def data_received(self, data: bytes) -> None:
        """Acknowledge the messages in it, all in one write."""
        acks = []
        buffer = self._unread + data if self._unread else data
        position, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while position < end:
                try:
                    packet, size = mqtt5.read(view[position:])
                except IndexError:
                    break
                position += size
                if type(packet) is mqtt5.PublishPacket:
                    acks.append(b"\x40\x02" + (packet.packet_id or 0).to_bytes(2, "big"))
                elif type(packet) is mqtt5.ConnAckPacket:
                    self._subscribe()
        self._unread = buffer[position:]
        if acks:
            self._write(b"".join(acks))
            self._left -= len(acks)
            if self._left <= 0 and not self.done.done():
                self.done.set_result(clock.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a loss that came too early."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the broker closed the connection"))

    def _subscribe(self) -> None:
        self._write(self._settings.subscribe_packet(1))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def acknowledge(address: Address, messages: int) -> float:
    """Acknowledge that many messages; return when the last acknowledgement was written."""
    settings = ConnectionSettings(
        client_id=CLIENT_ID,
        username=address.username,
        password=None if address.password is None else address.password.encode(),
        subscriptions=SUBSCRIPTIONS,
    )
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        lambda: NullSubscriber(settings, messages), address.host, address.port, ssl=address.tls
    )
    try:
        return await protocol.done
    finally:
        transport.close()


def main() -> None:
    """Do the task from stdin."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(acknowledge(parse_url(task.mqtt_url, task.ca_file), task.messages))
    sys.stdout.buffer.write(msgspec.json.encode(Acknowledged(ended)) + b"\n")


if __name__ == "__main__":
    main()
