"""The live stream over a real server: order, resumption, row security, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI

from api import dependencies
from api.app import create_app
from api.dependencies import ApiServices
from api.settings import ApiSettings
from gateway.runtime import clock as real_clock
from tests.api.clinic import SECRET, START, Clinic, Clock, is_problem

STREAM = "/api/v1/alerts/stream"


@dataclass
class Event:
    """One event as a reader of the SSE specification sees it."""

    id: int
    alert: dict[str, Any]


class Reader:
    """Reads a stream line by line, as the specification says."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self._coming: asyncio.Task[str | None] | None = None
        self.comments = 0

    async def _line(self) -> str:
        """Return the next line; a wait that is given up loses none. Raises EOFError at the end."""
        self._coming = self._coming or asyncio.ensure_future(self._take_line())
        line = await asyncio.shield(self._coming)
        self._coming = None
        if line is None:
            raise EOFError
        return line

    async def _take_line(self) -> str | None:
        return await anext(self._lines, None)

    async def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)

    async def next(self, within: float = 5) -> Event:
        """Return the next event. Raises TimeoutError; EOFError when the stream has ended."""
        async with asyncio.timeout(within):
            fields: dict[str, str] = {}
            while True:
                line = await self._line()
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    assert name not in fields, "one data line an event"
                    fields[name] = value
                elif fields:
                    assert fields.pop("event") == "alert"
                    assert set(fields) == {"id", "data"}
                    return Event(int(fields["id"]), json.loads(fields["data"]))

    async def take(self, count: int) -> list[Event]:
        return [await self.next() for _ in range(count)]

    async def ended(self, within: float = 5) -> bool:
        """Return whether the stream ends, properly, without another event."""
        try:
            await self.next(within)
        except EOFError:
            return True
        except TimeoutError:
            return False
        raise AssertionError("an event came")


@dataclass
class Served:
    """The API behind a real server, and clients of it."""

    url: str
    app: FastAPI
    clinic: Clinic
    clock: Clock

    @property
    def parts(self) -> ApiServices:
        parts: ApiServices = self.app.state.services
        return parts

    @asynccontextmanager
    async def stream(
        self, user: str = "dora", role: Any = "doctor", *, minutes: float = 15, **options: Any
    ) -> AsyncIterator[Reader]:
        token = self.clinic.token(user, role, now=self.clock.now, minutes=minutes)
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        async with (
            httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10) as client,
            client.stream("GET", STREAM, **options) as response,
        ):
            if response.status_code != 200:
                await response.aread()
            reader = Reader(response)
            try:
                yield reader
            finally:
                await reader.close()

    async def open_streams(self, count: int) -> None:
        """Wait until so many are open."""
        async with asyncio.timeout(5):
            while self.parts.metrics.streams._value.get() != count:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


@asynccontextmanager
async def serve(app: FastAPI, clinic: Clinic, clock: Clock) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app, clinic, clock)
    finally:
        await app.state.services.streams.close()
        server.should_exit = True
        await running


def built(settings: ApiSettings, clock: Clock) -> FastAPI:
    app = create_app(settings)

    async def now() -> Any:
        return clock.now

    app.dependency_overrides[dependencies.now] = now
    return app


@pytest.fixture
async def served(settings: ApiSettings, clinic: Clinic, clock: Clock) -> AsyncIterator[Served]:
    quick = replace(settings, keep_alive=timedelta(milliseconds=300), max_streams_per_user=3, max_streams=5)
    async with serve(built(quick, clock), clinic, clock) as served:
        yield served


async def test_alerts_arrive_as_they_are_committed(served: Served, clinic: Clinic) -> None:
    clinic.alert("Ada")
    async with served.stream() as reader:
        assert reader.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.response.headers["cache-control"] == "no-store"
        assert reader.response.headers["last-event-id"] == "1", "it begins now"
        await served.open_streams(1)
        alert = clinic.alert("Ada", START + timedelta(hours=1), severity="urgent")
        began = real_clock.monotonic()
        event = await reader.next()
        took = real_clock.monotonic() - began
        assert (event.id, event.alert["id"], event.alert["severity"]) == (2, alert, "urgent")
        assert took < 0.25, f"{took:.3f} s: woken, not by the keep-alive's turn"
        async with httpx.AsyncClient(base_url=served.url, headers=reader.response.request.headers) as client:
            listed = (await client.get(f"/api/v1/alerts/{alert}")).json()
            assert {name: listed[name] for name in event.alert} == event.alert
            await client.post(f"/api/v1/alerts/{alert}/acknowledge")
        event = await reader.next()
        assert (event.id, event.alert["state"]) == (3, "acknowledged")


