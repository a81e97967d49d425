"""Every combination of flags, and every number that has a name, against lists of their own."""

from enum import IntEnum, IntFlag

import pytest

from devices.errors import PacketError
from devices.gatt import blood_pressure, cgm, clock, glucose, heart_rate, oximeter, pillbox, record_access
from devices.gatt import thermometer as heat
from devices.gatt import weight as scale
from devices.vocabulary import Unit
from tests.devices.gatt.vectors import CGM_PLAIN, Decoder

# Octets with no flag set, and what each flag adds.
LENGTHS: dict[str, tuple[Decoder, int, dict[int, int]]] = {
    "heart rate": (heart_rate.decode_heart_rate_measurement, 2, {0x01: 1, 0x08: 2}),
    "glucose": (glucose.decode_glucose_measurement, 10, {0x01: 2, 0x02: 3, 0x08: 2}),
    "context": (
        glucose.decode_glucose_context, 3, {0x01: 3, 0x02: 1, 0x04: 1, 0x08: 3, 0x10: 3, 0x40: 2, 0x80: 1},
    ),
    "blood pressure": (
        blood_pressure.decode_blood_pressure_measurement, 7, {0x02: 7, 0x04: 2, 0x08: 1, 0x10: 2},
    ),
    "cuff pressure": (
        blood_pressure.decode_intermediate_cuff_pressure, 7, {0x02: 7, 0x04: 2, 0x08: 1, 0x10: 2},
    ),
    "temperature": (heat.decode_temperature_measurement, 5, {0x02: 7, 0x04: 1}),
    "weight": (scale.decode_weight_measurement, 3, {0x02: 7, 0x04: 1, 0x08: 4}),
    "spot-check": (oximeter.decode_spot_check, 5, {0x01: 7, 0x02: 2, 0x04: 3, 0x08: 2}),
    "continuous": (oximeter.decode_continuous, 5, {0x01: 4, 0x02: 4, 0x04: 2, 0x08: 3, 0x10: 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_every_combination_of_flags_has_one_length(name: str) -> None:
    decode, least, _ = LENGTHS[name]
    for flags in range(0x100):
        right = least + rest(name, flags)
        lengths = [length for length in range(1, right + 9) if taken(decode, bytes((flags,)) + bytes(length - 1))]
        repeats = name == "heart rate" and flags & 0x10
        assert lengths == (list(range(right, right + 9, 2)) if repeats else [right]), hex(flags)


def taken(decode: Decoder, packet: bytes) -> bool:
    try:
        decode(packet)
    except PacketError:
        return False
    return True


def test_every_combination_of_flags_of_a_cgm_record() -> None:
    added = {0x01: 2, 0x02: 2, 0x20: 1, 0x40: 1, 0x80: 1}
    for flags in range(0x100):
        right = 6 + sum(octets for flag, octets in added.items() if flags & flag)
        lengths = [size for size in range(6, 20) if taken(CGM_PLAIN, bytes((size, flags)) + bytes(size - 2))]
        assert lengths == [right], hex(flags)


@pytest.mark.parametrize("others", [0x00, 0x01, 0x08, 0x09, 0xE0])
def test_contact(others: int) -> None:
    says = {0x00: None, 0x02: None, 0x04: False, 0x06: True}
    for flags, contact in says.items():
        packet = bytes((flags | others,)) + bytes(1 + (others & 1) + (2 if others & 8 else 0))
        assert heart_rate.decode_heart_rate_measurement(packet).contact is contact


def test_what_flags_say_by_themselves() -> None:
    for flags in range(0x20):
        measured = glucose.decode_glucose_measurement(zeros("glucose", flags))
        assert measured.context_follows is bool(flags & 0x10)
        assert measured.unit is ((Unit.MMOL_L if flags & 0x04 else Unit.MG_DL) if flags & 0x02 else None)
        spot = oximeter.decode_spot_check(zeros("spot-check", flags))
        assert spot.clock_not_set is bool(flags & 0x10)


def zeros(name: str, flags: int) -> bytes:
    return bytes((flags,)) + bytes(LENGTHS[name][1] - 1 + rest(name, flags))


def rest(name: str, flags: int) -> int:
    return sum(octets for flag, octets in LENGTHS[name][2].items() if flags & flag)


# The first number that has a name, and the names from there on; of bits the place of the first one.
NUMBERS: dict[type[IntEnum], tuple[int, str]] = {
    glucose.SampleType: (
        1,
        (
            "CAPILLARY_WHOLE_BLOOD CAPILLARY_PLASMA VENOUS_WHOLE_BLOOD VENOUS_PLASMA ARTERIAL_WHOLE_BLOOD ARTERIAL_PLASMA "
            "UNDETERMINED_WHOLE_BLOOD UNDETERMINED_PLASMA INTERSTITIAL_FLUID CONTROL_SOLUTION"
        ),
    ),
    heat.TemperatureType: (1, "ARMPIT BODY EAR FINGER GASTROINTESTINAL_TRACT MOUTH RECTUM TOE TYMPANUM"),
    record_access.OpCode: (
        1,
        (
            "REPORT_STORED_RECORDS DELETE_STORED_RECORDS ABORT_OPERATION REPORT_NUMBER_OF_STORED_RECORDS "
            "NUMBER_OF_STORED_RECORDS_RESPONSE RESPONSE_CODE"
        ),
    ),
    record_access.Operator: (
        0,
        "NULL ALL_RECORDS LESS_THAN_OR_EQUAL_TO GREATER_THAN_OR_EQUAL_TO WITHIN_RANGE_OF FIRST_RECORD LAST_RECORD",
    ),
    record_access.Filter: (1, "KEY USER_FACING_TIME"),
    record_access.ResponseCode: (
        1,
        (
            "SUCCESS OP_CODE_NOT_SUPPORTED INVALID_OPERATOR OPERATOR_NOT_SUPPORTED INVALID_OPERAND NO_RECORDS_FOUND "
            "ABORT_UNSUCCESSFUL PROCEDURE_NOT_COMPLETED OPERAND_NOT_SUPPORTED"
        ),
    ),
}
BITS: dict[type[IntFlag], tuple[int, str]] = {
    glucose.GlucoseStatus: (
        0,
        (
            "DEVICE_BATTERY_LOW SENSOR_MALFUNCTION SAMPLE_SIZE_INSUFFICIENT STRIP_INSERTION_ERROR STRIP_TYPE_INCORRECT "
            "RESULT_TOO_HIGH RESULT_TOO_LOW TEMPERATURE_TOO_HIGH TEMPERATURE_TOO_LOW READ_INTERRUPTED "
            "GENERAL_DEVICE_FAULT TIME_FAULT"
        ),
    ),
    glucose.GlucoseFeature: (
        0,
        (
            "LOW_BATTERY_DETECTION SENSOR_MALFUNCTION_DETECTION SAMPLE_SIZE STRIP_INSERTION_ERROR_DETECTION "
            "STRIP_TYPE_ERROR_DETECTION RESULT_HIGH_LOW_DETECTION TEMPERATURE_HIGH_LOW_DETECTION READ_INTERRUPT_DETECTION "
            "GENERAL_DEVICE_FAULT TIME_FAULT MULTIPLE_BOND"
        ),
    ),
    cgm.CgmStatusOctet: (
        0,
        (
            "SESSION_STOPPED DEVICE_BATTERY_LOW SENSOR_TYPE_INCORRECT SENSOR_MALFUNCTION DEVICE_SPECIFIC_ALERT "
            "GENERAL_DEVICE_FAULT"
        ),
    ),
    cgm.CgmCalibrationOctet: (
        0,
        (
            "TIME_SYNCHRONIZATION_REQUIRED CALIBRATION_NOT_ALLOWED CALIBRATION_RECOMMENDED CALIBRATION_REQUIRED "
            "TEMPERATURE_TOO_HIGH TEMPERATURE_TOO_LOW CALIBRATION_PENDING"
        ),
    ),
    cgm.CgmWarningOctet: (
        0,
        (
            "BELOW_PATIENT_LOW ABOVE_PATIENT_HIGH BELOW_HYPO ABOVE_HYPER RATE_OF_DECREASE_EXCEEDED "
            "RATE_OF_INCREASE_EXCEEDED RESULT_TOO_LOW RESULT_TOO_HIGH"
        ),
    ),
    cgm.CgmFeatureBit: (
        0,
        (
            "CALIBRATION PATIENT_HIGH_LOW_ALERTS HYPO_ALERTS HYPER_ALERTS RATE_ALERTS DEVICE_SPECIFIC_ALERT "
            "SENSOR_MALFUNCTION_DETECTION TEMPERATURE_HIGH_LOW_DETECTION RESULT_HIGH_LOW_DETECTION LOW_BATTERY_DETECTION "
            "SENSOR_TYPE_ERROR_DETECTION GENERAL_DEVICE_FAULT E2E_CRC MULTIPLE_BOND MULTIPLE_SESSIONS TREND_INFORMATION "
            "QUALITY"
        ),
    ),
    blood_pressure.PressureStatus: (
        0,
        "BODY_MOVEMENT CUFF_TOO_LOOSE IRREGULAR_PULSE PULSE_RATE_ABOVE_LIMIT PULSE_RATE_BELOW_LIMIT IMPROPER_POSITION",
    ),
    oximeter.OximeterStatus: (
        5,
        (
            "MEASUREMENT_ONGOING EARLY_ESTIMATE VALIDATED FULLY_QUALIFIED FROM_STORAGE FOR_DEMONSTRATION FOR_TESTING "
            "CALIBRATION_ONGOING MEASUREMENT_UNAVAILABLE QUESTIONABLE INVALID"
        ),
    ),
    oximeter.SensorStatus: (
        0,
        (
            "EXTENDED_DISPLAY_UPDATE EQUIPMENT_MALFUNCTION SIGNAL_PROCESSING_IRREGULARITY INADEQUATE_SIGNAL POOR_SIGNAL "
            "LOW_PERFUSION ERRATIC_SIGNAL NONPULSATILE_SIGNAL QUESTIONABLE_PULSE SIGNAL_ANALYSIS_ONGOING "
            "SENSOR_INTERFERENCE SENSOR_UNCONNECTED_TO_USER UNKNOWN_SENSOR SENSOR_DISPLACED SENSOR_MALFUNCTION "
            "SENSOR_DISCONNECTED"
        ),
    ),
    clock.AdjustReason: (0, "MANUAL EXTERNAL_REFERENCE TIME_ZONE DST"),
    pillbox.PillBoxFeatureBit: (0, "COUNTS_PILLS REMINDER SCHEDULE"),
    pillbox.Signal: (0, "LIGHT SOUND VIBRATION"),
}


@pytest.mark.parametrize("names", NUMBERS, ids=lambda names: names.__name__)
def test_numbers(names: type[IntEnum]) -> None:
    first, words = NUMBERS[names]
    assert {member.name: member.value for member in names} == {
        word: number for number, word in enumerate(words.split(), first)
    }


@pytest.mark.parametrize("names", BITS, ids=lambda names: names.__name__)
def test_bits(names: type[IntFlag]) -> None:
    first, words = BITS[names]
    assert {member.name: member.value for member in names} == {
        word: 1 << place for place, word in enumerate(words.split(), first)
    }


def test_sample_locations_and_log_types() -> None:
    assert [location.value for location in glucose.SampleLocation] == [1, 2, 3, 4, 5, 15]
    assert [kind.value for kind in pillbox.LogType] == [1, 2, 3, 4, 5, 6, 7, 64, 65]
