"""The counters of a fleet."""

from array import array
from dataclasses import dataclass, field


@dataclass(slots=True)
class Meter:
    """Counters of one fleet, shared by all its devices."""

    messages: int = 0
    """Telemetry and event messages sent for the first time."""
    readings: int = 0
    """Samples and events in them."""
    resends: int = 0
    """Messages sent again because no receipt had named them."""
    duplicates: int = 0
    """Exact repeats, sent on purpose."""
    pubacks: int = 0
    connects: int = 0
    disconnects: int = 0
    refusals: int = 0
    """Connections the broker refused, or that failed."""
    commands: int = 0
    lateness_ms: "array[float]" = field(default_factory=lambda: array("d"))
    """Of each live message that fell due while connected: when it was handed to the socket minus when it was due."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The totals of a fleet, at its end."""

    devices: int
    messages: int
    readings: int
    resends: int
    duplicates: int
    connects: int
    disconnects: int
    refusals: int
    commands: int
    overwritten: int
    """Messages a full flash lost before any receipt named them."""
    unreceipted: int
    """Messages still in flash at the end: the gateway had not confirmed them."""
    connect_seconds: float
    """From the start until every device had been connected once; NaN if some never were."""
    lateness_p50_ms: float
    lateness_p99_ms: float
    """Percentiles over the live messages that fell due while connected; NaN without any."""
