"""bleak's scanner and client over the virtual radio: what a real adapter would do."""

import asyncio

import pytest
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bleak_retry_connector import BleakNotFoundError, establish_connection

from firmware_sim.ble.backend import Central
from firmware_sim.ble.radio import VirtualRadio
from tests.firmware_sim.ble.monitor import BATTERY, HEART_RATE, LONG, LONG_VALUE, Monitor, client, collect, find


async def test_a_value_is_read(radio: VirtualRadio, central: Central) -> None:
    await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        assert await connection.read_gatt_char(BATTERY) == b"\x57"
        assert connection.mtu_size == 517
        assert connection.name == "Band"


async def test_notifications_come_while_subscribed_on_every_connection(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    device = await find(central)
    for _ in range(3):  # it advertises again after each
        rates: list[int] = []
        async with client(central, device) as connection:
            await connection.start_notify(HEART_RATE, collect(rates))
            await band.beat(61)
            await asyncio.sleep(0.01)
            await connection.stop_notify(HEART_RATE)
            await band.beat(62)
            await asyncio.sleep(0.01)
        assert rates == [61]


async def test_nobody_subscribes_twice(radio: VirtualRadio, central: Central) -> None:
    await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        await connection.start_notify(HEART_RATE, lambda _c, _v: None)
        with pytest.raises(BleakError, match="already"):
            await connection.start_notify(HEART_RATE, lambda _c, _v: None)


async def test_an_address_is_enough_to_connect(radio: VirtualRadio, central: Central) -> None:
    await Monitor().start(radio, address="C0:00:00:00:AA:01")
    async with client(central, "c0:00:00:00:aa:01") as connection:
        assert await connection.read_gatt_char(BATTERY) == b"\x57"


async def test_a_supervision_timeout_ends_the_link_at_both_ends(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    lost = asyncio.Event()
    connection = client(central, await find(central), disconnected_callback=lambda _: lost.set())
    await connection.connect()
    band.device.controller.drop_links()
    await asyncio.wait_for(lost.wait(), 1)
    assert not connection.is_connected
    assert not band.device.connections
    with pytest.raises(BleakError):
        await connection.read_gatt_char(BATTERY)
    await connection.connect()
    assert await connection.read_gatt_char(BATTERY) == b"\x57"
    await connection.disconnect()


async def test_a_silent_device_keeps_a_read_waiting_until_the_link_ends(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    connection = client(central, await find(central))
    await connection.connect()
    band.device.controller.muted = True
    reading = asyncio.create_task(connection.read_gatt_char(BATTERY))
    await asyncio.sleep(0.05)
    assert not reading.done()
    band.device.controller.drop_links()
    with pytest.raises(BleakError, match="disconnected"):
        await asyncio.wait_for(reading, 1)


async def test_a_cancelled_read_is_cancelled(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        band.device.controller.muted = True
        reading = asyncio.create_task(connection.read_gatt_char(BATTERY))
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        band.device.controller.drop_links()


async def test_connecting_to_who_does_not_answer_times_out(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    device = await find(central)
    band.device.controller.muted = True
    async with asyncio.timeout(1):
        with pytest.raises(TimeoutError):
            await client(central, device, timeout=0.1).connect()
    band.device.controller.muted = False
    async with client(central, device) as connection:
        assert connection.is_connected


async def test_an_unknown_address_is_not_found(central: Central) -> None:
    with pytest.raises(BleakDeviceNotFoundError):
        await client(central, "C0:00:00:00:77:77", timeout=0.1).connect()


async def test_a_scan_without_result_ends(central: Central) -> None:
    assert await BleakScanner.find_device_by_name("nobody", 0.1, backend=central.scanner_backend) is None


async def test_scanners_hear_how_loud_a_device_is(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    band.device.controller.rssi = -91
    heard: asyncio.Queue[AdvertisementData] = asyncio.Queue()

    def on_advertisement(_device: BLEDevice, data: AdvertisementData) -> None:
        heard.put_nowait(data)

    async with BleakScanner(on_advertisement, backend=central.scanner_backend):
        assert (await asyncio.wait_for(heard.get(), 1)).rssi == -91


async def test_errors_of_the_server_carry_their_code(radio: VirtualRadio, central: Central) -> None:
    await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        with pytest.raises(BleakGATTProtocolError) as refused:
            await connection.write_gatt_char(BATTERY, b"\x01", response=True)
        assert refused.value.args[0] == 0x03  # Write Not Permitted
        with pytest.raises(BleakGATTProtocolError) as refused:
            await connection.read_gatt_char(HEART_RATE)
        assert refused.value.args[0] == 0x02  # Read Not Permitted
        assert await connection.read_gatt_char(BATTERY) == b"\x57"


@pytest.mark.parametrize("mtu", [23, 517])
async def test_a_value_longer_than_the_mtu(radio: VirtualRadio, central: Central, mtu: int) -> None:
    band = await Monitor().start(radio)
    band.device.gatt_server.max_mtu = mtu
    async with client(central, await find(central)) as connection:
        assert connection.mtu_size == mtu
        assert await connection.read_gatt_char(LONG) == LONG_VALUE
        await connection.write_gatt_char(LONG, LONG_VALUE[::-1], response=True)
        assert await connection.read_gatt_char(LONG) == LONG_VALUE[::-1]


async def test_two_devices_at_once_and_a_scan_beside_them(radio: VirtualRadio, central: Central) -> None:
    bands = {name: await Monitor().start(radio, name) for name in ("A", "B")}
    rates: dict[str, list[int]] = {"A": [], "B": []}
    async with client(central, await find(central, "A")) as a, client(central, await find(central, "B")) as b:
        for name, connection in (("A", a), ("B", b)):
            await connection.start_notify(HEART_RATE, collect(rates[name]))
        await bands["A"].beat(50)
        await bands["B"].beat(90)
        await asyncio.sleep(0.02)
    assert rates == {"A": [50], "B": [90]}


async def test_many_connects_at_once_wait_for_each_other(radio: VirtualRadio, central: Central) -> None:
    for number in range(5):
        await Monitor().start(radio, f"band-{number}")
    devices = [await find(central, f"band-{number}") for number in range(5)]
    connections = [client(central, device) for device in devices]
    await asyncio.gather(*(connection.connect() for connection in connections))
    assert all(connection.is_connected for connection in connections)


async def test_a_connected_device_is_heard_by_nobody_else(radio: VirtualRadio, central: Central) -> None:
    other = await radio.central("other")
    await Monitor().start(radio)
    async with client(central, await find(central)):
        assert await BleakScanner.find_device_by_name("Band", 0.1, backend=other.scanner_backend) is None
    await find(other)


async def test_of_two_centrals_that_race_one_wins(radio: VirtualRadio, central: Central) -> None:
    other = await radio.central("other")
    band = await Monitor().start(radio)
    device = await find(central)
    connections = [client(one, device, timeout=0.3) for one in (central, other)]
    outcomes = await asyncio.gather(*(connection.connect() for connection in connections), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "TimeoutError"]
    assert len(band.device.connections) == 1


async def test_the_retry_connector(radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bleak_retry_connector.BLEAK_TIMEOUT", 0.1)
    band = await Monitor().start(radio)
    device = await find(central)
    connection = await establish_connection(BleakClient, device, "Band", backend=central.client_backend)
    assert await connection.read_gatt_char(BATTERY) == b"\x57"
    await connection.disconnect()
    band.device.controller.muted = True
    with pytest.raises(BleakNotFoundError):
        await establish_connection(BleakClient, device, "Band", max_attempts=1, backend=central.client_backend)


async def test_a_legacy_advertisement_is_31_bytes(radio: VirtualRadio) -> None:
    device = await radio.device("Z")
    with pytest.raises(ValueError, match="31"):
        await device.start_advertising(advertising_data=bytes(32))


async def test_a_connect_that_is_given_up_leaves_the_radio_free(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    device = await find(central)
    band.device.controller.muted = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client(central, device).connect()
    band.device.controller.muted = False
    async with client(central, device, timeout=2) as connection:
        assert await connection.read_gatt_char(BATTERY) == b"\x57"
