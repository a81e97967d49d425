"""Devices that break off, answer nonsense or never end: a visit ends with a named outcome, in time, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bleak import BleakScanner
from bleak.backends.device import BLEDevice

from devices.vocabulary import DeviceModel
from firmware_sim.ble.faults import Corruption
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.stories import MAKERS
from gateway.ble import record_access
from gateway.ble.link import Radio
from gateway.ble.profiles import PROFILES
from gateway.ble.session import OVERSTAY_S, Outcome, Session
from tests.gateway.ble.accounts import exactly, happened, measured, to_the_second, told_events, told_samples
from tests.gateway.ble.bedside import HOUR_MS, Bedside, bedside, in_virtual_time, plan, roster_of

STORING = (DeviceModel.CGM, DeviceModel.GLUCOSE_METER, DeviceModel.PILLBOX, DeviceModel.OXIMETER)
SEEDS = [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 31))]
SUCCESS = "06000101"


@asynccontextmanager
async def visiting(
    folder: Path, model: DeviceModel, said: DeviceModel | None = None
) -> AsyncIterator[tuple[Bedside, Peripheral, "Visitor"]]:
    """Give a device and somebody who visits it once at a time; `said`: what the roster takes it for."""
    one = plan(model, advertising_interval_ms=100)
    async with bedside(folder, [one], absent_ms=24 * HOUR_MS) as room:
        (entry,) = roster_of([one]).devices
        listed = entry if said is None else type(entry)(entry.id, said, entry.address, entry.timezone)
        radio = Radio(room.central.scanner_backend, room.central.client_backend)
        found = await BleakScanner.find_device_by_address(one.address, **radio.scanner_arguments)
        assert found is not None
        yield room, room.device(one.id), Visitor(Session(listed, radio, room.spool, room.now_ms, room.metrics), found)


class Visitor:
    """Visits; who would stay is asked to leave after 20 s."""

    def __init__(self, session: Session, found: BLEDevice) -> None:
        self.session = session
        self._found = found

    async def visit(self, within_s: float = 200.0) -> Outcome:
        leaving = asyncio.get_running_loop().call_later(20, self.session.leave)
        try:
            async with asyncio.timeout(within_s):
                return await self.session.visit(self._found)
        finally:
            leaving.cancel()
            await asyncio.sleep(1)


def account(room: Bedside, one: BlePlan) -> None:
    told, device = room.told(one.id), room.device(one.id)
    if one.model is DeviceModel.PILLBOX:
        assert told_events(told) == happened(device.truth)
    else:
        truth = measured(device.truth, exactly if one.model is DeviceModel.CGM else to_the_second)
        assert truth
        assert truth.items() <= told_samples(told).items()
    assert told.repeated == 0


def break_off_at(device: Peripheral, answer: int) -> Callable[[], int]:
    """Have the link end instead of the device's nth answer; return how many there were."""
    server, count = device.device.gatt_server, 0
    send = type(server).send_response.__get__(server)

    def send_response(bearer: Any, response: Any) -> None:
        nonlocal count
        count += 1
        if count == answer:
            device.lose_link()
        else:
            send(bearer, response)

    server.send_response = send_response  # type: ignore[method-assign]
    return lambda: count


@pytest.mark.parametrize("model", MAKERS)
def test_a_link_that_breaks_at_each_answer(tmp_path: Path, model: DeviceModel) -> None:
    """From the first to the last of a visit; then everything is there, once."""

    async def main() -> None:
        async with visiting(tmp_path, model) as (room, device, visitor):
            outcomes = []
            for answer in range(1, 120):
                answers = break_off_at(device, answer)
                outcomes.append(await visitor.visit())
                if answers() < answer:
                    break
            assert outcomes[-1] is Outcome.DONE
            assert set(outcomes[:-1]) <= {Outcome.LOST, Outcome.DONE}
            assert outcomes.count(Outcome.LOST) > 10
            if model is not DeviceModel.WRISTBAND:
                account(room, device.plan)

    in_virtual_time(main)


NONSENSE = ["", "06", "060001", "06000401", "0600", "05000100", "ff00ffff", "06000101ff", "00" * 20]
ENDINGS = {
    SUCCESS: Outcome.DONE,
    "06000106": Outcome.DONE,  # no records found, behind records
    "06000102": Outcome.REFUSED,
    "060001fe": Outcome.REFUSED,
    "": Outcome.UNANSWERED,
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("model", STORING[:3])
def test_answers_that_are_none(tmp_path: Path, model: DeviceModel, ending: str) -> None:
    """Rubbish and answers to other requests are passed over; only the answer that was asked for ends a procedure."""

    async def main() -> None:
        async with visiting(tmp_path, model) as (room, device, visitor):
            access: Any = device.access()
            assert access is not None

            async def respond(connection: Any, request: bytes, _response: Any) -> None:
                answers = [*NONSENSE, ending] if request[:1] == b"\x01" else ["0600" + request[:1].hex() + "01"]
                for answer in map(bytes.fromhex, answers):
                    await connection.device.indicate_subscriber(connection, access.characteristic, answer)

            access._respond = respond
            assert await visitor.visit() is ENDINGS[ending]
            del access._respond
            assert await visitor.visit() is Outcome.DONE
            account(room, device.plan)

    in_virtual_time(main)


@pytest.mark.parametrize("model", STORING)
def test_a_report_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: DeviceModel) -> None:
    monkeypatch.setattr(record_access, "MAX_RECORDS", 500)

    async def main() -> None:
        async with visiting(tmp_path, model) as (room, device, visitor):
            access: Any = device.access()
            device.catch_up()

            async def report(connection: Any, records: Sequence[Any]) -> bool:
                while records:
                    await device.send(connection, access._data[0], records[0].packets[0])
                    await asyncio.sleep(0.001)
                return True

            access._report = report
            assert await visitor.visit() is Outcome.FLOODED
            del access._report
            assert await visitor.visit() is Outcome.DONE
            account(room, device.plan)

    in_virtual_time(main)


