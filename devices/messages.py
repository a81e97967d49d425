"""Telemetry and event messages: their types, and how a faulty one is taken apart so that its good parts are kept."""

import re
from dataclasses import dataclass, field
from math import isfinite
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from devices.errors import PayloadError
from devices.payload import DECODE_ERRORS, Form, explain, form_of, load_cbor
from devices.vocabulary import MAX_EVENTS, MAX_INT64, MAX_SERIES, EventType, Reason

Int64 = Annotated[int, Meta(ge=-MAX_INT64 - 1, le=MAX_INT64)]
Count64 = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Small = Annotated[int, Meta(ge=0, le=32_767)]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
# Longer than any stamp since 2010 allows; 4,096 of them added to a stamp stay within 64 bits.
Period = Annotated[int, Meta(ge=1, le=2**40)]

ABSENT: Final = -1
"""In a message header: the message does not say."""


class Series(Struct, gc=False, omit_defaults=True):
    """One series of a telemetry message: `value`, or `values` `period_ms` apart; None is a missing sample."""

    code: str
    unit: str
    at: Int64
    value: float | UnsetType | None = UNSET
    values: list[float | None] | UnsetType = UNSET
    period_ms: Period = 0
    flags: tuple[str, ...] = ()


class EventItem(Struct, gc=False, omit_defaults=True):
    """One event of an event message; `id` and `ok` belong to `command_done`."""

    type: EventType
    at: Int64
    compartment: Small | None = None
    count: Small | None = None
    id: Identifier | Int64 | None = None
    ok: bool | None = None


class MessageHeader(Struct, gc=False, omit_defaults=True, kw_only=True):
    """The header of every message; -1 for a missing number. `device` is the one an edge box speaks for."""

    seq: Count64 = ABSENT
    sent_at: Count64 = ABSENT
    oldest: Count64 = ABSENT
    device: Identifier | None = None


class Telemetry(MessageHeader, gc=False, omit_defaults=True, kw_only=True):
    """A telemetry message."""

    observations: Annotated[list[Series], Meta(max_length=MAX_SERIES)]


class EventMessage(MessageHeader, gc=False, omit_defaults=True, kw_only=True):
    """An event message."""

    events: Annotated[list[EventItem], Meta(max_length=MAX_EVENTS)]


ItemT = TypeVar("ItemT", bound=Series | EventItem)
PieceT = TypeVar("PieceT")


class _TelemetryPieces(MessageHeader, Generic[PieceT], kw_only=True):
    """A telemetry message with its series still undecoded."""

    observations: list[PieceT]


class _EventPieces(MessageHeader, Generic[PieceT], kw_only=True):
    """An event message with its events still undecoded."""

    events: list[PieceT]


class _SeqOnly(Struct):
    """The part of a refused message that still matters: its number, so that the receipt can pass it."""

    seq: Count64 = ABSENT


@dataclass(frozen=True, slots=True)
class MessageParts(Generic[ItemT]):
    """A message taken apart.

    `items` are the good parts and `positions` their places; `refused` are (position, sentence) of the malformed ones.
    With an `error` the whole message is refused and `head` holds what could be saved of it.
    """

    head: MessageHeader
    items: list[ItemT] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    error: PayloadError | None = None


class _Kind(Generic[ItemT]):
    """The decoders of one kind of message."""

    def __init__(self, item: type[ItemT], pieces: Any, list_name: str, most: int) -> None:
        self.item = item
        self.list_name = list_name
        self.most = most
        self.cbor_pieces = pieces[Any]
        self.json_pieces: msgspec.json.Decoder[Any] = msgspec.json.Decoder(pieces[Raw])
        self.json_item: msgspec.json.Decoder[ItemT] = msgspec.json.Decoder(item)


