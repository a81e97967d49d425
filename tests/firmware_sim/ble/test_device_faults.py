"""Faults on request: each does what it says to the central, and nothing to the truth."""

import asyncio
from dataclasses import replace

import pytest
from bleak import BleakClient
from bleak.exc import BleakError

from devices.errors import PacketError
from devices.gatt.cgm import decode_cgm_measurements
from devices.gatt.pillbox import decode_log_entry
from devices.vocabulary import DeviceModel, EventType
from firmware_sim.ble.backend import Central
from firmware_sim.ble.cgm import CgmPeripheral
from firmware_sim.ble.device_clock import FIRST_DAY_MS
from firmware_sim.ble.faults import Corruption, Faults
from firmware_sim.ble.peripherals import peripheral
from firmware_sim.ble.pillbox import CLOCK, LOG_ENTRY, PillboxPeripheral
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.truth import Happened
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from tests.firmware_sim.ble.listener import RACP, Wall, listening, settle, until
from tests.firmware_sim.ble.plans import plan_of


async def cgm_of(radio: VirtualRadio, faults: Faults, wall: Wall, hours: int = 8) -> CgmPeripheral:
    plan = replace(plan_of(DeviceModel.CGM), faults=faults)
    cgm = CgmPeripheral(plan, wall, started_ms=wall() - hours * HOUR_MS)
    await cgm.start(radio)
    return cgm


async def test_a_silent_device_takes_the_connection_and_says_nothing(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(silent=True), Wall())
    client = BleakClient(cgm.plan.address, backend=central.client_backend, timeout=2)
    with pytest.raises((TimeoutError, BleakError)):
        async with asyncio.timeout(0.3):
            await client.connect()
    await until(cgm.idle.is_set)
    cgm.faults.silent = False
    async with listening(central, cgm) as listener:
        assert len(await listener.read("2aa8")) == 6


async def test_a_device_that_refuses_bonds_is_closed(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(refuses_bonding=True), Wall())
    async with listening(central, cgm) as listener:
        assert await listener.read("2a24") == b"cgm"
        with pytest.raises(BleakError, match="pairing failed"):
            await listener.read("2aa8")
    cgm.faults.refuses_bonding = False
    async with listening(central, cgm) as listener:
        assert len(await listener.read("2aa8")) == 6


