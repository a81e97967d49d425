"""What wakes a stream: nothing here may wait for a keep-alive, and no entry may slip in beside a read."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from api.settings import ApiSettings
from tests.api.clinic import START, Clinic, Clock
from tests.api.test_stream import Served, built, serve

HELD = 4711
"""The advisory lock that keeps a read of the outbox waiting in the middle of its query."""
WAITING_READS = f"locktype = 'advisory' and objid = {HELD} and not granted"


@pytest.fixture
async def served(settings: ApiSettings, clinic: Clinic, clock: Clock) -> AsyncIterator[Served]:
    """The API with a keep-alive that no test lives to see: what arrives was woken."""
    async with serve(built(replace(settings, keep_alive=timedelta(hours=1)), clock), clinic, clock) as served:
        yield served


def have_reads_wait(clinic: Clinic) -> None:
    """Have each read of the outbox wait, after it has taken its snapshot, while somebody holds the lock."""
    clinic.connection.execute(
        f"""create function let_go() returns boolean language plpgsql volatile as $$ begin
                perform pg_advisory_xact_lock_shared({HELD});
                return true;
            end $$;
            create policy held on outbox as restrictive for select to vigil_api using (let_go())""".encode()
    )


async def until(clinic: Clinic, condition: str) -> None:
    """Wait until a condition holds in the database."""
    async with asyncio.timeout(10):
        while not clinic.value(f"select {condition}"):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def heard(served: Served, entry: int) -> None:
    """Wait until the listener knows of an entry."""
    async with asyncio.timeout(10):
        while served.parts.streams._head < entry:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_an_entry_that_is_committed_while_a_stream_reads_is_told_by_its_next_read(
    served: Served, clinic: Clinic
) -> None:
    have_reads_wait(clinic)
    clinic.alert("Ada")
    clinic.connection.execute("select pg_advisory_lock(%s)", (HELD,))
    async with served.stream(headers={"Last-Event-ID": "0"}) as reader:
        await until(clinic, f"exists (select from pg_locks where {WAITING_READS})")
        clinic.alert("Ada", START + timedelta(hours=1))
        await heard(served, 2)
        clinic.connection.execute("select pg_advisory_unlock(%s)", (HELD,))
        assert [event.id for event in await reader.take(2)] == [1, 2]


async def test_a_backlog_of_many_batches_is_told_without_a_pause(served: Served, clinic: Clinic) -> None:
    for n in range(250):
        clinic.alert("Ada", START + timedelta(minutes=n))
    async with served.stream(headers={"Last-Event-ID": "0"}) as reader:
        assert [event.id for event in await reader.take(250)] == list(range(1, 251))


@contextmanager
def no_new_connections(stack: Any, clinic: Clinic) -> Iterator[None]:
    """Keep everybody from connecting to the test's database, and cut off the one who listens."""
    name = clinic.connection.info.dbname
    with psycopg.connect(stack.postgres.superuser_url(), autocommit=True) as superuser:
        allow = sql.SQL("alter database {} with allow_connections {}")
        superuser.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        try:
            kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query ~* '^listen' and datname = %s"
            assert superuser.execute(kill, (name,)).fetchone() == (1,)
            yield
        finally:
            superuser.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


async def test_what_was_committed_while_nobody_listened_is_told_as_soon_as_somebody_does(
    served: Served, clinic: Clinic, stack: Any
) -> None:
    async with served.stream() as reader:
        await served.open_streams(1)
        clinic.alert("Ada")
        assert (await reader.next()).id == 1
        with no_new_connections(stack, clinic), capture_logs() as logs:
            async with asyncio.timeout(10):
                while sum(entry["event"] == "alert_listener_lost" for entry in logs) < 2:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            clinic.alert("Ada", START + timedelta(hours=1))
        assert (await reader.next(10)).id == 2


async def test_a_stream_that_begins_while_nobody_listens_tells_nothing_from_before_it(
    served: Served, clinic: Clinic, stack: Any
) -> None:
    async with served.stream() as first, AsyncExitStack() as later:
        await served.open_streams(1)
        clinic.alert("Ada")
        assert (await first.next()).id == 1
        await heard(served, 1)
        with no_new_connections(stack, clinic):
            clinic.alert("Ada", START + timedelta(hours=1))
            second = await later.enter_async_context(served.stream())
            assert second.response.headers["last-event-id"] == "2"
            await served.open_streams(2)
            await asyncio.sleep(0.5)  # so that it reads while nobody listens
        clinic.alert("Ada", START + timedelta(hours=2))
        assert (await second.next(10)).id == 3


async def test_streams_that_read_leave_connections_for_requests(served: Served, clinic: Clinic) -> None:
    have_reads_wait(clinic)
    reads = f"select count(*) from pg_locks where {WAITING_READS}"  # noqa: S608
    clinic.alert("Ada")
    clinic.connection.execute("select pg_advisory_lock(%s)", (HELD,))
    async with AsyncExitStack() as streams:
        for _ in range(5):
            await streams.enter_async_context(served.stream(headers={"Last-Event-ID": "0"}))
        await served.open_streams(5)
        await until(clinic, f"2 = ({reads})")
        await asyncio.sleep(1)  # so that others could join them
        assert clinic.value(reads) == 2
        headers = {"Authorization": f"Bearer {clinic.token('dora', 'doctor')}"}
        async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=30) as client:
            assert (await client.get("/api/v1/patients")).status_code == 200
        clinic.connection.execute("select pg_advisory_unlock(%s)", (HELD,))


async def test_a_stream_ends_with_its_token_although_no_keep_alive_is_due(served: Served) -> None:
    async with served.stream(minutes=1 / 60) as reader:
        assert await reader.ended(10)
