"""The pill-box service: a vendor service, since no standard one exists; docs/pillbox-gatt.md describes it for firmware."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from typing import Final

from devices.errors import PacketError
from devices.gatt.crc import with_crc, without_crc
from devices.gatt.fields import UINT8, UINT16, UINT32, Field, Kind, Layout, bits, unless_equal

KEY_SIZE: Final = 4
"""Octets of a sequence number and of a count in requests and responses of this service's control point."""
MAX_DOSES: Final = 64
"""Of a schedule: 4 octets each, so that they fit one attribute value."""
LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: a later time cannot be a clock's reading, and no calendar could show it."""

_MAX_MINUTE: Final = 24 * 60 - 1
_MAX_OFFSET: Final = 14 * 60
_ALL_DAYS: Final = 0x7F


class PillBoxUuid(StrEnum):
    """The UUIDs of the service and of its characteristics; its control point has the SIG's 0x2A52."""

    SERVICE = "f5040001-be74-47b1-b9e3-f11df3daa2a5"
    FEATURE = "f5040002-be74-47b1-b9e3-f11df3daa2a5"
    LOG_ENTRY = "f5040003-be74-47b1-b9e3-f11df3daa2a5"
    CLOCK = "f5040004-be74-47b1-b9e3-f11df3daa2a5"
    SCHEDULE = "f5040005-be74-47b1-b9e3-f11df3daa2a5"
    REMINDER = "f5040006-be74-47b1-b9e3-f11df3daa2a5"


class PillBoxFeatureBit(IntFlag):
    """What a box can do."""

    COUNTS_PILLS = 0x01
    REMINDER = 0x02
    SCHEDULE = 0x04


class LogType(IntEnum):
    """The types of log entries."""

    COMPARTMENT_OPENED = 1
    COMPARTMENT_CLOSED = 2
    DOSE_TAKEN = 3
    DOSE_SKIPPED = 4
    BUTTON_PRESSED = 5
    LOW_BATTERY = 6
    TAMPER = 7
    CLOCK_BEFORE = 64
    """The clock was set: its reading before that. `CLOCK_AFTER` has the next number."""
    CLOCK_AFTER = 65


class Signal(IntFlag):
    """How a box calls for attention."""

    LIGHT = 0x01
    SOUND = 0x02
    VIBRATION = 0x04


@dataclass(frozen=True, slots=True)
class PillBoxFeature:
    """The properties of a box."""

    version: int
    compartments: int
    log_capacity: int
    features: PillBoxFeatureBit


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a box's log."""

    sequence: int
    """1 and up, never used twice."""
    time_ms: int | None
    """ms since the Unix epoch by the box's clock; None if it did not know the time, or sent one beyond `LATEST_MS`."""
    type: int
    """A `LogType`, or the number of one added by a later version."""
    compartment: int | None
    count: int
    """Pills of a `DOSE_TAKEN`, percent of a `LOW_BATTERY`, otherwise 0."""


