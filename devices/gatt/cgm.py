"""CGM Measurement (0x2AA7), Feature (0x2AA8), Status (0x2AA9), Session Start Time (0x2AAA) and Run Time (0x2AAB).

Continuous Glucose Monitoring Service 1.0.2, 3.1 to 3.5.

`crc` says whether the Feature promises an E2E-CRC: then every value has to carry it, and without the promise none may.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntFlag
from typing import Final

from devices.errors import PacketError
from devices.gatt.clock import DATE_TIME, encode_date_time
from devices.gatt.crc import CRC_SIZE, with_crc, without_crc
from devices.gatt.fields import MAX_VALUE, SFLOAT, UINT16, UINT24, Field, Kind, Layout, bits
from devices.gatt.floats import Medical
from devices.gatt.glucose import SAMPLE, Sample

_MIN_RECORD: Final = 6
_QUARTER: Final = 15
_UNKNOWN_ZONE: Final = -128
_UNKNOWN_DST: Final = 0xFF


class CgmStatusOctet(IntFlag):
    """Sensor Status Annunciation, Status octet."""

    NONE = 0
    SESSION_STOPPED = 0x01
    DEVICE_BATTERY_LOW = 0x02
    SENSOR_TYPE_INCORRECT = 0x04
    SENSOR_MALFUNCTION = 0x08
    DEVICE_SPECIFIC_ALERT = 0x10
    GENERAL_DEVICE_FAULT = 0x20


class CgmCalibrationOctet(IntFlag):
    """Sensor Status Annunciation, Cal/Temp octet."""

    NONE = 0
    TIME_SYNCHRONIZATION_REQUIRED = 0x01
    CALIBRATION_NOT_ALLOWED = 0x02
    CALIBRATION_RECOMMENDED = 0x04
    CALIBRATION_REQUIRED = 0x08
    TEMPERATURE_TOO_HIGH = 0x10
    TEMPERATURE_TOO_LOW = 0x20
    CALIBRATION_PENDING = 0x40


class CgmWarningOctet(IntFlag):
    """Sensor Status Annunciation, Warning octet."""

    NONE = 0
    BELOW_PATIENT_LOW = 0x01
    ABOVE_PATIENT_HIGH = 0x02
    BELOW_HYPO = 0x04
    ABOVE_HYPER = 0x08
    RATE_OF_DECREASE_EXCEEDED = 0x10
    RATE_OF_INCREASE_EXCEEDED = 0x20
    RESULT_TOO_LOW = 0x40
    """Lower than the device can process."""
    RESULT_TOO_HIGH = 0x80
    """Higher than the device can process."""


class CgmFeatureBit(IntFlag):
    """What a sensor can do."""

    CALIBRATION = 0x00001
    PATIENT_HIGH_LOW_ALERTS = 0x00002
    HYPO_ALERTS = 0x00004
    HYPER_ALERTS = 0x00008
    RATE_ALERTS = 0x00010
    DEVICE_SPECIFIC_ALERT = 0x00020
    SENSOR_MALFUNCTION_DETECTION = 0x00040
    TEMPERATURE_HIGH_LOW_DETECTION = 0x00080
    RESULT_HIGH_LOW_DETECTION = 0x00100
    LOW_BATTERY_DETECTION = 0x00200
    SENSOR_TYPE_ERROR_DETECTION = 0x00400
    GENERAL_DEVICE_FAULT = 0x00800
    E2E_CRC = 0x01000
    MULTIPLE_BOND = 0x02000
    MULTIPLE_SESSIONS = 0x04000
    TREND_INFORMATION = 0x08000
    QUALITY = 0x10000


@dataclass(frozen=True, slots=True)
class CgmMeasurement:
    """One record of a session."""

    glucose: Medical
    """mg/dL"""
    time_offset: int
    """Minutes since the session's start."""
    status: CgmStatusOctet = CgmStatusOctet.NONE
    calibration: CgmCalibrationOctet = CgmCalibrationOctet.NONE
    warnings: CgmWarningOctet = CgmWarningOctet.NONE
    trend: Medical | None = None
    """mg/dL a minute"""
    quality: Medical | None = None
    """%"""


@dataclass(frozen=True, slots=True)
class CgmFeature:
    """What a sensor can do, and which sample it measures in."""

    features: int
    """Bits of `CgmFeatureBit`."""
    sample: Sample

    @property
    def e2e_crc(self) -> bool:
        """Whether the other values carry an E2E-CRC."""
        return bool(self.features & CgmFeatureBit.E2E_CRC)


@dataclass(frozen=True, slots=True)
class CgmStatus:
    """The state of the session, now."""

    time_offset: int
    """Minutes since the session's start."""
    status: CgmStatusOctet
    calibration: CgmCalibrationOctet
    warnings: CgmWarningOctet


@dataclass(frozen=True, slots=True)
class SessionStartTime:
    """When the session began, by the sensor's wall clock, and that clock's offset from UTC as far as it knows."""

    time: datetime | None
    time_zone: timedelta | None
    dst_offset: timedelta | None

    @property
    def utc_offset(self) -> timedelta | None:
        """Local time minus UTC; None if the zone or daylight saving is not known."""
        if self.time_zone is None or self.dst_offset is None:
            return None
        return self.time_zone + self.dst_offset


