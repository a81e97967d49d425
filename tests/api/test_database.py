"""What a connection of the API may do, whoever had it before."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from api.database import Database, fetch_value
from api.settings import ApiSettings
from tests.api.clinic import Clinic

WHO = "select current_user || ' ' || coalesce(current_setting('vigil.user_id', true), '')"


@pytest.fixture
async def database(settings: ApiSettings) -> AsyncIterator[Database]:
    """A pool of one connection, which everybody gets after the other, with little patience."""
    database = Database(replace(settings, max_connections=1, statement_timeout=timedelta(milliseconds=500)))
    await database.open()
    yield database
    await database.close()


async def test_rights_and_name_end_with_the_transaction(database: Database, clinic: Clinic) -> None:
    dora = clinic.users["dora"]
    for _ in range(2):
        async with database.as_user(dora) as connection:
            assert await fetch_value(connection, WHO) == f"vigil_api {dora}"
            assert await fetch_value(connection, "select count(*) from patient") == 2
        async with database.as_operator() as connection:
            assert await fetch_value(connection, WHO) == "vigil "
        async with database.as_user(None) as connection:
            assert await fetch_value(connection, WHO) == "vigil_api "
            assert await fetch_value(connection, "select count(*) from patient") == 0


async def test_who_listens_sees_nothing_else(database: Database, clinic: Clinic) -> None:
    assert clinic.patients
    async with database.listening("vigil_alerts") as connection:
        assert await fetch_value(connection, WHO) == "vigil_api "
        assert await fetch_value(connection, "select count(*) from patient") == 0


async def test_a_statement_that_lasts_too_long_is_ended(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.QueryCanceled):
            async with database.as_user(None) as connection:
                await connection.execute("select pg_sleep(60)")
