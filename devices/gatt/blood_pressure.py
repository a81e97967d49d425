"""Blood Pressure Measurement (0x2A35) and Intermediate Cuff Pressure (0x2A36) of the Blood Pressure Service 1.1.1, 3.1, 3.2."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Final

from devices.gatt.clock import DATE_TIME
from devices.gatt.fields import SFLOAT, Field, Kind, Layout, Says, bits, unless_equal
from devices.gatt.floats import Medical, sfloat
from devices.vocabulary import Unit


class PressureStatus(IntFlag):
    """Measurement Status."""

    NONE = 0
    BODY_MOVEMENT = 0x01
    CUFF_TOO_LOOSE = 0x02
    IRREGULAR_PULSE = 0x04
    PULSE_RATE_ABOVE_LIMIT = 0x08
    PULSE_RATE_BELOW_LIMIT = 0x10
    IMPROPER_POSITION = 0x20


@dataclass(frozen=True, slots=True)
class BloodPressureMeasurement:
    """A measurement, in `unit`."""

    systolic: Medical
    diastolic: Medical
    mean_arterial: Medical
    unit: Unit
    timestamp: datetime | None = None
    """By the device's clock; None if it has none, or does not know the time."""
    pulse_rate: Medical | None = None
    """/min"""
    user_id: int | None = None
    """None: not sent, or not known."""
    status: PressureStatus = PressureStatus.NONE


@dataclass(frozen=True, slots=True)
class IntermediateCuffPressure:
    """The pressure in the cuff while it measures, in `unit`; the other fields as in the measurement."""

    pressure: Medical
    unit: Unit
    timestamp: datetime | None = None
    pulse_rate: Medical | None = None
    user_id: int | None = None
    status: PressureStatus = PressureStatus.NONE


_SHARED: Final = (
    Says("unit", Unit.MM_HG, unless=0x01),
    Says("unit", Unit.KPA, given=0x01),
    Field("timestamp", DATE_TIME, given=0x02),
    Field("pulse_rate", SFLOAT, given=0x04),
    Field("user_id", unless_equal(0xFF, "B"), given=0x08),
    Field("status", bits(PressureStatus, "H"), given=0x10),
)
_MEASUREMENT: Final = Layout(
    "Blood Pressure Measurement",
    BloodPressureMeasurement,
    Field("systolic", SFLOAT),
    Field("diastolic", SFLOAT),
    Field("mean_arterial", SFLOAT),
    *_SHARED,
)
# The octets of diastolic and mean pressure are present but unused.
_INTERMEDIATE: Final = Layout(
    "Intermediate Cuff Pressure", IntermediateCuffPressure, Field("pressure", Kind("H4x", sfloat)), *_SHARED
)


def decode_blood_pressure_measurement(packet: bytes) -> BloodPressureMeasurement:
    """Decode a Blood Pressure Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _MEASUREMENT.decode(packet)


def decode_intermediate_cuff_pressure(packet: bytes) -> IntermediateCuffPressure:
    """Decode an Intermediate Cuff Pressure.

    Raises:
        PacketError: the packet is not one.
    """
    return _INTERMEDIATE.decode(packet)
