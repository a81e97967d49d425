"""A bleak central for tests: finds a simulated device with bleak and collects what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bleak import BleakClient, BleakScanner

from firmware_sim.ble.backend import Central
from firmware_sim.ble.peripheral import Peripheral

NOV_22 = 1_795_329_600_000
"""2026-11-22T06:40Z."""
RACP = "2a52"


class Wall:
    """A clock that stands where it is put."""

    def __init__(self, at_ms: int = NOV_22) -> None:
        self.at_ms = at_ms

    def __call__(self) -> int:
        return self.at_ms


def full(uuid: str) -> str:
    return f"0000{uuid}-0000-1000-8000-00805f9b34fb" if len(uuid) == 4 else uuid


class Listener:
    """One connection; `heard[uuid]` collects what was notified or indicated."""

    def __init__(self, client: BleakClient) -> None:
        self.client = client
        self.heard: dict[str, list[bytes]] = {}
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self, uuid: str) -> bytes:
        return bytes(await self.client.read_gatt_char(full(uuid)))

    async def write(self, uuid: str, value: bytes) -> None:
        await self.client.write_gatt_char(full(uuid), value, response=True)

    async def listen(self, uuid: str) -> list[bytes]:
        heard = self.heard.setdefault(uuid, [])
        await self.client.start_notify(full(uuid), lambda _, value: heard.append(bytes(value)))
        return heard

    async def open_access(self) -> None:
        await self.client.start_notify(full(RACP), lambda _, value: self.answers.put_nowait(bytes(value)))

    async def ask(self, request: str) -> str:
        """Write a request to the control point; return the indication that ends the procedure, in hex."""
        await self.write(RACP, bytes.fromhex(request))
        return (await asyncio.wait_for(self.answers.get(), 5)).hex()

    async def reported(self, uuid: str) -> list[bytes]:
        """Return all stored records; later ones are added."""
        heard = await self.listen(uuid)
        await self.open_access()
        assert await self.ask("0101") == "06000101"
        return heard


@asynccontextmanager
async def listening(central: Central, device: Peripheral) -> AsyncIterator[Listener]:
    found = await BleakScanner.find_device_by_address(device.plan.address, 2, backend=central.scanner_backend)
    assert found is not None
    async with BleakClient(found, backend=central.client_backend) as client:
        yield Listener(client)
    assert device.defects == []


async def settle() -> None:
    """Let packets that are under way arrive."""
    for _ in range(40):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; TimeoutError after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0)