async def test_a_device_without_encryption_needs_no_bond(radio: VirtualRadio, central: Central) -> None:
    cgm = CgmPeripheral(replace(plan_of(DeviceModel.CGM), encrypted=False), Wall(), started_ms=Wall()() - HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        assert len(await listener.reported("2aa7")) == 12
        assert not next(iter(cgm.device.connections.values())).encryption


async def test_a_forgotten_bond_is_noticed(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(), Wall())
    async with listening(central, cgm) as listener:
        await listener.read("2aa8")
    await cgm.forget_bonds()
    async with listening(central, cgm) as listener:
        with pytest.raises(BleakError):
            await listener.read("2aa8")
        await listener.client.unpair()
    async with listening(central, cgm) as listener:
        assert len(await listener.read("2aa8")) == 6


async def test_the_link_goes_at_the_record_that_was_asked_for(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(link_loss_at=41), Wall())
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        await listener.open_access()
        await listener.write(RACP, b"\x01\x01")
        await until(lambda: not listener.client.is_connected)
        assert len(heard) == 40
        with pytest.raises(BleakError):
            await listener.read("2aa9")
    assert cgm.faults.link_loss_at is None
    async with listening(central, cgm) as listener:
        assert len(await listener.reported("2aa7")) == 96


async def test_a_weak_link_goes_now_and_then_the_same_for_the_same_seed(radio: VirtualRadio, central: Central) -> None:
    rounds = []
    for _ in range(2):
        cgm = await cgm_of(radio, Faults(link_loss_probability=0.02), Wall())
        counts = []
        for _ in range(4):
            async with listening(central, cgm) as listener:
                heard = await listener.listen("2aa7")
                await listener.open_access()
                await listener.write(RACP, b"\x01\x01")
                await until(lambda: not listener.client.is_connected or not listener.answers.empty())
            counts.append(len(heard))
        rounds.append(counts)
        await cgm.stop()
        await radio.close()
        central = await radio.central("edge")
    assert rounds[0] == rounds[1]
    assert min(rounds[0]) < 96


async def test_a_procedure_may_never_end(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(withholds_response=True), Wall())
    async with listening(central, cgm) as listener:
        heard = await listener.listen("2aa7")
        await listener.open_access()
        await listener.write(RACP, b"\x01\x01")
        await until(lambda: len(heard) == 96)
        await settle()
        assert listener.answers.empty()


@pytest.mark.parametrize("corruption", Corruption)
async def test_spoiled_packets_are_told_from_good_ones(
    radio: VirtualRadio, central: Central, corruption: Corruption
) -> None:
    cgm = await cgm_of(radio, Faults(corrupt_next=(corruption, corruption)), Wall())
    async with listening(central, cgm) as listener:
        packets = await listener.reported("2aa7")
    assert len(packets) == 96
    for packet in packets[:2]:
        with pytest.raises(PacketError):
            decode_cgm_measurements(packet, crc=True)
    good = [one.time_offset for packet in packets[2:] for one in decode_cgm_measurements(packet, crc=True)]
    assert good == [one.key for one in cgm.memory.between()][2:]


async def test_chance_spoils_some_packets(radio: VirtualRadio, central: Central) -> None:
    cgm = await cgm_of(radio, Faults(corruption_probability=0.2), Wall())
    async with listening(central, cgm) as listener:
        packets = await listener.reported("2aa7")
    stored = [record.packets[0] for record in cgm.memory.between()]
    spoiled = sum(packet != good for packet, good in zip(packets, stored, strict=True))
    assert 8 <= spoiled <= 32


async def test_flash_survives_a_reboot_and_a_full_one_loses_its_oldest(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    plan = replace(plan_of(DeviceModel.CGM), capacity=60)
    cgm = CgmPeripheral(plan, wall, started_ms=wall() - 8 * HOUR_MS)
    await cgm.start(radio)
    async with listening(central, cgm) as listener:
        assert len(await listener.reported("2aa7")) == 60
        cgm.reboot()
        await until(lambda: not listener.client.is_connected)
    async with listening(central, cgm) as listener:
        packets = await listener.reported("2aa7")
    assert cgm.memory.overwritten == 36
    assert len(cgm.truth) == 96
    assert decode_cgm_measurements(packets[0], crc=True)[0].time_offset == 185


async def test_a_box_without_power_loses_its_clock_and_says_so(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    box = PillboxPeripheral(plan_of(DeviceModel.PILLBOX), wall, started_ms=wall() - DAY_MS)
    await box.start(radio)
    box.lose_power()
    wall.at_ms += MINUTE_MS
    box.happen(EventType.TAMPER)
    async with listening(central, box) as listener:
        assert int.from_bytes((await listener.read(CLOCK))[:8], "little") == FIRST_DAY_MS + MINUTE_MS
        entries = [decode_log_entry(packet) for packet in await listener.reported(LOG_ENTRY)]
    assert [(one.type, one.time_ms) for one in entries[-3:]] == [
        (64, None),
        (65, FIRST_DAY_MS),
        (7, FIRST_DAY_MS + MINUTE_MS),
    ]
    assert [one.sequence for one in entries] == list(range(1, len(entries) + 1))
    last = box.truth[-1]
    assert isinstance(last, Happened)
    assert last.at_ms == wall()


@pytest.mark.parametrize("drift", [-50.0, 50.0])
async def test_a_clock_that_drifts_or_jumps_moves_stamps_and_not_the_truth(drift: float) -> None:
    wall = Wall()
    plan = replace(plan_of(DeviceModel.PILLBOX), drift_ppm=drift, clock_error_ms=5_000)
    box = PillboxPeripheral(plan, wall, started_ms=wall() - 10 * DAY_MS)
    box.happen(EventType.BUTTON_PRESSED)
    box.jump_clock(-HOUR_MS)
    wall.at_ms += DAY_MS
    box.happen(EventType.BUTTON_PRESSED)
    stamps = {record.key: decode_log_entry(record.packets[0]).time_ms for record in box.memory.between()}
    pressed = [one for one in box.truth if isinstance(one, Happened) and one.type is EventType.BUTTON_PRESSED]
    off = [(stamps[one.key] or 0) - one.at_ms for one in pressed]
    gained = [round(days * DAY_MS * drift / 1e6) for days in (10, 11)]
    assert [pressed[0].at_ms, pressed[1].at_ms] == [wall() - DAY_MS, wall()]
    assert abs(off[0] - (5_000 + gained[0])) <= 2
    assert abs(off[1] - (5_000 + gained[1] - HOUR_MS)) <= 2


async def test_a_meter_without_power_begins_in_2000(radio: VirtualRadio, central: Central) -> None:
    wall = Wall()
    plan = replace(plan_of(DeviceModel.GLUCOSE_METER), keeps_clock=False)
    meter = peripheral(plan, wall)
    await meter.start(radio)
    meter.lose_power()
    async with listening(central, meter) as listener:
        assert (await listener.read("2a2b"))[:7].hex() == "d0070101000000"


async def test_a_central_that_confirms_nothing_is_left(
    radio: VirtualRadio, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bumble.gatt_server.GATT_REQUEST_TIMEOUT", 0.05)
    wall = Wall()
    cuff = peripheral(plan_of(DeviceModel.BLOOD_PRESSURE), wall, started_ms=wall() - 2 * DAY_MS)
    await cuff.start(radio)
    async with listening(central, cuff) as listener:
        cuff.catch_up()
        kept = len(cuff.memory)
        heard = await listener.listen("2a35")
        radio.devices[0].controller.muted = True
        await until(cuff.idle.is_set)
        radio.devices[0].controller.muted = False
        arrived = len(heard)
    assert len(cuff.memory) >= kept - arrived > 0
    async with listening(central, cuff) as listener:
        again = await listener.listen("2a35")
        await until(lambda: len(cuff.memory) == 0)
    assert len(set(heard) | set(again)) == kept
