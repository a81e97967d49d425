"""Each model over the air: everything it measured is told once, with its value, unit, flags and time, and nothing else."""

import asyncio
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.cgm import CgmPeripheral, CgmTraits
from firmware_sim.ble.glucose_meter import GlucoseMeterTraits
from firmware_sim.ble.oximeter import OximeterPeripheral, OximeterTraits
from firmware_sim.ble.packets import (
    SFLOAT_NAN,
    SFLOAT_NEGATIVE_INFINITY,
    SFLOAT_POSITIVE_INFINITY,
    TIME_UNKNOWN,
    cgm_measurement,
    date_time,
    glucose_measurement,
    sfloat,
)
from firmware_sim.ble.plan import Traits
from firmware_sim.ble.spot import ClockKind, ForwardingPeripheral, SpotPeripheral, Use
from firmware_sim.ble.spot_devices import CuffTraits, ScaleTraits, ThermometerTraits
from firmware_sim.ble.stories import MAKERS
from firmware_sim.ble.truth import Measured
from firmware_sim.ble.wristband import WristbandPeripheral
from firmware_sim.physiology.glucose import Dip
from firmware_sim.wristband import WristbandTraits
from tests.gateway.ble.accounts import (
    exactly,
    happened,
    measured,
    to_the_second,
    told_events,
    told_samples,
)
from tests.gateway.ble.bedside import (
    HOUR_MS,
    MINUTE_MS,
    NOW_MS,
    SHANGHAI,
    START,
    bedside,
    in_virtual_time,
    plan,
)

DAY_MS = 24 * HOUR_MS


def body(**fields: Any) -> WristbandTraits:
    """Return an ordinary wearer whose sensor measures on whole seconds."""
    made = MAKERS[DeviceModel.WRISTBAND](SHANGHAI, START)
    assert isinstance(made, WristbandTraits)
    return replace(made, **{"phase_ms": 17_000, **fields})


def at_local(ms: int) -> bytes:
    """Return a Date Time of Shanghai."""
    return date_time(ms + 8 * HOUR_MS)


# Glucose sensors


@pytest.mark.parametrize("every_minutes", [1, 5, 15])
@pytest.mark.parametrize("crc", [True, False])
def test_a_glucose_sensor(tmp_path: Path, every_minutes: int, *, crc: bool) -> None:
    """Its session began on a whole second, so that each time is exact; LO and HI have no number."""
    dips = (Dip(NOW_MS - 3 * HOUR_MS, 30 * MINUTE_MS, 20 * MINUTE_MS, 30 * MINUTE_MS, level=1.5),)
    traits = CgmTraits(body(dips=dips), every_minutes, crc=crc, trend=crc)

    async def main() -> None:
        one = plan(DeviceModel.CGM, traits)
        async with bedside(tmp_path, [one]) as room:
            room.arrive()
            await asyncio.sleep(3500)
            told, truth = room.told(one.id), room.device(one.id).truth
            assert told_samples(told) == measured(truth)
            assert len(truth) >= 530 // every_minutes
            assert {sample[2] for sample in told_samples(told).values()} == {(), ("below_range",)}
            assert (told.repeated, told.packets, told.events) == (0, 0, [])

    in_virtual_time(main)


def test_a_glucose_sensor_tells_the_time_to_the_second_in_which_its_session_began(tmp_path: Path) -> None:
    async def main() -> None:
        one = plan(DeviceModel.CGM, CgmTraits(body(phase_ms=17_640)))
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            room.arrive()
            await asyncio.sleep(600)
            told, truth = room.told(one.id), room.device(one.id).truth
            assert told_samples(told) == measured(truth, to_the_second)

    in_virtual_time(main)


def test_what_a_glucose_sensor_doubts_and_cannot_measure(tmp_path: Path) -> None:
    odd = [
        (sfloat(99), 0x000004, 99.0, ()),  # type incorrect for device: only said
        (sfloat(101), 0x000008, 101.0, ("artifact",)),  # sensor malfunction
        (sfloat(102), 0x000020, 102.0, ("artifact",)),  # general fault
        (sfloat(39), 0x400000, None, ("below_range",)),
        (SFLOAT_NEGATIVE_INFINITY, 0, None, ("below_range",)),
        (SFLOAT_POSITIVE_INFINITY, 0x800000, None, ("above_range",)),
    ]

    async def main() -> None:
        one = plan(DeviceModel.CGM, CgmTraits(body()))
        async with bedside(tmp_path, [one], absent_ms=MINUTE_MS) as room:
            sensor = room.device(one.id)
            assert isinstance(sensor, CgmPeripheral)
            start = sensor.session_start_ms
            await asyncio.sleep(len(odd) * 60)
            sensor._measured_to += 10 * MINUTE_MS
            for minute, (number, status, _, _) in enumerate(odd, 1):
                sensor.memory.append(minute, cgm_measurement(number, minute, status=status, crc=True))
            room.arrive()
            await asyncio.sleep(30)
            assert told_samples(room.told(one.id)) == {
                ("glucose", start + minute * MINUTE_MS): (value, "mg/dL", flags)
                for minute, (_, _, value, flags) in enumerate(odd, 1)
            }

    in_virtual_time(main)


