"""The plan of a simulated Bluetooth device, as plain values."""

import hashlib
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

from devices.vocabulary import DeviceModel
from firmware_sim.ble.faults import Faults


class Traits(Protocol):
    """Traits of every device: where its wearer lives, for the body's day and the device's calendar."""

    @property
    def zone(self) -> ZoneInfo:
        """The wearer's zone."""


@dataclass(frozen=True, slots=True)
class BlePlan:
    """One device before it is switched on."""

    id: str
    model: DeviceModel
    seed: tuple[int, ...]
    traits: Traits
    faults: Faults = field(default_factory=Faults)
    """Its faults from the beginning; each device gets a copy of its own."""
    drift_ppm: float = 0.0
    clock_error_ms: int = 0
    """How far its calendar was set wrong."""
    keeps_clock: bool = True
    """Whether the calendar has a battery of its own and survives a loss of power."""
    encrypted: bool = True
    """Whether everything but the device information needs an encrypted link, and so a bond."""
    capacity: int = 4096
    """The number of records its flash holds."""
    advertising_interval_ms: float = 250
    firmware: str = "1.4.2"

    @property
    def address(self) -> str:
        """Its static random address (Core Specification, volume 6, part B, 1.3.2.1): the same for the same id."""
        digest = hashlib.sha256(self.id.encode()).digest()
        return ":".join(f"{octet:02X}" for octet in (digest[0] | 0xC0, *digest[1:6]))


_T = TypeVar("_T", bound=Traits)


def traits_of(plan: BlePlan, kind: type[_T]) -> _T:
    """Return the plan's traits as the class its model needs; TypeError if they are another model's."""
    if not isinstance(plan.traits, kind):
        raise TypeError(f"{plan.id} is a {plan.model} and needs {kind.__name__}")
    return plan.traits
