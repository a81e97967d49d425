"""Whatever dies meanwhile: every reading is stored once, every episode has one alert, every receipt gets to its end."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import pytest

from deploy.migrate import migrate
from deploy.stack.embedded import MosquittoServer, PostgresServer, temporary_folder, temporary_postgres
from gateway.runtime import clock
from tests.gateway.clinic import Clinic, expected, open_clinic
from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import CONNECTED, GatewayProcess, until
from tests.gateway.proxy import Proxy
from tests.gateway.wire import Outgoing, Publisher, readings_message
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import synthetic_nights

pytestmark = pytest.mark.xdist_group("loads the machine")
DEVICES = 250
READINGS = 50_000
REPEATED = 0.02
LATE = 0.01
MESSAGES_PER_S = 500.0
ZONES = ("UTC", "Asia/Shanghai", "America/New_York", "Europe/Berlin", "Australia/Adelaide")
START = int(datetime(2026, 3, 9, 12, 0, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A database server of the test's own, so that its restart disturbs nobody."""
    with temporary_folder() as folder, temporary_postgres(folder) as server:
        migrate(server.url, clock.now())
        yield server


@dataclass(frozen=True, slots=True)
class Load:
    """What every device measured, and the messages that carry it, in the order they are sent."""

    readings: dict[str, list[Reading]]
    messages: list[Outgoing]
    last_seq: dict[str, int]


def build_load(seed: int, devices: int, readings: int) -> Load:
    """Nights of many devices, cut into numbered messages; some readings twice, some long after their time."""
    rng = np.random.default_rng(seed)
    names = [f"cgm-{number}" for number in range(devices)]
    each = [readings // devices + (number < readings % devices) for number in range(devices)]
    measured = {
        name: list(islice(synthetic_nights(int(rng.integers(2**32)), 3, 5, START), count))
        for name, count in zip(names, each, strict=True)
    }
    queues = {name: _cut(name, measured[name], rng) for name in names}
    turns = [name for name in names for _ in queues[name]]
    rng.shuffle(turns)
    iterators = {name: iter(queue) for name, queue in queues.items()}
    messages = [next(iterators[name]) for name in turns]
    return Load(measured, messages, {name: len(queue) for name, queue in queues.items()})


def _cut(name: str, readings: list[Reading], rng: np.random.Generator) -> list[Outgoing]:
    messages: list[list[Reading]] = []
    late: list[tuple[int, Reading]] = []
    row = 0
    while row < len(readings):
        size = int(rng.integers(1, 13))
        part = []
        for reading in readings[row : row + size]:
            if rng.random() < LATE:
                late.append((len(messages) + int(rng.integers(1, 20)), reading))
            else:
                part.append(reading)
            if rng.random() < REPEATED:
                part.append(readings[int(rng.integers(0, row + 1))])
        row += size
        messages.append(part)
    for place, reading in late:
        messages.insert(min(place, len(messages)), [reading])
    return [readings_message(name, part, seq=seq) for seq, part in enumerate(messages, start=1)]


@dataclass(slots=True)
class Faults:
    """What goes wrong while messages flow; each fault waits for its share of the messages to be acknowledged."""

    gateway: GatewayProcess
    proxy: Proxy
    postgres: PostgresServer
    publisher: Publisher
    rng: np.random.Generator
    kills: int = 0

    async def happen(self, total: int) -> None:
        faults = [self._kill] * 5 + [self._cut] * 3 + [self._restart_database]
        order = self.rng.permutation(len(faults))
        for number, fault in enumerate(order.tolist(), start=1):
            threshold = total * number // (len(faults) + 1)
            await until(lambda wanted=threshold: self.publisher.acknowledged >= wanted, what="the publisher goes on")
            await asyncio.sleep(float(self.rng.uniform(0, 0.3)))
            await faults[fault]()

    async def _kill(self) -> None:
        """In the middle of its work: it had time to connect and to take in some of what had gathered."""
        said = self.gateway.count(CONNECTED)
        await asyncio.sleep(float(self.rng.uniform(0, 0.2)))
        self.gateway.kill()
        self.kills += 1
        self.gateway.launch()
        await self.gateway.until_said(CONNECTED, times=said + 1)

    async def _cut(self) -> None:
        """While messages are on their way: between them nothing would be lost."""
        await until(lambda: self.publisher.in_flight, every_s=0.001)
        self.proxy.cut()

    async def _restart_database(self) -> None:
        await asyncio.to_thread(self.postgres.restart)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
async def test_kills_cuts_and_restarts_lose_nothing_and_double_nothing(
    seed: int, postgres: PostgresServer, broker: MosquittoServer, gateway_process: MakeGateway
) -> None:
    load = build_load(seed, DEVICES, READINGS)
    async with Proxy("127.0.0.1", broker.port).running() as proxy:
        async with open_clinic(postgres.url) as clinic:
            patients = await clinic.wearers(list(load.readings), ZONES)
        gateway = await gateway_process(postgres.url, proxy.url(broker.url)).start()
        publisher = Publisher(proxy.url(broker.url), messages_per_s=MESSAGES_PER_S, timeout_s=2.0)
        publisher.add(load.messages)
        faults = Faults(gateway, proxy, postgres, publisher, np.random.default_rng([seed, 1]))
        async with asyncio.TaskGroup() as group:
            group.create_task(publisher.run())
            group.create_task(faults.happen(len(load.messages)))
        assert (faults.kills, proxy.cuts) == (5, 3)
        assert publisher.resent > 0
        async with open_clinic(postgres.url) as clinic:
            await until(lambda: _told(clinic, load), what="every receipt is at its end")
            await _check(clinic, load, patients)
        assert gateway.stop() == 0


async def _told(clinic: Clinic, load: Load) -> bool:
    return await clinic.receipts() == load.last_seq


async def _check(clinic: Clinic, load: Load, patients: list[int]) -> None:
    sent = sorted(
        (name, "glucose", r.at, r.value, r.unit) for name, readings in load.readings.items() for r in readings
    )
    assert len(sent) == READINGS
    assert sorted(await clinic.readings()) == sent
    assert await clinic.quarantined() == []
    assert await clinic.value("select count(*) from conflict") == 0
    found = [(a.patient_id, a.opened_at, a.resolved_at, a.severity) for a in await clinic.alerts()]
    wanted = [
        (patient, *episode)
        for number, (patient, readings) in enumerate(zip(patients, load.readings.values(), strict=True))
        for episode in expected(readings, ZONES[number % len(ZONES)])
    ]
    assert len(wanted) > DEVICES / 2
    assert found == sorted(wanted, key=lambda alert: alert[:2])
    raised = "select count(*), count(distinct alert_id) from outbox where action = 'raised'"
    every = await clinic.value("select count(*) from alert")
    assert await clinic.rows(raised) == [(every, every)]
