"""Real peers for every test: one TimescaleDB per session with a fresh database per test, one broker per test.

Side by side, each worker of pytest-xdist is a session of its own with a TimescaleDB of its own: what one test does to
its server, another worker's does not feel.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

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
from tests.hours import clock_readers

# How long an example takes says something of the machine, not of the code.
settings.register_profile("vigil", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vigil")

_TEMPLATE = "vigil_template"
_numbers = count(1)


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are processors: the tests wait for servers a good part of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on the time of day, before anything is chosen by its marks."""
    for item in items:
        if item.path in clock_readers():
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
