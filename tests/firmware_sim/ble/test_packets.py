"""The bytes of simulated devices against packets worked out by hand from the specifications."""

import pytest

from firmware_sim.ble.packets import (
    blood_pressure,
    calendar_ms,
    cgm_measurement,
    continuous_oximetry,
    crc_holds,
    current_time,
    date_time,
    e2e_crc,
    float32,
    glucose_context,
    glucose_measurement,
    heart_rate,
    sfloat,
    spot_check,
    temperature,
    weight,
    with_crc,
)
from firmware_sim.ble.pillbox import log_entry
from firmware_sim.ble.wristband import RR_A_PACKET

NINE = 1_772_355_600_000
"""2026-03-01T09:00:00, a Sunday."""
STAMP = date_time(NINE)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (sfloat(114), "7200"),
        (sfloat(114, -1), "72f0"),
        (sfloat(2, 1), "0210"),
        (sfloat(-1234), "2e0b"),
        (float32(364, -1), "6c0100ff"),
        (float32(-5, 2), "fbffff02"),
        (STAMP, "ea070301090000"),
        (current_time(NINE + 500), "ea070301090000078000"),
        (heart_rate(60, rr_1024=(1003, 1034)), "163ceb030a04"),
        (heart_rate(300), "072c01"),
        (heart_rate(0, contact=False), "0400"),
        (cgm_measurement(sfloat(120), 30), "060078001e00"),
        (cgm_measurement(sfloat(12, 1), 6, crc=True), "08000c100600596f"),
        (cgm_measurement(sfloat(142), 15, status=0x050003), "08a08e000f000305"),
        (cgm_measurement(sfloat(145), 30, trend=sfloat(9)), "080191001e000900"),
        (
            glucose_measurement(7, STAMP, sfloat(114, -5), molar=False, offset_minutes=None, context=False),
            "020700ea07030109000072b011",
        ),
        (
            glucose_measurement(8, STAMP, sfloat(54, -4), molar=True, offset_minutes=-60, context=True),
            "170800ea070301090000c4ff36c011",
        ),
        (glucose_context(8, 4), "02080004"),
        (
            blood_pressure(sfloat(120), sfloat(80), sfloat(93), kpa=False, stamp=STAMP, pulse=sfloat(72)),
            "06780050005d00ea0703010900004800",
        ),
        (
            blood_pressure(sfloat(160, -1), sfloat(107, -1), sfloat(124, -1), kpa=True, stamp=b"", pulse=b""),
            "01a0f06bf07cf0",
        ),
        (temperature(float32(366, -1), fahrenheit=False, stamp=STAMP, site=6), "066e0100ffea07030109000006"),
        (temperature(float32(986, -1), fahrenheit=True, stamp=b"", site=None), "01da0300ff"),
        (weight(14_000, pounds=False, stamp=STAMP), "02b036ea070301090000"),
        (weight(15_700, pounds=True, stamp=b""), "01543d"),
        (spot_check(sfloat(97), sfloat(72), stamp=STAMP), "0161004800ea070301090000"),
        (continuous_oximetry(sfloat(97), sfloat(72)), "0061004800"),
        (log_entry(42, NINE + 1_815_000, 3, 2, 2), "2a00000058f0bba89c01000003020200bac1"),
        (log_entry(43, 0, 64), "2b00000000000000000000004000000005c7"),
        (log_entry(44, 946_684_800_000, 65), "2c00000000accf6adc00000041000000a19e"),
        (log_entry(13, NINE, 3, 2, 1)[:-2], "0d000000803ea0a89c01000003020100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bytes(packet: bytes, expected: str) -> None:
    assert packet.hex() == expected


def test_the_crc_is_that_of_the_specification() -> None:
    assert e2e_crc(b"123456789") == 0x6F91
    assert with_crc(bytes.fromhex("0fe378001e0001020350006000"))[-2:].hex() == "ecac"
    sealed = with_crc(b"abc")
    assert crc_holds(sealed)
    assert not any(crc_holds(sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]) for i in range(len(sealed)))
    assert not crc_holds(b"")


@pytest.mark.parametrize("number", [(2046, 0), (-2046, 0), (1, 8), (1, -9)])
def test_what_has_no_room_in_an_sfloat_is_refused(number: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no SFLOAT"):
        sfloat(*number)


def test_what_has_no_room_in_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="no FLOAT"):
        float32(8_388_606)


def test_times_are_read_back() -> None:
    assert calendar_ms(date_time(NINE + 999)) == NINE
    for packet in (bytes(7), b"", bytes.fromhex("ea07021e090000")):
        with pytest.raises(ValueError, match=r"7 bytes|year|day|month"):
            calendar_ms(packet)


def test_every_log_entry_fits_the_smallest_mtu() -> None:
    entry = log_entry(2**32 - 1, 2**63, 65, 255, 255)
    assert len(entry) == 18 <= 23 - 3
    assert crc_holds(entry)
    assert len(heart_rate(60, rr_1024=[1000] * RR_A_PACKET)) <= 23 - 3
