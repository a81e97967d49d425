"""Pill boxes over the air: every entry of the log is told once at its time, and commands reach the box, each once."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from devices.vocabulary import CommandType, DeviceModel, EventType
from firmware_sim.ble.pillbox import PillboxPeripheral, ScheduledDose, log_entry
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.pillbox import PillBoxTraits, Regimen
from gateway.ble.spool import Command
from tests.gateway.ble.accounts import happened, told_events, told_samples
from tests.gateway.ble.bedside import HOUR_MS, NOW_MS, SHANGHAI, Bedside, bedside, in_virtual_time, plan

DAY_MS = 24 * HOUR_MS
PUNCTUAL = DoseHabit(miss_probability=0, answers_reminder=1.0)
BOX = PillBoxTraits(SHANGHAI, (Regimen((8 * 60, 14 * 60), 1), Regimen((13 * 60,), 2)), PUNCTUAL, counts_pills=True)


async def sent_to(room: Bedside, box: str, kind: str, expires_ms: int | None = None, **fields: Any) -> None:
    """Give the box a command, and the collector a moment to bring it there."""
    body = msgspec.json.encode({"id": kind, "type": kind, "device": box, **fields})
    assert room.spool.add_command(Command(kind, box, kind, body, expires_ms))
    assert room.collector.hurry(box, kind)
    await asyncio.sleep(5)


def test_a_pill_box(tmp_path: Path) -> None:
    """Each opening, pill and closing, exact to the ms, in order; then what happens while somebody is near."""

    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX)
        async with bedside(tmp_path, [one], absent_ms=3 * DAY_MS) as room:
            box = room.device(one.id)
            assert isinstance(box, PillboxPeripheral)
            box.memory.append(1, log_entry(1, NOW_MS - 3 * DAY_MS, 99))  # of a later version
            room.arrive()
            await asyncio.sleep(100)
            box.happen(EventType.TAMPER)
            box.happen(EventType.LOW_BATTERY, count=9)
            box.happen(EventType.DOSE_TAKEN, 3, 2)
            box.happen(EventType.BUTTON_PRESSED)
            await asyncio.sleep(100)
            told = room.told(one.id)
            assert told_events(told) == happened(box.truth)
            assert len(told.events) == 27 + 4
            assert told_samples(told) == {}
            assert told.packets == 1

    in_virtual_time(main)


def test_commands_reach_a_box_at_once_and_once(tmp_path: Path) -> None:
    doses = [{"compartment": 1, "minute": 480, "weekdays": [0, 2, 6]}]

    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX)
        async with bedside(tmp_path, [one]) as room:
            box = room.device(one.id)
            assert isinstance(box, PillboxPeripheral)
            room.arrive()
            await asyncio.sleep(20)
            await sent_to(room, one.id, CommandType.REMIND, compartment=2)
            assert [(call.compartment, call.signals, call.seconds) for call in box.reminders] == [(2, 7, 60)]
            assert room.now_ms() - box.reminders[0].at_ms < 5_000
            await sent_to(room, one.id, CommandType.SET_SCHEDULE, revision=7, utc_offset_minutes=480, doses=doses)
            assert (box.schedule.revision, box.schedule.utc_offset_minutes) == (7, 480)
            assert box.schedule.doses == (ScheduledDose(1, 480, 0b1000101),)
            box.jump_clock(1_500)
            await sent_to(room, one.id, CommandType.SET_CLOCK, clock=NOW_MS)
            assert abs(box.clock.now_ms() - room.now_ms()) <= 1
            await asyncio.sleep(200)
            done = [event for event in room.told(one.id).events if event.type is EventType.COMMAND_DONE]
            assert [(event.id, event.ok) for event in done] == [
                ("remind", True),
                ("set_schedule", True),
                ("set_clock", True),
            ]
            assert len(box.reminders) == 1
            assert told_events(room.told(one.id)) == happened(box.truth)

    in_virtual_time(main)


def test_commands_that_cannot_be_done_say_so(tmp_path: Path) -> None:
    async def main() -> None:
        one = plan(DeviceModel.PILLBOX, BOX)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            box = room.device(one.id)
            assert isinstance(box, PillboxPeripheral)
            room.arrive()
            await asyncio.sleep(20)
            await sent_to(room, one.id, CommandType.REMIND, compartment=9)  # it has eight
            await sent_to(room, one.id, CommandType.SET_SCHEDULE, revision=1)
            assert not room.collector.hurry(one.id, "open_sesame")
            await sent_to(room, one.id, CommandType.SET_CLOCK, expires_ms=NOW_MS, clock=NOW_MS)
            await asyncio.sleep(100)
            done = [event for event in room.told(one.id).events if event.type is EventType.COMMAND_DONE]
            assert [(event.id, event.ok) for event in done] == [
                ("remind", False),
                ("set_schedule", False),
            ]
            assert (box.reminders, box.schedule.revision) == ([], 0)

    in_virtual_time(main)
