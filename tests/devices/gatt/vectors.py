"""One list of packets, made by hand from the specifications: it drives decoding, truncation, surplus octets and noise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from devices.gatt import (
    battery,
    blood_pressure,
    cgm,
    clock,
    glucose,
    heart_rate,
    information,
    oximeter,
    pillbox,
    record_access,
    thermometer,
    weight,
)
from devices.gatt.blood_pressure import BloodPressureMeasurement, IntermediateCuffPressure, PressureStatus
from devices.gatt.cgm import (
    CgmCalibrationOctet,
    CgmFeature,
    CgmMeasurement,
    CgmStatus,
    CgmStatusOctet,
    CgmWarningOctet,
    SessionStartTime,
)
from devices.gatt.clock import AdjustReason, CurrentTime
from devices.gatt.floats import Special
from devices.gatt.glucose import GlucoseContext, GlucoseFeature, GlucoseMeasurement, GlucoseStatus, Sample, Tester
from devices.gatt.heart_rate import HeartRateMeasurement
from devices.gatt.information import PnpId
from devices.gatt.oximeter import Continuous, OximeterStatus, SpotCheck
from devices.gatt.pillbox import Dose, LogEntry, PillBoxFeature, PillBoxFeatureBit, Schedule
from devices.gatt.record_access import OpCode, Operator, Request, Response
from devices.gatt.thermometer import TemperatureMeasurement
from devices.gatt.weight import WeightMeasurement
from devices.vocabulary import Unit

Decoder = Callable[[bytes], Any]

CGM_PLAIN = partial(cgm.decode_cgm_measurements, crc=False)
CGM_CHECKED = partial(cgm.decode_cgm_measurements, crc=True)
STATUS_PLAIN = partial(cgm.decode_cgm_status, crc=False)
STATUS_CHECKED = partial(cgm.decode_cgm_status, crc=True)
START_PLAIN = partial(cgm.decode_session_start_time, crc=False)
START_CHECKED = partial(cgm.decode_session_start_time, crc=True)
RUN_PLAIN = partial(cgm.decode_session_run_time, crc=False)
RUN_CHECKED = partial(cgm.decode_session_run_time, crc=True)
REQUEST_32 = partial(record_access.decode_request, key_size=pillbox.KEY_SIZE)
RESPONSE_32 = partial(record_access.decode_response, key_size=pillbox.KEY_SIZE)


def wall(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001 - a device's wall clock


@dataclass(frozen=True)
class Vector:
    """A packet and what it says. Cut to a length of `still_good`, it is another good packet."""

    name: str
    decode: Decoder
    packet: bytes
    expected: object
    still_good: frozenset[int] = field(default=frozenset())


def vector(name: str, decode: Decoder, octets: str, expected: object, *still_good: int) -> Vector:
    return Vector(name, decode, bytes.fromhex(octets), expected, frozenset(still_good))


MORNING = wall(2026, 3, 1, 9, 30, 15)  # on the wire: ea07 03 01 09 1e 0f

VECTORS = [
    # Heart Rate
    vector("heart rate alone", heart_rate.decode_heart_rate_measurement, "00 48", HeartRateMeasurement(72)),
    vector("no signal", heart_rate.decode_heart_rate_measurement, "04 00", HeartRateMeasurement(0, contact=False)),
    vector(
        "heart rate of 16 bits, contact, energy, two intervals",
        heart_rate.decode_heart_rate_measurement,
        "1f 2c01 1027 eb03 0a04",
        HeartRateMeasurement(300, contact=True, energy_expended=10_000, rr_intervals=(1003, 1034)),
        5,
        7,
    ),
    vector(
        "the flag of intervals in a second without a beat",
        heart_rate.decode_heart_rate_measurement,
        "16 3c",
        HeartRateMeasurement(60, contact=True),
    ),
    vector(
        "a reserved flag without a field", heart_rate.decode_heart_rate_measurement, "80 3c", HeartRateMeasurement(60)
    ),
    # Glucose
    vector(
        "glucose without a result",
        glucose.decode_glucose_measurement,
        "00 0100 ea070301091e0f",
        GlucoseMeasurement(1, MORNING),
    ),
    vector(
        "glucose in mg/dL, an hour back",
        glucose.decode_glucose_measurement,
        "03 ffff ea070301091e0f c4ff 72b0 f1",
        GlucoseMeasurement(65_535, MORNING, -60, Decimal(114), Unit.MG_DL, Sample(type=1, location=15)),
    ),
    vector(
        "glucose in mmol/L, all there is",
        glucose.decode_glucose_measurement,
        "1f 0200 ea070301091e0f 1e00 2ec0 4a 2108",
        GlucoseMeasurement(
            2,
            MORNING,
            30,
            Decimal("4.6"),
            Unit.MMOL_L,
            Sample(type=10, location=4),
            GlucoseStatus.DEVICE_BATTERY_LOW | GlucoseStatus.RESULT_TOO_HIGH | GlucoseStatus.TIME_FAULT,
            context_follows=True,
        ),
    ),
    vector(
        "glucose below the range, time not known",
        glucose.decode_glucose_measurement,
        "0b 0300 0000000000 0000 ff7f 0208 11 4000",
        GlucoseMeasurement(
            3, None, None, Special.NEGATIVE_INFINITY, Unit.MG_DL, Sample(1, 1), GlucoseStatus.RESULT_TOO_LOW
        ),
    ),
    vector(
        "context, medication in kg",
        glucose.decode_glucose_context,
        "df 0200 00 01 32d0 02 21 100e 46 03 0aa0 48f0",
        GlucoseContext(
            2, 0, 1, Decimal(50), 2, Tester(1, 2), 3600, 70, 3, Decimal(10), hba1c_percent=Decimal("7.2")
        ),
    ),
    vector(
        "context, medication in L",
        glucose.decode_glucose_context,
        "30 0300 04 05d0",
        GlucoseContext(3, medication_id=4, medication_ml=Decimal(5)),
    ),
    vector("context, nothing", glucose.decode_glucose_context, "00 0900", GlucoseContext(9)),
    vector(
        "glucose feature, a reserved bit ignored",
        glucose.decode_glucose_feature,
        "0184",
        GlucoseFeature.LOW_BATTERY_DETECTION | GlucoseFeature.MULTIPLE_BOND,
    ),
    # Continuous glucose
    vector("cgm, least", CGM_PLAIN, "06 00 7800 1e00", (CgmMeasurement(Decimal(120), 30),)),
    vector(
        "cgm, two records, the second with status and trend",
        CGM_PLAIN,
        "06 00 46f0 0500  0a a1 0208 0a00 01 40 05f0",
        (
            CgmMeasurement(Decimal("7.0"), 5),
            CgmMeasurement(
                Special.NEGATIVE_INFINITY,
                10,
                CgmStatusOctet.SESSION_STOPPED,
                warnings=CgmWarningOctet.RESULT_TOO_LOW,
                trend=Decimal("0.5"),
            ),
        ),
        6,
    ),
    vector(
        "cgm, everything, with its E2E-CRC",
        CGM_CHECKED,
        "0f e3 7800 1e00 01 02 03 5000 6000 ecac",
        (
            CgmMeasurement(
                Decimal(120),
                30,
                CgmStatusOctet.SESSION_STOPPED,
                CgmCalibrationOctet.CALIBRATION_NOT_ALLOWED,
                CgmWarningOctet.BELOW_PATIENT_LOW | CgmWarningOctet.ABOVE_PATIENT_HIGH,
                Decimal(80),
                Decimal(96),
            ),
        ),
    ),
    vector("cgm feature without crc", cgm.decode_cgm_feature, "008001 59 ffff", CgmFeature(0x18000, Sample(9, 5))),
    vector("cgm feature with crc", cgm.decode_cgm_feature, "001000 59 f049", CgmFeature(0x1000, Sample(9, 5))),
    vector(
        "cgm status",
        STATUS_PLAIN,
        "e803 20 41 00",
        CgmStatus(
            1000,
            CgmStatusOctet.GENERAL_DEVICE_FAULT,
            CgmCalibrationOctet.TIME_SYNCHRONIZATION_REQUIRED | CgmCalibrationOctet.CALIBRATION_PENDING,
            CgmWarningOctet.NONE,
        ),
    ),
    vector(
        "cgm status with crc",
        STATUS_CHECKED,
        "0500 00 00 80 d492",
        CgmStatus(5, CgmStatusOctet.NONE, CgmCalibrationOctet.NONE, CgmWarningOctet.RESULT_TOO_HIGH),
    ),
    vector(
        "session start, Adelaide in summer",
        START_PLAIN,
        "ea070301091e0f 26 04",
        SessionStartTime(MORNING, timedelta(hours=9, minutes=30), timedelta(hours=1)),
    ),
    vector("session start, nothing known", START_CHECKED, "00000000000000 80 ff accd", SessionStartTime(None, None, None)),
    vector("session run time", RUN_PLAIN, "5001", timedelta(days=14)),
    vector("session run time with crc", RUN_CHECKED, "f000 b08c", timedelta(days=10)),
    # Record Access Control Point
    vector(
        "report all", record_access.decode_request, "01 01", Request(OpCode.REPORT_STORED_RECORDS, Operator.ALL_RECORDS)
    ),
    vector(
        "count from 300 on",
        record_access.decode_request,
        "04 03 01 2c01",
        Request(OpCode.REPORT_NUMBER_OF_STORED_RECORDS, Operator.GREATER_THAN_OR_EQUAL_TO, (300,)),
    ),
    vector("abort", record_access.decode_request, "03 00", Request(OpCode.ABORT_OPERATION)),
    vector(
        "report a range of a pill box",
        REQUEST_32,
        "01 04 01 01000000 00000100",
        Request(OpCode.REPORT_STORED_RECORDS, Operator.WITHIN_RANGE_OF, (1, 65_536)),
    ),
    vector("no records", record_access.decode_response, "06 00 01 06", Response(request=1, code=6)),
    vector("a count", record_access.decode_response, "05 00 2001", Response(count=288)),
    vector("a count of a pill box", RESPONSE_32, "05 00 00000100", Response(count=65_536)),
    # Blood pressure
    vector(
        "blood pressure in mm[Hg]",
        blood_pressure.decode_blood_pressure_measurement,
        "00 7800 5000 5d00",
        BloodPressureMeasurement(Decimal(120), Decimal(80), Decimal(93), Unit.MM_HG),
    ),
    vector(
        "blood pressure in kPa, all there is",
        blood_pressure.decode_blood_pressure_measurement,
        "1f a0f0 6bf0 ff07 ea070301091e0f 48f0 ff 2500",
        BloodPressureMeasurement(
            Decimal("16.0"),
            Decimal("10.7"),
            Special.NAN,
            Unit.KPA,
            MORNING,
            Decimal("7.2"),
            None,
            PressureStatus.BODY_MOVEMENT | PressureStatus.IRREGULAR_PULSE | PressureStatus.IMPROPER_POSITION,
        ),
    ),
    vector(
        "cuff pressure of user 2",
        blood_pressure.decode_intermediate_cuff_pressure,
        "08 a000 ff07 ff07 02",
        IntermediateCuffPressure(Decimal(160), Unit.MM_HG, user_id=2),
    ),
    # Temperature
    vector(
        "temperature in °C",
        thermometer.decode_temperature_measurement,
        "00 6c0100ff",
        TemperatureMeasurement(Decimal("36.4"), Unit.CEL),
    ),
    vector(
        "temperature in °F, all there is",
        thermometer.decode_temperature_measurement,
        "07 da0300ff ea070301091e0f 06",
        TemperatureMeasurement(Decimal("98.6"), Unit.DEGF, MORNING, 6),
    ),
    # Weight
    vector(
        "weight in kg, all there is",
        weight.decode_weight_measurement,
        "0e 983a ea070301091e0f 01 f500 d606",
        WeightMeasurement(Decimal(75), Unit.KG, MORNING, 1, Decimal("24.5"), Decimal("1.75")),
    ),
    vector(
        "weight in lb with height in inches, of nobody",
        weight.decode_weight_measurement,
        "0d 983a ff f500 b102",
        WeightMeasurement(Decimal(150), Unit.LB_AV, bmi=Decimal("24.5"), height_in=Decimal("68.9")),
    ),
    vector("weighing failed", weight.decode_weight_measurement, "00 ffff", WeightMeasurement(None, Unit.KG)),
    # Oximeter
    vector("spot-check", oximeter.decode_spot_check, "00 6100 4800", SpotCheck(Decimal(97), Decimal(72))),
    vector(
        "spot-check, all there is",
        oximeter.decode_spot_check,
        "1f d6f3 ff07 ea070301091e0f 2081 200080 19f0",
        SpotCheck(
            Decimal("98.2"),
            Special.NAN,
            MORNING,
            clock_not_set=True,
            status=OximeterStatus.MEASUREMENT_ONGOING | OximeterStatus.FULLY_QUALIFIED | OximeterStatus.INVALID,
            sensor_status=0x800020,
            pulse_amplitude_index=Decimal("2.5"),
        ),
    ),
    vector("continuous", oximeter.decode_continuous, "00 6100 4800", Continuous(Decimal(97), Decimal(72))),
    vector(
        "continuous, all there is",
        oximeter.decode_continuous,
        "1f 6100 4800 6000 4900 6200 4700 8000 000800 08f0",
        Continuous(
            Decimal(97), Decimal(72), Decimal(96), Decimal(73), Decimal(98), Decimal(71),
            OximeterStatus.VALIDATED, 0x800, Decimal("0.8"),
        ),
    ),
    # Battery, times, information
    vector("battery", battery.decode_battery_level, "64", 100),
    vector("date and time", clock.decode_date_time, "ea070301091e0f", MORNING),
    vector("day not known", clock.decode_date_time, "ea070200091e0f", None),
    vector(
        "current time",
        clock.decode_current_time,
        "ea070301091e0f 07 80 81",
        CurrentTime(MORNING, 7, 128, AdjustReason.MANUAL),
    ),
    vector("pnp id", information.decode_pnp_id, "01 5900 0201 0003", PnpId(1, 0x59, 0x102, 0x300)),
    # Pill box
    vector(
        "box feature",
        pillbox.decode_feature,
        "01 0e 0004 0700 8a43",
        PillBoxFeature(
            1, 14, 1024, PillBoxFeatureBit.COUNTS_PILLS | PillBoxFeatureBit.REMINDER | PillBoxFeatureBit.SCHEDULE
        ),
    ),
    vector(
        "box log: two pills taken",
        pillbox.decode_log_entry,
        "2a000000 58f0bba89c010000 03 02 02 00 bac1",
        LogEntry(42, 1_772_357_415_000, 3, 2, 2),
    ),
    vector(
        "box log: the clock was lost",
        pillbox.decode_log_entry,
        "01000000 0000000000000000 40 00 00 00 f1c8",
        LogEntry(1, None, 64, None, 0),
    ),
    vector("box clock", pillbox.decode_clock, "58f0bba89c010000 7c84", 1_772_357_415_000),
    vector("box schedule, empty", pillbox.decode_schedule, "0000 0000 00 8830", Schedule(0, 0, ())),
    vector(
        "box schedule, west of Greenwich",
        pillbox.decode_schedule,
        "0300 d4fe 02 01 e001 7f 02 b004 15 fd92",
        Schedule(3, -300, (Dose(1, 480, frozenset(range(7))), Dose(2, 1200, frozenset({0, 2, 4})))),
    ),
]  # fmt: skip
