"""What bumble 0.0.236 does wrong, each beside what the specification asks for: a test that fails here is good news.

Then the override that mends it in firmware_sim.ble can go.
"""

import asyncio

import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakGATTProtocolError
from bumble import hci
from bumble.controller import Controller
from bumble.core import UUID
from bumble.device import Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.link import LocalLink

from firmware_sim.ble.backend import Central, SteadyDevice
from firmware_sim.ble.controller import RadioController, RadioLink
from firmware_sim.ble.radio import VirtualRadio
from tests.firmware_sim.ble.monitor import (
    BATTERY,
    HEART_RATE,
    SECRET,
    SECRET_EVENT,
    Monitor,
    advertising,
    client,
    find,
)

_FOR_EVER_S = 0.4
_PUBLIC = "00:11:22:33:44:55"


async def _advertisements(central: Central, address: str, count: int) -> list[AdvertisementData]:
    heard: asyncio.Queue[AdvertisementData] = asyncio.Queue()

    def on_advertisement(device: BLEDevice, data: AdvertisementData) -> None:
        if device.address == address:
            heard.put_nowait(data)

    scanner: BaseBleakScanner = central.scanner_backend(on_advertisement, None)
    await scanner.start()
    try:
        return [await asyncio.wait_for(heard.get(), 1) for _ in range(count)]
    finally:
        await scanner.stop()


