"""Clocks of devices that are wrong, drift, jump, lose their power or travel: times come out right, and the same for all."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from devices.vocabulary import DeviceModel, EventType
from firmware_sim.ble.cgm import CgmPeripheral, CgmTraits
from firmware_sim.ble.glucose_meter import GlucoseMeterTraits
from firmware_sim.ble.pillbox import PillboxPeripheral
from firmware_sim.ble.plan import BlePlan, Traits
from firmware_sim.ble.spot import SpotPeripheral, Use
from firmware_sim.ble.spot_devices import CuffTraits, ScaleTraits, ThermometerTraits
from firmware_sim.ble.stories import MAKERS
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.pillbox import PillBoxTraits, Regimen
from firmware_sim.wristband import WristbandTraits
from tests.gateway.ble.accounts import exactly, happened, measured, to_the_second, told_events, told_samples
from tests.gateway.ble.bedside import (
    HOUR_MS,
    MINUTE_MS,
    NOW_MS,
    SHANGHAI,
    START,
    Bedside,
    bedside,
    in_virtual_time,
    plan,
)

BERLIN = ZoneInfo("Europe/Berlin")
BOX = PillBoxTraits(SHANGHAI, (Regimen(tuple(range(0, 1440, 60)), 1),), DoseHabit(miss_probability=0))
USE = Use(tuple(range(0, 1440, 60)), scatter_minutes=1)
WALL_CLOCKS: list[tuple[DeviceModel, Traits]] = [
    (DeviceModel.GLUCOSE_METER, GlucoseMeterTraits(SHANGHAI, USE)),
    (DeviceModel.BLOOD_PRESSURE, CuffTraits(SHANGHAI, USE)),
    (DeviceModel.THERMOMETER, ThermometerTraits(SHANGHAI, USE)),
    (DeviceModel.SCALE, ScaleTraits(SHANGHAI, USE)),
]


def cgm(*, phase_ms: int = 17_000, **fields: object) -> CgmTraits:
    body = MAKERS[DeviceModel.WRISTBAND](SHANGHAI, START)
    assert isinstance(body, WristbandTraits)
    return replace(CgmTraits(replace(body, phase_ms=phase_ms)), **fields)  # type: ignore[arg-type]


def the_box(room: Bedside) -> PillboxPeripheral:
    (device,) = room.ward
    assert isinstance(device, PillboxPeripheral)
    return device


# Pill boxes: exact through every step that the box notes


@pytest.mark.parametrize("error_ms", [-40_000, 3_000, 3 * HOUR_MS, -400 * 24 * HOUR_MS])
def test_a_box_whose_clock_was_never_right(tmp_path: Path, error_ms: int) -> None:
    """It is set before its log is read, and notes by how much: every entry is exact, at the first reading."""

    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX, clock_error_ms=error_ms)
        async with bedside(tmp_path, [one], absent_ms=24 * HOUR_MS) as room:
            room.arrive()
            await asyncio.sleep(200)
            assert abs(the_box(room).clock.now_ms() - room.now_ms()) <= 1
            assert told_events(room.told(one.id)) == happened(the_box(room).truth)
            assert len(the_box(room).truth) >= 40

    in_virtual_time(main)


def test_a_box_whose_clock_jumps_between_visits(tmp_path: Path) -> None:
    """Forward, back, a day: each is set right at the next visit, and the box has noted the step."""

    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX)
        async with bedside(tmp_path, [one]) as room:
            for jump_ms in (2 * HOUR_MS, -3 * HOUR_MS, 26 * HOUR_MS, -5_000):
                room.arrive()
                await asyncio.sleep(100)
                await room.leave()
                the_box(room).jump_clock(jump_ms)
                await asyncio.sleep(3 * 3600 + 1)
            room.arrive()
            await asyncio.sleep(100)
            assert told_events(room.told(one.id)) == happened(the_box(room).truth)

    in_virtual_time(main)


def test_a_box_that_lost_its_power(tmp_path: Path) -> None:
    """From 2000 on its clock counts from the loss: what it logs then is exact too; what was before keeps its stamps."""

    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX)
        async with bedside(tmp_path, [one], absent_ms=5 * HOUR_MS) as room:
            await asyncio.sleep(3600)
            the_box(room).lose_power()
            await asyncio.sleep(3 * 3600)
            the_box(room).happen(EventType.BUTTON_PRESSED)
            room.arrive()
            await asyncio.sleep(100)
            assert told_events(room.told(one.id)) == happened(the_box(room).truth)

    in_virtual_time(main)


# Wall clocks without a zone


@pytest.mark.parametrize("error_ms", [HOUR_MS, -7 * HOUR_MS, 9 * 24 * HOUR_MS, -1_000 * 24 * HOUR_MS, 90_000])
@pytest.mark.parametrize(("model", "traits"), WALL_CLOCKS)
def test_a_wall_clock_that_is_wrong(tmp_path: Path, model: DeviceModel, traits: Traits, error_ms: int) -> None:
    """An hour after a clock change, another zone, years: found to the minute, and set right once everything was read.

    Less than two minutes are nobody's fault: stamps are believed, and the clock is set.
    """

    async def main() -> None:
        one = plan(model, traits, clock_error_ms=error_ms)
        async with bedside(tmp_path, [one]) as room:
            device = room.device(one.id)
            assert isinstance(device, SpotPeripheral)
            room.arrive()
            await asyncio.sleep(30)
            kept = error_ms if abs(error_ms) <= 120_000 else 0
            assert told_samples(room.told(one.id)) == measured(device.truth, lambda at: to_the_second(at) + kept)
            assert len(device.truth) >= 7
            before = len(device.truth)
            await asyncio.sleep(30)
            device.use_now()
            await asyncio.sleep(60)
            fresh = measured(device.truth[before:], to_the_second)
            assert fresh
            assert fresh.items() <= told_samples(room.told(one.id)).items()

    in_virtual_time(main)


def test_a_meter_that_lost_its_power(tmp_path: Path) -> None:
    """Its clock began at 2000: what it stamped since is told by how far the clock is off; what was before keeps stamps."""

    async def main() -> None:
        model, traits = WALL_CLOCKS[0]
        one = plan(model, traits, keeps_clock=False)
        async with bedside(tmp_path, [one], absent_ms=5 * HOUR_MS) as room:
            device = room.device(one.id)
            await asyncio.sleep(3600)
            device.lose_power()
            await asyncio.sleep(3 * 3600)
            room.arrive()
            await asyncio.sleep(60)
            truth = measured(device.truth, to_the_second)
            samples = told_samples(room.told(one.id))
            assert [key[0] for key in samples] == [key[0] for key in truth]
            late = [abs(told[1] - true[1]) for told, true in zip(samples, truth, strict=True)]
            assert max(late) <= 30_000  # nobody knows the seconds of a clock that somebody lost
            assert late[:5] == [0] * 5

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("zone", "at"),
    [(BERLIN, datetime(2026, 3, 29, 6, tzinfo=UTC)), (BERLIN, datetime(2026, 10, 25, 6, tzinfo=UTC))],
)
def test_a_clock_change_in_the_night(tmp_path: Path, zone: ZoneInfo, at: datetime) -> None:
    """A device nobody has put forward or back is found an hour off, and everything it stamped by it is right."""
    shift_ms = NOW_MS - round(at.timestamp() * 1000)

    def plans() -> list[BlePlan]:
        return [plan(DeviceModel.GLUCOSE_METER, GlucoseMeterTraits(zone, USE))]

    async def main() -> None:
        (one,) = plans()
        async with bedside(tmp_path, plans(), shift_ms=shift_ms) as room:
            room.arrive()
            await asyncio.sleep(60)
            assert told_samples(room.told(one.id)) == measured(room.device(one.id).truth, to_the_second)

    in_virtual_time(main)


# Glucose sensors


@pytest.mark.parametrize("crc", [True, False])
def test_a_sensor_that_does_not_know_when_its_session_began(tmp_path: Path, *, crc: bool) -> None:
    """It is told the time, and what it makes of that is read back: another box with a spool of its own says the same."""

    async def main() -> None:
        one = plan(DeviceModel.CGM, cgm(knows_start=False, crc=crc))
        async with bedside(tmp_path, [one]) as room:
            sensor = room.device(one.id)
            assert isinstance(sensor, CgmPeripheral)
            samples = []
            for path in (tmp_path / "one.db", tmp_path / "other.db"):
                room.spool.close()
                room.open(path)
                room._read_to, room._told = 0, {}
                room.arrive()
                await asyncio.sleep(1000)
                await room.leave()
                samples.append(told_samples(room.told(one.id)))
                await asyncio.sleep(500)
            first, second = samples
            assert first.items() <= second.items()
            assert list(second.values()) == list(measured(sensor.truth).values())[: len(second)]
            late = [at - entry.at_ms for (_, at), entry in zip(second, sensor.truth, strict=False)]
            assert len(set(late)) == 1
            assert abs(late[0]) < MINUTE_MS

    in_virtual_time(main)


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -3 * HOUR_MS])
def test_a_sensor_whose_calendar_jumps_keeps_its_session(tmp_path: Path, jump_ms: int) -> None:
    async def main() -> None:
        one = plan(DeviceModel.CGM, cgm())
        async with bedside(tmp_path, [one]) as room:
            room.arrive()
            await asyncio.sleep(60)
            room.device(one.id).jump_clock(jump_ms)
            room.device(one.id).lose_link()
            await asyncio.sleep(1000)
            assert told_samples(room.told(one.id)) == measured(room.device(one.id).truth, exactly)
            assert len(room.spool.streams(one.id)) == 1

    in_virtual_time(main)


def test_a_sensor_that_is_replaced(tmp_path: Path) -> None:
    """The minutes begin anew, and so do the keys: a new session, read from its beginning."""

    async def main() -> None:
        one = plan(DeviceModel.CGM, cgm())
        async with bedside(tmp_path, [one]) as room:
            sensor = room.device(one.id)
            assert isinstance(sensor, CgmPeripheral)
            room.arrive()
            await asyncio.sleep(200)
            room.receipt()
            sensor.lose_link()
            sensor.new_session()
            await asyncio.sleep(1000)
            assert told_samples(room.told(one.id)) == measured(sensor.truth, to_the_second)
            assert len(room.spool.streams(one.id)) == 2

    in_virtual_time(main)
