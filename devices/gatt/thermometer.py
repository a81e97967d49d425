"""Temperature Measurement (0x2A1C) of the Health Thermometer Service 1.0, 3.1; Intermediate Temperature is the same."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

from devices.gatt.clock import DATE_TIME
from devices.gatt.fields import FLOAT, UINT8, Field, Layout, Says
from devices.gatt.floats import Medical
from devices.vocabulary import Unit


class TemperatureType(IntEnum):
    """Where it was measured."""

    ARMPIT = 1
    BODY = 2
    EAR = 3
    FINGER = 4
    GASTROINTESTINAL_TRACT = 5
    MOUTH = 6
    RECTUM = 7
    TOE = 8
    TYMPANUM = 9


@dataclass(frozen=True, slots=True)
class TemperatureMeasurement:
    """A temperature, in `unit`."""

    temperature: Medical
    unit: Unit
    timestamp: datetime | None = None
    """By the device's clock; None if it has none, or does not know the time."""
    type: int | None = None
    """A `TemperatureType`, or a reserved number."""


_MEASUREMENT: Final = Layout(
    "Temperature Measurement",
    TemperatureMeasurement,
    Field("temperature", FLOAT),
    Says("unit", Unit.CEL, unless=0x01),
    Says("unit", Unit.DEGF, given=0x01),
    Field("timestamp", DATE_TIME, given=0x02),
    Field("type", UINT8, given=0x04),
)


def decode_temperature_measurement(packet: bytes) -> TemperatureMeasurement:
    """Decode a Temperature Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _MEASUREMENT.decode(packet)