@dataclass(frozen=True, slots=True)
class Dose:
    """One line of a schedule: a compartment, a local minute of the day and the days (0 is Monday)."""

    compartment: int
    minute: int
    weekdays: frozenset[int]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a box reminds by itself."""

    revision: int
    utc_offset_minutes: int
    doses: tuple[Dose, ...]


def _time(raw: int) -> int | None:
    return raw if 0 < raw <= LATEST_MS else None


_FEATURE: Final = Layout(
    "Feature",
    PillBoxFeature,
    Field("version", UINT8),
    Field("compartments", UINT8),
    Field("log_capacity", UINT16),
    Field("features", bits(PillBoxFeatureBit, "H")),
    flagged=False,
)
_LOG_ENTRY: Final = Layout(
    "Log Entry",
    LogEntry,
    Field("sequence", UINT32),
    Field("time_ms", Kind("Q", _time)),
    Field("type", UINT8),
    Field("compartment", unless_equal(0, "B")),
    Field("count", Kind("Bx")),  # and a reserved octet
    flagged=False,
)
_CLOCK: Final = struct.Struct("<Q")
_SCHEDULE: Final = struct.Struct("<HhB")
_DOSE: Final = struct.Struct("<BHB")
_REMINDER: Final = struct.Struct("<BBH")


def decode_feature(packet: bytes) -> PillBoxFeature:
    """Decode the Feature of a box.

    Raises:
        PacketError: the packet is not one.
    """
    return _FEATURE.decode(without_crc(packet, _FEATURE.name))


def decode_log_entry(packet: bytes) -> LogEntry:
    """Decode an entry of the log.

    Raises:
        PacketError: the packet is not one.
    """
    entry = _LOG_ENTRY.decode(without_crc(packet, _LOG_ENTRY.name))
    if entry.sequence == 0:
        raise PacketError("Log Entry: sequence number 0")
    return entry


def decode_clock(packet: bytes) -> int:
    """Return the reading of a box's clock, ms since the Unix epoch.

    Raises:
        PacketError: the packet is not one.
    """
    octets = without_crc(packet, "Clock")
    if len(octets) != _CLOCK.size or (now_ms := int.from_bytes(octets, "little")) > LATEST_MS:
        raise PacketError(f"Clock: no time: {octets[:16].hex()}")
    return now_ms


def encode_clock(now_ms: int) -> bytes:
    """Return the value that sets a box's clock.

    Raises:
        ValueError: no clock of a box can show that time.
    """
    if not 0 <= now_ms <= LATEST_MS:
        raise ValueError(f"a clock of {now_ms} ms")
    return with_crc(_CLOCK.pack(now_ms))


def decode_schedule(packet: bytes) -> Schedule:
    """Decode the schedule that a box has.

    Raises:
        PacketError: the packet is not one.
    """
    octets = without_crc(packet, "Schedule")
    head, rows = octets[: _SCHEDULE.size], octets[_SCHEDULE.size :]
    if len(head) < _SCHEDULE.size or len(rows) != head[-1] * _DOSE.size:
        raise PacketError(f"Schedule: {len(octets)} octets, not 5 and 4 for each dose")
    revision, offset, _ = _SCHEDULE.unpack(head)
    schedule = Schedule(revision, offset, tuple(_dose(*row) for row in _DOSE.iter_unpack(rows)))
    if fault := _fault(schedule):
        raise PacketError(f"Schedule: {fault}")
    return schedule


def encode_schedule(schedule: Schedule) -> bytes:
    """Return the value that gives a box its schedule.

    Raises:
        ValueError: no box accepts it; with a sentence.
    """
    if fault := _fault(schedule):
        raise ValueError(fault)
    head = _SCHEDULE.pack(schedule.revision, schedule.utc_offset_minutes, len(schedule.doses))
    rows = (_DOSE.pack(dose.compartment, dose.minute, _day_bits(dose.weekdays)) for dose in schedule.doses)
    return with_crc(head + b"".join(rows))


def encode_reminder(compartment: int | None, signals: Signal, seconds: int) -> bytes:
    """Return the value that makes a box call for attention; without a compartment it is for any.

    Raises:
        ValueError: a number does not fit.
    """
    if not (compartment is None or 1 <= compartment <= 0xFF) or not 0 <= seconds <= 0xFFFF:
        raise ValueError(f"a reminder of compartment {compartment} for {seconds} s")
    return with_crc(_REMINDER.pack(compartment or 0, signals, seconds))


def _dose(compartment: int, minute: int, days: int) -> Dose:
    if days & ~_ALL_DAYS:
        raise PacketError(f"Schedule: weekdays 0x{days:02x}")
    return Dose(compartment, minute, frozenset(day for day in range(7) if days >> day & 1))


def _day_bits(weekdays: Iterable[int]) -> int:
    return sum(1 << day for day in weekdays)


def _fault(schedule: Schedule) -> str | None:
    """Return what is wrong with a schedule, None if it is valid."""
    if not 0 <= schedule.revision <= 0xFFFF:
        return f"revision {schedule.revision}"
    if not -_MAX_OFFSET <= schedule.utc_offset_minutes <= _MAX_OFFSET:
        return f"UTC offset of {schedule.utc_offset_minutes} minutes"
    if len(schedule.doses) > MAX_DOSES:
        return f"{len(schedule.doses)} doses, at most {MAX_DOSES}"
    for dose in schedule.doses:
        if not 1 <= dose.compartment <= 0xFF or not 0 <= dose.minute <= _MAX_MINUTE:
            return f"compartment {dose.compartment} at minute {dose.minute}"
        if not dose.weekdays or not dose.weekdays <= frozenset(range(7)):
            return f"weekdays {sorted(dose.weekdays)}"
    return None