_TELEMETRY: Final = _Kind(Series, _TelemetryPieces, "observations", MAX_SERIES)
_EVENTS: Final = _Kind(EventItem, _EventPieces, "events", MAX_EVENTS)
_LOOKED_AT: Final = 256
_SEQ_IN_JSON: Final = re.compile(rb'"seq"[ \t\r\n]*:[ \t\r\n]*([0-9]{1,19})[ \t\r\n]*[,}]')
# An unsigned integer: below 24 the byte itself, otherwise 1, 2, 4 or 8 bytes after a head.
_SEQ_IN_CBOR: Final = re.compile(rb"cseq(?:([\x00-\x17])|\x18(.)|\x19(.{2})|\x1a(.{4})|\x1b(.{8}))", re.DOTALL)
_JSON_SEQ: Final = msgspec.json.Decoder(_SeqOnly)


def take_telemetry(payload: bytes, content_type: str | None) -> MessageParts[Series]:
    """Take a telemetry message apart; never raises for what a peer sent."""
    return _take(payload, content_type, _TELEMETRY)


def take_events(payload: bytes, content_type: str | None) -> MessageParts[EventItem]:
    """Take an event message apart; never raises for what a peer sent."""
    return _take(payload, content_type, _EVENTS)


def _take(payload: bytes, content_type: str | None, kind: _Kind[ItemT]) -> MessageParts[ItemT]:
    try:
        form = form_of(payload, content_type)
        source = payload if form is Form.JSON else load_cbor(payload)
    except PayloadError as error:
        return MessageParts(_guess_head(payload), error=error)
    try:
        head = kind.json_pieces.decode(source) if form is Form.JSON else msgspec.convert(source, kind.cbor_pieces)
    except DECODE_ERRORS as error:
        return MessageParts(_save_head(source, payload, form), error=PayloadError(explain(error)))
    pieces = getattr(head, kind.list_name)
    if len(pieces) > kind.most:
        sentence = f"{len(pieces)} {kind.list_name}, at most {kind.most} are taken"
        return MessageParts(head, error=PayloadError(sentence, Reason.TOO_LARGE))
    parts: MessageParts[ItemT] = MessageParts(head)
    for position, piece in enumerate(pieces):
        try:
            item = kind.json_item.decode(piece) if form is Form.JSON else msgspec.convert(piece, kind.item)
            _check_item(item)
        except (*DECODE_ERRORS, PayloadError) as error:
            parts.refused.append((position, explain(error)))
        else:
            parts.items.append(item)
            parts.positions.append(position)
    return parts


def _save_head(source: Any, payload: bytes, form: Form) -> MessageHeader:
    """Return the header of a message whose envelope is wrong: its `seq` if that can be read, otherwise nothing."""
    try:
        found = _JSON_SEQ.decode(source) if form is Form.JSON else msgspec.convert(source, _SeqOnly)
    except DECODE_ERRORS:
        return _guess_head(payload)
    return MessageHeader(seq=found.seq)


def _guess_head(payload: bytes) -> MessageHeader:
    """Return the `seq` that seems to stand near the start of bytes that are unreadable, or too many to read.

    Without it the receipt would never pass a message that its device cannot repair, and the device never free its
    flash.
    """
    if found := _SEQ_IN_JSON.search(payload, 0, _LOOKED_AT):
        number = int(found[1])
    elif found := _SEQ_IN_CBOR.search(payload, 0, _LOOKED_AT):
        number = int.from_bytes(found[found.lastindex or 1])
    else:
        return MessageHeader()
    return MessageHeader(seq=number) if number <= MAX_INT64 else MessageHeader()


def _check_item(item: Series | EventItem) -> None:
    """Refuse what the types let through.

    Raises:
        PayloadError: NaN or infinity, which CBOR can express and JSON cannot; `command_done` without its two fields.
    """
    if isinstance(item, EventItem):
        if item.type is EventType.COMMAND_DONE and (item.id is None or item.ok is None):
            raise PayloadError("command_done needs `id` and `ok`")
        return
    numbers = [item.value] if item.values is UNSET else item.values
    if not all(isfinite(number) for number in numbers if isinstance(number, float)):
        raise PayloadError("a value is not a finite number")
