"""Glucose: the time that the user sees, control solution, units."""

from datetime import datetime
from decimal import Decimal

import pytest

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.glucose import Sample, decode_glucose_measurement
from devices.vocabulary import Unit
from tests.devices.gatt.vectors import wall


@pytest.mark.parametrize(
    ("flags", "base", "offset", "user_time"),
    [
        ("00", "ea070301091e0f", "", wall(2026, 3, 1, 9, 30, 15)),
        ("01", "ea070301091e0f", "3c00", wall(2026, 3, 1, 10, 30, 15)),
        ("01", "ea070301091e0f", "a0fd", wall(2026, 2, 28, 23, 22, 15)),
        ("01", "ea070301091e0f", "ff7f", None),  # overrun
        ("01", "ea070301091e0f", "0080", None),  # underrun
        ("01", "00000000000000", "3c00", None),
        ("01", "0f270c1f173b3b", "0100", None),  # past the end of the calendar
    ],
)
def test_the_time_that_the_user_sees(flags: str, base: str, offset: str, user_time: datetime | None) -> None:
    measurement = decode_glucose_measurement(bytes.fromhex(f"{flags} 0100 {base} {offset}"))
    assert measurement.user_time == user_time


@pytest.mark.parametrize(
    ("octet", "control"), [(0x11, False), (0xF8, False), (0x41, True), (0x1A, True), (0x00, False), (0xA4, False)]
)
def test_control_solution_is_no_patient(octet: int, control: bool) -> None:  # noqa: FBT001
    assert Sample(octet & 0xF, octet >> 4).is_control_solution is control


@pytest.mark.parametrize(
    ("flags", "raw", "value", "unit"),
    [
        ("02", "6fb0", "111", Unit.MG_DL),
        ("02", "0170", "1E+12", Unit.MG_DL),
        ("06", "2ec0", "4.6", Unit.MMOL_L),
        ("06", "f6b1", "5.02", Unit.MMOL_L),
    ],
)
def test_units_are_exchanged_exactly(flags: str, raw: str, value: str, unit: Unit) -> None:
    measurement = decode_glucose_measurement(bytes.fromhex(f"{flags} 0100 ea070301091e0f {raw} 11"))
    assert (measurement.concentration, measurement.unit) == (Decimal(value), unit)


def test_a_base_time_that_is_none_refuses_the_measurement() -> None:
    with pytest.raises(PacketError, match="Date Time"):
        decode_glucose_measurement(bytes.fromhex("00 0100 ea07021e000000"))


def test_uuids() -> None:
    assert full_uuid(Characteristic.GLUCOSE_MEASUREMENT) == "00002a18-0000-1000-8000-00805f9b34fb"
