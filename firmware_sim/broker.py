"""The broker's address, and one MQTT connection to it."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aiomqtt import Client, Will

PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Broker:
    """Address of an MQTT broker, and the account in its URL if there was one."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None

    @classmethod
    def from_url(cls, url: str, ca_file: Path | None = None) -> "Broker":
        """Read `mqtt[s]://[user:password@]host[:port]`; ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError("a broker address looks like mqtt://user:password@host:1883 or mqtts://…")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "mqtts" else None
        return cls(
            parts.hostname,
            parts.port or PORTS[parts.scheme],
            tls,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
        )

    def client(
        self,
        *,
        identifier: str | None = None,
        username: str | None = None,
        password: str | None = None,
        will: Will | None = None,
        window: int = 8,
        keepalive: int = 120,
        timeout: float = 30.0,
    ) -> Client:
        """Return a client that is not connected yet; without `username`, with the account of the URL."""
        client = Client(
            self.host,
            self.port,
            identifier=identifier,
            username=username or self.username,
            password=password if username else self.password,
            will=will,
            clean_session=True,
            max_inflight_messages=window,
            tls_context=self.tls,
            keepalive=keepalive,
            timeout=timeout,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        client.pending_calls_threshold = window + 2
        return client
