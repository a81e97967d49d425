"""The broker's address with our account, and an MQTT client for it where convenience counts more than throughput."""

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt

PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Address:
    """The broker's address, and our account there."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None


def parse_url(url: str, ca_file: str | None = None) -> Address:
    """Return the address in `mqtt://user:password@host:port` or `mqtts://…`. Raises ValueError with a clear sentence."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("an MQTT address looks like mqtt://user:password@host:1883 or mqtts://…:8883")
    return Address(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=ssl.create_default_context(cafile=ca_file) if parts.scheme == "mqtts" else None,
    )


def mqtt_client(address: Address, identifier: str | None = None, **options: Any) -> aiomqtt.Client:
    """Return an MQTT 5 client, not connected yet; `options` are those of aiomqtt. Call it in a running loop."""
    return aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        tls_context=address.tls,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        **options,
    )
