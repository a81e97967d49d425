"""How to read a connected device: one profile for each model."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from devices.vocabulary import DeviceModel
from gateway.ble.profiles.cgm import follow_glucose
from gateway.ble.profiles.glucose_meter import read_meter
from gateway.ble.profiles.measurements import BLOOD_PRESSURE, OXIMETER, SCALE, THERMOMETER
from gateway.ble.profiles.pillbox import ACTIONS, read_box
from gateway.ble.profiles.wristband import follow_heart
from gateway.ble.visit import Visit


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is read."""

    serve: Callable[[Visit], Awaitable[None]]
    bonds_first: bool
    """Encrypt the link before anything is read. Other models are bonded when they ask for it: the platform answers an
    ATT error about missing encryption by pairing."""
    commands: frozenset[str] = frozenset()
    """The commands that it obeys."""


PROFILES: Final[Mapping[DeviceModel, Profile]] = MappingProxyType(
    {
        DeviceModel.WRISTBAND: Profile(follow_heart, bonds_first=False),
        DeviceModel.CGM: Profile(follow_glucose, bonds_first=True),
        DeviceModel.GLUCOSE_METER: Profile(read_meter, bonds_first=True),
        DeviceModel.PILLBOX: Profile(read_box, bonds_first=True, commands=frozenset(ACTIONS)),
        DeviceModel.BLOOD_PRESSURE: Profile(BLOOD_PRESSURE.serve, bonds_first=False),
        DeviceModel.THERMOMETER: Profile(THERMOMETER.serve, bonds_first=False),
        DeviceModel.SCALE: Profile(SCALE.serve, bonds_first=False),
        DeviceModel.OXIMETER: Profile(OXIMETER.serve, bonds_first=False),
    }
)
