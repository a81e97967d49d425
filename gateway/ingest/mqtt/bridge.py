"""Keeps one MQTT connection of the gateway alive, and is the pipeline's Source of messages."""

import asyncio
import hmac
import logging
import random
from collections.abc import Callable
from enum import StrEnum

from gateway.ingest.mqtt.connection import (
    RECEIVE_MAXIMUM,
    Connection,
    ConnectionLostError,
    ConnectionSettings,
    LoginRefusedError,
)
from gateway.ingest.source import Batch, SourceClosedError
from gateway.runtime.backoff import full_jitter
from gateway.runtime.broker_address import Address

log = logging.getLogger(__name__)

SUBSCRIPTIONS = ("vigil/v1/+/telemetry", "vigil/v1/+/event", "vigil/v1/+/status")
CONNECT_TIMEOUT_S = 10.0


class State(StrEnum):
    """Where the bridge stands; also a metric."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    CLOSED = "closed"


def session_id(address: Address) -> str:
    """Return the client id of the gateway's session at a broker: the same after a restart, and for a standby.

    MQTT hands a session to whoever logs in with its client id. A device may choose its own, so this one must not be
    guessed: it comes from the account's password.
    """
    secret = hmac.digest((address.password or "").encode(), b"the session of the gateway", "sha256")
    return f"vigil-gateway-{secret.hex()[:32]}"


class Bridge:
    """A Source over MQTT: connects, reconnects, hands out batches, acknowledges after the commit."""

    def __init__(
        self,
        address: Address,
        *,
        receive_maximum: int = RECEIVE_MAXIMUM,
        chance: random.Random | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        self._address = address
        self._settings = ConnectionSettings(
            client_id=session_id(address),
            username=address.username,
            password=address.password.encode() if address.password is not None else None,
            subscriptions=SUBSCRIPTIONS,
            receive_maximum=receive_maximum,
        )
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not a secret
        self._on_state = on_state
        self._connection: Connection | None = None
        self._connections = 0
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        self._closing = False
        self.state = State.CLOSED

    async def run(self) -> None:
        """Keep a connection until cancelled; every loss is logged with its cause and retried with full jitter."""
        attempt = 0
        try:
            while True:
                self._move(State.CONNECTING)
                wait = full_jitter(attempt, self._chance)
                try:
                    connection = await self._connect()
                    log.info("connected to the broker", extra={"session_present": connection.session_present})
                    attempt, wait = 0, full_jitter(0, self._chance)
                    self._move(State.CONNECTED)
                    self._connected.set()
                    await asyncio.shield(connection.closed)
                except (ConnectionLostError, OSError, TimeoutError) as error:
                    level = logging.ERROR if isinstance(error, LoginRefusedError) else logging.WARNING
                    cause = str(error) or type(error).__name__
                    log.log(level, "no broker", extra={"cause": cause, "retry_s": round(wait, 2)})
                self._connected.clear()
                self._connection = None
                self._move(State.WAITING)
                attempt += 1
                await asyncio.sleep(wait)
        finally:
            self._move(State.CLOSED)
            if self._connection is not None:
                self._connection.close()

    async def batch(self) -> Batch:
        """Wait for messages; return those that have gathered on the living connection. SourceClosedError after stop."""
        while True:
            if self._closing:
                raise SourceClosedError
            connection = self._connection
            if connection is not None and connection.waiting:
                return Batch(connection.take(), connection.number)
            self._wake.clear()
            await self._wake.wait()

    def ack(self, batch: Batch) -> None:
        """Acknowledge, unless the connection is gone: then the broker sends them again and the store knows them."""
        connection = self._connection
        if connection is not None and connection.number == batch.connection:
            connection.ack(batch.messages)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1, waiting for a connection and for the PUBACK. Raises ConnectionLostError on a loss."""
        await self._connected.wait()
        if self._connection is None:
            raise ConnectionLostError("not connected")
        await self._connection.publish(topic, payload, retain=retain)

    def stop(self) -> None:
        """Hand out no more batches; what is not acknowledged stays with the broker."""
        self._closing = True
        self._wake.set()

    async def _connect(self) -> Connection:
        self._connections += 1
        connection = Connection(self._settings, self._wake.set, self._connections)
        loop = asyncio.get_running_loop()
        address = self._address
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await loop.create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=address.host if address.tls else None,
            )
            self._connection = connection
            try:
                await asyncio.shield(connection.ready)
            except BaseException:
                connection.fail("the log-in did not finish")
                raise
        return connection

    def _move(self, state: State) -> None:
        self.state = state
        if self._on_state is not None:
            self._on_state(state)
