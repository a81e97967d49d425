"""Wards of Bluetooth devices: plans, advertisements, stories and many devices on one loop."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.gatt.cgm import decode_cgm_measurements
from devices.vocabulary import Code, DeviceModel, EventType
from firmware_sim.ble.backend import Central
from firmware_sim.ble.cgm import CgmPeripheral
from firmware_sim.ble.gatt_table import advertisement, scan_response, uuid
from firmware_sim.ble.glucose_meter import GlucoseMeterPeripheral, GlucoseMeterTraits
from firmware_sim.ble.peripherals import PERIPHERALS, peripheral, start_all
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.spot import Use
from firmware_sim.ble.stories import bedsides, mixed_ward
from firmware_sim.ble.truth import Happened, Measured
from firmware_sim.ble.virtual_time import VirtualTimeLoop
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from firmware_sim.pillbox import PillBoxTraits
from firmware_sim.scenarios import Scenario, Start
from tests.firmware_sim.ble.listener import NOV_22, Wall, listening, until
from tests.firmware_sim.ble.plans import SHANGHAI, START, measured, plan_of


def test_every_model_has_a_peripheral_but_the_box_beside_the_bed() -> None:
    assert set(PERIPHERALS) == set(DeviceModel) - {DeviceModel.EDGE}


@given(names=st.sets(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), min_size=2, max_size=20))
def test_addresses_are_static_random_and_stable(names: set[str]) -> None:
    plans = [replace(plan_of(DeviceModel.CGM), id=name) for name in names]
    assert [plan.address for plan in plans] == [replace(plan, seed=(9,)).address for plan in plans]
    assert len({plan.address for plan in plans}) == len(plans)
    for plan in plans:
        octets = bytes.fromhex(plan.address.replace(":", ""))
        assert len(octets) == 6
        assert octets[0] >> 6 == 0b11


def test_advertisements_fit_a_real_radio() -> None:
    for kind in PERIPHERALS.values():
        assert len(advertisement(kind.advertised)) <= 31
    assert advertisement([uuid(0x181F)]).hex() == "02010603031f18"
    assert scan_response("Band").hex() == "050942616e64"
    with pytest.raises(ValueError, match="31 are possible"):
        scan_response("x" * 30)


def test_traits_of_another_model_are_refused() -> None:
    with pytest.raises(TypeError, match="needs CgmTraits"):
        peripheral(replace(plan_of(DeviceModel.PILLBOX), model=DeviceModel.CGM), Wall())


@settings(deadline=None, max_examples=25)
@given(now_ms=st.integers(NOV_22, NOV_22 + 400 * DAY_MS), seed=st.integers(0, 1000))
def test_the_night_low_comes_at_night_within_a_minute(now_ms: int, seed: int) -> None:
    (bedside,) = bedsides(Scenario.NIGHT_LOW, 1, Start(now_ms, 3, seed, "demo"))
    wall = Wall(now_ms)
    cgm = CgmPeripheral(bedside.devices[0], wall, started_ms=now_ms - 8 * HOUR_MS)
    cgm.catch_up()
    assert len(cgm.memory) == 96
    assert all(one.value is None or one.value >= 72 for one in measured(cgm, Code.GLUCOSE)[-12:])
    wall.at_ms += MINUTE_MS
    cgm.catch_up()
    (low,) = measured(cgm, Code.GLUCOSE)[96:]
    assert low.value is not None
    assert low.value < 72
    assert now_ms + 15_000 < low.at_ms < now_ms + 36_000
    assert bedside.patient.hypoglycaemia_risk
    assert {plan.model for plan in bedside.devices} == {DeviceModel.CGM, DeviceModel.WRISTBAND, DeviceModel.PILLBOX}


@settings(deadline=None, max_examples=25)
@given(now_ms=st.integers(NOV_22, NOV_22 + 400 * DAY_MS), seed=st.integers(0, 1000))
def test_the_missed_dose_is_missed_about_now_and_no_other(now_ms: int, seed: int) -> None:
    (bedside,) = bedsides(Scenario.MISSED_DOSE, 1, Start(now_ms, 3, seed, "demo"))
    plan = bedside.devices[-1]
    assert isinstance(plan.traits, PillBoxTraits)
    (due,) = plan.traits.certain_misses
    assert now_ms - 45_000 <= due + HOUR_MS <= now_ms + 15_000
    box = peripheral(plan, Wall(now_ms + 5 * MINUTE_MS), started_ms=now_ms - 3 * DAY_MS)
    box.catch_up()
    opened = [one.at_ms for one in box.truth if isinstance(one, Happened) and one.type is EventType.COMPARTMENT_OPENED]
    assert not [at for at in opened if abs(at - due) <= HOUR_MS]
    for back in range(1, 5):
        assert [at for at in opened if abs(at - (due - back * DAY_MS // 2)) <= HOUR_MS]
    assert len(bedside.patient.doses) == 1


async def test_fifty_devices_of_all_kinds_start_and_are_heard(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    plans = mixed_ward(50, START, SHANGHAI, advertising_interval_ms=100)
    ward = await start_all(radio, plans, wall, started_ms=wall() - 3 * DAY_MS)
    heard: dict[str, AdvertisementData] = {}

    def on_advertisement(device: BLEDevice, data: AdvertisementData) -> None:
        if data.local_name:
            heard[device.address] = data

    async with BleakScanner(on_advertisement, backend=central.scanner_backend):
        await until(lambda: len(heard) == len(plans))
    assert set(heard) == {plan.address for plan in plans}
    for device in ward:
        data = heard[device.plan.address]
        assert data.local_name == device.plan.id
        assert len(data.service_uuids) == len(device.advertised)
    for device in ward:
        device.catch_up()
    kept = sum(len(device.memory) for device in ward)
    assert kept > 7 * 3 * 288
    assert len(ward) == 50
    assert ward[plans[7].id].plan is plans[7]
    await ward.stop()
    assert await BleakScanner.discover(0.2, backend=central.scanner_backend) == []


async def test_a_meter_may_advertise_only_after_use(radio: VirtualRadio, central: Central) -> None:
    traits = GlucoseMeterTraits(SHANGHAI, Use((), advertises_for_s=0.4))
    meter = GlucoseMeterPeripheral(plan_of(DeviceModel.GLUCOSE_METER, traits), Wall())
    await meter.start(radio)
    assert not meter.device.is_advertising
    assert await BleakScanner.discover(0.1, backend=central.scanner_backend) == []
    meter.use_now()
    async with listening(central, meter) as listener:
        assert len(await listener.reported("2a18")) == 1
        await asyncio.sleep(0.5)
        assert listener.client.is_connected
    await until(lambda: not meter.device.is_advertising)
    await meter.stop()


def test_two_weeks_of_a_sensor_pass_in_seconds() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        heard, truth = runner.run(two_weeks())
    offsets = [one.time_offset for packet in heard for one in decode_cgm_measurements(packet, crc=True)]
    assert len(offsets) > 4_000
    assert {later - earlier for earlier, later in pairwise(offsets)} == {5}
    assert offsets == [one.key for one in truth][-len(offsets) :]


async def two_weeks() -> tuple[list[bytes], list[Measured]]:
    loop = asyncio.get_running_loop()
    began = loop.time()

    def wall_ms() -> int:
        return NOV_22 + round((loop.time() - began) * 1000)

    radio = VirtualRadio()
    cgm = CgmPeripheral(plan_of(DeviceModel.CGM), wall_ms)
    await cgm.start(radio)
    async with listening(await radio.central("edge"), cgm) as listener:
        heard = await listener.listen("2aa7")
        await asyncio.sleep(14 * 86_400)
    await radio.close()
    return heard, measured(cgm, Code.GLUCOSE)
