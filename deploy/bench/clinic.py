"""The clinic that a benchmark runs in: servers, patients half of whom have night now, devices, programs, event time."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import psycopg

from deploy.bench.errors import BenchError
from deploy.bench.link import forget_session
from deploy.bench.programs import Program, cpu_seconds
from deploy.bench.publisher import Job, Outcome, Start
from deploy.bench.workload import STEP_MS, Plan, Workload, build, device_id
from deploy.stack.embedded import EmbeddedStack
from devices.vocabulary import CODE_BY_WIRE, DeviceModel
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning
from gateway.ingest.mqtt.bridge import session_id
from gateway.runtime import clock
from gateway.runtime.broker_address import Address, parse_url
from gateway.store.queries import load_queries

SQL = load_queries("deploy.bench", "bench.sql")

NIGHT_HOUR: Final = 3
DAY_HOUR: Final = 15
COMMITTED_WITHIN_S: Final = 120.0
POLL_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers to measure; `stack` is ours if we started it, otherwise the servers' processor times are unknown."""

    database_url: str
    mqtt_url: str
    ca_file: str | None = None
    stack: EmbeddedStack | None = None


@dataclass(slots=True)
class Clinic:
    """Shared by all benchmarks. Devices with even numbers are worn where it is night now."""

    servers: Servers
    prefix: str
    patients: list[int]
    keys: list[int]
    connection: psycopg.Connection[Any]
    publisher: Program
    next_seq: list[int]
    clocks: dict[str, int]
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        """The broker."""
        return parse_url(self.servers.mqtt_url, self.servers.ca_file)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of Vigil's own programs."""
        found = {
            "VIGIL_DATABASE_URL": self.servers.database_url,
            "VIGIL_MQTT_URL": self.servers.mqtt_url,
            "VIGIL_LOG_LEVEL": "warning",
        }
        if self.servers.ca_file is not None:
            found["VIGIL_MQTT_CA_FILE"] = self.servers.ca_file
        return found

    def plan(self, code: Literal["glucose", "heart_rate"], messages: int, **more: Any) -> tuple[Plan, Workload]:
        """Plan messages that follow all planned before, in event time and `seq`; count the rows they will make."""
        plan = Plan(self.prefix, code, messages, self.clocks[code], clock.now_ms(), list(self.next_seq), **more)
        workload = build(plan)
        self.clocks[code] += -(-messages // plan.devices) * STEP_MS[code]
        self.next_seq = workload.next_seq
        return plan, workload

    def prepare(self, plan: Plan, *, rate: float | None = None, wait: bool = False) -> None:
        """Have the publisher make the packets of a plan."""
        self.publisher.tell(Job(plan, rate, wait))
        self.publisher.hear(str)

    def publish(self) -> Outcome:
        """Have the publisher publish what it has prepared; return when the broker has acknowledged all of it."""
        self.publisher.tell("go")
        outcome = self.publisher.hear(Outcome)
        if outcome.refused or outcome.unheard:
            raise BenchError(f"the broker refused {outcome.refused} messages; {outcome.unheard} had no subscriber")
        return outcome

    def wait_for_row(self, code: str, device: int, at_ms: int, gateway: Program, poll_s: float = POLL_S) -> float:
        """Wait until a reading is committed; return when that was seen (monotonic seconds, late by up to `poll_s`)."""
        values = {"device": self.keys[device], "code": int(CODE_BY_WIRE[code]), "at": instant(at_ms)}
        deadline = clock.monotonic() + COMMITTED_WITHIN_S
        while True:
            row = self.connection.execute(SQL.is_stored, values, prepare=True).fetchone()
            seen = clock.monotonic()
            if row is not None and row[0]:
                return seen
            if seen > deadline:
                gateway.check()
                raise BenchError(f"the last reading was not committed within {COMMITTED_WITHIN_S:.0f} s")
            if poll_s:
                pause(poll_s)

    def bare_commits(self, count: int, rate: float) -> list[float]:
        """Commit one small row, `rate` times a second; return how long each took in seconds: no row can be faster."""
        self.connection.execute(SQL.make_commits)
        try:
            started, found = clock.monotonic(), []
            for number in range(count):
                pause(max(0.0, started + number / rate - clock.monotonic()))
                left = clock.monotonic()
                self.connection.execute(SQL.commit_one, {"number": number}, prepare=True)
                found.append(clock.monotonic() - left)
            return found
        finally:
            self.connection.execute(SQL.drop_commits)

    def check_rows(self, code: str, new_rows: int) -> None:
        """Add to the number of expected rows; raise BenchError if there are more or fewer."""
        self.rows[code] = self.rows.get(code, 0) + new_rows
        values = {"devices": self.keys, "code": int(CODE_BY_WIRE[code])}
        row = self.connection.execute(SQL.stored, values).fetchone()
        stored = 0 if row is None else int(row[0])
        if stored != self.rows[code]:
            raise BenchError(f"{self.rows[code]} {code} rows should be stored, {stored} are")

    @contextmanager
    def gateway(self) -> Iterator[Program]:
        """Run the gateway on a session of its own, which is deleted afterwards."""
        forget_session(self.address, session_id(self.address))
        try:
            with Program.vigil("gateway", environment=self.environment) as program:
                yield program
        finally:
            forget_session(self.address, session_id(self.address))

    @contextmanager
    def warm_gateway(self) -> Iterator[Program]:
        """Run the gateway, and yield it once it has stored one reading of every device."""
        with self.gateway() as program:
            plan, workload = self.plan("glucose", len(self.keys))
            try:
                self.prepare(plan, wait=True)
                self.publish()
                self.wait_for_row("glucose", *workload.last, program)
            except BenchError as error:
                program.check()  # if the gateway ended, that is the cause
                raise BenchError(f"{error}; the gateway said: {program.said() or 'nothing'}") from error
            self.check_rows("glucose", workload.rows)
            yield program

    def postgres_cpu(self) -> float | None:
        """Return the database's processor time so far in seconds, None if the server is not ours."""
        return None if self.servers.stack is None else cpu_seconds(self.servers.stack.postgres.pid)

    def broker_cpu(self) -> float | None:
        """Return the broker's processor time so far in seconds, None if the server is not ours."""
        return None if self.servers.stack is None else cpu_seconds(self.servers.stack.mosquitto.pid)


@contextmanager
def open_clinic(servers: Servers, devices: int, steps: dict[str, int]) -> Iterator[Clinic]:
    """Provision a patient with a device each, with names unique to this run; each code needs `steps` of event time.

    Event time ends now. No accounts are made: the publisher uses the broker's own account, which may use any topic.
    """
    prefix = f"bench-{secrets.token_hex(3)}"
    now = clock.now()
    begin = {code: clock.now_ms() - count * STEP_MS[code] for code, count in steps.items()}
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(servers.database_url, autocommit=True))
        patients = _provision(servers.database_url, prefix, devices, now)
        keys = [int(key) for (key,) in connection.execute(SQL.device_keys, {"prefix": prefix}).fetchall()]
        publisher = stack.enter_context(Program.module("deploy.bench.publisher"))
        publisher.tell(Start(servers.mqtt_url, servers.ca_file))
        yield Clinic(servers, prefix, patients, keys, connection, publisher, [1] * devices, begin)


def _provision(database_url: str, prefix: str, devices: int, now: datetime) -> list[int]:
    zones = (zone_where_it_is(NIGHT_HOUR, now), zone_where_it_is(DAY_HOUR, now))

    async def provision() -> list[int]:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            provisioning = Provisioning(connection, None, now)
            patients = await provisioning.add_patients(
                [NewPatient(device_id(prefix, index), zones[index % 2]) for index in range(devices)]
            )
            since = now - timedelta(days=2)
            await provisioning.add_devices(
                [
                    NewDevice(device_id(prefix, index), DeviceModel.CGM, patient, since)
                    for index, patient in enumerate(patients)
                ]
            )
            return patients

    return asyncio.run(provision())


def zone_where_it_is(hour: int, now: datetime) -> str:
    """Return a zone whose local hour is `hour` now. The names of Etc count west as positive (tz database, etcetera)."""
    east = (hour - now.hour + 11) % 24 - 11
    return f"Etc/GMT{-east:+d}" if east else "Etc/GMT"


def instant(at_ms: int) -> datetime:
    """Return the time of `at_ms`, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def pause(seconds: float) -> None:
    """Sleep, to let other processes work."""
    time.sleep(seconds)
