"""Times as devices write them: Date Time (0x2A08), Exact Time 256, Current Time (0x2A2B); GATT Specification Supplement.

A device's time is its wall clock: naive, without a zone.
"""

import struct
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Final

from devices.errors import PacketError
from devices.gatt.fields import Field, Kind, Layout, bits

_DATE_TIME: Final = struct.Struct("<HBBBBB")
_FRACTIONS: Final = 256
_MICROSECONDS: Final = 1_000_000


class AdjustReason(IntFlag):
    """Why the time of a Current Time characteristic was last changed."""

    MANUAL = 0x01
    EXTERNAL_REFERENCE = 0x02
    TIME_ZONE = 0x04
    DST = 0x08


@dataclass(frozen=True, slots=True)
class CurrentTime:
    """Current Time: an Exact Time 256 and the reason of its last change."""

    time: datetime | None
    """To the second; None if year, month or day are unknown."""
    day_of_week: int
    """1 is Monday; 0: unknown."""
    fractions: int
    """1/256 s beyond `time`."""
    reason: AdjustReason


def decode_date_time(packet: bytes) -> datetime | None:
    """Return a Date Time, None if its year, month or day are 0: unknown.

    Raises:
        PacketError: not 7 octets, or not a date of the calendar (years count from 1582).
    """
    try:
        year, month, day, hour, minute, second = _DATE_TIME.unpack(packet)
    except struct.error as error:
        raise PacketError(f"Date Time: {len(packet)} octets, not {_DATE_TIME.size}") from error
    try:
        # An unknown part may be anything: the others still have to make sense.
        time = datetime(year or 2000, month or 1, day or 1, hour, minute, second)  # noqa: DTZ001 - a wall clock
    except ValueError as error:
        raise PacketError(f"Date Time: {error}") from error
    if time.year < 1582:
        raise PacketError(f"Date Time: year {year}, before the calendar")
    return time if year and month and day else None


def encode_date_time(time: datetime | None) -> bytes:
    """Return a Date Time to the second; None becomes the unknown time."""
    if time is None:
        return bytes(_DATE_TIME.size)
    return _DATE_TIME.pack(time.year, time.month, time.day, time.hour, time.minute, time.second)


def _day_of_week(raw: int) -> int:
    if raw > 7:
        raise PacketError(f"day of week {raw}")
    return raw


DATE_TIME: Final = Kind("7s", decode_date_time)
"""As a field of another characteristic."""

_CURRENT_TIME: Final = Layout(
    "Current Time",
    CurrentTime,
    Field("time", DATE_TIME),
    Field("day_of_week", Kind("B", _day_of_week)),
    Field("fractions", Kind("B")),
    Field("reason", bits(AdjustReason)),
    flagged=False,
)


def decode_current_time(packet: bytes) -> CurrentTime:
    """Decode a Current Time (Current Time Service 1.1, 3.1).

    Raises:
        PacketError: the packet is not one.
    """
    return _CURRENT_TIME.decode(packet)


def encode_current_time(time: datetime, reason: AdjustReason = AdjustReason.MANUAL) -> bytes:
    """Return the Current Time of a wall clock, down to 1/256 s."""
    fractions = time.microsecond * _FRACTIONS // _MICROSECONDS
    return encode_date_time(time) + bytes((time.isoweekday(), fractions, reason))