async def test_a_cancelled_connection_is_never_reported(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core Specification, volume 4, part E, 7.8.13: LE Connection Complete with error 0x02 follows."""
    name = "on_hci_le_create_connection_cancel_command"
    monkeypatch.setattr(RadioController, name, getattr(Controller, name))
    band = await Monitor().start(radio)
    device = await find(central)
    band.device.controller.muted = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(central.device.connect_le(device.details, timeout=0.05), _FOR_EVER_S)
    assert not central.device.is_le_connecting
    assert central.device.connections == {}
    monkeypatch.undo()


@pytest.mark.parametrize("mended", [False, True])
async def test_data_come_from_the_random_address(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    """A peripheral that advertises with its public address is not understood once connected."""
    if not mended:
        monkeypatch.setattr(RadioLink, "send_acl_data", LocalLink.send_acl_data)
    device = await radio.device("Q", advertising_interval_ms=20)
    device.controller.public_address = hci.Address(_PUBLIC, hci.Address.PUBLIC_DEVICE_ADDRESS)
    await device.start_advertising(advertising_data=advertising("Q"), own_address_type=hci.OwnAddressType.PUBLIC)
    found = await find(central, "Q")
    assert found.address == _PUBLIC
    connection = client(central, found)
    try:
        async with asyncio.timeout(_FOR_EVER_S):
            await connection.connect()
    except TimeoutError:
        assert not mended
    else:
        assert mended
    device.controller.drop_links()


async def test_both_of_two_racing_centrals_are_told_that_they_are_connected(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RadioLink, "send_advertising_pdu", LocalLink.send_advertising_pdu)
    monkeypatch.setattr(RadioController, "create_le_connection", Controller.create_le_connection)
    other = await radio.central("other")
    band = await Monitor().start(radio)
    device = await find(central)
    connecting = (one.device.connect_le(device.details, timeout=0.2) for one in (central, other))
    connections = await asyncio.gather(*connecting)
    assert len(connections) == 2
    assert len(band.device.connections) == 1


async def test_two_connections_at_once_fail_on_one_adapter(radio: VirtualRadio, central: Central) -> None:
    await Monitor().start(radio, "A")
    await Monitor().start(radio, "B")
    devices = [await find(central, name) for name in ("A", "B")]
    outcomes = await asyncio.gather(
        *(central.device.connect_le(device.details, timeout=0.2) for device in devices), return_exceptions=True
    )
    assert any(isinstance(outcome, BaseException) for outcome in outcomes)


async def test_permissions_are_not_checked(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volume 3, part F, 3.2.5: a value that may not be read or written is not."""
    monkeypatch.setattr("firmware_sim.ble.radio.enforce", lambda _attribute: None)
    await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        assert await connection.read_gatt_char(HEART_RATE) == b""
        await connection.write_gatt_char(BATTERY, b"\x01", response=True)
        assert await connection.read_gatt_char(BATTERY) == b"\x01"


@pytest.mark.parametrize("mended", [False, True])
async def test_a_defect_in_a_callback_leaves_the_request_unanswered(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    if not mended:
        monkeypatch.setattr("firmware_sim.ble.radio.enforce", lambda _attribute: None)

    def fail(_connection: object) -> bytes:
        raise RuntimeError("a defect")

    value: Characteristic[bytes] = Characteristic(
        UUID(SECRET), Characteristic.Properties.READ, Characteristic.READABLE, CharacteristicValue(read=fail)
    )
    device = await radio.device("X", services=[Service(UUID.from_16_bits(0x1234), [value])], advertising_interval_ms=20)
    await device.start_advertising(advertising_data=advertising("X"))
    connection = client(central, await find(central, "X"))
    await connection.connect()
    expected: type[Exception] = BleakGATTProtocolError if mended else TimeoutError
    with pytest.raises(expected):
        await asyncio.wait_for(connection.read_gatt_char(SECRET), _FOR_EVER_S)
    await connection.disconnect()


@pytest.mark.parametrize("mended", [False, True])
async def test_scan_responses_and_signal_strength(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    """The advertising data come again instead of the scan response, and everybody is heard at -50 dBm."""
    if not mended:
        monkeypatch.setattr(RadioController, "send_hci_packet", Controller.send_hci_packet)
    device = await radio.device("Y", address="C0:00:00:00:00:AA", advertising_interval_ms=20)
    device.controller.rssi = -77
    await device.start_advertising(advertising_data=b"", scan_response_data=advertising("in the response"))
    heard = await _advertisements(central, "C0:00:00:00:00:AA", 2)
    assert {data.rssi for data in heard} == {-77 if mended else -50}
    assert ("in the response" in {data.local_name for data in heard}) == mended


async def test_an_advertisement_has_no_limit(radio: VirtualRadio, central: Central) -> None:
    """Volume 6, part B, 2.3.1: AdvData is 0 to 31 octets."""
    device = await radio.device("Z", advertising_interval_ms=20)
    await Device.start_advertising(device, advertising_data=advertising("Z" * 60))
    assert (await find(central, "Z" * 60)).address == str(device.random_address)


async def test_a_protected_characteristic_is_subscribed_to_in_plain_text(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    async with client(central, await find(central)) as connection:
        await connection.start_notify(SECRET_EVENT, lambda _c, _v: None)
        (link,) = band.device.connections.values()
        assert not link.encryption


async def test_subscriptions_of_a_bonded_client_are_forgotten(radio: VirtualRadio, central: Central) -> None:
    """Volume 3, part G, 3.3.3.3: they persist across connections. A collector subscribes each time all the same."""
    band = await Monitor().start(radio)
    device = await find(central)
    async with client(central, device, pair=True) as connection:
        await connection.start_notify(HEART_RATE, lambda _c, _v: None)
    async with client(central, device, pair=True):
        (link,) = band.device.connections.values()
        assert not band.device.gatt_server.subscribers.get(link)


async def test_a_bonded_peer_is_looked_for_without_end(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`connect_le` scans for the peer's identity before its own time limit begins."""
    monkeypatch.delattr(SteadyDevice, "refresh_resolving_list")
    band = await Monitor().start(radio)
    device = await find(central)
    async with client(central, device, pair=True):
        await central.device.refresh_resolving_list()
    band.device.controller.muted = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(central.device.connect_le(device.details, timeout=0.05), _FOR_EVER_S)


async def test_every_controller_is_woken_by_every_advertisement(
    radio: VirtualRadio, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(RadioController, "on_ll_advertising_pdu", lambda self, _packet: woken.append(self.name))
    await radio.device("idle")
    await Monitor().start(radio)
    await asyncio.sleep(0.03)
    assert not woken
    monkeypatch.setattr(RadioLink, "send_advertising_pdu", LocalLink.send_advertising_pdu)
    await asyncio.sleep(0.05)
    assert set(woken) == {"idle"}


async def test_a_data_packet_is_cut_into_27_bytes() -> None:
    assert Controller.le_acl_data_packet_length == 27
