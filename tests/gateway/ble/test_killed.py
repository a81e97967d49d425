"""`vigil ble` killed in the middle of a backfill, links lost at random records, the broker away: nothing lost, nothing doubled."""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deploy.stack.embedded import MosquittoServer
from devices.roster import Roster
from devices.vocabulary import DeviceModel
from firmware_sim.ble.cgm import CgmTraits
from firmware_sim.ble.faults import Faults
from firmware_sim.ble.peripherals import Peripherals, start_all
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.truth import Measured
from firmware_sim.wristband import WristbandTraits
from gateway.ble.collector import Collector
from gateway.ble.link import Radio
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import Command, Spool
from gateway.ble.uplink import Uplink
from gateway.clinic.provisioning import NewPatient
from gateway.runtime import clock
from gateway.runtime.broker_address import parse_url
from tests.gateway.ble.home import Home, home
from tests.gateway.processes import VigilProcess, until

pytestmark = pytest.mark.xdist_group("loads the machine")
HOURS = 8
RECORDS = HOURS * 12
MINUTE_MS = 60_000
SECOND_MS = 1_000
PACE_S = 0.01
ZONE = ZoneInfo("Europe/Lisbon")


def sensor(name: str, seed: int, faults: Faults) -> BlePlan:
    body = WristbandTraits(ZONE, first_day=20_000, phase_ms=seed % 300 * SECOND_MS)
    return BlePlan(name, DeviceModel.CGM, (seed, 0), CgmTraits(body), faults=faults, advertising_interval_ms=50)


def right(stored: list[tuple[int, float | None]], ward: Peripherals, device: str) -> bool:
    """Whether every record is stored once with its value, at its time to the second a session start resolves."""
    ward[device].catch_up()  # devices measure when somebody looks
    truth = [one for one in ward[device].truth if isinstance(one, Measured)]
    assert len(truth) >= RECORDS
    if len(stored) < len(truth):
        return False
    assert [value for _, value in stored] == [one.value for one in truth]
    assert all(abs(at_ms - one.at_ms) <= SECOND_MS for (at_ms, _), one in zip(stored, truth, strict=True))
    return True


async def absence(place: Home, patient: int, edge: VigilProcess, seed: int) -> None:
    """Let a sensor store for 8 h, then read it while the link is lost and the program killed; compare in the end."""
    chance = random.Random(seed)
    since = datetime.fromtimestamp(clock.now_ms() / 1000, UTC) - timedelta(hours=HOURS)
    plan = sensor(f"cgm-{seed}", seed, Faults(pace_s=PACE_S, link_loss_at=chance.randrange(1, RECORDS)))
    await place.add_devices("edge-1", patient, [plan], since)
    ward = await place.put_on_air([plan], since=since)
    try:
        if not edge.running:
            await edge.start()
        await until(lambda: not ward[plan.id].idle.is_set(), every_s=0.01)
        await asyncio.sleep(chance.uniform(0.0, RECORDS * PACE_S))
        edge.kill()
        await edge.start()

        async def everything() -> bool:
            return right(await place.stored(plan.id, "glucose"), ward, plan.id)

        await until(everything)
    finally:
        await ward.stop()
        await place.provisioning.unassign(plan.id, datetime.fromtimestamp(clock.now_ms() / 1000, UTC))


async def rounds(folder: Path, database_url: str, broker: MosquittoServer, seeds: range) -> None:
    async with home(folder, database_url, broker) as place:
        (patient,) = await place.provisioning.add_patients([NewPatient("Inês Costa", str(ZONE))])
        edge = await place.add_edge("edge-1")
        for seed in seeds:
            await absence(place, patient, edge, seed)
        assert await place.clinic.value("select count(*) from conflict") == 0
        assert await place.clinic.quarantined() == []


async def test_killed_in_the_middle_of_a_backfill(tmp_path: Path, database_url: str, broker: MosquittoServer) -> None:
    await rounds(tmp_path, database_url, broker, range(1, 6))


@pytest.mark.soak
async def test_killed_fifty_times(tmp_path: Path, database_url: str, broker: MosquittoServer) -> None:
    await rounds(tmp_path, database_url, broker, range(100, 150))


class Edge:
    """The parts of `vigil ble` in the test's process, on a clock that the test moves."""

    def __init__(self, place: Home, spool: Spool, radio: Radio, url: str, roster: Roster) -> None:
        self.wall_ms = clock.now_ms() - 3 * 60 * MINUTE_MS
        monotonic_ms = lambda: round(clock.monotonic() * 1000)  # noqa: E731
        self.collector = Collector(radio, spool, BleMetrics(), lambda: self.wall_ms, monotonic_ms)
        self.collector.set_roster(roster)
        self.uplink = Uplink(parse_url(url), "edge-1", spool, lambda: self.wall_ms, self.ignore, lambda _: None)
        self.place = place

    def ignore(self, _: Command) -> None:
        """A sensor does what it does."""


async def test_the_broker_is_away_for_an_hour_of_device_time(
    tmp_path: Path, database_url: str, broker: MosquittoServer
) -> None:
    async with home(tmp_path, database_url, broker) as place:
        (patient,) = await place.provisioning.add_patients([NewPatient("Inês Costa", str(ZONE))])
        box = await place.add_edge("edge-1")
        plan = sensor("cgm-1", 1, Faults())
        central = await place.radio.central("edge")
        radio = Radio(central.scanner_backend, central.client_backend)
        with Spool(tmp_path / "spool.sqlite") as spool:
            edge = Edge(place, spool, radio, box.environment["VIGIL_MQTT_URL"], place.roster([plan]))
            since_ms = edge.wall_ms - HOURS * 60 * MINUTE_MS
            await place.add_devices("edge-1", patient, [plan], datetime.fromtimestamp(since_ms / 1000, UTC))
            ward = await start_all(place.radio, [plan], lambda: edge.wall_ms, started_ms=since_ms)
            tasks = [asyncio.create_task(edge.collector.run()), asyncio.create_task(edge.uplink.run())]

            async def everything() -> bool:
                return right(await place.stored(plan.id, "glucose"), ward, plan.id)

            try:
                await until(everything)
                await until(lambda: len(spool) == 0)
                await asyncio.to_thread(broker.stop)
                for _ in range(12):
                    edge.wall_ms += 5 * MINUTE_MS
                    await ward.tick()
                await until(lambda: len(spool) >= 12)
                assert len(await place.stored(plan.id, "glucose")) == RECORDS
                await asyncio.to_thread(broker.start)
                await until(everything)
                await until(lambda: len(spool) == 0)
                assert spool.committed(plan.id, spool.streams(plan.id)[0]) == (RECORDS + 12) * 5
            finally:
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await ward.stop()
        assert await place.clinic.value("select count(*) from conflict") == 0
