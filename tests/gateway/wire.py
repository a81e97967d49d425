"""Messages as devices write them, built without our codec, and a publisher that resends what was not acknowledged."""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.streaming.nocturnal_reference import Reading

AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish."""

    topic: str
    payload: bytes
    content_type: str | None = None
    retain: bool = False


def glucose(reading: Reading) -> dict[str, Any]:
    """One reading as a series of its own."""
    series: dict[str, Any] = {"code": "glucose", "unit": reading.unit, "at": reading.at, "value": reading.value}
    return series | ({"flags": list(reading.flags)} if reading.flags else {})


def telemetry(device: str, /, observations: Sequence[dict[str, Any]], **head: Any) -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/telemetry", json.dumps({**head, "observations": list(observations)}).encode())


def events(device: str, /, happened: Sequence[dict[str, Any]], **head: Any) -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/event", json.dumps({**head, "events": list(happened)}).encode())


def readings_message(device: str, /, readings: Iterable[Reading], **head: Any) -> Outgoing:
    return telemetry(device, [glucose(reading) for reading in readings], **head)


def client(url: str, **options: Any) -> aiomqtt.Client:
    """A client for an mqtt:// address; paho beneath, so nothing of it is ours."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    found = aiomqtt.Client(
        parts.hostname,
        parts.port or 1883,
        username=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        protocol=aiomqtt.ProtocolVersion.V5,
        **{"timeout": 10, **options},
    )
    found.pending_calls_threshold = 10_000
    return found


async def publish(url: str, messages: Sequence[Outgoing], **options: Any) -> None:
    """Publish each message, in order, at QoS 1, and see each acknowledged."""
    publisher = Publisher(url, **options)
    publisher.add(messages)
    await publisher.run()


class Publisher:
    """Publishes what it was given in order; whatever was not acknowledged when the connection broke goes out again."""

    def __init__(self, url: str, *, messages_per_s: float = float("inf"), timeout_s: float = 5.0) -> None:
        self._url = url
        self._pause_s = AT_ONCE / messages_per_s
        self._timeout_s = timeout_s
        self._todo: deque[Outgoing] = deque()
        self.acknowledged = 0
        self.resent = 0
        self.in_flight = 0
        self.connections = 0

    def add(self, messages: Iterable[Outgoing]) -> None:
        self._todo.extend(messages)

    async def run(self) -> None:
        while self._todo:
            try:
                async with client(self._url, timeout=self._timeout_s) as connection:
                    self.connections += 1
                    while self._todo:
                        await self._send_some(connection)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)

    async def _send_some(self, connection: aiomqtt.Client) -> None:
        part = [self._todo.popleft() for _ in range(min(AT_ONCE, len(self._todo)))]
        pause = asyncio.create_task(asyncio.sleep(self._pause_s))
        sending = [asyncio.create_task(_send(connection, message)) for message in part]
        self.in_flight = len(part)
        results = await asyncio.gather(*sending, return_exceptions=True)
        self.in_flight = 0
        unsent = [message for message, error in zip(part, results, strict=True) if error is not None]
        self.acknowledged += len(part) - len(unsent)
        self.resent += len(unsent)
        self._todo.extendleft(reversed(unsent))
        strange = [e for e in results if e is not None and not isinstance(e, aiomqtt.MqttError)]
        if strange:
            raise strange[0]
        if unsent:
            pause.cancel()
            raise aiomqtt.MqttError("cut")
        await pause


async def _send(connection: aiomqtt.Client, message: Outgoing) -> None:
    properties = None
    if message.content_type is not None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = message.content_type
    await connection.publish(message.topic, message.payload, qos=1, retain=message.retain, properties=properties)
