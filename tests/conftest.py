"""Real peers for every test: one TimescaleDB per session with a fresh database per test, one broker per test.

Side by side, each worker of pytest-xdist is a session of its own with a TimescaleDB of its own: what one test does to
its server, another worker's does not feel.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from deploy.migrate import migrate
from deploy.stack.embedded import (
    MosquittoServer,
    PostgresServer,
    temporary_folder,
    temporary_mosquitto,
    temporary_postgres,
)
from gateway.runtime import clock
from tests.hours import MOMENTS, depends_on_the_hour, offset_to

# How long an example takes says something of the machine, not of the code.
settings.register_profile("vigil", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vigil")

_TEMPLATE = "vigil_template"
_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 4 << 30  # bytes; the most that a run has filled is a sixth of that
_IN_MEMORY = pytest.StashKey[Path]()
_numbers = count(1)


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are processors: the tests wait for servers a good part of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of this run in memory where there is room, unless TMPDIR says where they belong.

    A database has some thousand files and a test run as many databases: on a disk they cost a third of the whole run.
    """
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ or not _has_room(_MEMORY):
        return
    _remove_what_killed_runs_left()
    config.stash[_IN_MEMORY] = folder = _MEMORY / f"vigil-tests-{os.getpid()}"
    folder.mkdir(mode=0o711)
    os.environ["TMPDIR"] = str(folder)  # for the workers and all programs that the tests start
    tempfile.tempdir = None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give the memory back."""
    if _IN_MEMORY in config.stash:
        shutil.rmtree(config.stash[_IN_MEMORY], ignore_errors=True)


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _MEMORY_NEEDED


def _remove_what_killed_runs_left() -> None:
    for folder in _MEMORY.glob("vigil-tests-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make hours`."""
    parser.addoption(
        "--every-hour", action="store_true", help="run what depends on the time of day at every hour of it"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have what depends on the time of day run at each of MOMENTS, if that is asked for."""
    definition = metafunc.definition
    marked = definition.get_closest_marker("hours") is not None
    if metafunc.config.getoption("every_hour") and (
        marked or depends_on_the_hour(definition.path, metafunc.fixturenames)
    ):
        metafunc.fixturenames.insert(0, "moved_clock")
        metafunc.parametrize("moved_clock", MOMENTS, indirect=True, ids=[f"{moment}h" for moment in MOMENTS])


@pytest.fixture
def moved_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the hour of the parameter, here and in the programs that the test starts."""
    moved = clock.OFFSET_MS + round(offset_to(request.param, clock.now()) / timedelta(milliseconds=1))
    monkeypatch.setattr(clock, "OFFSET_MS", moved)
    monkeypatch.setenv(clock.OFFSET_VARIABLE, str(moved))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on the time of day, before anything is chosen by its marks."""
    for item in items:
        if depends_on_the_hour(item.path, getattr(item, "fixturenames", ())):
            item.add_marker("hours")


class TestStack:
    """The session's TimescaleDB: `postgres` is the server; databases are cloned from a migrated template.

    The next clone is made while a test runs, and dropped while the next one does.
    """

    __test__ = False

    def __init__(self, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.create_database(_TEMPLATE, template="vigil")
        migrate(postgres.database_url(_TEMPLATE), clock.now())
        self._beside = ThreadPoolExecutor(1, "databases")
        self._next = self._beside.submit(self._clone)
        self._dropped: list[Future[None]] = []

    def close(self) -> None:
        """Wait for what is still made or dropped. Raises what went wrong with it."""
        self._next.result()
        for dropped in self._dropped:
            dropped.result()
        self._beside.shutdown()

    def _clone(self) -> str:
        return self.create_database(f"test_{next(_numbers)}")

    def create_database(self, name: str, template: str = _TEMPLATE) -> str:
        """Clone a database and return its address."""
        self._administer("create database {} template {} owner vigil", name, template)
        return self.postgres.database_url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._administer("drop database if exists {} with (force)", name)

    @contextmanager
    def database(self, template: str = _TEMPLATE) -> Iterator[str]:
        """Give the address of a database of one's own: migrated, or with `template="vigil"` still empty."""
        if template == _TEMPLATE:
            url = self._next.result()
            self._next = self._beside.submit(self._clone)
        else:
            url = self.create_database(f"test_{next(_numbers)}", template)
        try:
            yield url
        finally:
            self._dropped.append(self._beside.submit(self.drop_database, url.rpartition("/")[2]))

    def _administer(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.postgres.superuser_url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def stack() -> Iterator[TestStack]:
    """The TimescaleDB of this test session, on a free port in a temporary folder."""
    with temporary_folder() as folder, temporary_postgres(folder) as postgres:
        stack = TestStack(postgres)
        yield stack
        stack.close()


@pytest.fixture
def database_url(stack: TestStack) -> Iterator[str]:
    """A fresh, migrated database; the role in the address owns it and is no superuser."""
    with stack.database() as url:
        yield url


@pytest.fixture
def empty_database_url(stack: TestStack) -> Iterator[str]:
    """A fresh database with the extensions but without a schema."""
    with stack.database(template="vigil") as url:
        yield url


@pytest.fixture
def broker() -> Iterator[MosquittoServer]:
    """A broker of the test's own with dynamic security: start(), stop(), kill(), restart(), url, port, folder, pid."""
    with temporary_folder() as folder, temporary_mosquitto(folder) as server:
        yield server


@pytest.fixture
def mqtt_url(broker: MosquittoServer) -> str:
    """The address of the test's broker with the account that may use any topic."""
    return broker.url