def _time_zone(quarters: int) -> timedelta | None:
    if quarters == _UNKNOWN_ZONE:
        return None
    if not -48 <= quarters <= 56:
        raise PacketError(f"time zone of {quarters} quarters of an hour")
    return timedelta(minutes=_QUARTER * quarters)


def _dst_offset(quarters: int) -> timedelta | None:
    if quarters == _UNKNOWN_DST:
        return None
    if quarters not in {0, 2, 4, 8}:
        raise PacketError(f"daylight saving of {quarters} quarters of an hour")
    return timedelta(minutes=_QUARTER * quarters)


_STATUS_OCTET: Final = bits(CgmStatusOctet)
_CALIBRATION_OCTET: Final = bits(CgmCalibrationOctet)
_WARNING_OCTET: Final = bits(CgmWarningOctet)

# A record minus its size octet and CRC.
_MEASUREMENT: Final = Layout(
    "CGM Measurement",
    CgmMeasurement,
    Field("glucose", SFLOAT),
    Field("time_offset", UINT16),
    Field("status", _STATUS_OCTET, given=0x80),
    Field("calibration", _CALIBRATION_OCTET, given=0x40),
    Field("warnings", _WARNING_OCTET, given=0x20),
    Field("trend", SFLOAT, given=0x01),
    Field("quality", SFLOAT, given=0x02),
)
_FEATURE: Final = Layout("CGM Feature", CgmFeature, Field("features", UINT24), Field("sample", SAMPLE), flagged=False)
_STATUS: Final = Layout(
    "CGM Status",
    CgmStatus,
    Field("time_offset", UINT16),
    Field("status", _STATUS_OCTET),
    Field("calibration", _CALIBRATION_OCTET),
    Field("warnings", _WARNING_OCTET),
    flagged=False,
)
_START: Final = Layout(
    "CGM Session Start Time",
    SessionStartTime,
    Field("time", DATE_TIME),
    Field("time_zone", Kind("b", _time_zone)),
    Field("dst_offset", Kind("B", _dst_offset)),
    flagged=False,
)
_RUN: Final = Layout("CGM Session Run Time", timedelta, Field("hours", UINT16), flagged=False)


def decode_cgm_measurements(packet: bytes, *, crc: bool) -> tuple[CgmMeasurement, ...]:
    """Decode the records of one notification: one or more, each beginning with its size.

    Raises:
        PacketError: one of them is invalid; then none of them is returned.
    """
    if len(packet) > MAX_VALUE:
        raise PacketError(f"CGM Measurement: {len(packet)} octets, a value has {MAX_VALUE} at most")
    records: list[CgmMeasurement] = []
    remaining = packet
    while remaining or not records:
        size = remaining[0] if remaining else 0
        # With a size below a record's minimum, 0 above all, the loop would never end.
        if not _MIN_RECORD <= size <= len(remaining):
            raise PacketError(f"CGM Measurement: a record of {size} octets, {len(remaining)} are there")
        record, remaining = remaining[:size], remaining[size:]
        records.append(_MEASUREMENT.decode(_checked(record, _MEASUREMENT.name, crc=crc)[1:]))
    return tuple(records)


def decode_cgm_feature(packet: bytes) -> CgmFeature:
    """Decode a CGM Feature; its own E2E-CRC is checked if it promises one, and is 0xFFFF (unused) otherwise.

    Raises:
        PacketError: the packet is not one.
    """
    feature = _FEATURE.decode(packet[:-CRC_SIZE])
    if feature.e2e_crc:
        without_crc(packet, _FEATURE.name)
    return feature


def decode_cgm_status(packet: bytes, *, crc: bool) -> CgmStatus:
    """Decode a CGM Status.

    Raises:
        PacketError: the packet is not one.
    """
    return _STATUS.decode(_checked(packet, _STATUS.name, crc=crc))


def decode_session_start_time(packet: bytes, *, crc: bool) -> SessionStartTime:
    """Decode a CGM Session Start Time.

    Raises:
        PacketError: the packet is not one.
    """
    return _START.decode(_checked(packet, _START.name, crc=crc))


def encode_session_start_time(start: SessionStartTime, *, crc: bool) -> bytes:
    """Return the value that sets a sensor's clock: it computes the session start from `start`, the current time."""
    zone = _UNKNOWN_ZONE if start.time_zone is None else start.time_zone // timedelta(minutes=_QUARTER)
    dst = _UNKNOWN_DST if start.dst_offset is None else start.dst_offset // timedelta(minutes=_QUARTER)
    value = encode_date_time(start.time) + zone.to_bytes(1, signed=True) + dst.to_bytes(1)
    return with_crc(value) if crc else value


def decode_session_run_time(packet: bytes, *, crc: bool) -> timedelta:
    """Return how long a session is expected to run.

    Raises:
        PacketError: the packet is not one.
    """
    return _RUN.decode(_checked(packet, _RUN.name, crc=crc))


def _checked(packet: bytes, name: str, *, crc: bool) -> bytes:
    return without_crc(packet, name) if crc else packet
