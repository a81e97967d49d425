"""The hot path: turns the messages of one batch into one struct of arrays, checked as a whole."""

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from devices.errors import Refusal
from devices.messages import EventItem, MessageHeader, MessageParts, Series, Telemetry, take_events, take_telemetry
from devices.payload import DECODE_ERRORS
from devices.refusals import Refusals
from devices.runs import RRRun, runs_of
from devices.series import (
    LO_OR_HI,
    NEVER_SET,
    Checks,
    Columns,
    Float64,
    Index,
    Int16,
    Int32,
    Int64,
    Row,
    build_columns,
)
from devices.vocabulary import (
    CLOCK_AHEAD_MS,
    CONTENT_TYPE_JSON,
    EARLIEST_MS,
    MAX_PAYLOAD_BYTES,
    Code,
    EventType,
    Reason,
)

_DECODER: Final = msgspec.json.Decoder(Telemetry)
_PLAIN_JSON: Final = frozenset({None, CONTENT_TYPE_JSON})


@dataclass(frozen=True, slots=True)
class Headers:
    """The message headers, one row a message in the order they were added; -1 for a missing number.

    A refused message has its row too: its `seq` counts for the receipt, as far as it could be read.
    """

    message: Int32
    device: Int32
    seq: Int64
    sent_at: Int64
    oldest: Int64
    device_named: list[str | None]
    """The device an edge box speaks for; None for all other senders."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `position` in its message, `at` in ms since the epoch, `detail` of `command_done`."""

    message: int
    position: int
    device: int
    type: EventType
    at: int
    compartment: int | None
    count: int | None
    detail: dict[str, str | bool] | None


@dataclass(frozen=True, slots=True)
class ObservationBatch:
    """The content of a batch: one row per sample to store, RR runs, events, headers, and refusals."""

    message: Int32
    """The caller's number of the message."""
    series: Int16
    """Position of the series in its message."""
    device: Int32
    """The caller's number of the device."""
    at: Int64
    """ms since the Unix epoch."""
    code: Int16
    unit: Int16
    flags: Int16
    value: Float64
    """In `unit`, as sent; NaN: the sensor gave flags and no (plausible) number."""
    rr: list[RRRun]
    events: list[Event]
    headers: Headers
    refusals: list[Refusal]
    missing: int
    """Samples of good series that were null: nothing to store."""

    def __len__(self) -> int:
        return len(self.at)


