"""The plan of a fleet, as plain values: patients, their doses, their devices."""

from dataclasses import dataclass
from datetime import date, time

from devices.vocabulary import DeviceModel
from firmware_sim.pillbox import PillBoxTraits
from firmware_sim.wristband import WristbandTraits


@dataclass(frozen=True, slots=True)
class Coverage:
    """When a device has no signal: the first `lost_ms` of every `every_ms`, counted from `phase_ms`."""

    every_ms: int
    lost_ms: int
    phase_ms: int
    reboots: bool = False
    """Whether it loses its memory too (a battery change), not only its signal."""

    def lost_for(self, wall_ms: int) -> int:
        """Return for how many more ms there is no signal; 0 if there is one."""
        return max(self.lost_ms - (wall_ms - self.phase_ms) % self.every_ms, 0)

    def good_for(self, wall_ms: int) -> int:
        """Return in how many ms the signal is lost next."""
        return self.every_ms - (wall_ms - self.phase_ms) % self.every_ms


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device before it is switched on."""

    id: str
    model: DeviceModel
    seed: tuple[int, ...]
    traits: WristbandTraits | PillBoxTraits
    cbor: bool = False
    firmware: str = "1.4.2"
    drift_ppm: float = 0.0
    offset_ms: int = 0
    coverage: Coverage | None = None
    duplicate_probability: float = 0.0
    """Chance that a message is sent twice, byte for byte."""
    status_every_s: int = 3600


@dataclass(frozen=True, slots=True)
class DosePlan:
    """One schedule as the clinic enters it."""

    medication: str
    at: tuple[time, ...]
    compartment: int
    valid_from: date
    window_before_minutes: int = 60
    window_after_minutes: int = 60


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One wearer."""

    name: str
    timezone: str
    devices: tuple[DevicePlan, ...]
    doses: tuple[DosePlan, ...] = ()
    hypoglycaemia_risk: bool = False