# Glucose meters


@pytest.mark.parametrize("unit", [Unit.MMOL_L, Unit.MG_DL])
@pytest.mark.parametrize("offset_minutes", [None, 90])
@pytest.mark.parametrize("clock", ClockKind)
def test_a_glucose_meter(tmp_path: Path, unit: Unit, offset_minutes: int | None, clock: ClockKind) -> None:
    """Each time to the second of its stamp; of the context nothing is told.

    A meter whose shown time was put forward tells so by its clock; one without a clock to read is believed.
    """
    ahead_ms = (offset_minutes or 0) * MINUTE_MS * (clock is ClockKind.NONE)
    use = Use((7 * 60, 12 * 60, 18 * 60, 22 * 60), clock=clock)
    traits = GlucoseMeterTraits(SHANGHAI, use, unit=unit, offset_minutes=offset_minutes)

    async def main() -> None:
        one = plan(DeviceModel.GLUCOSE_METER, traits)
        async with bedside(tmp_path, [one], absent_ms=3 * DAY_MS) as room:
            room.arrive()
            await asyncio.sleep(60)
            told, truth = room.told(one.id), room.device(one.id).truth
            assert told_samples(told) == measured(truth, lambda at: to_the_second(at) + ahead_ms)
            assert len(truth) == 12
            assert (told.repeated, told.packets, told.events) == (0, 0, [])

    in_virtual_time(main)


def test_what_a_glucose_meter_doubts_and_cannot_measure(tmp_path: Path) -> None:
    """LO and HI, control solution, a status; what has no time is handed on as it came, once; no concentration, nothing."""

    def packet(key: int, number: bytes, at: bytes, tail: str, flags: int = 0) -> bytes:
        made = bytearray(glucose_measurement(key, at, number, molar=False, offset_minutes=None, context=False))
        made[0] |= flags
        return bytes(made[:-1]) + bytes.fromhex(tail)

    def at(key: int) -> int:
        return NOW_MS - HOUR_MS + key * MINUTE_MS

    odd: list[tuple[bytes, str, int, Any]] = [
        (sfloat(101, -5), "11", 0, (101.0, "mg/dL", ())),
        (SFLOAT_NEGATIVE_INFINITY, "11", 0, (None, "mg/dL", ("below_range",))),
        (SFLOAT_POSITIVE_INFINITY, "11", 0, (None, "mg/dL", ("above_range",))),
        (sfloat(20, -5), "114000", 8, (None, "mg/dL", ("below_range",))),
        (sfloat(99, -5), "1a", 0, (99.0, "mg/dL", ("calibration",))),
        (sfloat(98, -5), "41", 0, (98.0, "mg/dL", ("calibration",))),
        (sfloat(97, -5), "110400", 8, (97.0, "mg/dL", ("artifact",))),
        (sfloat(96, -5), "110100", 8, (96.0, "mg/dL", ())),  # its battery is low: no fault of the value
    ]

    async def main() -> None:
        one = plan(DeviceModel.GLUCOSE_METER)
        async with bedside(tmp_path, [one], absent_ms=MINUTE_MS) as room:
            memory = room.device(one.id).memory
            for key, (number, tail, flags, _) in enumerate(odd, 1):
                memory.append(key, packet(key, number, at_local(at(key)), tail, flags))
            memory.append(20, packet(20, sfloat(95, -5), TIME_UNKNOWN, "11"))
            memory.append(21, struct.pack("<BH", 0x08, 21) + at_local(at(21)) + b"\x04\x00")
            room.arrive()
            await asyncio.sleep(60)
            told = room.told(one.id)
            assert told_samples(told) == {("glucose", at(key)): row[3] for key, row in enumerate(odd, 1)}
            assert told.packets == 1

    in_virtual_time(main)


# Cuff, thermometer, scale, oximeter

