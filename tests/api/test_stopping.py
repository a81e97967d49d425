"""The API stops at once, whatever its listener was at."""

import asyncio
import time
from itertools import count

import pytest

from api.database import Database
from api.metrics import ApiMetrics
from api.settings import ApiSettings
from api.streams import Streams
from gateway.runtime import process

ANSWERED_S = 0.004
"""Within it the database has answered, so that each turn of the loop goes one step further."""


@pytest.mark.timeout(60)  # what is wrong here never ends
async def test_at_every_step_of_its_beginning_the_listener_is_asked_once(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one of them a connection of the pool comes together with the cancellation, and Python 3.11 drops the latter."""
    monkeypatch.setattr(process, "AGAIN_S", 3600.0)
    for steps in count():
        database, woken = Database(settings), asyncio.Event()
        streams = Streams(database, settings, ApiMetrics())
        streams.attach(1, woken)
        await database.open()
        await streams.open()
        for _ in range(steps):
            time.sleep(ANSWERED_S)  # noqa: ASYNC251 - the loop stands still while the database works
            await asyncio.sleep(0)
        listening = woken.is_set()
        await streams.close()
        await database.close()
        if listening:
            break
