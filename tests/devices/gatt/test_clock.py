"""Times: there and back, not known, and no times at all."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PacketError
from devices.gatt.clock import (
    AdjustReason,
    decode_current_time,
    decode_date_time,
    encode_current_time,
    encode_date_time,
)
from tests.devices.gatt.vectors import wall

TIMES = st.datetimes(min_value=wall(1582, 1, 1), max_value=wall(9999, 12, 31))


@given(TIMES)
def test_a_date_time_there_and_back(time: datetime) -> None:
    assert decode_date_time(encode_date_time(time)) == time.replace(microsecond=0)


@given(TIMES)
def test_a_current_time_there_and_back(time: datetime) -> None:
    says = decode_current_time(encode_current_time(time, AdjustReason.EXTERNAL_REFERENCE))
    assert says.time is not None
    assert timedelta(0) <= time - (says.time + timedelta(seconds=says.fractions / 256)) < timedelta(seconds=1 / 256)
    assert says.day_of_week == time.isoweekday()
    assert says.reason is AdjustReason.EXTERNAL_REFERENCE


def test_octets_of_a_current_time() -> None:
    assert encode_current_time(wall(2026, 3, 1, 9, 30, 15, 999_999)).hex() == "ea070301091e0f07ff01"


@pytest.mark.parametrize(("microsecond", "fractions"), [(0, 0), (3906, 0), (3907, 1), (500_000, 128), (996_094, 255)])
def test_fractions_of_a_second(microsecond: int, fractions: int) -> None:
    assert encode_current_time(wall(2026, 3, 1, 9, 30, 15, microsecond))[8] == fractions


def test_the_calendar_begins() -> None:
    assert decode_date_time(bytes.fromhex("2e060101000000")) == wall(1582, 1, 1)


def test_the_unknown_time() -> None:
    assert encode_date_time(None) == bytes(7)
    assert decode_date_time(bytes(7)) is None


@pytest.mark.parametrize("part", [(0, 3, 1), (2026, 0, 1), (2026, 3, 0), (0, 2, 29), (0, 12, 31)])
def test_one_unknown_part_makes_it_unknown(part: tuple[int, int, int]) -> None:
    year, month, day = part
    assert decode_date_time(year.to_bytes(2, "little") + bytes((month, day, 9, 30, 15))) is None


@pytest.mark.parametrize(
    "octets",
    [
        "ea07 0d01 000000",  # month 13
        "ea07 021d 000000",  # 29 February 2026
        "ea07 0301 180000",  # 24 o'clock
        "ea07 0301 003c00",
        "ea07 0301 00003c",
        "2d06 0301 000000",  # year 1581
        "1027 0301 000000",  # year 10000
        "0000 0020 000000",  # day 32 of a month that is not known
        "0000 0000 ff0000",
    ],
)
def test_no_time(octets: str) -> None:
    with pytest.raises(PacketError):
        decode_date_time(bytes.fromhex(octets))


def test_no_day_of_week() -> None:
    with pytest.raises(PacketError, match="day of week 8"):
        decode_current_time(bytes.fromhex("ea070301091e0f 08 00 00"))
