"""What really happened to a simulated device, for tests to compare with what arrived."""

from dataclasses import dataclass
from typing import Final

from devices.vocabulary import Code, EventType, Flag, Unit

NO_FLAGS: Final = Flag(0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One number that a device stored, or sent live if it stores nothing; a record may have several of them."""

    key: int
    """The key of the record; for a value that is only sent live, the number of the notification."""
    at_ms: int
    """True time of the measurement."""
    code: Code
    unit: Unit
    value: float | None
    """Exactly as in the packet, in `unit`; None if the device gives no number."""
    flags: Flag = NO_FLAGS
    session: int = 0
    """The number of earlier sessions of a CGM."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One entry a pill box logged."""

    key: int
    """Its sequence number."""
    at_ms: int
    """True time."""
    type: EventType
    compartment: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat that a device sent while somebody listened."""

    at_ms: int
    """True time of the beat that ends the interval."""
    rr_1024: int
    """The interval before it, in 1/1024 s."""


@dataclass(frozen=True, slots=True)
class ClockStep:
    """A pair of clock entries in the log of a pill box: numbers `key` and `key + 1`."""

    key: int
    at_ms: int
    """True time."""
    before_ms: int
    """The clock's reading; 0 if it was lost."""
    after_ms: int


Truth = Measured | Happened
