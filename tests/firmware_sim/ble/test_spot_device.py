"""Simulated devices that people use now and then: what arrives is what was measured, once it was confirmed or asked for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from bleak.exc import BleakGATTProtocolError

from devices.gatt.blood_pressure import decode_blood_pressure_measurement
from devices.gatt.clock import decode_current_time, decode_date_time, encode_current_time, encode_date_time
from devices.gatt.floats import Special
from devices.gatt.glucose import decode_glucose_context, decode_glucose_measurement
from devices.gatt.oximeter import decode_continuous, decode_spot_check
from devices.gatt.thermometer import decode_temperature_measurement
from devices.gatt.weight import decode_weight_measurement
from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.backend import Central
from firmware_sim.ble.glucose_meter import GlucoseMeterPeripheral, GlucoseMeterTraits
from firmware_sim.ble.oximeter import OximeterPeripheral
from firmware_sim.ble.peripherals import peripheral
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.spot import ClockKind, SpotPeripheral, Use
from firmware_sim.ble.spot_devices import CuffTraits, ScaleTraits, ThermometerTraits
from firmware_sim.ble.truth import Measured
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from tests.firmware_sim.ble.listener import Wall, listening, settle, until
from tests.firmware_sim.ble.plans import SHANGHAI, local, measured, plan_of


@pytest.mark.parametrize("unit", [Unit.MMOL_L, Unit.MG_DL])
async def test_a_meter_reports_records_with_context(radio: VirtualRadio, central: Central, unit: Unit) -> None:
    wall = Wall()
    traits = GlucoseMeterTraits(SHANGHAI, unit=unit, offset_minutes=-30)
    meter = GlucoseMeterPeripheral(plan_of(DeviceModel.GLUCOSE_METER, traits), wall, started_ms=wall() - 5 * DAY_MS)
    await meter.start(radio)
    async with listening(central, meter) as listener:
        contexts = await listener.listen("2a34")
        records = [decode_glucose_measurement(packet) for packet in await listener.reported("2a18")]
        clock = decode_current_time(await listener.read("2a2b"))
        meter.use_now()
        await settle()
        assert len(contexts) == len(records) + 1
    assert clock.time == local(wall() - 30 * MINUTE_MS)
    truth = measured(meter, Code.GLUCOSE)[:-1]
    assert len(records) in range(19, 22)
    assert [(one.sequence, one.unit, float(str(one.concentration))) for one in records] == [
        (one.key, unit, one.value) for one in truth
    ]
    assert [one.base_time for one in records] == [local(one.at_ms) for one in truth]
    assert {one.time_offset for one in records} == {-30}
    assert [decode_glucose_context(one).sequence for one in contexts] == list(range(1, len(records) + 2))


def told_pressure(packet: bytes) -> tuple[object, ...]:
    one = decode_blood_pressure_measurement(packet)
    return one.timestamp, one.unit, float(str(one.systolic)), float(str(one.diastolic)), float(str(one.pulse_rate))


def told_temperature(packet: bytes) -> tuple[object, ...]:
    one = decode_temperature_measurement(packet)
    return one.timestamp, one.unit, float(str(one.temperature))


def told_weight(packet: bytes) -> tuple[object, ...]:
    one = decode_weight_measurement(packet)
    return one.timestamp, one.unit, float(str(one.weight))


ONCE_A_DAY = Use((9 * 60,), clock=ClockKind.DATE_TIME)
SPOT_DEVICES = [
    (DeviceModel.BLOOD_PRESSURE, CuffTraits(SHANGHAI, ONCE_A_DAY), "2a35", told_pressure),
    (DeviceModel.BLOOD_PRESSURE, CuffTraits(SHANGHAI, ONCE_A_DAY, kpa=True), "2a35", told_pressure),
    (DeviceModel.THERMOMETER, ThermometerTraits(SHANGHAI, ONCE_A_DAY), "2a1c", told_temperature),
    (DeviceModel.THERMOMETER, ThermometerTraits(SHANGHAI, ONCE_A_DAY, fahrenheit=True), "2a1c", told_temperature),
    (DeviceModel.SCALE, ScaleTraits(SHANGHAI, ONCE_A_DAY), "2a9d", told_weight),
    (DeviceModel.SCALE, ScaleTraits(SHANGHAI, ONCE_A_DAY, pounds=True), "2a9d", told_weight),
]


@pytest.mark.parametrize(("model", "traits", "uuid", "told"), SPOT_DEVICES)
async def test_measurements_are_kept_until_they_are_confirmed(
    radio: VirtualRadio,
    central: Central,
    model: DeviceModel,
    traits: CuffTraits | ThermometerTraits | ScaleTraits,
    uuid: str,
    told: Callable[[bytes], tuple[object, ...]],
) -> None:
    wall = Wall()
    device = peripheral(plan_of(model, traits), wall, started_ms=wall() - 4 * DAY_MS)
    assert isinstance(device, SpotPeripheral)
    await device.start(radio)
    async with listening(central, device) as listener:
        assert decode_date_time(await listener.read("2a08")) == local(wall())
        heard = await listener.listen(uuid)
        await until(lambda: len(heard) == 4)
        device.use_now()
        await until(lambda: len(heard) == 5 and len(device.memory) == 0)
    by_record: dict[int, list[Measured]] = {}
    for one in device.truth:
        assert isinstance(one, Measured)
        by_record.setdefault(one.key, []).append(one)
    assert len(by_record) == 5
    expected = [(local(of[0].at_ms), of[0].unit, *(one.value for one in of)) for of in by_record.values()]
    assert [told(packet) for packet in heard] == expected
    async with listening(central, device) as listener:
        again = await listener.listen(uuid)
        await settle()
        assert again == []


async def test_a_measurement_that_was_not_confirmed_comes_again(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cuff = peripheral(plan_of(DeviceModel.BLOOD_PRESSURE), wall, started_ms=wall() - 4 * DAY_MS)
    await cuff.start(radio)
    async with listening(central, cuff) as listener:
        cuff.catch_up()
        stored = [record.packets[0] for record in cuff.memory.between()]
        heard = await listener.listen("2a35")
        await until(lambda: bool(heard))
        cuff.lose_link()
        await until(cuff.idle.is_set)
        assert len(cuff.memory) == len(stored) > 1
    async with listening(central, cuff) as listener:
        again = await listener.listen("2a35")
        await until(lambda: len(cuff.memory) == 0)
    assert heard == stored[:1]
    assert again == stored


@pytest.mark.parametrize("kind", [ClockKind.CURRENT_TIME, ClockKind.DATE_TIME])
async def test_a_clock_that_is_set_stamps_only_what_comes(
    radio: VirtualRadio, central: Central, kind: ClockKind
) -> None:
    wall = Wall()
    plan = plan_of(DeviceModel.GLUCOSE_METER, GlucoseMeterTraits(SHANGHAI, Use((), clock=kind)))
    meter = GlucoseMeterPeripheral(replace(plan, clock_error_ms=-HOUR_MS), wall)
    await meter.start(radio)
    meter.use_now()
    wall.at_ms += MINUTE_MS
    right = local(wall())
    async with listening(central, meter) as listener:
        uuid, value = (
            ("2a2b", encode_current_time(right))
            if kind is ClockKind.CURRENT_TIME
            else ("2a08", encode_date_time(right))
        )
        await listener.write(uuid, value)
        with pytest.raises(BleakGATTProtocolError) as error:
            await listener.write(uuid, value[:-1])
        assert error.value.code == 0x0D
        with pytest.raises(BleakGATTProtocolError) as error:
            await listener.write(uuid, bytes(len(value)))
        assert error.value.code == 0xFF
        meter.use_now()
        records = [decode_glucose_measurement(packet) for packet in await listener.reported("2a18")]
    assert [one.base_time for one in records] == [local(wall() - MINUTE_MS - HOUR_MS), local(wall())]


async def test_an_oximeter_stores_spot_checks_and_tells_continuously(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    oximeter = OximeterPeripheral(plan_of(DeviceModel.OXIMETER), wall, started_ms=wall() - 3 * DAY_MS)
    await oximeter.start(radio)
    async with listening(central, oximeter) as listener:
        spots = [decode_spot_check(packet) for packet in await listener.reported("2a5e")]
        assert await listener.ask("010301" + "0100") == "06000104"
        assert await listener.ask("0201") == "06000201"
        assert await listener.ask("0401") == "05000000"
        heard = await listener.listen("2a5f")
        for _ in range(3):
            wall.at_ms += 1_000
            await oximeter.tick()
        oximeter.finger_in = False
        wall.at_ms += 1_000
        await oximeter.tick()
        await settle()
    truth = measured(oximeter, Code.SPO2)
    assert [(one.timestamp, float(str(one.spo2))) for one in spots] == [(local(one.at_ms), one.value) for one in truth]
    flow = [decode_continuous(packet) for packet in heard]
    assert [float(str(one.spo2)) for one in flow[:3]] == [
        one.value for one in oximeter.continuous if one.code is Code.SPO2
    ][:3]
    assert flow[3].spo2 is Special.NAN
