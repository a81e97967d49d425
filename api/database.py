"""The API's connections: all reads run as `vigil_api` under row security, on behalf of one user."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

from psycopg import AsyncConnection, sql
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from api.settings import ApiSettings
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "sessions.sql")
NAME = "vigil api"
Row = TypeVar("Row")


class Database:
    """A pool of connections. A block is a transaction: committed at its end, rolled back if it raises."""

    def __init__(self, settings: ApiSettings) -> None:
        self._url = settings.database_url
        self._statement_timeout = settings.statement_timeout
        self._pool = AsyncConnectionPool(
            self._url,
            kwargs={"autocommit": True, "application_name": NAME},
            min_size=1,
            max_size=settings.max_connections,
            open=False,
            configure=self._configure,
            check=AsyncConnectionPool.check_connection,
            timeout=settings.connection_timeout.total_seconds(),
            max_waiting=200,  # beyond that, waiting only delays everybody's answer
            name="api",
        )

    async def open(self) -> None:
        """Start to connect; does not wait, so that the process answers while the database is still down."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _configure(self, connection: AsyncConnection) -> None:
        # Plan for the actual values: they decide which chunks a query needs.
        milliseconds = str(int(self._statement_timeout.total_seconds() * 1000))
        await connection.execute(SQL.configure, {"statement_timeout": milliseconds})
        await connection.execute("set role vigil_api")

    @asynccontextmanager
    async def as_user(self, user_id: int | None) -> AsyncIterator[AsyncConnection]:
        """Run a transaction in which row security knows the user; None: nobody, who sees nothing."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(SQL.become, {"user_id": "" if user_id is None else str(user_id)})
            yield connection

    @asynccontextmanager
    async def as_operator(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction with the rights of the process itself: for counts and positions, never for content."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("set local role none")
            yield connection

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[AsyncConnection]:
        """Hold a separate connection that listens on a channel."""
        connection = await AsyncConnection.connect(
            self._url,
            autocommit=True,
            application_name=NAME,
            connect_timeout=10,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute("set role vigil_api")
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            yield connection


async def fetch_all(
    connection: AsyncConnection, row: type[Row], query: LiteralString, parameters: Mapping[str, Any] | None = None
) -> list[Row]:
    """Return every row as a `row`, whose fields are the query's columns."""
    async with connection.cursor(row_factory=class_row(row)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


async def fetch_one(
    connection: AsyncConnection, row: type[Row], query: LiteralString, parameters: Mapping[str, Any] | None = None
) -> Row | None:
    """Return the first row as a `row`, None if there is none."""
    async with connection.cursor(row_factory=class_row(row)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchone()


async def fetch_value(
    connection: AsyncConnection, query: LiteralString, parameters: Mapping[str, Any] | Sequence[Any] | None = None
) -> Any:
    """Return the first column of the first row, None if there is none."""
    cursor = await connection.execute(query, parameters)
    row = await cursor.fetchone()
    return None if row is None else row[0]
