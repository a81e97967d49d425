"""The live stream of alerts: server-sent events from the outbox table.

The table is the queue. NOTIFY only wakes the streams; each reads its own entries by id, on its user's behalf. So there
is no buffer in memory for a slow reader to overflow, a lost wake-up costs a delay but never an alert, and row security
decides about every single event. Ids become visible in commit order (`alert_outbox_lock`), so a stream that has read up
to the newest id has missed nothing before it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.alert_view import Alert
from api.database import Database, fetch_all, fetch_value
from api.metrics import ApiMetrics
from api.problems import RETRY_SOON, ProblemError
from api.settings import ApiSettings
from api.sign_in import current_role
from api.tokens import AccessToken
from gateway.runtime.process import ended
from gateway.store.errors import BROKEN, UNAVAILABLE
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "streams.sql")
log = structlog.get_logger(__name__)

CHANNEL = "vigil_alerts"
_BATCH = 100
_STUCK_SECONDS = 5.0
"""How long after its end a stream may still be writing to a reader that takes nothing."""
_RECONNECT_FIRST = 0.2
_MAX_RECONNECT_S = 10.0
# No blank line after it: some readers take a blank line for the end of an event.
_KEEP_ALIVE = b": still here\n"


@dataclass(frozen=True, slots=True)
class _Entry:
    id: int
    alert: dict[str, Any]


def event(entry_id: int, alert: Alert) -> bytes:
    """Return one event; the JSON has no line breaks, so one `data:` line holds it."""
    return f"event: alert\nid: {entry_id}\ndata: {alert.model_dump_json()}\n\n".encode()


class Streams:
    """All streams of one process, and the one connection that listens for them."""

    def __init__(self, database: Database, settings: ApiSettings, metrics: ApiMetrics) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._wakes: set[asyncio.Event] = set()
        self._per_user: Counter[int] = Counter()
        self._reading = asyncio.Semaphore(max(1, settings.max_connections // 2))  # requests need connections too
        self._head = 0
        self._closing = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start to listen."""
        self._listener = asyncio.create_task(self._listen(), name="alert-listener")

    async def close(self) -> None:
        """End every stream after its current write, and stop listening. Closing twice is harmless."""
        self._closing.set()
        self._wake_all()
        if self._listener is not None:
            await ended(self._listener)
            self._listener = None

    async def head(self) -> int:
        """Return the newest id of the outbox: the start of a stream that wants only new events."""
        async with self._database.as_operator() as connection:
            return int(await fetch_value(connection, SQL.head))

    def subscribe(self, token: AccessToken, after: int, now: datetime) -> "AlertStream":
        """Return a stream of the events after `after`, until the token expires."""
        return AlertStream(self, token, after, (token.expires_at - now).total_seconds())

    def attach(self, user_id: int, wake: asyncio.Event) -> None:
        """Count a new stream, and wake it from now on. Raises ProblemError 429 or 503 if there are too many."""
        if self._closing.is_set() or self._per_user.total() >= self._settings.max_streams:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "No stream is free.", headers=RETRY_SOON)
        if self._per_user[user_id] >= self._settings.max_streams_per_user:
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "You have too many streams open.", headers=RETRY_SOON)
        self._wakes.add(wake)
        self._per_user[user_id] += 1
        self._metrics.streams.inc()

    def detach(self, user_id: int, wake: asyncio.Event) -> None:
        """Forget a stream that has ended."""
        self._wakes.discard(wake)
        self._per_user[user_id] -= 1
        if not self._per_user[user_id]:
            del self._per_user[user_id]
        self._metrics.streams.dec()

    async def events(self, token: AccessToken, after: int, wake: asyncio.Event, until: float) -> AsyncIterator[bytes]:
        """Yield events after `after`, and comments in between, until the loop's time `until` or access is revoked."""
        loop = asyncio.get_running_loop()
        yield _KEEP_ALIVE  # sends the headers
        while not self._closing.is_set() and loop.time() < until:
            wake.clear()
            entries, reached = await self._read(token, after)
            if entries is None:
                return
            for entry in entries:
                yield event(entry.id, Alert.model_validate(entry.alert))
            after = max(after, reached)
            if len(entries) == _BATCH:
                continue
            try:
                pause = min(self._settings.keep_alive.total_seconds(), until - loop.time())
                await asyncio.wait_for(wake.wait(), max(pause, 0))
            except TimeoutError:
                yield _KEEP_ALIVE

    async def _read(self, token: AccessToken, after: int) -> tuple[list[_Entry] | None, int]:
        """Return the next entries and how far they reach; None for the entries if the user may no longer listen."""
        head = self._head  # taken first: all entries up to it are visible to the next transaction
        async with self._reading, self._database.as_user(token.user_id) as connection:
            if await current_role(connection) != token.role:
                return None, after
            entries = await fetch_all(connection, _Entry, SQL.entries_after, {"after": after, "limit": _BATCH})
        if len(entries) == _BATCH:
            return entries, entries[-1].id
        return entries, max(head, entries[-1].id if entries else 0)

    async def _advance(self) -> None:
        self._head = await self.head()
        self._wake_all()

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()

    async def _listen(self) -> None:
        """Wake the streams at each notification; reconnect a lost connection, with full jitter."""
        longest = _RECONNECT_FIRST
        while not self._closing.is_set():
            try:
                async with self._database.listening(CHANNEL) as connection:
                    await self._advance()  # for events that came while nobody listened
                    longest = _RECONNECT_FIRST
                    # Asked each time: under Python 3.11 the pool swallows a cancellation that comes with a connection.
                    while not self._closing.is_set():
                        async for _ in connection.notifies(stop_after=1):
                            pass
                        await self._advance()
            except BROKEN as error:
                if self._closing.is_set():
                    return  # psycopg lets an error of the interrupted query replace the cancellation
                log.warning("alert_listener_lost", error=str(error).strip())
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads load, guards nothing
            longest = min(longest * 2, _MAX_RECONNECT_S)


class AlertStream(StreamingResponse):
    """The response of one stream; occupies a place among the user's streams only while it runs."""

    def __init__(self, streams: Streams, token: AccessToken, after: int, lifetime: float) -> None:
        self._streams = streams
        self._user_id = token.user_id
        self._lifetime = lifetime
        self._wake = asyncio.Event()
        until = asyncio.get_running_loop().time() + lifetime
        super().__init__(
            streams.events(token, after, self._wake, until),
            media_type="text/event-stream",
            # The start of the stream: a client that is cut off before its first event resumes here.
            headers={"Last-Event-ID": str(after), "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the stream ends or its reader leaves."""
        self._streams.attach(self._user_id, self._wake)
        try:
            async with asyncio.timeout(max(self._lifetime, 0) + _STUCK_SECONDS):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.info("alert_stream_stuck", user_id=self._user_id)
        except UNAVAILABLE as error:
            # Cut, not ended: the client reconnects with its last id.
            log.warning("alert_stream_cut", user_id=self._user_id, error=str(error).strip())
        finally:
            self._streams.detach(self._user_id, self._wake)