async def test_a_stream_resumes_after_the_event_named_and_skips_nothing(served: Served, clinic: Clinic) -> None:
    ids = [clinic.alert("Ada", START + timedelta(minutes=n)) for n in range(250)]
    async with served.stream(headers={"Last-Event-ID": "3"}) as reader:
        events = await reader.take(247)
        assert [event.id for event in events] == list(range(4, 251))
        assert [event.alert["id"] for event in events] == ids[3:]
    async with served.stream(params={"last_event_id": "249"}) as reader:
        assert (await reader.next()).id == 250
    async with served.stream(headers={"Last-Event-ID": "0"}) as reader:
        assert (await reader.next()).id == 1
    async with served.stream(headers={"Last-Event-ID": "99999999"}) as reader:
        await served.open_streams(1)
        clinic.alert("Ada", START + timedelta(days=1))
        assert (await reader.next()).id == 251, "an id from the future cannot silence the stream"


async def test_what_is_no_event_id_is_refused(served: Served) -> None:
    for last in ("x", "-1", "1.5", "99999999999999999999", "٣"):
        async with served.stream(params={"last_event_id": last}) as reader:
            is_problem(reader.response, 422)


async def test_everybody_gets_their_own_patients_alone(served: Served, clinic: Clinic) -> None:
    async with (
        served.stream("anna", "admin") as anna,
        served.stream("dora", "doctor") as dora,
        served.stream("nils", "nurse") as nils,
        served.stream("emil", "doctor") as emil,
    ):
        await served.open_streams(4)
        ada, cleo = clinic.alert("Ada"), clinic.alert("Cleo")
        assert [event.alert["id"] for event in await anna.take(2)] == [ada, cleo]
        assert (await dora.next()).alert["id"] == (await nils.next()).alert["id"] == ada
        assert (await emil.next()).alert["id"] == cleo
        for reader in (dora, nils, emil):
            assert not await reader.ended(0.4)
        clinic.connection.execute("delete from care_team where user_id = %s", (clinic.users["nils"],))
        ben = clinic.alert("Ben")
        assert (await dora.next()).alert["id"] == ben
        assert not await nils.ended(0.4), "who leaves the care team hears no more of it"
    await served.open_streams(0)


