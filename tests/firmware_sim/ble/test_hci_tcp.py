"""The radio in one process, its centrals in others: connect, die without a word, come back with the same bonds."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bleak.exc import BleakError
from bumble.ll import AdvertisingPdu

from firmware_sim.ble.backend import Central
from firmware_sim.ble.hci_tcp import serve_hci, tcp_backend
from firmware_sim.ble.radio import VirtualRadio
from tests.firmware_sim.ble.monitor import BATTERY, HEART_RATE, SECRET, SECRET_VALUE, Monitor, client, collect, find

_OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from firmware_sim.ble.hci_tcp import tcp_backend
from tests.firmware_sim.ble.monitor import SECRET, client, find

async def main(transport, keys):
    async with tcp_backend(transport, Path(keys)) as central:
        async with client(central, await find(central)) as connection:
            print((await connection.read_gatt_char(SECRET)).decode(), flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  the radio has no event for it
            await asyncio.sleep(0.01)


@pytest.fixture
async def port(radio: VirtualRadio) -> AsyncIterator[int]:
    async with serve_hci(radio) as port:
        yield port


@asynccontextmanager
async def remote(port: int, keys: Path | None = None) -> AsyncIterator[Central]:
    async with tcp_backend(f"tcp-client:127.0.0.1:{port}", keys) as central:
        yield central


@asynccontextmanager
async def other_process(port: int, keys: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Connect to the monitor from another process and hold the connection; killed at the end, without a word."""
    arguments = ("-c", _OTHER_PROCESS, f"tcp-client:127.0.0.1:{port}", str(keys))
    folder = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, cwd=folder, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), 20) == SECRET_VALUE + b"\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def test_a_killed_host_is_a_supervision_timeout_and_the_next_one_is_bonded(
    radio: VirtualRadio, port: int, tmp_path: Path
) -> None:
    band = await Monitor().start(radio)
    reasons: list[int] = []
    pairings: list[object] = []
    band.device.on("connection", lambda connection: connection.on("disconnection", reasons.append))
    band.device.on("connection", lambda connection: connection.on("pairing", pairings.append))
    for number in (1, 2):
        async with other_process(port, tmp_path / "keys.json"):
            assert len(band.device.connections) == 1
            assert len(radio.link.radios) == 2
        await until(lambda wanted=number: len(reasons) == wanted)  # type: ignore[misc]  # a default binds the number
        assert not band.device.connections
        assert len(radio.link.radios) == 1
    assert reasons == [0x08, 0x08]
    assert len(pairings) == 1


async def test_two_hosts_on_one_port(radio: VirtualRadio, port: int) -> None:
    bands = {name: await Monitor().start(radio, name) for name in ("A", "B")}
    rates: dict[str, list[int]] = {"A": [], "B": []}
    async with remote(port) as one, remote(port) as two:
        async with client(one, await find(one, "A")) as a, client(two, await find(two, "B")) as b:
            for name, connection in (("A", a), ("B", b)):
                await connection.start_notify(HEART_RATE, collect(rates[name]))
            await bands["A"].beat(50)
            await bands["B"].beat(90)
            await until(lambda: all(rates.values()))
        # What one has left, the other may take.
        async with client(two, await find(two, "A")) as connection:
            assert await connection.read_gatt_char(BATTERY) == b"\x57"
    assert rates == {"A": [50], "B": [90]}


async def test_without_a_radio_everything_is_an_error(radio: VirtualRadio) -> None:
    await Monitor().start(radio)
    lost = asyncio.Event()
    async with serve_hci(radio) as port:
        opened = remote(port)
        central = await opened.__aenter__()
        device = await find(central)
        connection = client(central, device, disconnected_callback=lambda _: lost.set())
        await connection.connect()
    await asyncio.wait_for(lost.wait(), 1)
    assert not connection.is_connected
    with pytest.raises(BleakError):
        await connection.read_gatt_char(SECRET)
    with pytest.raises(BleakError):
        await asyncio.wait_for(connection.connect(), 1)
    with pytest.raises(BleakError):
        await asyncio.wait_for(find(central), 1)
    await opened.__aexit__(None, None, None)


async def test_a_host_that_stops_reading_leaves_the_air(
    radio: VirtualRadio, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware_sim.ble.hci_tcp.MAX_UNREAD_BYTES", 10_000)
    band = await Monitor().start(radio)
    async with other_process(port, tmp_path / "keys.json") as process:
        process.send_signal(signal.SIGSTOP)
        for _ in range(5000):
            for connection in band.device.connections.values():
                await band.device.notify_subscriber(connection, band.heart_rate, bytes(500), force=True)
            await asyncio.sleep(0)
            if not band.device.connections:
                break
        assert process.returncode is None
        await until(lambda: len(radio.link.radios) == 1)


async def test_bytes_that_are_no_hci_disturb_nobody(radio: VirtualRadio, port: int) -> None:
    await Monitor().start(radio)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\xff\x00GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 10)
    await writer.drain()
    async with remote(port) as central, client(central, await find(central)) as connection:
        assert await connection.read_gatt_char(BATTERY) == b"\x57"
    writer.close()
    await until(lambda: len(radio.link.radios) == 1)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5, 6, 8, 12])
async def test_a_request_that_is_cancelled_at_any_moment_leaves_the_radio_free(
    radio: VirtualRadio, port: int, turns: int, times: int
) -> None:
    """Also before the controller has answered it, and also by who cannot wait for the cancellation."""
    band = await Monitor().start(radio)
    await Monitor().start(radio, address="C0:00:00:00:AA:02")
    async with remote(port) as central:
        gone, near = await find(central), "C0:00:00:00:AA:02"
        band.device.controller.muted = True
        asking = asyncio.create_task(client(central, gone, timeout=20).connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(times):
            asking.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            async with client(central, near, timeout=4) as connection:
                assert connection.is_connected
        await asyncio.wait({asking})


async def test_a_controller_that_left_connects_to_nobody_that_it_has_yet_to_hear(
    radio: VirtualRadio, port: int
) -> None:
    """Its host is killed between an advertisement and its arrival: the device must stay free for the next one."""
    band = await Monitor().start(radio)
    async with remote(port) as central:
        device = await find(central)
        (ghost,) = [one for one in radio.link.radios if one is not band.device.controller]
        on_its_way: list[AdvertisingPdu] = []
        arrives = ghost.on_ll_advertising_pdu
        ghost.on_ll_advertising_pdu = on_its_way.append  # type: ignore[method-assign, assignment]
        asking = asyncio.create_task(client(central, device, timeout=20).connect())
        await until(lambda: bool(on_its_way) and ghost.pending_le_connection is not None)
        radio.link.remove_controller(ghost)
        arrives(on_its_way[-1])
        await asyncio.sleep(0.05)
        assert not band.device.connections
        asking.cancel()
        await asyncio.wait({asking})
    async with remote(port) as other, client(other, await find(other)) as connection:
        assert connection.is_connected
