"""Reads the API's live stream as a browser would, and records when each patient's first alert came."""

import asyncio
import http.client
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

import psycopg

from deploy.bench.clinic import Clinic, pause
from deploy.bench.errors import BenchError
from deploy.bench.programs import Program
from deploy.stack.processes import free_port
from gateway.clinic.provisioning import Provisioning
from gateway.runtime import clock

HOST: Final = "127.0.0.1"
STARTED_WITHIN_S: Final = 30.0
ALERT_WITHIN_S: Final = 30.0
_DATA: Final = b"data: "


class LiveStream:
    """The stream, read by its own thread until the server ends it."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self._first: dict[str, float] = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="live stream")
        self._reader.start()

    def wait_for(self, patient_id: str) -> float:
        """Return when the patient's first alert was read (monotonic seconds)."""
        with self._news:
            if not self._news.wait_for(lambda: patient_id in self._first, ALERT_WITHIN_S):
                raise BenchError(f"no alert for patient {patient_id} on the live stream")
            return self._first[patient_id]

    def join(self) -> None:
        """Wait until the server has ended the stream."""
        self._reader.join()
        self._response.close()

    def _read(self) -> None:
        try:
            while line := self._response.readline():
                arrived = clock.monotonic()
                if line.startswith(_DATA):
                    patient = json.loads(line[len(_DATA) :])["patient_id"]
                    with self._news:
                        self._first.setdefault(patient, arrived)
                        self._news.notify_all()
        except (OSError, http.client.HTTPException):
            return  # the server has ended


@contextmanager
def live_stream(clinic: Clinic) -> Iterator[LiveStream]:
    """Run the API and read its stream as an administrator, whose account ends with the block."""
    email, password = f"{secrets.token_hex(4)}@bench.invalid", secrets.token_urlsafe(24)
    asyncio.run(_administer(clinic.servers.database_url, email, password))
    port = free_port()
    environment = {**clinic.environment, "VIGIL_SECRET_KEY": secrets.token_urlsafe(48)}
    stream = None
    try:
        with Program.vigil("api", "--host", HOST, "--port", str(port), environment=environment) as program:
            _wait_until_it_answers(port, program)
            token = _request(
                port,
                "POST",
                "/api/v1/auth/token",
                {"Content-Type": "application/x-www-form-urlencoded"},
                urlencode({"username": email, "password": password}),
            )
            access = json.loads(token.read())["access_token"]
            token.close()
            stream = LiveStream(
                _request(port, "GET", "/api/v1/alerts/stream", {"Authorization": f"Bearer {access}"}, None)
            )
            yield stream
    finally:
        if stream is not None:
            stream.join()
        asyncio.run(_administer(clinic.servers.database_url, email, None))


async def _administer(database_url: str, email: str, password: str | None) -> None:
    """Add the account; without a password, end it."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        provisioning = Provisioning(connection, None, clock.now())
        if password is None:
            await provisioning.disable_user(email)
        else:
            await provisioning.add_user(email, "admin", password)


def _wait_until_it_answers(port: int, program: Program) -> None:
    deadline = clock.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            _request(port, "GET", "/readyz", {}, None).close()
        except (OSError, BenchError):
            program.check()
            if clock.monotonic() > deadline:
                raise
            pause(0.05)
        else:
            return


def _request(port: int, method: str, path: str, headers: dict[str, str], body: str | None) -> http.client.HTTPResponse:
    """Send a request; return the response, to be closed. Raises BenchError unless it is 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ALERT_WITHIN_S)
    connection.request(method, path, body, {**headers, "Connection": "close"})
    response = connection.getresponse()
    if response.status != HTTPStatus.OK:
        said = response.read().decode(errors="replace")
        response.close()
        raise BenchError(f"{method} {path} was answered with {response.status}: {said}")
    return response
