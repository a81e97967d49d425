"""What simulated devices really measured, in the form in which `Told` holds what was handed on of it."""

from collections.abc import Callable, Iterable

from devices.vocabulary import EventType
from firmware_sim.ble.truth import Happened, Measured, Truth
from tests.gateway.ble.bedside import Told

Sample = tuple[float | None, str, tuple[str, ...]]
Event = tuple[str, int, int | None, int | None]
Clock = Callable[[int], int]


def exactly(at_ms: int) -> int:
    """Return the time as it stands: for devices that know their milliseconds."""
    return at_ms


def to_the_second(at_ms: int) -> int:
    """Return the time as a Date Time can say it."""
    return at_ms // 1000 * 1000


def measured(truth: Iterable[Truth], clock: Clock = exactly) -> dict[tuple[str, int], Sample]:
    """Return value, unit and flags of everything measured, by code and time."""
    return {
        (one.code.wire, clock(one.at_ms)): (one.value, one.unit.ucum, one.flags.wire)
        for one in truth
        if isinstance(one, Measured)
    }


def told_samples(told: Told) -> dict[tuple[str, int], Sample]:
    """Return everything told but the device's own battery; a missing second of a grid says nothing."""
    return {
        key: (value, told.units[key], told.flags[key])
        for key, value in told.samples.items()
        if key[0] != "battery" and not (value is None and not told.flags[key])
    }


def happened(truth: Iterable[Truth]) -> list[Event]:
    """Return the entries of a box's log but its clock's, in their order."""
    return [
        (one.type, one.at_ms, one.compartment or None, one.count if one.type is EventType.DOSE_TAKEN else None)
        for one in truth
        if isinstance(one, Happened)
    ]


def told_events(told: Told) -> list[Event]:
    """Return the events of a box's log in the order in which they were told."""
    return [
        (one.type, one.at, one.compartment, one.count) for one in told.events if one.type is not EventType.COMMAND_DONE
    ]
