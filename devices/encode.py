"""Encodes messages as devices do: for replay, benchmarks and tests."""

from collections.abc import Sequence
from typing import Any

import cbor2
import msgspec

from devices.messages import ABSENT, EventItem, EventMessage, Series, Telemetry
from devices.payload import Form


def encode_telemetry(
    observations: Sequence[Series],
    *,
    seq: int | None = None,
    sent_at: int | None = None,
    oldest: int | None = None,
    device: str | None = None,
    form: Form = Form.JSON,
) -> bytes:
    """Return a telemetry message; None values are left out. Numbers have to be finite."""
    return _encode(
        Telemetry(
            seq=_or_absent(seq),
            sent_at=_or_absent(sent_at),
            oldest=_or_absent(oldest),
            device=device,
            observations=list(observations),
        ),
        form,
    )


def encode_events(
    events: Sequence[EventItem],
    *,
    seq: int | None = None,
    sent_at: int | None = None,
    oldest: int | None = None,
    device: str | None = None,
    form: Form = Form.JSON,
) -> bytes:
    """Return an event message; None values are left out."""
    return _encode(
        EventMessage(
            seq=_or_absent(seq),
            sent_at=_or_absent(sent_at),
            oldest=_or_absent(oldest),
            device=device,
            events=list(events),
        ),
        form,
    )


def _or_absent(number: int | None) -> int:
    return ABSENT if number is None else number


def _encode(message: Telemetry | EventMessage, form: Form) -> bytes:
    if form is Form.JSON:
        return msgspec.json.encode(message)
    plain: Any = msgspec.to_builtins(message)
    return cbor2.dumps(plain)
