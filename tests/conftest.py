"""Real peers for every test: one TimescaleDB per session with a fresh database per test, one broker per test."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
import pytest
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

_TEMPLATE = "vigil_template"
_numbers = count(1)


class TestStack:
    """The session's TimescaleDB: `postgres` is the server; databases are cloned from a migrated template."""

    __test__ = False

    def __init__(self, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.create_database(_TEMPLATE, template="vigil")
        migrate(postgres.database_url(_TEMPLATE), clock.now())

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
        name = f"test_{next(_numbers)}"
        try:
            yield self.create_database(name, template)
        finally:
            self.drop_database(name)

    def _administer(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.postgres.superuser_url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def stack() -> Iterator[TestStack]:
    """The TimescaleDB of this test session, on a free port in a temporary folder."""
    with temporary_folder() as folder, temporary_postgres(folder) as postgres:
        yield TestStack(postgres)


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
