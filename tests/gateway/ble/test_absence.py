"""Nobody was there for hours, the link breaks, the program is killed: every stored record is told once, at its time."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from devices.vocabulary import DeviceModel, EventType
from firmware_sim.ble.cgm import CgmTraits
from firmware_sim.ble.glucose_meter import GlucoseMeterTraits
from firmware_sim.ble.pillbox import PillboxPeripheral
from firmware_sim.ble.plan import BlePlan, Traits
from firmware_sim.ble.spot import Use
from firmware_sim.ble.stories import MAKERS
from firmware_sim.ble.truth import Happened
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.pillbox import PillBoxTraits, Regimen
from firmware_sim.wristband import WristbandTraits
from tests.gateway.ble.accounts import exactly, happened, measured, to_the_second, told_events, told_samples
from tests.gateway.ble.bedside import SHANGHAI, START, Bedside, bedside, in_virtual_time, plan

HOURLY = tuple(range(0, 24 * 60, 40))
SEEDS = [1, 2, 3, 4, 5, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(6, 51))]


def body() -> WristbandTraits:
    made = MAKERS[DeviceModel.WRISTBAND](SHANGHAI, START)
    assert isinstance(made, WristbandTraits)
    return replace(made, phase_ms=17_000)


def stored() -> list[tuple[DeviceModel, str, Traits]]:
    """Return every kind of device that stores what it measures."""
    regimens = (Regimen(HOURLY, 1), Regimen((9 * 60, 15 * 60), 2))
    box = PillBoxTraits(SHANGHAI, regimens, DoseHabit(miss_probability=0), counts_pills=True)
    meter = GlucoseMeterTraits(SHANGHAI, Use(HOURLY))
    return [
        *((DeviceModel.CGM, f"every-{minutes}", CgmTraits(body(), minutes)) for minutes in (1, 3, 5, 15)),
        (DeviceModel.GLUCOSE_METER, "meter", meter),
        (DeviceModel.PILLBOX, "box", box),
    ]


def plans(capacity: int = 4096) -> list[BlePlan]:
    return [
        plan(model, traits, name, capacity=capacity, advertising_interval_ms=2000) for model, name, traits in stored()
    ]


def account(room: Bedside, one: BlePlan, *, after: int = 0) -> None:
    """Hold what was told of a device against everything it measured with a key above `after`."""
    told, device = room.told(one.id), room.device(one.id)
    truth = [entry for entry in device.truth if entry.key > after]
    assert truth
    if one.model is DeviceModel.PILLBOX:
        assert told_events(told) == happened(truth)
    else:
        clock = to_the_second if one.model is DeviceModel.GLUCOSE_METER else exactly
        assert told_samples(told) == measured(truth, clock)
    assert (told.repeated, told.packets) == (0, 0)


def test_what_was_stored_in_two_absences(tmp_path: Path) -> None:
    async def main() -> None:
        async with bedside(tmp_path, plans(), links=6) as room:
            for _ in range(2):
                room.arrive()
                await asyncio.sleep(60)
                for one in plans():
                    account(room, one)
                room.receipt()
                await room.leave()
                await asyncio.sleep(8 * 3600 - 100)

    in_virtual_time(main)


@pytest.mark.parametrize("seed", SEEDS)
def test_links_break_and_programs_are_killed_while_the_broker_lags(tmp_path: Path, seed: int) -> None:
    """Five times each link breaks at some record; meanwhile kills, absences and a receipt for a part of what waits."""
    rng = np.random.default_rng([seed, 71])

    async def main() -> None:
        async with bedside(tmp_path, plans(), links=6) as room:
            room.arrive()
            for _ in range(5):
                for device in room.ward:
                    device.faults.pace_s = 0.002
                    device.faults.link_loss_at = int(rng.integers(1, max(len(device.memory), 6)))
                await asyncio.sleep(float(rng.uniform(0, 20)))
                await disturb(room, int(rng.integers(4)), rng)
                box_forgets_nothing(room)
            await asyncio.sleep(200)
            for one in plans():
                account(room, one)
            room.receipt()
            memory = room.device("box-pillbox").memory
            receipted = memory.newest
            await asyncio.sleep(100)
            assert memory.between(high=receipted) == []

    in_virtual_time(main)


async def disturb(room: Bedside, what: int, rng: np.random.Generator) -> None:
    if what == 0:
        await room.kill()
        room.arrive()
    elif what == 1:
        await room.leave()
        await asyncio.sleep(float(rng.uniform(0, 3600)))
        room.arrive()
    elif what == 2:
        room.receipt(float(rng.uniform(0, 1)))
    else:
        for device in room.ward:
            device.lose_link()


def box_forgets_nothing(room: Bedside) -> None:
    """The box still has every entry that no receipt covers."""
    box = room.device("box-pillbox")
    committed = room.spool.committed(box.plan.id, "log 0") or 0
    held = {record.key for record in box.memory.between()}
    assert {entry.key for entry in box.truth if entry.key > committed} <= held


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_flash_had_to_overwrite_is_all_that_is_missing(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng([seed, 72])

    async def main() -> None:
        small = plans(capacity=int(rng.integers(5, 25)))
        async with bedside(tmp_path, small, links=6) as room:
            for device in room.ward:
                device.catch_up()
            lost = {device.plan.id: device.memory.overwritten for device in room.ward}
            assert sum(map(bool, lost.values())) >= 4
            room.arrive()
            await asyncio.sleep(100)
            for one in small:
                last_lost = lost[one.id] and room.device(one.id).truth[lost[one.id] - 1].key
                account(room, one, after=last_lost)

    in_virtual_time(main)


def test_while_the_broker_is_away_nothing_is_told_twice_and_the_box_keeps_its_log(tmp_path: Path) -> None:
    """Meter and box are visited again and again, and report the same records each time."""

    async def main() -> None:
        chosen = plans()[-2:]
        async with bedside(tmp_path, chosen) as room:
            box = room.device("box-pillbox")
            assert isinstance(box, PillboxPeripheral)
            room.arrive()
            for _ in range(12):
                await asyncio.sleep(90)
                box.happen(EventType.BUTTON_PRESSED)
            await asyncio.sleep(90)
            for one in chosen:
                account(room, one)
            entries = [entry for entry in box.truth if isinstance(entry, Happened)]
            assert len(box.memory) == len(entries) > 12
            room.receipt()
            await asyncio.sleep(90)
            assert len(box.memory) == 0
            visits = room.metrics.registry.get_sample_value(
                "vigil_ble_visits_total", {"model": "glucose_meter", "outcome": "done"}
            )
            assert visits is not None
            assert visits > 40

    in_virtual_time(main)
