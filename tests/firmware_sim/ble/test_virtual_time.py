"""Two weeks of a continuous glucose sensor, one notification every five minutes, within seconds."""

import asyncio

from bumble.core import UUID
from bumble.gatt import Characteristic, Service

from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.virtual_time import VirtualTimeLoop
from tests.firmware_sim.ble.monitor import advertising, client, find

_MEASUREMENT = "00002aa7-0000-1000-8000-00805f9b34fb"
_RECORDS = 14 * 24 * 12


async def _two_weeks() -> tuple[float, list[int]]:
    radio = VirtualRadio()
    measurement: Characteristic[bytes] = Characteristic(
        UUID.from_16_bits(0x2AA7), Characteristic.Properties.NOTIFY, Characteristic.Permissions(0)
    )
    sensor = await radio.device("CGM", services=[Service(UUID.from_16_bits(0x181F), [measurement])])
    await sensor.start_advertising(advertising_data=advertising("CGM"), auto_restart=True)
    central = await radio.central("edge")
    got: list[int] = []
    async with client(central, await find(central, "CGM")) as connection:
        await connection.start_notify(_MEASUREMENT, lambda _c, value: got.append(int.from_bytes(value)))
        begun = asyncio.get_running_loop().time()
        for number in range(_RECORDS):
            await sensor.notify_subscribers(measurement, number.to_bytes(2))
            await asyncio.sleep(300)
        passed = asyncio.get_running_loop().time() - begun
    await radio.close()
    return passed, got


def test_two_weeks_of_a_sensor() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        passed, got = runner.run(_two_weeks())
    assert got == list(range(_RECORDS))
    assert 14 * 86_400 <= passed < 14 * 86_400 + 60
