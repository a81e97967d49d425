"""Migrating beside programs that run, and beside another migrator: done within seconds, or refused with a sentence."""

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from deploy.migrate import LockedOut, Migration, load_migrations, migrate
from deploy.stack.processes import free_port
from gateway.runtime import clock
from gateway.store import locks
from tests.gateway.clinic import Clinic, open_clinic
from tests.gateway.processes import VIGIL, GatewayProcess, VigilProcess, until
from tests.gateway.wire import Publisher, telemetry

# What changes most: columns on the tables that each program reads and writes all the time.
PENDING = Migration(
    len(load_migrations()) + 1,
    "columns_everywhere",
    "".join(
        f"alter table {table} add column remark text;"
        for table in ("observation", "rr_series", "device", "patient", "alert", "outbox", "receipt_journal", "command")
    ),
)


@pytest.fixture
async def clinic(database_url: str) -> AsyncIterator[Clinic]:
    async with open_clinic(database_url) as clinic:
        yield clinic


@pytest.fixture
async def programs(database_url: str, mqtt_url: str, tmp_path: Path) -> AsyncIterator[list[VigilProcess]]:
    """A gateway, a worker and an API that work."""
    port = free_port()
    gateway = GatewayProcess(tmp_path, database_url, mqtt_url)
    worker = VigilProcess(tmp_path, "worker", "worker active", database_url=database_url, mqtt_url=mqtt_url)
    api = VigilProcess(tmp_path, "api", "", database_url=database_url, secret_key="k" * 32, api_port=str(port))
    try:
        await gateway.start()
        await worker.start()
        api.launch()
        await until(lambda: ready(port))
        yield [gateway, worker, api]
    finally:
        for program in (gateway, worker, api):
            if program.running:
                program.kill()


@pytest.fixture
def other_session(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True, application_name="night report") as connection:
        yield connection


async def ready(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        with suppress(httpx.TransportError):
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    return False


def run_migrate(database_url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VIGIL_DATABASE_URL": database_url}
    return subprocess.run([VIGIL, "migrate"], env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_a_migration_is_applied_while_every_program_runs_and_devices_send(
    programs: list[VigilProcess], clinic: Clinic, database_url: str, mqtt_url: str
) -> None:
    await clinic.wearer("band")
    began = clock.now_ms() - 3_600_000
    sender = Publisher(mqtt_url, messages_per_s=200)
    sender.add(
        telemetry("band", [{"code": "heart_rate", "unit": "/min", "at": began + seq, "value": 60}], seq=seq)
        for seq in range(1, 1_001)
    )
    sending = asyncio.create_task(sender.run())
    await until(lambda: stored(clinic, 100))
    by_command = await asyncio.to_thread(run_migrate, database_url)
    assert (by_command.returncode, by_command.stdout, by_command.stderr) == (0, "the schema is current\n", "")
    applied = await asyncio.to_thread(migrate, database_url, clock.now(), [*load_migrations(), PENDING])
    assert applied == [PENDING]
    await sending
    await until(lambda: stored(clinic, 1_000))
    assert [program.running for program in programs] == [True, True, True]
    assert [program.stop() for program in programs] == [0, 0, 0]


async def stored(clinic: Clinic, count: int) -> bool:
    return await clinic.stored() >= count


def test_a_second_migrator_is_told_who_migrates(database_url: str, other_session: psycopg.Connection) -> None:
    other_session.execute("select pg_advisory_lock(%s, %s)", locks.MIGRATION)
    done = run_migrate(database_url)
    pid = other_session.info.backend_pid
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"vigil: Another migration is running: night report (process {pid}) has been at it for more than 10 s."
        " Wait until it has ended, then run `vigil migrate` again.\n"
    )
    other_session.execute("select pg_advisory_unlock(%s, %s)", locks.MIGRATION)
    assert run_migrate(database_url).returncode == 0


def test_who_keeps_a_table_is_named_and_nothing_is_half_done(
    database_url: str, other_session: psycopg.Connection
) -> None:
    known = [*load_migrations(), PENDING]
    with other_session.transaction():
        other_session.execute("select count(*) from receipt_journal")
        sentence = (
            f"Migration {PENDING.version:04}_columns_everywhere needs tables that are in use: night report"
            f" (process {other_session.info.backend_pid}) held them through 5 tries. Nothing of it was applied."
            " Wait until that has ended, or stop it, then run `vigil migrate` again."
        )
        with pytest.raises(LockedOut, match=f"^{re.escape(sentence)}$"):
            migrate(database_url, clock.now(), known)
        left = other_session.execute(
            "select count(*) from information_schema.columns where column_name = 'remark' and table_schema = 'public'"
        )
        assert left.fetchone() == (0,)
    assert migrate(database_url, clock.now(), known) == [PENDING]


async def test_a_table_that_is_let_go_of_in_time_is_waited_for(
    database_url: str, other_session: psycopg.Connection
) -> None:
    known = [*load_migrations(), PENDING]
    with other_session.transaction():
        other_session.execute("select count(*) from receipt_journal")
        migrating = asyncio.create_task(asyncio.to_thread(migrate, database_url, clock.now(), known))
        await asyncio.sleep(3)
    assert await migrating == [PENDING]
