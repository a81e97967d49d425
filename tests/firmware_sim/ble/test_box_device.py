"""A simulated pill box: its log, clock, schedule and reminders, read with the gateway's decoders."""

from dataclasses import replace

import pytest
from bleak.exc import BleakGATTProtocolError

from devices.gatt.pillbox import decode_clock, decode_feature, decode_log_entry, decode_schedule
from devices.vocabulary import DeviceModel, EventType, Topic
from firmware_sim.ble.backend import Central
from firmware_sim.ble.packets import with_crc
from firmware_sim.ble.peripherals import peripheral
from firmware_sim.ble.pillbox import CLOCK, FEATURE, LOG_ENTRY, REMINDER, SCHEDULE, PillboxPeripheral
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.truth import Happened
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.physiology.noise import DAY_MS, MINUTE_MS
from firmware_sim.pillbox import PillBox
from tests.firmware_sim.ble.listener import Wall, listening, settle
from tests.firmware_sim.ble.plans import BOX, plan_of


async def test_a_box_logs_what_it_would_send_over_mqtt(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    start = wall() - 5 * DAY_MS
    box = peripheral(plan_of(DeviceModel.PILLBOX), wall, started_ms=start)
    await box.start(radio)
    async with listening(central, box) as listener:
        entries = [decode_log_entry(packet) for packet in await listener.reported(LOG_ENTRY)]
        feature = decode_feature(await listener.read(FEATURE))
    assert (feature.version, feature.compartments, feature.log_capacity, feature.features) == (1, 8, 4096, 7)
    drafts = PillBox((1, 0), BOX).measure(start, wall(), live=True)
    events = [item for draft in drafts if draft.topic is Topic.EVENT for item in draft.items]
    assert len(entries) == len(events) > 30
    assert [(one.time_ms, one.compartment) for one in entries] == [(e["at"], e["compartment"]) for e in events]
    truth = [one for one in box.truth if isinstance(one, Happened)]
    assert [(one.key, one.at_ms, one.count) for one in truth] == [(e.sequence, e.time_ms, e.count) for e in entries]


async def test_a_box_tells_at_once_and_keeps_its_clock_schedule_and_reminders(
    radio: VirtualRadio, central: Central
) -> None:
    wall = Wall()
    willing = replace(BOX, habit=DoseHabit(answers_reminder=1.0))
    box = PillboxPeripheral(plan_of(DeviceModel.PILLBOX, willing), wall)
    await box.start(radio)
    async with listening(central, box) as listener:
        heard = await listener.listen(LOG_ENTRY)
        box.happen(EventType.BUTTON_PRESSED)
        await settle()
        assert [decode_log_entry(packet).type for packet in heard] == [5]
        assert decode_clock(await listener.read(CLOCK)) == wall()

        await listener.write(CLOCK, with_crc((wall() + 900).to_bytes(8, "little")))
        await listener.write(CLOCK, with_crc((wall() - 60_000).to_bytes(8, "little")))
        await settle()
        pair = [decode_log_entry(packet) for packet in heard[1:]]
        assert [(one.sequence, one.type, one.time_ms) for one in pair] == [
            (2, 64, wall() + 900),
            (3, 65, wall() - 60_000),
        ]
        assert [(one.key, one.before_ms - one.after_ms) for one in box.clock_steps] == [(2, 60_900)]

        plan = with_crc(bytes.fromhex("0700 e001 02 01e0017f 02ec0415"))
        await listener.write(SCHEDULE, plan)
        assert await listener.read(SCHEDULE) == plan
        schedule = decode_schedule(plan)
        assert (schedule.revision, schedule.utc_offset_minutes) == (7, 480)
        assert schedule.doses[1].weekdays == {0, 2, 4}
        assert [(dose.minute, dose.weekdays) for dose in box.schedule.doses] == [(480, 0x7F), (1260, 0x15)]

        await listener.write(REMINDER, with_crc(bytes.fromhex("02 03 1e00")))
        assert [(one.compartment, one.signals, one.seconds) for one in box.reminders] == [(2, 3, 30)]
        wall.at_ms += 5 * MINUTE_MS
        await box.tick()
        await settle()
        assert [(entry.type, entry.compartment) for entry in map(decode_log_entry, heard[3:])] == [
            (1, 2),
            (3, 2),
            (2, 2),
        ]


@pytest.mark.parametrize(
    ("characteristic", "value", "code"),
    [
        (CLOCK, bytes(9), 0x0D),
        (CLOCK, bytes(10), 0x81),
        (SCHEDULE, b"", 0x0D),
        (SCHEDULE, with_crc(bytes.fromhex("0100000001")), 0x0D),
        (SCHEDULE, with_crc(bytes.fromhex("010000000109e0017f")), 0xFF),
        (SCHEDULE, with_crc(bytes.fromhex("010000000101a0057f")), 0xFF),
        (REMINDER, with_crc(bytes.fromhex("09001e00")), 0xFF),
        (REMINDER, bytes(6), 0x81),
        (CLOCK, with_crc((253_402_300_800_000).to_bytes(8, "little")), 0xFF),
        (SCHEDULE, with_crc(bytes.fromhex("0100490300")), 0xFF),
    ],
)
async def test_a_box_refuses_what_makes_no_sense(
    radio: VirtualRadio, central: Central, characteristic: str, value: bytes, code: int
) -> None:
    box = PillboxPeripheral(plan_of(DeviceModel.PILLBOX), Wall())
    await box.start(radio)
    async with listening(central, box) as listener:
        with pytest.raises(BleakGATTProtocolError) as error:
            await listener.write(characteristic, value)
        assert error.value.code == code
    assert box.schedule.doses == ()
    assert not box.reminders
    assert not box.clock_steps
