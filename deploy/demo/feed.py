"""Reads the API's live stream of alerts as any client would: logs in, resumes after an interruption, starts over."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from deploy.demo.clinic import LogIn

_ANSWER_WITHIN_S = 5.0
_QUIET_FOR_S = 60.0
"""The stream sends something at least every 15 s; a connection this quiet is dead."""
_AGAIN_AFTER_S = 0.5

Alert = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the API listens."""

    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The URL for people."""
        return f"http://{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Return whether the API is ready."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_ANSWER_WITHIN_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def token(self, person: LogIn) -> str:
        """Log in and return an access token. Raises OSError."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_ANSWER_WITHIN_S)
        try:
            form = urlencode({"grant_type": "password", "username": person.email, "password": person.password})
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/api/v1/auth/token", form, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != HTTPStatus.OK:
                raise ConnectionRefusedError(f"the API does not let {person.email} in: {body.decode(errors='replace')}")
            return str(json.loads(body)["access_token"])
        finally:
            connection.close()


@dataclass(slots=True)
class AlertFeed:
    """A thread that passes every event of the stream to `on_alert` (called in the thread), from `begin` on."""

    api: ApiAddress
    person: LogIn
    on_alert: Callable[[Alert], None]
    _last_id: str | None = None
    _socket: socket.socket | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _connected: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> bool:
        """Connect; True once the stream is open, so that nothing is missed from now on, False if it cannot open."""
        threading.Thread(target=self._follow, name="alert feed", daemon=True).start()
        return self._connected.wait(2 * _ANSWER_WITHIN_S)

    def stop(self) -> None:
        """End the thread, even while it waits for the next event."""
        self._stopped.set()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read_stream(self.api.token(self.person))
            except (OSError, ValueError, http.client.HTTPException):
                # The API restarts, or the token expired: reconnect with the last id.
                self._stopped.wait(_AGAIN_AFTER_S)

    def _read_stream(self, token: str) -> None:
        connection = http.client.HTTPConnection(self.api.host, self.api.port, timeout=_QUIET_FOR_S)
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        try:
            connection.request("GET", "/api/v1/alerts/stream", headers=headers)
            self._socket = connection.sock
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise ConnectionRefusedError(f"the stream answers {answer.status}")
            self._last_id = answer.headers.get("Last-Event-ID", self._last_id)
            self._connected.set()
            self._read_events(answer)
        finally:
            self._socket = None
            connection.close()

    def _read_events(self, lines: Iterable[bytes]) -> None:
        coming_id = self._last_id
        for line in lines:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                coming_id = value
            elif name == "data":
                self.on_alert(json.loads(value))
                self._last_id = coming_id
