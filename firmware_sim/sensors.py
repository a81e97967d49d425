"""The measurements of a simulated device: drafts of messages over a stretch of its own time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from devices.vocabulary import EventType, Topic
from firmware_sim.encoding import Wire


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before it has a number."""

    topic: Topic
    items: Sequence[Mapping[str, Wire]]
    """Series for telemetry, events for the event topic."""
    readings: int
    """The number of samples or events in it."""
    due_ms: int
    """When it should go out, on the device's clock."""


class Sensors(Protocol):
    """The measuring side of a device. All times are ms on the device's own clock; stretches are `(start, end]`.

    Stretches are requested in ascending order and never overlap; how they are split changes the messages, never the
    samples in them.
    """

    backlog_step_ms: int
    """How much history is put into messages at once."""

    def measure(self, start_ms: int, end_ms: int, *, live: bool) -> list[Draft]:
        """Return the measurements of the stretch. Live messages are small, history is batched."""

    def next_due(self, after_ms: int) -> int:
        """Return when there will be something to send, later than `after_ms`."""

    def battery(self, at_ms: int) -> int:
        """Return the charge in %."""

    def command(self, command: Mapping[str, Wire], now_ms: int) -> bool:
        """Execute a command; return whether this device can."""


def event(kind: EventType, at_ms: int, **details: Wire) -> dict[str, Wire]:
    """Return one event in the form it has in a message."""
    return {"type": str(kind), "at": at_ms, **details}
