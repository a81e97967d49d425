"""Record access: what a control point answers to every request, sensible or not."""

import asyncio

import pytest
from bleak.exc import BleakGATTProtocolError

from devices.vocabulary import DeviceModel
from firmware_sim.ble.backend import Central
from firmware_sim.ble.memory import Memory
from firmware_sim.ble.peripherals import peripheral
from firmware_sim.ble.pillbox import LOG_ENTRY
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.physiology.noise import HOUR_MS
from tests.firmware_sim.ble.listener import RACP, Wall, listening, settle
from tests.firmware_sim.ble.plans import plan_of

CGM_ANSWERS = [
    ("0101", range(5, 485, 5), "06000101"),  # report all
    ("01050101", (), "06000105"),  # report the first, with an operand it does not take
    ("0105", (5,), "06000101"),  # first
    ("0106", (480,), "06000101"),  # last
    ("0102010c00", (5, 10), "06000101"),  # up to minute 12
    ("010301da01", (475, 480), "06000101"),  # from minute 474
    ("0104010a000f00", (10, 15), "06000101"),  # range
    ("0104010b000b00", (), "06000106"),  # nothing there
    ("010301e101", (), "06000106"),
    ("0401", (), "05006000"),  # count all: 96
    ("040301da01", (), "05000200"),
    ("0100", (), "06000103"),  # no operator
    ("01", (), "06000103"),
    ("0107", (), "06000104"),  # no such operator
    ("0901", (), "06000902"),  # no such op code
    ("", (), "06000002"),
    ("0103020000", (), "06000109"),  # another filter
    ("0103", (), "06000105"),  # no operand
    ("01030100", (), "06000105"),  # half an operand
    ("010301000000", (), "06000105"),
    ("0104010f000a00", (), "06000105"),  # a range backwards
    ("0302", (), "06000303"),  # abort has no operator
]


async def test_the_cgm_answers_every_request(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cgm = peripheral(plan_of(DeviceModel.CGM), wall, started_ms=wall() - 8 * HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        await listener.open_access()
        for request, minutes, answer in CGM_ANSWERS:
            heard.clear()
            assert await listener.ask(request) == answer, request
            assert [int.from_bytes(packet[4:6], "little") for packet in heard] == list(minutes), request


async def test_the_box_counts_in_32_bits_and_deletes_only_up_to_a_number(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    box = peripheral(plan_of(DeviceModel.PILLBOX), wall, started_ms=wall() - 72 * HOUR_MS)
    await box.start(radio)
    async with listening(central, box) as listener:
        heard = await listener.listen(LOG_ENTRY)
        await listener.open_access()
        assert await listener.ask("0101") == "06000101"
        numbers = [int.from_bytes(packet[:4], "little") for packet in heard]
        assert numbers == list(range(1, len(box.truth) + 1))
        assert await listener.ask("0401") == f"0500{len(numbers):02x}000000"
        assert await listener.ask("010201" + "05000000") == "06000104"
        assert await listener.ask("0201") == "06000204"
        assert await listener.ask("020201" + "0500") == "06000205"
        assert await listener.ask("020201" + "05000000") == "06000201"
        assert await listener.ask("020201" + "05000000") == "06000206"
        heard.clear()
        assert await listener.ask("010301" + "01000000") == "06000101"
        assert [int.from_bytes(packet[:4], "little") for packet in heard] == numbers[5:]
        assert await listener.ask("010401" + "07000000" + "08000000") == "06000101"


async def test_one_procedure_at_a_time_and_an_abort_at_any_time(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cgm = peripheral(plan_of(DeviceModel.CGM), wall, started_ms=wall() - 200 * HOUR_MS)
    cgm.faults.pace_s = 0.001
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        await listener.open_access()
        await listener.write(RACP, b"\x01\x01")
        with pytest.raises(BleakGATTProtocolError) as error:
            await listener.write(RACP, b"\x04\x01")
        assert error.value.code == 0xFE
        assert await listener.ask("0300") == "06000301"
        assert 0 < len(heard) < 2400
        reported = len(heard)
        await asyncio.sleep(0.01)
        assert len(heard) == reported
        assert listener.answers.empty()
        assert await listener.ask("0401") == "05006009"


async def test_nobody_is_served_without_subscriptions(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cgm = peripheral(plan_of(DeviceModel.CGM), wall, started_ms=wall() - HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        for subscribe in (listener.open_access, None):
            with pytest.raises(BleakGATTProtocolError) as error:
                await listener.write(RACP, b"\x01\x01")
            assert error.value.code == 0xFD
            if subscribe:
                await subscribe()
        assert await listener.ask("0401") == "05000c00"


async def test_what_is_measured_during_a_report_is_notified_behind_it(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    cgm = peripheral(plan_of(DeviceModel.CGM), wall, started_ms=wall() - HOUR_MS)
    cgm.faults.pace_s = 0.002
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        await listener.open_access()
        await listener.write(RACP, b"\x01\x01")
        wall.at_ms += 300_000
        await cgm.tick()
        assert (await asyncio.wait_for(listener.answers.get(), 2)).hex() == "06000101"
        await settle()
        assert [int.from_bytes(packet[4:6], "little") for packet in heard] == list(range(5, 70, 5))


def test_a_full_memory_overwrites_its_oldest_and_counts_that() -> None:
    memory = Memory(3)
    for key in (1, 2, 5, 9):
        memory.append(key, b"%d" % key)
    assert [record.key for record in memory.between()] == [2, 5, 9]
    assert [record.key for record in memory.between(3, 5)] == [5]
    assert (memory.overwritten, memory.newest, len(memory)) == (1, 9, 3)
    with pytest.raises(ValueError, match="does not follow"):
        memory.append(9, b"")
    memory.delete(memory.between(high=5))
    assert [record.key for record in memory.between()] == [9]
    with pytest.raises(ValueError, match="room"):
        Memory(0)
