"""A simulated CGM read with bleak and the gateway's decoders: what arrives is what was measured."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from bleak.exc import BleakGATTProtocolError

from devices.gatt.cgm import decode_cgm_feature, decode_cgm_measurements, decode_cgm_status, decode_session_start_time
from devices.gatt.floats import Special
from devices.vocabulary import Code, DeviceModel, Flag, Unit
from firmware_sim.ble.backend import Central
from firmware_sim.ble.cgm import CgmPeripheral, CgmTraits
from firmware_sim.ble.packets import with_crc
from firmware_sim.ble.peripherals import peripheral
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.encoding import Wire
from firmware_sim.physiology.glucose import insulin_low
from firmware_sim.physiology.noise import HOUR_MS, MINUTE_MS
from firmware_sim.wristband import Wristband
from tests.firmware_sim.ble.listener import Wall, listening, settle
from tests.firmware_sim.ble.plans import BODY, local, measured, mqtt_series, plan_of


def mqtt_glucose(start_ms: int, end_ms: int) -> dict[int, Wire]:
    """Return what a wristband with the same seed sends over MQTT, in mg/dL."""
    band = Wristband((1, 0), replace(BODY, glucose_unit=Unit.MG_DL, dropout_probability=0.0))
    (series,) = mqtt_series(band.measure(start_ms, end_ms, live=False), Code.GLUCOSE)
    first = start_ms + (BODY.phase_ms - start_ms) % (5 * MINUTE_MS)
    return {first + index * 5 * MINUTE_MS: value for index, value in enumerate(series)}


@pytest.mark.parametrize("crc", [True, False])
async def test_eight_hours_of_a_cgm_are_there_at_once(radio: VirtualRadio, central: Central, *, crc: bool) -> None:
    wall = Wall()
    started = wall() - 8 * HOUR_MS
    cgm = CgmPeripheral(plan_of(DeviceModel.CGM, CgmTraits(BODY, crc=crc)), wall, started_ms=started)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        packets = await listener.reported("2aa7")
        assert len(packets) == 96
        start = decode_session_start_time(await listener.read("2aaa"), crc=crc)
        status = decode_cgm_status(await listener.read("2aa9"), crc=crc)
        feature = decode_cgm_feature(await listener.read("2aa8"))
    records = [record for packet in packets for record in decode_cgm_measurements(packet, crc=crc)]
    assert start.time == local(cgm.session_start_ms)
    assert start.time_zone == timedelta(hours=8)
    assert status.time_offset == (wall() - cgm.session_start_ms) // MINUTE_MS
    assert bool(feature.features & 1 << 12) is crc
    arrived = {cgm.session_start_ms + one.time_offset * MINUTE_MS: one.glucose for one in records}
    assert arrived == {one.at_ms: one.value for one in measured(cgm, Code.GLUCOSE)}
    assert arrived == mqtt_glucose(started, wall())
    for before, record in pairwise(records):
        assert isinstance(record.trend, Decimal)
        assert isinstance(record.glucose, Decimal)
        assert isinstance(before.glucose, Decimal)
        assert abs(record.trend - (record.glucose - before.glucose) / 5) <= Decimal("0.25")


@pytest.mark.parametrize("every", [1, 5, 15])
async def test_a_cgm_notifies_as_it_measures(radio: VirtualRadio, central: Central, every: int) -> None:
    wall = Wall()
    cgm = peripheral(plan_of(DeviceModel.CGM, CgmTraits(BODY, every_minutes=every)), wall)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        for _ in range(60):
            wall.at_ms += MINUTE_MS
            await cgm.tick()
        await settle()
        (offsets,) = zip(
            *([one.time_offset] for p in heard for one in decode_cgm_measurements(p, crc=True)), strict=True
        )
        assert list(offsets) == list(range(every, 61, every))


async def test_out_of_range_is_no_number(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    deep = replace(BODY, dips=(insulin_low(wall() - HOUR_MS, level=1.8, low_for_ms=40 * MINUTE_MS),))
    cgm = peripheral(plan_of(DeviceModel.CGM, CgmTraits(deep)), wall, started_ms=wall() - 3 * HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        records = [one for p in await listener.reported("2aa7") for one in decode_cgm_measurements(p, crc=True)]
    low = [one.time_offset for one in records if one.glucose is Special.NEGATIVE_INFINITY and one.warnings]
    assert low
    assert low == [
        one.key for one in measured(cgm, Code.GLUCOSE) if one.flags == Flag.BELOW_RANGE and one.value is None
    ]


async def test_the_start_of_a_session_is_written_as_the_time_it_is_now(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    traits = CgmTraits(BODY, knows_start=False)
    cgm = CgmPeripheral(plan_of(DeviceModel.CGM, traits), wall, started_ms=wall() - 8 * HOUR_MS)
    await cgm.start(radio)
    now = bytes.fromhex("ea070b160e2800" + "20" + "00")  # 14:40 in a zone of +8 h
    async with listening(central, cgm) as listener:
        unknown = decode_session_start_time(await listener.read("2aaa"), crc=True)
        assert (unknown.time, unknown.time_zone, unknown.dst_offset) == (None, None, None)
        for wrong, code in ((now, 0x80), (now + b"\0\0", 0x81), (with_crc(bytes(9)), 0xFF), (with_crc(b"\0"), 0x0D)):
            with pytest.raises(BleakGATTProtocolError) as error:
                await listener.write("2aaa", wrong)
            assert error.value.code == code
        await listener.write("2aaa", with_crc(now))
        start = decode_session_start_time(await listener.read("2aaa"), crc=True)
    assert start.time == local(cgm.session_start_ms)
    assert start.time_zone == timedelta(hours=8)


async def test_a_session_ends_and_another_begins(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cgm = CgmPeripheral(plan_of(DeviceModel.CGM, CgmTraits(BODY, run_hours=2)), wall, started_ms=wall() - 3 * HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        packets = await listener.reported("2aa7")
        assert len(packets) == 24
        assert decode_cgm_status(await listener.read("2aa9"), crc=True).status == 1
        cgm.new_session()
        wall.at_ms += 11 * MINUTE_MS
        packets.clear()
        assert await listener.ask("0101") == "06000101"
        assert [one.time_offset for p in packets for one in decode_cgm_measurements(p, crc=True)] == [5, 10]
        assert decode_cgm_status(await listener.read("2aa9"), crc=True).status == 0
    assert [(one.session, one.key) for one in measured(cgm, Code.GLUCOSE)][-3:] == [(0, 120), (1, 5), (1, 10)]
