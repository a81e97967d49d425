"""Glucose Measurement (0x2A18), its Context (0x2A34) and Glucose Feature (0x2A51) of the Glucose Service 1.0.1, 3.1 to 3.3."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from devices.gatt.clock import DATE_TIME
from devices.gatt.fields import UINT8, UINT16, Field, Kind, Layout, Says, bits, scaled_sfloat
from devices.gatt.floats import Medical
from devices.vocabulary import Unit


class GlucoseStatus(IntFlag):
    """Sensor Status Annunciation."""

    NONE = 0
    DEVICE_BATTERY_LOW = 0x0001
    SENSOR_MALFUNCTION = 0x0002
    SAMPLE_SIZE_INSUFFICIENT = 0x0004
    STRIP_INSERTION_ERROR = 0x0008
    STRIP_TYPE_INCORRECT = 0x0010
    RESULT_TOO_HIGH = 0x0020
    """Higher than the device can process."""
    RESULT_TOO_LOW = 0x0040
    """Lower than the device can process."""
    TEMPERATURE_TOO_HIGH = 0x0080
    TEMPERATURE_TOO_LOW = 0x0100
    READ_INTERRUPTED = 0x0200
    GENERAL_DEVICE_FAULT = 0x0400
    TIME_FAULT = 0x0800


class GlucoseFeature(IntFlag):
    """What a meter can detect."""

    LOW_BATTERY_DETECTION = 0x0001
    SENSOR_MALFUNCTION_DETECTION = 0x0002
    SAMPLE_SIZE = 0x0004
    STRIP_INSERTION_ERROR_DETECTION = 0x0008
    STRIP_TYPE_ERROR_DETECTION = 0x0010
    RESULT_HIGH_LOW_DETECTION = 0x0020
    TEMPERATURE_HIGH_LOW_DETECTION = 0x0040
    READ_INTERRUPT_DETECTION = 0x0080
    GENERAL_DEVICE_FAULT = 0x0100
    TIME_FAULT = 0x0200
    MULTIPLE_BOND = 0x0400


class SampleType(IntEnum):
    """The kind of sample measured."""

    CAPILLARY_WHOLE_BLOOD = 1
    CAPILLARY_PLASMA = 2
    VENOUS_WHOLE_BLOOD = 3
    VENOUS_PLASMA = 4
    ARTERIAL_WHOLE_BLOOD = 5
    ARTERIAL_PLASMA = 6
    UNDETERMINED_WHOLE_BLOOD = 7
    UNDETERMINED_PLASMA = 8
    INTERSTITIAL_FLUID = 9
    CONTROL_SOLUTION = 10


class SampleLocation(IntEnum):
    """Where the sample was taken."""

    FINGER = 1
    ALTERNATE_SITE = 2
    EARLOBE = 3
    CONTROL_SOLUTION = 4
    SUBCUTANEOUS_TISSUE = 5
    NOT_AVAILABLE = 15


class Sample(NamedTuple):
    """A `SampleType` and a `SampleLocation`, or reserved numbers."""

    type: int
    location: int

    @property
    def is_control_solution(self) -> bool:
        """Whether the meter itself was checked, and no patient measured."""
        return self.type == SampleType.CONTROL_SOLUTION or self.location == SampleLocation.CONTROL_SOLUTION


class Tester(NamedTuple):
    """Who measured (1 self, 2 professional, 3 laboratory, 15 not available), and the health the patient stated."""

    tester: int
    health: int


@dataclass(frozen=True, slots=True)
class GlucoseMeasurement:
    """One stored measurement of a meter."""

    sequence: int
    base_time: datetime | None
    """By the meter's own clock, which its user cannot set; None if unknown."""
    time_offset: int | None = 0
    """Minutes from the base time to the time the user sees; None if there are more than the field holds."""
    concentration: Medical | None = None
    """In `unit`, exact."""
    unit: Unit | None = None
    sample: Sample | None = None
    """Present with every concentration."""
    status: GlucoseStatus = GlucoseStatus.NONE
    context_follows: bool = False

    @property
    def user_time(self) -> datetime | None:
        """The time the user sees on the meter; None if unknown."""
        if self.base_time is None or self.time_offset is None:
            return None
        try:
            return self.base_time + timedelta(minutes=self.time_offset)
        except OverflowError:  # past the year 9999
            return None


@dataclass(frozen=True, slots=True)
class GlucoseContext:
    """What the user entered about the measurement with the same sequence number; numbers as listed in the service."""

    sequence: int
    extended_flags: int | None = None
    carbohydrate_id: int | None = None
    carbohydrate_g: Medical | None = None
    meal: int | None = None
    tester: Tester | None = None
    exercise_seconds: int | None = None
    """65,535: longer than the field holds."""
    exercise_percent: int | None = None
    medication_id: int | None = None
    medication_mg: Medical | None = None
    medication_ml: Medical | None = None
    hba1c_percent: Medical | None = None


def _time_offset(raw: int) -> int | None:
    return None if raw in {0x7FFF, -0x8000} else raw  # overrun, underrun


SAMPLE: Final = Kind("B", lambda octet: Sample(octet & 0xF, octet >> 4))
"""Type and location in one octet."""

# The wire has kg/L, or mol/L with flag 0x04.
_MEASUREMENT: Final = Layout(
    "Glucose Measurement",
    GlucoseMeasurement,
    Field("sequence", UINT16),
    Field("base_time", DATE_TIME),
    Field("time_offset", Kind("h", _time_offset), given=0x01),
    Field("concentration", scaled_sfloat(5), given=0x02, unless=0x04),
    Says("unit", Unit.MG_DL, given=0x02, unless=0x04),
    Field("concentration", scaled_sfloat(3), given=0x06),
    Says("unit", Unit.MMOL_L, given=0x06),
    Field("sample", SAMPLE, given=0x02),
    Field("status", bits(GlucoseStatus, "H"), given=0x08),
    Says("context_follows", value=True, given=0x10),
)

# The wire has kg of carbohydrate, and kg or (flag 0x20) L of medication.
_CONTEXT: Final = Layout(
    "Glucose Measurement Context",
    GlucoseContext,
    Field("sequence", UINT16),
    Field("extended_flags", UINT8, given=0x80),
    Field("carbohydrate_id", UINT8, given=0x01),
    Field("carbohydrate_g", scaled_sfloat(3), given=0x01),
    Field("meal", UINT8, given=0x02),
    Field("tester", Kind("B", lambda octet: Tester(octet & 0xF, octet >> 4)), given=0x04),
    Field("exercise_seconds", UINT16, given=0x08),
    Field("exercise_percent", UINT8, given=0x08),
    Field("medication_id", UINT8, given=0x10),
    Field("medication_mg", scaled_sfloat(6), given=0x10, unless=0x20),
    Field("medication_ml", scaled_sfloat(3), given=0x30),
    Field("hba1c_percent", scaled_sfloat(), given=0x40),
)

_FEATURE: Final = Layout("Glucose Feature", GlucoseFeature, Field("value", bits(GlucoseFeature, "H")), flagged=False)


def decode_glucose_measurement(packet: bytes) -> GlucoseMeasurement:
    """Decode a Glucose Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _MEASUREMENT.decode(packet)


def decode_glucose_context(packet: bytes) -> GlucoseContext:
    """Decode a Glucose Measurement Context.

    Raises:
        PacketError: the packet is not one.
    """
    return _CONTEXT.decode(packet)


def decode_glucose_feature(packet: bytes) -> GlucoseFeature:
    """Decode a Glucose Feature.

    Raises:
        PacketError: the packet is not one.
    """
    return _FEATURE.decode(packet)