async def test_ids_become_visible_in_the_order_of_commits(served: Served, clinic: Clinic, database_url: str) -> None:
    """Many writers at once: a reader that resumes after every event still gets each of them once, in order."""
    for n in range(8):
        clinic.alert("Ada", START + timedelta(minutes=n))
    writers = 8

    def write(alert_id: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            writer = replace(clinic, connection=connection)
            for _ in range(10):
                writer.publish(alert_id, "updated")

    writing = asyncio.gather(*(asyncio.to_thread(write, n + 1) for n in range(writers)))
    seen: list[int] = [8]
    while len(seen) <= 80:
        async with served.stream(headers={"Last-Event-ID": str(seen[-1])}) as reader:
            seen += [event.id for event in await reader.take(5)]
    await writing
    assert seen == sorted(set(seen))
    in_table = [row[0] for row in clinic.connection.execute("select id from outbox where id > 8 order by id")]
    assert seen[1:] == in_table[: len(seen) - 1]


async def test_comments_come_while_nothing_happens(served: Served) -> None:
    async with served.stream() as reader:
        assert not await reader.ended(1)
        assert reader.comments >= 3


async def test_it_ends_with_the_token(served: Served, clinic: Clinic) -> None:
    async with served.stream(minutes=1 / 60) as reader:
        clinic.alert("Ada")
        await reader.next()
        assert await reader.ended(3)


@pytest.mark.parametrize("change", ["role = 'nurse'", "disabled_at = '2026-11-22'"])
async def test_it_ends_when_the_account_changes_and_tells_nothing_more(
    served: Served, clinic: Clinic, change: str
) -> None:
    async with served.stream() as reader:
        await served.open_streams(1)
        clinic.connection.execute(f"update app_user set {change} where email like 'dora%'".encode())  # noqa: S608
        clinic.alert("Ada")
        assert await reader.ended(2)


async def test_there_is_a_cap_on_streams_for_each_user_and_for_all(served: Served) -> None:
    async with served.stream(), served.stream(), served.stream() as third:
        await served.open_streams(3)
        async with served.stream() as fourth:
            is_problem(fourth.response, 429)
        async with served.stream("anna", "admin"), served.stream("nils", "nurse"):
            await served.open_streams(5)
            async with served.stream("emil", "doctor") as sixth:
                is_problem(sixth.response, 503)
        await third.response.aclose()
        await served.open_streams(2)
        async with served.stream() as again:
            assert again.response.status_code == 200


async def test_without_a_good_token_there_is_none(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url) as client:
        is_problem(await client.get(STREAM), 401)
    async with served.stream("ines", "integration") as reader:
        is_problem(reader.response, 403)


async def test_a_reader_that_takes_its_time_misses_nothing(served: Served, clinic: Clinic) -> None:
    padding = "x" * 20_000
    async with served.stream() as slow, served.stream() as quick:
        await served.open_streams(2)
        for n in range(300):
            clinic.alert("Ada", START + timedelta(minutes=n), summary=padding)
        assert [event.id for event in await quick.take(300)] == list(range(1, 301))
        assert [event.id for event in await slow.take(300)] == list(range(1, 301))


async def test_a_listener_that_loses_its_connection_comes_back(served: Served, clinic: Clinic, stack: Any) -> None:
    async with served.stream() as reader:
        await served.open_streams(1)
        with psycopg.connect(stack.postgres.superuser_url(), autocommit=True) as superuser:
            kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query ~* '^listen' and datname = %s"
            async with asyncio.timeout(5):  # the listener asks once where the events end before it waits for news
                while superuser.execute(kill, (clinic.connection.info.dbname,)).fetchone() != (1,):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        clinic.alert("Ada")
        assert (await reader.next()).id == 1
        await asyncio.sleep(1)
        clinic.alert("Ben")
        assert (await reader.next(0.25)).id == 2


async def test_two_processes_tell_each_others_users(
    served: Served, settings: ApiSettings, clinic: Clinic, clock: Clock
) -> None:
    async with serve(built(settings, clock), clinic, clock) as other:  # noqa: SIM117 - one after the other
        async with served.stream() as here, other.stream() as there:
            await served.open_streams(1)
            await other.open_streams(1)
            alert = clinic.alert("Ada")
            token = clinic.token("dora", "doctor")
            async with httpx.AsyncClient(base_url=other.url, headers={"Authorization": f"Bearer {token}"}) as client:
                await client.post(f"/api/v1/alerts/{alert}/resolve")
            for reader in (here, there):
                assert [event.alert["state"] for event in await reader.take(2)] == ["open", "resolved"]


async def answers(client: httpx.AsyncClient) -> None:
    """Wait until the server is ready."""
    async with asyncio.timeout(30):
        while True:
            with suppress(httpx.ConnectError):
                assert (await client.get("/readyz")).status_code == 200
                return
            await asyncio.sleep(0.05)


async def test_the_command_serves_and_stops_in_order_with_streams_open(database_url: str, clinic: Clinic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "VIGIL_DATABASE_URL": database_url, "VIGIL_SECRET_KEY": SECRET}
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("vigil"), "api", "--port", str(port), env=environment, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        token = clinic.token("dora", "doctor", now=real_clock.now())
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10) as client:
            await answers(client)
            async with client.stream("GET", STREAM) as response:
                reader = Reader(response)
                clinic.alert("Ada")
                assert (await reader.next()).id == 1
                began = real_clock.monotonic()
                process.send_signal(signal.SIGTERM)
                assert await reader.ended()
        assert await asyncio.wait_for(process.wait(), 5) == 0
        assert real_clock.monotonic() - began < 3
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
