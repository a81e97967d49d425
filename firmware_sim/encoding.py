"""Encodes payloads as a device's firmware would: in JSON, or in CBOR (RFC 8949) on devices that save bytes."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from devices.vocabulary import Topic
from firmware_sim.flash import Record

Wire: TypeAlias = "bool | int | float | str | Sequence[Wire] | Mapping[str, Wire] | None"
"""The values a payload can have."""

LIST_KEY = {Topic.TELEMETRY: "observations", Topic.EVENT: "events"}


class Encoder(Protocol):
    """Splits encoding in two: the body when a message goes to flash, the stamps at each transmission."""

    def body(self, topic: Topic, items: Sequence[Mapping[str, Wire]]) -> bytes:
        """Encode the observations or events once, for flash."""

    def message(self, record: Record, *, sent_at: int, oldest: int) -> bytes:
        """Return the whole payload of one transmission."""

    def plain(self, payload: Mapping[str, Wire]) -> bytes:
        """Encode a payload that is never in flash (status)."""


class JsonEncoder:
    """Compact JSON."""

    def body(self, topic: Topic, items: Sequence[Mapping[str, Wire]]) -> bytes:
        """Return `"observations":[…]` without the braces around it."""
        return f'"{LIST_KEY[topic]}":{_json(items)}'.encode()

    def message(self, record: Record, *, sent_at: int, oldest: int) -> bytes:
        """Return `{"seq":…,"sent_at":…,"oldest":…,"observations":[…]}`."""
        return b'{"seq":%d,"sent_at":%d,"oldest":%d,%b}' % (record.seq, sent_at, oldest, record.body)

    def plain(self, payload: Mapping[str, Wire]) -> bytes:
        """Return the payload as a JSON object."""
        return _json(payload).encode()


class CborEncoder:
    """CBOR with definite lengths, shortest integers, and floats in 64 bits."""

    def body(self, topic: Topic, items: Sequence[Mapping[str, Wire]]) -> bytes:
        """Return one key and its value, to follow a map's header."""
        return _cbor(LIST_KEY[topic]) + _cbor(items)

    def message(self, record: Record, *, sent_at: int, oldest: int) -> bytes:
        """Return a map of four: `seq`, `sent_at`, `oldest` and the body."""
        stamps = b"".join(_cbor(part) for part in ("seq", record.seq, "sent_at", sent_at, "oldest", oldest))
        return _head(5, 4) + stamps + record.body

    def plain(self, payload: Mapping[str, Wire]) -> bytes:
        """Return the payload as a CBOR map."""
        return _cbor(payload)


def _json(value: Wire) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _head(major: int, argument: int) -> bytes:
    """Return the initial byte and argument of a CBOR item (RFC 8949, section 3), in its shortest form."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for additional, form in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if argument < 1 << 8 * struct.calcsize(form):
            return bytes([major << 5 | additional]) + struct.pack(form, argument)
    raise ValueError(f"{argument} does not fit a CBOR head")


def _cbor(value: Wire) -> bytes:
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case Mapping():
            return _head(5, len(value)) + b"".join(_cbor(key) + _cbor(item) for key, item in value.items())
        case _:
            return _head(4, len(value)) + b"".join(map(_cbor, value))