class BatchBuilder:
    """Collects the messages of one batch and makes an ObservationBatch of them; used once.

    `message` and `device` are the caller's numbers, `message` a different one (not below 0) for each. Adding only
    decodes; the contents of the series are checked in `finish`, over the whole batch. Nothing that a peer sends makes
    either raise.
    """

    __slots__ = ("_events", "_positions", "_refusals", "_rows")

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._positions: dict[int, list[int]] = {}
        self._events: list[Event] = []
        self._refusals = Refusals()

    def add_telemetry(
        self, message: int, device: int, payload: bytes, content_type: str | None, arrival_ms: int
    ) -> MessageHeader:
        """Add a message of a telemetry topic and return its header, as far as it can be read."""
        if content_type in _PLAIN_JSON and payload[:1] == b"{" and len(payload) <= MAX_PAYLOAD_BYTES:
            try:
                telemetry = _DECODER.decode(payload)
            except DECODE_ERRORS:
                pass  # taken apart below, so that its good series are kept
            else:
                series = telemetry.observations
                if telemetry.sent_at > arrival_ms + CLOCK_AHEAD_MS:
                    self._refuse_sent_at(message, telemetry.sent_at - arrival_ms)
                    series = []
                self._rows.append((message, device, arrival_ms, telemetry, series))
                return telemetry
        parts = take_telemetry(payload, content_type)
        taken = self._note_refused(message, parts, arrival_ms)
        if taken and parts.refused:
            self._positions[len(self._rows)] = parts.positions
        self._rows.append((message, device, arrival_ms, parts.head, parts.items if taken else []))
        return parts.head

    def add_event(
        self, message: int, device: int, payload: bytes, content_type: str | None, arrival_ms: int
    ) -> MessageHeader:
        """Add a message of an event topic and return its header, as far as it can be read."""
        parts = take_events(payload, content_type)
        self._rows.append((message, device, arrival_ms, parts.head, []))
        if self._note_refused(message, parts, arrival_ms):
            for position, item in zip(parts.positions, parts.items, strict=True):
                if item.at > arrival_ms + CLOCK_AHEAD_MS:
                    sentence = f"stamped {(item.at - arrival_ms) / 1000:.0f} s after its arrival"
                    self._refusals.refuse_part(message, position, Reason.CLOCK_AHEAD, sentence)
                elif item.at < EARLIEST_MS:
                    self._refusals.refuse_part(message, position, Reason.CLOCK_BEHIND, NEVER_SET)
                else:
                    self._events.append(_event(message, position, device, item))
        return parts.head

    def finish(self) -> ObservationBatch:
        """Check everything that was added and return it as arrays, in the order it was added."""
        columns = build_columns(self._rows, self._positions)
        checks = Checks(columns, self._refusals)
        checks.run()
        rr: list[RRRun] = []
        for i, runs in runs_of(columns, checks.good):
            if runs[-1].ends_at > columns.arrival[i] + CLOCK_AHEAD_MS:
                checks.refuse_ahead(i, runs[-1].ends_at)
            else:
                rr += runs
        stored, missing = _stored(columns, checks)
        owner = columns.owner[stored]
        begin = columns.start[owner]
        return ObservationBatch(
            message=columns.message[owner],
            series=columns.position[owner],
            device=columns.device[owner],
            at=columns.at[owner] + columns.period[owner] * (stored - begin),
            code=columns.code[owner],
            unit=columns.unit[owner],
            flags=columns.flags[owner],
            value=columns.value[stored],
            rr=rr,
            events=self._events,
            headers=_heads(self._rows),
            refusals=self._refusals.collect(),
            missing=missing,
        )

    def _note_refused(
        self, message: int, parts: MessageParts[Series] | MessageParts[EventItem], arrival_ms: int
    ) -> bool:
        """Record the refusals of a message that was taken apart; False if they cover all of it."""
        if parts.error is not None:
            self._refusals.refuse_message(message, parts.error.reason, parts.error.detail)
            return False
        if parts.head.sent_at > arrival_ms + CLOCK_AHEAD_MS:
            self._refuse_sent_at(message, parts.head.sent_at - arrival_ms)
            return False
        for position, sentence in parts.refused:
            self._refusals.refuse_part(message, position, Reason.MALFORMED, sentence)
        return True

    def _refuse_sent_at(self, message: int, ahead_ms: int) -> None:
        self._refusals.refuse_message(message, Reason.CLOCK_AHEAD, f"sent {ahead_ms / 1000:.0f} s after its arrival")


def _stored(columns: Columns, checks: Checks) -> tuple[Index, int]:
    """Return which samples are rows to store, and how many of the good series are missing.

    A null is missing unless a flag explains it: LO and HI do for every sample of a series, any flag does for a single
    value. RR intervals are stored as runs, never as rows.
    """
    absent = np.isnan(columns.value)
    owner, good = columns.owner, checks.good
    if not absent.any() and good.all() and not (columns.code == Code.RR_INTERVAL).any():
        return np.arange(len(owner)), 0
    is_rr = columns.code == Code.RR_INTERVAL
    flags = columns.flags
    states = ~is_rr & (((flags & LO_OR_HI) != 0) | (columns.single & (flags != 0)))
    missing = absent & (good & ~states)[owner]
    kept = (good & ~is_rr)[owner] & ~missing
    return np.flatnonzero(kept), int(missing.sum()) - int(good[owner[checks.refused]].sum())


def _heads(rows: list[Row]) -> Headers:
    return Headers(
        message=np.array([row[0] for row in rows], dtype=np.int32),
        device=np.array([row[1] for row in rows], dtype=np.int32),
        seq=np.array([row[3].seq for row in rows], dtype=np.int64),
        sent_at=np.array([row[3].sent_at for row in rows], dtype=np.int64),
        oldest=np.array([row[3].oldest for row in rows], dtype=np.int64),
        device_named=[row[3].device for row in rows],
    )


def _event(message: int, position: int, device: int, item: EventItem) -> Event:
    detail: dict[str, str | bool] | None = None
    if item.type is EventType.COMMAND_DONE and item.ok is not None:
        detail = {"id": str(item.id), "ok": item.ok}
    return Event(message, position, device, item.type, item.at, item.compartment, item.count, detail)
