"""A gateway in forty lines: it commits what it is sent and publishes receipts, on an MQTT client of its own."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cbor2
from aiomqtt import Client, MqttError

from firmware_sim.broker import Broker


class Peer:
    """Everything received, by device; receipts go out every `receipt_every_s`."""

    def __init__(self) -> None:
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.statuses: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.silent = False
        """While true, no receipts go out."""
        self.drop: set[tuple[str, int]] = set()
        """(device, seq) that get lost on the way in, once each."""
        self._committed: dict[str, set[int]] = defaultdict(set)
        self._receipts: dict[str, int] = defaultdict(int)
        self._oldest: dict[str, int] = {}
        self._client: Client | None = None

    def receipt(self, device: str) -> int:
        """Return the receipt last published for a device."""
        return self._receipts[device]

    def seqs(self, device: str) -> list[int]:
        return [message["seq"] for message in self.messages[device]]

    async def command(self, device: str, **command: Any) -> None:
        assert self._client is not None
        await self._client.publish(f"vigil/v1/{device}/command", json.dumps(command), qos=1)

    @asynccontextmanager
    async def running(self, url: str, receipt_every_s: float = 0.05) -> AsyncIterator["Peer"]:
        tasks: list[asyncio.Task[None]] = []
        async with Broker.from_url(url).client(window=1000) as client:
            self._client = client
            await client.subscribe("vigil/v1/+/+", qos=1)
            tasks = [
                asyncio.create_task(self._listen(client)),
                asyncio.create_task(self._give_receipts(client, receipt_every_s)),
            ]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, client: Client) -> None:
        try:
            async for message in client.messages:
                _, _, device, name = str(message.topic).split("/")
                if name in {"telemetry", "event", "status"}:
                    self._take(device, name, message.payload)
        except MqttError:
            return

    def _take(self, device: str, name: str, payload: bytes) -> None:
        content = json.loads(payload) if payload[:1] == b"{" else cbor2.loads(payload)
        if name == "status":
            self.statuses[device].append(content)
            return
        if (device, content["seq"]) in self.drop:
            self.drop.remove((device, content["seq"]))
            return
        self.messages[device].append(content)
        self._committed[device].add(content["seq"])
        self._oldest[device] = max(content["oldest"], self._oldest.get(device, 0))

    async def _give_receipts(self, client: Client, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            for device, committed in list(self._committed.items()):
                seq = max(self._receipts[device], self._oldest[device] - 1)
                while seq + 1 in committed:
                    seq += 1
                if seq > self._receipts[device] and not self.silent:
                    self._receipts[device] = seq
                    await client.publish(f"vigil/v1/{device}/receipt", b'{"seq":%d}' % seq, qos=1, retain=True)
