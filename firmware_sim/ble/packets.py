"""The packets of simulated Bluetooth health devices: medical floats, times, CRC, and the measurements made of them.

Written from the Bluetooth SIG's service specifications and the GATT Specification Supplement, deliberately without the
gateway's codecs.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SFLOAT_NAN: Final = bytes.fromhex("ff07")
SFLOAT_NRES: Final = bytes.fromhex("0008")
SFLOAT_POSITIVE_INFINITY: Final = bytes.fromhex("fe07")
SFLOAT_NEGATIVE_INFINITY: Final = bytes.fromhex("0208")

TIME_UNKNOWN: Final = bytes(7)
"""A Date Time whose year, month and day are unknown."""

CONTACT_LOST, CONTACT_HELD = 0x04, 0x06
"""Flags of Heart Rate Measurement: the sensor can tell whether it touches skin, and whether it does."""


def sfloat(mantissa: int, exponent: int = 0) -> bytes:
    """Return `mantissa * 10 ** exponent` as IEEE 11073-20601 SFLOAT; ValueError if it does not fit."""
    if not -2045 <= mantissa <= 2045 or not -8 <= exponent <= 7:
        raise ValueError(f"{mantissa}e{exponent} is no SFLOAT")
    return struct.pack("<H", (exponent & 0xF) << 12 | mantissa & 0xFFF)


def float32(mantissa: int, exponent: int = 0) -> bytes:
    """Return `mantissa * 10 ** exponent` as IEEE 11073-20601 FLOAT; ValueError if it does not fit."""
    if not -8_388_605 <= mantissa <= 8_388_605 or not -128 <= exponent <= 127:
        raise ValueError(f"{mantissa}e{exponent} is no FLOAT")
    return struct.pack("<I", (exponent & 0xFF) << 24 | mantissa & 0xFFFFFF)


def e2e_crc(data: bytes) -> int:
    """Return the E2E-CRC of CGMS: polynomial x¹⁶ + x¹² + x⁵ + 1, least significant bit first, seed 0xFFFF."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


def with_crc(data: bytes) -> bytes:
    """Return `data` followed by its E2E-CRC."""
    return data + struct.pack("<H", e2e_crc(data))


def crc_holds(data: bytes) -> bool:
    """Return whether the last two bytes are the E2E-CRC of those before."""
    return len(data) > 2 and with_crc(data[:-2]) == data


def date_time(calendar_ms: int) -> bytes:
    """Return a Date Time (0x2A08); `calendar_ms` counts from 1970-01-01 on the device's own calendar, without a zone."""
    at = EPOCH + timedelta(milliseconds=calendar_ms)
    return struct.pack("<HBBBBB", at.year, at.month, at.day, at.hour, at.minute, at.second)


def calendar_ms(packet: bytes) -> int:
    """Return the ms of the device's calendar in a Date Time; ValueError for a time that does not exist."""
    if len(packet) != 7:
        raise ValueError("a Date Time has 7 bytes")
    year, month, day, hour, minute, second = struct.unpack("<HBBBBB", packet)
    return (datetime(year, month, day, hour, minute, second, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


def current_time(calendar_ms: int, *, adjusted: int = 0) -> bytes:
    """Return a Current Time (0x2A2B): date, time, weekday (1 = Monday), 1/256 s, the reason of the last adjustment."""
    weekday = (EPOCH + timedelta(milliseconds=calendar_ms)).isoweekday()
    return date_time(calendar_ms) + bytes([weekday, calendar_ms % 1000 * 256 // 1000, adjusted])


def heart_rate(bpm: int, *, contact: bool = True, rr_1024: Sequence[int] = ()) -> bytes:
    """Return a Heart Rate Measurement (0x2A37); RR intervals in 1/1024 s, the oldest first."""
    flags = (CONTACT_HELD if contact else CONTACT_LOST) | (0x10 if rr_1024 else 0) | (0x01 if bpm > 255 else 0)
    return struct.pack("<BH" if bpm > 255 else "<BB", flags, bpm) + struct.pack(f"<{len(rr_1024)}H", *rr_1024)


def cgm_measurement(glucose: bytes, minutes: int, *, status: int = 0, trend: bytes = b"", crc: bool = False) -> bytes:
    """Return one record of CGM Measurement (0x2AA7).

    `glucose` in mg/dL and `trend` in mg/dL/min as SFLOAT; `minutes` since the start of the session; `status` the sensor
    status annunciation, whose octets (status, calibration and temperature, warning) are sent only where a bit is set.
    """
    octets = status.to_bytes(3, "little")
    present = [(octet, flag) for octet, flag in zip(octets, (0x80, 0x40, 0x20), strict=True) if octet]
    flags = sum(flag for _, flag in present) | (0x01 if trend else 0)
    body = struct.pack("<B2sH", flags, glucose, minutes) + bytes(octet for octet, _ in present) + trend
    record = bytes([len(body) + (3 if crc else 1)]) + body
    return with_crc(record) if crc else record


def glucose_measurement(
    sequence: int, base_time: bytes, concentration: bytes, *, molar: bool, offset_minutes: int | None, context: bool
) -> bytes:
    """Return a Glucose Measurement (0x2A18) of capillary whole blood from a finger.

    `concentration` as SFLOAT in mol/L if `molar`, else in kg/L; `context` says that a Glucose Measurement Context follows.
    """
    flags = 0x02 | (0x01 if offset_minutes is not None else 0) | (0x04 if molar else 0) | (0x10 if context else 0)
    offset = b"" if offset_minutes is None else struct.pack("<h", offset_minutes)
    return struct.pack("<BH", flags, sequence) + base_time + offset + concentration + bytes([0x11])


def glucose_context(sequence: int, meal: int) -> bytes:
    """Return a Glucose Measurement Context (0x2A34): 1 before a meal, 2 after it, 3 fasting, 4 casual, 5 bedtime."""
    return struct.pack("<BHB", 0x02, sequence, meal)


def blood_pressure(systolic: bytes, diastolic: bytes, mean: bytes, *, kpa: bool, stamp: bytes, pulse: bytes) -> bytes:
    """Return a Blood Pressure Measurement (0x2A35); an empty stamp or pulse is left out."""
    flags = (0x01 if kpa else 0) | (0x02 if stamp else 0) | (0x04 if pulse else 0)
    return bytes([flags]) + systolic + diastolic + mean + stamp + pulse


def temperature(value: bytes, *, fahrenheit: bool, stamp: bytes, site: int | None) -> bytes:
    """Return a Temperature Measurement (0x2A1C); `value` as FLOAT, `site` a Temperature Type (6 = mouth)."""
    flags = (0x01 if fahrenheit else 0) | (0x02 if stamp else 0) | (0x04 if site is not None else 0)
    return bytes([flags]) + value + stamp + (b"" if site is None else bytes([site]))


def weight(units: int, *, pounds: bool, stamp: bytes) -> bytes:
    """Return a Weight Measurement (0x2A9D) of `units` × 0.005 kg, or × 0.01 lb."""
    return struct.pack("<BH", (0x01 if pounds else 0) | (0x02 if stamp else 0), units) + stamp


def spot_check(spo2: bytes, pulse: bytes, *, stamp: bytes) -> bytes:
    """Return a PLX Spot-Check Measurement (0x2A5E); SpO2 in % and pulse rate in /min as SFLOAT."""
    return bytes([0x01 if stamp else 0]) + spo2 + pulse + stamp


def continuous_oximetry(spo2: bytes, pulse: bytes) -> bytes:
    """Return a PLX Continuous Measurement (0x2A5F) with its normal values only."""
    return bytes([0]) + spo2 + pulse
