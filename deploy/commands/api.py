"""`vigil api`: serves the HTTP API until it is told to stop."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from api.streams import Streams
from deploy.logs import configure_logs
from deploy.migrate import load_migrations
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import HttpSettings, load_settings

_SHUTDOWN_SECONDS = 10
_REQUESTS_AT_ONCE = 2000


class _Server(uvicorn.Server):
    """Ends the open streams before it waits for requests under way, because a stream has no end of its own."""

    def __init__(self, config: uvicorn.Config, streams: Streams) -> None:
        super().__init__(config)
        self._streams = streams

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as requests to stop; the library would re-raise them afterwards and die."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, end the streams, let the requests under way finish, then close the database."""
        await self._streams.close()
        await super().shutdown(sockets)


def api(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; VIGIL_API_HOST unless given.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port, 0: a free one; VIGIL_API_PORT unless given.")
    ] = None,
) -> None:
    """Serve the HTTP API. Ends with SIGTERM or Ctrl-C, after the requests under way."""
    settings = load_settings(HttpSettings)
    configure_logs(settings.log_level)
    refuse_moved_clock(settings.database_url)
    app = create_app(
        ApiSettings(
            database_url=settings.database_url,
            secret_key=settings.secret_key,
            schema_version=load_migrations()[-1].version,
        )
    )
    config = uvicorn.Config(
        app,
        host=host or settings.api_host,
        port=settings.api_port if port is None else port,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_REQUESTS_AT_ONCE,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _Server(config, app.state.services.streams)
    server.run()
    if not server.started:
        raise typer.Exit(1)
