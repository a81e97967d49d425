"""Findings, read from a device, in real time and in the contract's words: what profiles hand to the spool."""

from dataclasses import dataclass
from typing import Final

from devices.vocabulary import Code, EventType, Flag, Unit

NO_FLAGS: Final = Flag(0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One sample; `value` in `unit` as the sensor sent it, None if it gave no number."""

    code: Code
    unit: Unit
    at_ms: int
    value: float | None
    flags: Flag = NO_FLAGS


@dataclass(frozen=True, slots=True)
class BeatRun:
    """Consecutive RR intervals in ms; `at_ms` is the beat that ends the first one."""

    at_ms: int
    intervals_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RateRun:
    """Heart rate in /min on a regular grid that begins at `at_ms`; None where none was received."""

    at_ms: int
    period_ms: int
    values: tuple[float | None, ...]
    flags: Flag = NO_FLAGS


@dataclass(frozen=True, slots=True)
class Happening:
    """One event; `id` and `ok` belong to `command_done`."""

    type: EventType
    at_ms: int
    compartment: int | None = None
    count: int | None = None
    id: str | None = None
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A packet that no decoder accepts: forwarded with its bytes, so that the clinic sees what its device sends."""

    at_ms: int
    characteristic: str
    """The characteristic's 16-bit number in hex, or its whole UUID."""
    packet: bytes
    detail: str


Finding = Reading | BeatRun | RateRun | Happening | Unreadable


@dataclass(frozen=True, slots=True)
class Record:
    """One stored record of a device. `key` rises within its stream: minutes since start, or a sequence number."""

    key: int
    findings: tuple[Finding, ...]
