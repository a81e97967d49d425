"""A device's status: the retained payload of its status topic, also its last will."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from devices.errors import PayloadError
from devices.messages import Count64
from devices.payload import DECODE_ERRORS, Form, explain, form_of, load_cbor


class Status(Struct, frozen=True, omit_defaults=True):
    """Status of a device; the last will has `online` alone."""

    online: bool
    battery: Annotated[float, Meta(ge=0, le=100)] | None = None
    """%"""
    firmware: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,64}\Z")] | None = None
    clock: Count64 | None = None
    """The device's clock, ms since the Unix epoch."""


_DECODER: Final = msgspec.json.Decoder(Status)


def decode_status(payload: bytes, content_type: str | None = None) -> Status:
    """Decode a status payload.

    Raises:
        PayloadError: malformed or too large, with the reason and a sentence. An empty payload is malformed, too: MQTT
            clears a retained message with it, so a subscriber that may see one checks before it calls.
    """
    form = form_of(payload, content_type)
    try:
        return _DECODER.decode(payload) if form is Form.JSON else msgspec.convert(load_cbor(payload), Status)
    except DECODE_ERRORS as error:
        raise PayloadError(explain(error)) from error


def encode_status(status: Status) -> bytes:
    """Return a status as the JSON a device publishes."""
    return msgspec.json.encode(status)
