"""PLX Spot-Check (0x2A5E) and Continuous Measurement (0x2A5F) of the Pulse Oximeter Service 1.0.1, 3.1 and 3.2."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Final

from devices.gatt.clock import DATE_TIME
from devices.gatt.fields import SFLOAT, UINT24, Field, Layout, Says, bits
from devices.gatt.floats import Medical


class OximeterStatus(IntFlag):
    """Measurement Status."""

    NONE = 0
    MEASUREMENT_ONGOING = 0x0020
    EARLY_ESTIMATE = 0x0040
    VALIDATED = 0x0080
    FULLY_QUALIFIED = 0x0100
    FROM_STORAGE = 0x0200
    FOR_DEMONSTRATION = 0x0400
    FOR_TESTING = 0x0800
    CALIBRATION_ONGOING = 0x1000
    MEASUREMENT_UNAVAILABLE = 0x2000
    QUESTIONABLE = 0x4000
    INVALID = 0x8000


class SensorStatus(IntFlag):
    """Device and Sensor Status."""

    EXTENDED_DISPLAY_UPDATE = 0x0001
    EQUIPMENT_MALFUNCTION = 0x0002
    SIGNAL_PROCESSING_IRREGULARITY = 0x0004
    INADEQUATE_SIGNAL = 0x0008
    POOR_SIGNAL = 0x0010
    LOW_PERFUSION = 0x0020
    ERRATIC_SIGNAL = 0x0040
    NONPULSATILE_SIGNAL = 0x0080
    QUESTIONABLE_PULSE = 0x0100
    SIGNAL_ANALYSIS_ONGOING = 0x0200
    SENSOR_INTERFERENCE = 0x0400
    SENSOR_UNCONNECTED_TO_USER = 0x0800
    UNKNOWN_SENSOR = 0x1000
    SENSOR_DISPLACED = 0x2000
    SENSOR_MALFUNCTION = 0x4000
    SENSOR_DISCONNECTED = 0x8000


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """One finished measurement."""

    spo2: Medical
    """%"""
    pulse_rate: Medical
    """/min"""
    timestamp: datetime | None = None
    """By the device's clock; None if it has none, or does not know the time."""
    clock_not_set: bool = False
    status: OximeterStatus = OximeterStatus.NONE
    sensor_status: int = 0
    """Bits of `SensorStatus`."""
    pulse_amplitude_index: Medical | None = None
    """%"""


@dataclass(frozen=True, slots=True)
class Continuous:
    """One moment of a running measurement, with normal averaging, and fast and slow averaging if the device has it."""

    spo2: Medical
    """%"""
    pulse_rate: Medical
    """/min"""
    spo2_fast: Medical | None = None
    pulse_rate_fast: Medical | None = None
    spo2_slow: Medical | None = None
    pulse_rate_slow: Medical | None = None
    status: OximeterStatus = OximeterStatus.NONE
    sensor_status: int = 0
    """Bits of `SensorStatus`."""
    pulse_amplitude_index: Medical | None = None
    """%"""


_SPOT_CHECK: Final = Layout(
    "PLX Spot-Check Measurement",
    SpotCheck,
    Field("spo2", SFLOAT),
    Field("pulse_rate", SFLOAT),
    Field("timestamp", DATE_TIME, given=0x01),
    Field("status", bits(OximeterStatus, "H"), given=0x02),
    Field("sensor_status", UINT24, given=0x04),
    Field("pulse_amplitude_index", SFLOAT, given=0x08),
    Says("clock_not_set", value=True, given=0x10),
)

_CONTINUOUS: Final = Layout(
    "PLX Continuous Measurement",
    Continuous,
    Field("spo2", SFLOAT),
    Field("pulse_rate", SFLOAT),
    Field("spo2_fast", SFLOAT, given=0x01),
    Field("pulse_rate_fast", SFLOAT, given=0x01),
    Field("spo2_slow", SFLOAT, given=0x02),
    Field("pulse_rate_slow", SFLOAT, given=0x02),
    Field("status", bits(OximeterStatus, "H"), given=0x04),
    Field("sensor_status", UINT24, given=0x08),
    Field("pulse_amplitude_index", SFLOAT, given=0x10),
)


def decode_spot_check(packet: bytes) -> SpotCheck:
    """Decode a PLX Spot-Check Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _SPOT_CHECK.decode(packet)


def decode_continuous(packet: bytes) -> Continuous:
    """Decode a PLX Continuous Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _CONTINUOUS.decode(packet)
