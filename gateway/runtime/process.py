"""The frame of every long-running process: signals that end it, tasks that end with it, and its metrics."""

import asyncio
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from prometheus_client import CollectorRegistry, start_http_server

AGAIN_S: Final = 1.0


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended, however they end; who is cancelled meanwhile asks them again and stays.

    Once is not enough: `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes together with its answer.
    For the same reason a task group is not left to the tasks in it: it cancels each only once (`cancelled` inside).
    """
    left = {task for task in tasks if not task.done()}
    interrupted: asyncio.CancelledError | None = None
    while left:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            interrupted = error
        left = {task for task in left if not task.done()}
    if interrupted is not None:
        raise interrupted


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; an exception it died of by itself is raised."""
    await cancelled([task])
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def told_to_stop(registry: CollectorRegistry, metrics_port: int) -> Iterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set; inside the block, metrics are at `metrics_port` (0: nowhere)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = start_http_server(metrics_port, "127.0.0.1", registry)[0] if metrics_port else None
    try:
        yield stop
    finally:
        if server is not None:
            server.shutdown()
