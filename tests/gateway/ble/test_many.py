"""More devices than links: all are read and none starves, also beside devices that misbehave in every way."""

import asyncio
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pytest
from bumble.device import Connection, Device

from devices.vocabulary import DeviceModel
from firmware_sim.ble.faults import Faults
from firmware_sim.ble.packets import heart_rate
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.stories import mixed_ward
from firmware_sim.ble.truth import Measured
from firmware_sim.ble.wristband import WristbandPeripheral
from gateway.ble.link import ANSWER_WITHIN_S, CONNECT_WITHIN_S
from gateway.ble.profiles.measurements import QUIET_S
from gateway.ble.turns import SLICE_MS
from gateway.ble.visit import UNREADABLE_A_VISIT
from tests.gateway.ble.accounts import happened, told_events, told_samples
from tests.gateway.ble.bedside import HOUR_MS, SHANGHAI, START, Bedside, bedside, in_virtual_time, plan

pytestmark = pytest.mark.xdist_group("loads the machine")
DEVICES = 50
RUN_S = 450
CLOCK_MS = 43_000
"""Half of the wall clocks are 40 s slow, which is within what clocks that people set are believed; stamps are in seconds."""
BOX_MS = 2_000
"""A box notes each step of its clock: what is left is the drift of a day."""
LATE_MS = {DeviceModel.CGM: 3_000, DeviceModel.WRISTBAND: 1_000}
"""A day's drift and the second in which the session began; the second in which a rate arrived."""


class Visits:
    """When a device was connected, by its own side's account."""

    def __init__(self, peripheral: Peripheral) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []
        peripheral.device.on(Device.EVENT_CONNECTION, self._on_connection)

    def _on_connection(self, connection: Connection) -> None:
        self.began.append(asyncio.get_running_loop().time())
        connection.on(Connection.EVENT_DISCONNECTION, self._on_disconnection)

    def _on_disconnection(self, _reason: int) -> None:
        self.ended.append(asyncio.get_running_loop().time())

    def waits(self, since: float, until: float) -> Iterator[float]:
        """Return how long the device was without a link each time, at the end too."""
        yield from (after - before for before, after in zip([since, *self.ended], self.began, strict=False))
        if len(self.ended) == len(self.began):
            yield until - (self.ended[-1] if self.ended else since)


def ward() -> list[BlePlan]:
    return mixed_ward(DEVICES, START, SHANGHAI, advertising_interval_ms=2000)


def misbehaving() -> list[BlePlan]:
    return [
        plan(DeviceModel.WRISTBAND, name="garbage", faults=Faults(corruption_probability=1.0)),
        plan(DeviceModel.CGM, name="silent", faults=Faults(silent=True)),
        plan(DeviceModel.CGM, name="unbonded", faults=Faults(refuses_bonding=True)),
        plan(DeviceModel.WRISTBAND, name="flood"),
    ]


async def flood(band: Peripheral) -> None:
    """Notify 40 times a second, whatever the heart does."""
    assert isinstance(band, WristbandPeripheral)
    packet = heart_rate(200, rr_1024=[300] * 9)
    while True:
        await asyncio.sleep(0.5)
        connection = band._connection
        if connection is not None and band.subscribed(connection, band._measurement):
            for _ in range(20):
                await band.send(connection, band._measurement, packet)


def account(room: Bedside, one: BlePlan) -> None:
    """Hold what was told of a device against what it measured: values exactly, times as far as its clock is trusted."""
    told, device = room.told(one.id), room.device(one.id)
    if one.model is DeviceModel.PILLBOX:
        events, truth = told_events(told), happened(device.truth)
        assert [(kind, *rest) for kind, _, *rest in events] == [(kind, *rest) for kind, _, *rest in truth]
        assert all(abs(event[1] - true[1]) <= BOX_MS for event, true in zip(events, truth, strict=True))
        return
    stored = [entry for entry in device.truth if isinstance(entry, Measured)]
    live = {key for key in told_samples(told) if one.model is DeviceModel.OXIMETER and key[1] >= START.now_ms}
    samples = sorted((key[1], key[0], *sample) for key, sample in told_samples(told).items() if key not in live)
    entries = sorted((e.at_ms, e.code.wire, e.value, e.unit.ucum, e.flags.wire) for e in stored)
    assert [sample[1:] for sample in samples] == [entry[1:] for entry in entries]
    late = [abs(sample[0] - entry[0]) for sample, entry in zip(samples, entries, strict=True)]
    assert max(late, default=0) <= LATE_MS.get(one.model, CLOCK_MS)
    assert told.repeated == 0
    assert told.packets == 0


def bound_s(devices: int, links: int) -> float:
    """Return what `turns` promises: ceil(D / L) slices, each with what connecting and coming to an end take."""
    return ceil(devices / links) * (SLICE_MS / 1000 + CONNECT_WITHIN_S + ANSWER_WITHIN_S + QUIET_S)


def again(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    ("links", "others"),
    [(4, misbehaving()), again(8, misbehaving()), again(4, []), again(8, [])],
    ids=["4-beside", "8-beside", "4-alone", "8-alone"],
)
def test_fifty_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str], links: int, others: list[BlePlan]) -> None:
    async def main() -> None:
        plans = ward()
        async with bedside(tmp_path, [*plans, *others], absent_ms=24 * HOUR_MS, links=links) as room:
            visits = {device.plan.id: Visits(device) for device in room.ward}
            flooding = [asyncio.create_task(flood(room.device(one.id))) for one in others if "flood" in one.id]
            began = asyncio.get_running_loop().time()
            room.arrive()
            await asyncio.sleep(RUN_S)
            until = asyncio.get_running_loop().time()
            longest = max(wait for one in plans for wait in visits[one.id].waits(began, until))
            with capsys.disabled():
                figures = f"{links} links, {len(others)} misbehave: without a link {longest:.0f} s at most"
                print(f"\n{figures}")  # noqa: T201 - to be quoted
            assert longest <= bound_s(len(plans) + len(others), links)
            await room.restart(links=len(plans) + len(others))
            await asyncio.sleep(40)
            await room.leave()
            for one in plans:
                account(room, one)
            for one in others:
                assert room.told(one.id).packets <= UNREADABLE_A_VISIT * len(visits[one.id].began)
            for task in flooding:
                task.cancel()

    in_virtual_time(main)