SPOT: list[tuple[DeviceModel, Any, str]] = [
    (DeviceModel.BLOOD_PRESSURE, CuffTraits, "mm[Hg]"),
    (DeviceModel.BLOOD_PRESSURE, lambda zone, use: CuffTraits(zone, use, kpa=True), "kPa"),
    (DeviceModel.THERMOMETER, ThermometerTraits, "Cel"),
    (DeviceModel.THERMOMETER, lambda zone, use: ThermometerTraits(zone, use, fahrenheit=True), "[degF]"),
    (DeviceModel.SCALE, ScaleTraits, "kg"),
    (DeviceModel.SCALE, lambda zone, use: ScaleTraits(zone, use, pounds=True), "[lb_av]"),
    (DeviceModel.OXIMETER, OximeterTraits, "%"),
]


@pytest.mark.parametrize("clock", ClockKind)
@pytest.mark.parametrize(("model", "make", "unit"), SPOT)
def test_a_device_that_is_used_now_and_then(
    tmp_path: Path, model: DeviceModel, make: Any, unit: str, clock: ClockKind
) -> None:
    """What waited in the device, and what is measured while somebody listens: to the second of its stamp."""
    traits: Traits = make(SHANGHAI, Use((8 * 60, 20 * 60), clock=clock))

    async def main() -> None:
        one = plan(model, traits)
        async with bedside(tmp_path, [one], absent_ms=2 * DAY_MS) as room:
            device = room.device(one.id)
            assert isinstance(device, SpotPeripheral)
            if isinstance(device, OximeterPeripheral):
                device.finger_in = False
            room.arrive()
            await asyncio.sleep(40)
            device.use_now()
            await asyncio.sleep(60)
            told = room.told(one.id)
            samples = told_samples(told)
            assert samples == measured(device.truth, to_the_second)
            assert len({at for _, at in samples}) == 5
            assert unit in {sample[1] for sample in samples.values()}
            assert (told.repeated, told.packets, told.events) == (0, 0, [])

    in_virtual_time(main)


@pytest.mark.parametrize(("model", "make", "_unit"), [row for row in SPOT if row[0] is not DeviceModel.OXIMETER])
def test_what_has_no_stamp_was_measured_when_it_came(tmp_path: Path, model: DeviceModel, make: Any, _unit: str) -> None:
    async def main() -> None:
        one = plan(model, replace(make(SHANGHAI, Use(())), stamped=False))
        async with bedside(tmp_path, [one]) as room:
            device = room.device(one.id)
            assert isinstance(device, ForwardingPeripheral)
            room.arrive()
            await room.until(lambda: not device.idle.is_set())
            await asyncio.sleep(1)
            device.use_now()
            await asyncio.sleep(60)
            samples = told_samples(room.told(one.id))
            assert samples == measured(device.truth)
            assert samples

    in_virtual_time(main)


def test_what_an_oximeter_sees_while_a_finger_is_in_it(tmp_path: Path) -> None:
    """Second by second, at the second it arrives in; without a finger nothing is told, and the link is given up."""

    async def main() -> None:
        one = plan(DeviceModel.OXIMETER, OximeterTraits(SHANGHAI, Use(())))
        async with bedside(tmp_path, [one]) as room:
            device = room.device(one.id)
            assert isinstance(device, OximeterPeripheral)
            room.arrive()
            await asyncio.sleep(150)
            device.finger_in = False
            await asyncio.sleep(20)
            assert device.idle.is_set()
            samples = told_samples(room.told(one.id))
            assert samples == {
                key: sample
                for key, sample in measured(device.continuous, to_the_second).items()
                if sample[0] is not None
            }
            assert len(samples) > 280
            assert room.told(one.id).repeated == 0

    in_virtual_time(main)


