"""Packs findings into bodies of contract messages: joins series where possible, and keeps every cap of the contract."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from math import fsum, isfinite
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from devices.messages import EventItem, Series
from devices.vocabulary import Code, Flag, Topic, Unit
from gateway.ble.findings import NO_FLAGS, BeatRun, Finding, Happening, RateRun, Reading, Record, Unreadable

# Below the caps of the contract by a margin: the head of the message comes on top, and a quarantined series costs the
# clinic a copy of the whole message.
MAX_BYTES: Final = 48 * 1024
MAX_SERIES: Final = 48
MAX_SAMPLES: Final = 3_000
MAX_EVENTS: Final = 200
MAX_PACKETS: Final = 8
# What a device can put into one finding: a packet longer than an attribute's value is cut, a long run goes in pieces.
MAX_PACKET_BYTES: Final = 512
MAX_TEXT: Final = 200
PIECE: Final = 1_000

JOIN_WITHIN_MS: Final = 3_600_000
"""Readings further apart are single ones that happen to be evenly spaced, not samples of a series."""
UNREADABLE_CODE: Final = "gatt_packet"
"""Deliberately no code of the contract: the gateway quarantines it as `unknown_code`, bytes and all."""

_SERIES_BYTES: Final = 256  # a series without its samples, at most
_EVENT_BYTES: Final = 256
_PACKET_BYTES: Final = 4_096
_STATED: Final = Flag.BELOW_RANGE | Flag.ABOVE_RANGE


@dataclass(frozen=True, slots=True)
class Body:
    """A message without its head: `items` is the JSON array of its series or events."""

    topic: Topic
    items: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits for its receipt."""

    seq: int
    device: str
    body: Body

    def payload(self, edge_id: str, *, sent_at: int, oldest: int) -> bytes:
        """Return the message as the edge box transmits it now; both times in ms since the Unix epoch."""
        kind = "observations" if self.body.topic is Topic.TELEMETRY else "events"
        speaks_for = "" if self.device == edge_id else f'"device":"{self.device}",'
        head = f'{{"seq":{self.seq},"sent_at":{sent_at},"oldest":{oldest},{speaks_for}"{kind}":'
        return head.encode() + self.body.items + b"}"


class PacketSeries(Struct, kw_only=True):
    """How an unreadable packet looks in a telemetry message."""

    code: str = UNREADABLE_CODE
    unit: str = "1"
    at: int
    value: None = None
    characteristic: str
    packet: str
    detail: str


def pack(findings: Iterable[Finding]) -> list[Body]:
    """Return the findings as message bodies; readings of one kind that are evenly spaced become one series."""
    packer = _Packer()
    for finding in findings:
        packer.put(finding)
    return packer.bodies()


def pack_records(records: Iterable[Record]) -> tuple[list[Body], list[int]]:
    """Return the records as bodies in their order, and for each record the last body that holds a part of it.

    That is -1 for an empty record. Receipts are cumulative: whoever has the last part has all of them.
    """
    packer = _Packer()
    last = [max((packer.put(finding) for finding in record.findings), default=-1) for record in records]
    return packer.bodies(), last


class _Lane(Enum):
    """Which findings may share a message. A packet is quarantined with its message, so it gets its own."""

    TELEMETRY = auto()
    PACKETS = auto()
    EVENTS = auto()


_MAX_ITEMS: Final = {_Lane.TELEMETRY: MAX_SERIES, _Lane.PACKETS: MAX_PACKETS, _Lane.EVENTS: MAX_EVENTS}


@dataclass(slots=True)
class _Run:
    """A series that may still grow; `period` is 0 until there are two samples."""

    code: Code
    unit: Unit
    at: int
    values: list[float | None]
    flags: Flag = NO_FLAGS
    period: int = 0

    def takes(self, at: int) -> bool:
        """Whether a sample at `at` (ms) is the next one of this series."""
        apart = at - self.at - self.period * (len(self.values) - 1)
        return apart == self.period if self.period else 0 < apart <= JOIN_WITHIN_MS

    def append(self, at: int, value: float | None) -> None:
        self.period = self.period or at - self.at
        self.values.append(value)

    def series(self) -> Series:
        single = len(self.values) == 1 and not self.period and self.code is not Code.RR_INTERVAL
        return Series(
            code=self.code.wire,
            unit=self.unit.ucum,
            at=self.at,
            value=self.values[0] if single else UNSET,
            values=UNSET if single else self.values,
            period_ms=self.period,
            flags=self.flags.wire,
        )


