"""A glucose sensor's whole life over the air: 4,032 records in two weeks, live and after absences, each told once."""

import asyncio
from dataclasses import replace
from pathlib import Path

from devices.vocabulary import DeviceModel
from firmware_sim.ble.cgm import CgmPeripheral, CgmTraits
from firmware_sim.ble.stories import MAKERS
from firmware_sim.wristband import WristbandTraits
from tests.gateway.ble.accounts import measured, told_samples
from tests.gateway.ble.bedside import MINUTE_MS, SHANGHAI, START, bedside, in_virtual_time, plan

DAYS = 14
RECORDS = DAYS * 24 * 12
DRIFT_PPM = 20.0
WORST_MS = DAYS * 24 * 3_600_000 * DRIFT_PPM / 1e6 + 1000
"""By how much a record's time may be wrong at most: what the sensor's crystal drifts, and a second."""


def test_two_weeks_of_a_glucose_sensor(tmp_path: Path) -> None:
    """Every third day it is out of range for hours; the broker's receipts come once a day; one night the box is killed.

    Without drift each time would be exact; here the sensor's own minutes count, and they are 24 s long in the end.
    """
    body = MAKERS[DeviceModel.WRISTBAND](SHANGHAI, START)
    assert isinstance(body, WristbandTraits)
    one = plan(
        DeviceModel.CGM,
        CgmTraits(replace(body, phase_ms=17_000)),
        drift_ppm=DRIFT_PPM,
        advertising_interval_ms=5000,
    )

    async def main() -> None:
        async with bedside(tmp_path, [one], absent_ms=MINUTE_MS) as room:
            sensor = room.device(one.id)
            assert isinstance(sensor, CgmPeripheral)
            for day in range(DAYS):
                room.arrive()
                await asyncio.sleep(16 * 3600 + 7)
                room.receipt()
                if day == 8:
                    await room.kill()
                    room.arrive()
                await asyncio.sleep(3 * 3600 + 11)
                if day % 3 == 2:
                    await room.leave()
                await asyncio.sleep(5 * 3600 - 25)
                await room.leave()
            room.arrive()
            await asyncio.sleep(1000)
            told = room.told(one.id)
            assert len(sensor.truth) == RECORDS
            start_ms = sensor.session_start_ms
            samples = told_samples(told)
            assert [round((at - start_ms) / MINUTE_MS) for _, at in samples] == [entry.key for entry in sensor.truth]
            assert list(samples.values()) == list(measured(sensor.truth).values())
            late = [at - entry.at_ms for (_, at), entry in zip(samples, sensor.truth, strict=True)]
            assert max(map(abs, late)) <= WORST_MS
            assert (told.repeated, told.packets) == (0, 0)
            (session,) = room.spool.streams(one.id)
            assert room.spool.committed(one.id, session) is not None

    in_virtual_time(main)