def test_stored_spot_checks_are_told_once_and_never_without_their_time(tmp_path: Path) -> None:
    """An oximeter keeps its spot-checks, and reports them at each visit."""
    stamp = at_local(NOW_MS - HOUR_MS)

    async def main() -> None:
        one = plan(DeviceModel.OXIMETER, OximeterTraits(SHANGHAI, Use(())))
        async with bedside(tmp_path, [one]) as room:
            device = room.device(one.id)
            assert isinstance(device, OximeterPeripheral)
            device.finger_in = False
            device.memory.append(1, b"\x00" + sfloat(97) + sfloat(66))  # no stamp
            device.memory.append(2, b"\x11" + sfloat(96) + sfloat(65) + stamp)  # stamped by a clock that was not set
            device.memory.append(3, b"\x01" + sfloat(95) + sfloat(64) + stamp)
            device.memory.append(4, b"\x01" + sfloat(94) + SFLOAT_NAN + at_local(NOW_MS - 2 * HOUR_MS))
            status = struct.pack("<H", 1 << 14)  # questionable measurement
            device.memory.append(5, b"\x03" + sfloat(70) + sfloat(63) + at_local(NOW_MS - 3 * HOUR_MS) + status)
            room.arrive()
            await asyncio.sleep(200)
            told = room.told(one.id)
            assert told_samples(told) == {
                ("spo2", NOW_MS - HOUR_MS): (95.0, "%", ()),
                ("heart_rate", NOW_MS - HOUR_MS): (64.0, "/min", ()),
                ("spo2", NOW_MS - 2 * HOUR_MS): (94.0, "%", ()),
                ("spo2", NOW_MS - 3 * HOUR_MS): (70.0, "%", ("artifact",)),
                ("heart_rate", NOW_MS - 3 * HOUR_MS): (63.0, "/min", ("artifact",)),
            }
            assert (told.repeated, told.packets) == (0, 2)

    in_virtual_time(main)


def test_a_doubted_blood_pressure(tmp_path: Path) -> None:
    """The cuff was loose: an artefact, with its numbers. Its mean pressure is not told."""
    packet = b"\x12" + sfloat(160) + sfloat(100) + sfloat(120) + at_local(NOW_MS - HOUR_MS) + struct.pack("<H", 2)

    async def main() -> None:
        one = plan(DeviceModel.BLOOD_PRESSURE, CuffTraits(SHANGHAI, Use(())))
        async with bedside(tmp_path, [one]) as room:
            room.device(one.id).memory.append(1, packet)
            room.arrive()
            await asyncio.sleep(60)
            assert told_samples(room.told(one.id)) == {
                ("systolic_pressure", NOW_MS - HOUR_MS): (160.0, "mm[Hg]", ("artifact",)),
                ("diastolic_pressure", NOW_MS - HOUR_MS): (100.0, "mm[Hg]", ("artifact",)),
            }

    in_virtual_time(main)


# Wristbands


def test_a_wristband(tmp_path: Path) -> None:
    """Heart rate at the second it arrived in; each beat once, at most 150 ms from where it was."""

    async def main() -> None:
        one = plan(DeviceModel.WRISTBAND, body())
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            band = room.device(one.id)
            assert isinstance(band, WristbandPeripheral)
            room.arrive()
            await asyncio.sleep(400)
            band.off_body = True
            await asyncio.sleep(100)
            band.off_body = False
            await asyncio.sleep(400)
            await room.leave()
            told = room.told(one.id)
            rates = [value for value in band.truth if isinstance(value, Measured)]
            assert told_samples(told) == measured(rates, to_the_second)
            assert ("off_body",) in told.flags.values()
            assert (told.repeated, told.packets, told.events) == (0, 0, [])
            assert [interval for _, interval in told.beats] == [beat.rr_1024 * 1000 / 1024 for beat in band.beats]
            late = [at - beat.at_ms for (at, _), beat in zip(told.beats, band.beats, strict=True)]
            assert max(map(abs, late)) < 150
            assert len(late) > 700

    in_virtual_time(main)


# All of them


@pytest.mark.parametrize("model", MAKERS)
def test_every_model_is_read_over_a_plain_link_too(tmp_path: Path, model: DeviceModel) -> None:
    async def main() -> None:
        one = plan(model, encrypted=False)
        async with bedside(tmp_path, [one], absent_ms=DAY_MS) as room:
            room.arrive()
            await asyncio.sleep(200)
            device, told = room.device(one.id), room.told(one.id)
            if model is DeviceModel.PILLBOX:
                assert told_events(told) == happened(device.truth)
            elif model is not DeviceModel.WRISTBAND:
                clock = exactly if model is DeviceModel.CGM else to_the_second
                assert measured(device.truth, clock).items() <= told_samples(told).items()
            assert min(key for key in told.samples if key[0] == "battery") > ("battery", NOW_MS)
            assert device.truth

    in_virtual_time(main)


def test_a_battery_level_is_told_when_it_changes_and_once_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        one = plan(DeviceModel.CGM)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            room.arrive()
            await asyncio.sleep(4.5 * 3600)
            levels = [value for (code, _), value in room.told(one.id).samples.items() if code == Code.BATTERY.wire]
            assert levels == [87.0] * 5

    in_virtual_time(main)