@dataclass(slots=True)
class _Draft:
    """A body that may still grow."""

    lane: _Lane
    items: list[_Run | EventItem | PacketSeries] = field(default_factory=list)
    samples: int = 0
    size: int = 0

    def has_room(self, items: int, samples: int, size: int) -> bool:
        return (
            len(self.items) + items <= _MAX_ITEMS[self.lane]
            and self.samples + samples <= MAX_SAMPLES
            and self.size + size <= MAX_BYTES
        )

    def body(self) -> Body:
        items = [item.series() if isinstance(item, _Run) else item for item in self.items]
        return Body(Topic.EVENT if self.lane is _Lane.EVENTS else Topic.TELEMETRY, msgspec.json.encode(items))


class _Packer:
    """Puts findings into bodies one after another; `put` returns which body has the last part of a finding."""

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._open: dict[_Lane, int] = {}
        self._growing: dict[tuple[Code, Unit, Flag], _Run] = {}

    def put(self, finding: Finding) -> int:
        match finding:
            case Reading():
                return self._reading(finding)
            case RateRun(at_ms, period, values, flags):
                if not flags and not any(value is not None for value in values):
                    return -1
                starts = range(at_ms, at_ms + period * len(values), period * PIECE)
                return self._runs(Code.HEART_RATE, Unit.PER_MIN, starts, values, period, flags)
            case BeatRun(at_ms, intervals):
                return self._runs(Code.RR_INTERVAL, Unit.MS, _beats(at_ms, intervals), intervals)
            case Happening():
                return self._add(_Lane.EVENTS, _event(finding), _EVENT_BYTES)
            case Unreadable():
                return self._add(_Lane.PACKETS, _packet(finding), _PACKET_BYTES)

    def bodies(self) -> list[Body]:
        return [draft.body() for draft in self._drafts]

    def _reading(self, reading: Reading) -> int:
        value = reading.value if reading.value is not None and isfinite(reading.value) else None
        kind = (reading.code, reading.unit, reading.flags)
        run = self._growing.get(kind)
        # Within a series, a null means something only with LO or HI; with any other flag it needs a series of its own.
        alone = value is None and bool(reading.flags) and not reading.flags & _STATED
        if run is not None and not alone and run.takes(reading.at_ms):
            index = self._open[_Lane.TELEMETRY]
            draft, size = self._drafts[index], _size(value)
            if draft.has_room(0, 1, size):
                run.append(reading.at_ms, value)
                draft.samples += 1
                draft.size += size
                return index
        run = _Run(reading.code, reading.unit, reading.at_ms, [value], reading.flags)
        index = self._add(_Lane.TELEMETRY, run, _SERIES_BYTES + _size(value), 1)
        if alone:
            self._growing.pop(kind, None)
        else:
            self._growing[kind] = run
        return index

    def _runs(
        self,
        code: Code,
        unit: Unit,
        starts: Iterable[int],
        values: Sequence[float | None],
        period: int = 0,
        flags: Flag = NO_FLAGS,
    ) -> int:
        """Put a whole run, in pieces that begin at `starts`."""
        index, remaining = -1, iter(values)
        for at in starts:
            piece = list(islice(remaining, PIECE))
            run = _Run(code, unit, at, piece, flags, period)
            index = self._add(_Lane.TELEMETRY, run, _SERIES_BYTES + sum(map(_size, piece)), len(piece))
        return index

    def _add(self, lane: _Lane, item: _Run | EventItem | PacketSeries, size: int, samples: int = 0) -> int:
        index = self._open.get(lane)
        if index is None or not self._drafts[index].has_room(1, samples, size):
            index = self._open[lane] = len(self._drafts)
            self._drafts.append(_Draft(lane))
            if lane is _Lane.TELEMETRY:
                self._growing.clear()
        draft = self._drafts[index]
        draft.items.append(item)
        draft.samples += samples
        draft.size += size
        return index


def _beats(at_ms: int, intervals: Sequence[float]) -> list[int]:
    """Return the beat that ends the first interval of each piece, ms."""
    return [at_ms + round(fsum(intervals[1 : start + 1])) for start in range(0, len(intervals), PIECE)]


def _event(happening: Happening) -> EventItem:
    return EventItem(
        type=happening.type,
        at=happening.at_ms,
        compartment=happening.compartment,
        count=happening.count,
        id=happening.id,
        ok=happening.ok,
    )


def _packet(unreadable: Unreadable) -> PacketSeries:
    return PacketSeries(
        at=unreadable.at_ms,
        characteristic=unreadable.characteristic[:MAX_TEXT],
        packet=unreadable.packet[:MAX_PACKET_BYTES].hex(),
        detail=unreadable.detail[:MAX_TEXT],
    )


def _size(value: float | None) -> int:
    """Return how many bytes a sample takes, with its comma."""
    return 5 if value is None else len(repr(value)) + 1