def test_a_procedure_without_an_answer_ends_although_other_packets_come(tmp_path: Path) -> None:
    """An oximeter tells what it sees each second, whatever becomes of the report."""

    async def main() -> None:
        async with visiting(tmp_path, DeviceModel.OXIMETER) as (room, device, visitor):
            device.faults.withholds_response = True
            access: Any = device.access()
            access._server.memory.clear()
            began_ms = room.now_ms()
            # While a procedure runs the simulator is silent: this one ends, and says nothing of it.
            assert await visitor.visit() is Outcome.UNANSWERED
            assert 30_000 <= room.now_ms() - began_ms < 60_000
            assert len(told_samples(room.told(device.plan.id))) > 50

    in_virtual_time(main)


def test_a_report_that_drips_is_left_when_somebody_has_waited_long(tmp_path: Path) -> None:
    """A record every 20 s would hold the link for hours. What came in order is kept."""

    async def main() -> None:
        async with visiting(tmp_path, DeviceModel.CGM) as (room, device, visitor):
            device.faults.pace_s = 20
            assert await visitor.visit(OVERSTAY_S + 100) is Outcome.OVERSTAYED
            await room.until(device.idle.is_set, 10)
            device.faults.pace_s = 0
            assert await visitor.visit() is Outcome.DONE
            account(room, device.plan)

    in_virtual_time(main)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model", MAKERS)
def test_values_and_packets_at_random(tmp_path: Path, model: DeviceModel, seed: int) -> None:
    """Whatever is read, and whatever is notified: a named outcome, few packets handed on, and afterwards all is well."""
    rng = np.random.default_rng([seed, 73])

    async def main() -> None:
        async with visiting(tmp_path, model) as (room, device, visitor):
            readable = [one for one in device.device.gatt_server.attributes if len(one.type.to_bytes()) == 2]
            kept = {one.handle: one.value for one in readable if hasattr(one, "properties")}
            chosen = [one for one in readable if one.handle in kept and rng.random() < 0.5]
            for one in chosen:
                one.value = rng.bytes(int(rng.integers(0, 513)))
            device.faults.corruption_probability = float(rng.choice([0.0, 0.2, 1.0]))
            for _ in range(3):
                assert await visitor.visit() in set(Outcome)
            assert room.told(device.plan.id).packets <= 3 * 34

    in_virtual_time(main)


@pytest.mark.parametrize("said", PROFILES)
@pytest.mark.parametrize("model", [DeviceModel.WRISTBAND, DeviceModel.GLUCOSE_METER])
def test_a_device_that_is_another_one(tmp_path: Path, model: DeviceModel, said: DeviceModel) -> None:
    """What its model has is not there: refused, or nothing to tell."""

    async def main() -> None:
        async with visiting(tmp_path, model, said) as (room, device, visitor):
            outcome = await visitor.visit(400)
            assert outcome in ({Outcome.DONE} if said is model else {Outcome.REFUSED, Outcome.DONE})
            if said is not model:
                assert told_samples(room.told(device.plan.id)) == {}

    in_virtual_time(main)


@pytest.mark.parametrize("how", [Corruption.TRUNCATED, Corruption.LENGTHENED])
@pytest.mark.parametrize("model", STORING[:3])
def test_a_stored_record_that_came_spoiled_is_read_once_more(
    tmp_path: Path, model: DeviceModel, how: Corruption
) -> None:
    async def main() -> None:
        async with visiting(tmp_path, model) as (room, device, visitor):
            device.faults = replace(device.faults, corrupt_next=(how,))
            assert await visitor.visit() is Outcome.DONE
            assert not device.faults.corrupt_next
            account(room, device.plan)

    in_virtual_time(main)


def test_a_live_record_that_came_spoiled_is_read_when_the_next_one_shows_the_gap(tmp_path: Path) -> None:
    async def main() -> None:
        one = plan(DeviceModel.CGM)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            room.arrive()
            await asyncio.sleep(400)
            device = room.device(one.id)
            device.faults = replace(device.faults, corrupt_next=(Corruption.WRONG_CRC,))
            await asyncio.sleep(700)
            assert not device.faults.corrupt_next
            account(room, one)
            assert room.told(one.id).packets == 1

    in_virtual_time(main)
