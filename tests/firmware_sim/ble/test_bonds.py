"""Pairing and bonds: as BlueZ does it, on both sides and over restarts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bleak.exc import BleakError
from bumble.keys import JsonKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.ble.backend import Central
from firmware_sim.ble.radio import RadioDevice, VirtualRadio
from tests.firmware_sim.ble.monitor import BATTERY, SECRET, SECRET_EVENT, SECRET_VALUE, Monitor, client, find


def pairings(device: RadioDevice) -> list[Any]:
    """Collect the keys of every pairing from now on."""
    found: list[Any] = []
    device.on("connection", lambda connection: connection.on("pairing", found.append))
    return found


def encrypted(device: RadioDevice) -> bool:
    (connection,) = device.connections.values()
    return bool(connection.encryption)


async def test_a_protected_value_pairs_once_and_encrypts_from_then_on(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    found = pairings(band.device)
    device = await find(central)
    for _ in range(2):
        async with client(central, device) as connection:
            assert await connection.read_gatt_char(BATTERY)
            assert not encrypted(band.device)
            assert await connection.read_gatt_char(SECRET) == SECRET_VALUE
            assert encrypted(band.device)
    assert len(found) == 1


async def test_pairing_before_anything_else(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    for _ in range(2):
        async with client(central, await find(central), pair=True):
            assert encrypted(band.device)


async def test_a_protected_subscription_pairs(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio, encrypted=True)
    async with client(central, await find(central)) as connection:
        await connection.start_notify(SECRET_EVENT, lambda _c, _v: None)
        assert encrypted(band.device)


async def test_a_device_that_refuses_to_pair(radio: VirtualRadio, central: Central) -> None:
    class Refusal(PairingDelegate):
        async def accept(self) -> bool:
            return False

    band = await Monitor().start(radio)
    band.device.pairing_config_factory = lambda _connection: PairingConfig(delegate=Refusal())
    async with client(central, await find(central)) as connection:
        with pytest.raises(BleakError, match="pairing failed"):
            await connection.read_gatt_char(SECRET)
        assert connection.is_connected


async def test_a_device_that_forgot_the_bond(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    device = await find(central)
    async with client(central, device) as connection:
        await connection.read_gatt_char(SECRET)
    assert band.device.keystore
    await band.device.keystore.delete_all()
    connection = client(central, device)
    await connection.connect()
    with pytest.raises(BleakError, match="pairing failed"):
        await asyncio.wait_for(connection.read_gatt_char(SECRET), 2)
    assert not connection.is_connected
    await connection.unpair()
    async with connection:
        assert await connection.read_gatt_char(SECRET) == SECRET_VALUE


async def test_a_device_that_has_bonded_with_another_key(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    device = await find(central)
    async with client(central, device) as connection:
        await connection.read_gatt_char(SECRET)
    assert band.device.keystore
    ((name, keys),) = await band.device.keystore.get_all()
    assert keys.ltk
    keys.ltk.value = bytes(16)
    await band.device.keystore.update(name, keys)
    connection = client(central, device)
    await connection.connect()
    with pytest.raises(BleakError):
        await asyncio.wait_for(connection.read_gatt_char(SECRET), 2)
    assert not connection.is_connected


async def test_bonds_are_forgotten_without_a_connection(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    found = pairings(band.device)
    device = await find(central)
    for _ in range(2):
        async with client(central, device) as connection:
            await connection.read_gatt_char(SECRET)
        await client(central, device).unpair()
    assert len(found) == 2


@pytest.mark.parametrize("entered", [123456, 111111])
async def test_a_passkey(radio: VirtualRadio, central: Central, entered: int) -> None:
    class Display(PairingDelegate):
        def __init__(self) -> None:
            super().__init__(PairingDelegate.IoCapability.DISPLAY_OUTPUT_ONLY)

        async def display_number(self, number: int, digits: int) -> None:
            pass

        async def generate_passkey(self) -> int:
            return 123456

    class Keyboard(PairingDelegate):
        def __init__(self) -> None:
            super().__init__(PairingDelegate.IoCapability.KEYBOARD_INPUT_ONLY)

        async def get_number(self) -> int:
            return entered

    band = await Monitor().start(radio)
    band.device.pairing_config_factory = lambda _connection: PairingConfig(delegate=Display())
    central.device.pairing_config_factory = lambda _connection: PairingConfig(delegate=Keyboard())
    async with client(central, await find(central)) as connection:
        if entered == 123456:
            assert await connection.read_gatt_char(SECRET) == SECRET_VALUE
            (link,) = band.device.connections.values()
            assert link.authenticated
        else:
            with pytest.raises(BleakError, match="pairing failed"):
                await connection.read_gatt_char(SECRET)


async def test_a_device_that_leaves_while_pairing(radio: VirtualRadio, central: Central) -> None:
    band = await Monitor().start(radio)
    connection = client(central, await find(central))
    await connection.connect()
    band.device.controller.muted = True
    pairing = asyncio.create_task(connection.pair())
    await asyncio.sleep(0.05)
    band.device.controller.drop_links()
    with pytest.raises(BleakError):
        await asyncio.wait_for(pairing, 1)


async def test_bonds_outlive_the_radio_in_files(tmp_path: Path) -> None:
    async def paired() -> int:
        radio = VirtualRadio()
        central = await radio.central("edge", tmp_path / "edge.json")
        band = await Monitor().start(radio, keystore=JsonKeyStore("band", str(tmp_path / "band.json")))
        found = pairings(band.device)
        async with client(central, await find(central)) as connection:
            await connection.read_gatt_char(SECRET)
        await radio.close()
        return len(found)

    assert [await paired(), await paired()] == [1, 0]
