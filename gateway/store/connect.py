"""Opens the database connections of the gateway and the worker."""

from typing import Any

import psycopg

from gateway.store.binary import register_arrays

CONNECT_TIMEOUT_S = 5


async def connect(database_url: str, name: str) -> psycopg.AsyncConnection[Any]:
    """Return a connection in autocommit mode, named `name`, that speaks UTC and takes numpy arrays.

    Raises psycopg.OperationalError when the database is away.
    """
    connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
        database_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name=name
    )
    try:
        await connection.execute("set timezone to 'UTC'")
        # The same few statements run over arrays of any length: planning each call anew costs more than running it.
        await connection.execute("set plan_cache_mode to force_generic_plan")
        register_arrays(connection)
    except BaseException:  # also a cancellation: nobody else knows of the connection yet
        await connection.close()
        raise
    return connection
