"""Continuous glucose: sizes and checksums of records, where a session stands to UTC."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PacketError
from devices.gatt.cgm import (
    SessionStartTime,
    decode_cgm_feature,
    decode_cgm_measurements,
    decode_session_start_time,
    encode_session_start_time,
)
from devices.gatt.crc import with_crc
from tests.devices.gatt.vectors import wall

GOOD = bytes.fromhex("060078001e00")


@pytest.mark.parametrize("size", [0, 1, 5, 7, 0xFF])
@pytest.mark.parametrize("before", [b"", GOOD])
def test_a_wrong_size_comes_to_an_end(size: int, before: bytes) -> None:
    with pytest.raises(PacketError, match="record of"):
        decode_cgm_measurements(before + bytes((size,)) + GOOD[1:], crc=False)


def test_octets_that_no_flag_announces_are_refused() -> None:
    with pytest.raises(PacketError):
        decode_cgm_measurements(bytes.fromhex("0800 78001e00 0000"), crc=False)


@pytest.mark.parametrize(
    "packet",
    [
        GOOD,  # missing
        bytes.fromhex("08000c100600586f"),  # 59 6f would be right
        with_crc(b"\x08" + GOOD[1:]) + GOOD,
        with_crc(b"\x08" + GOOD[1:])[:-1] + b"\0",
    ],
)
def test_a_promised_crc_is_missing_or_wrong(packet: bytes) -> None:
    with pytest.raises(PacketError, match="E2E-CRC"):
        decode_cgm_measurements(packet, crc=True)


def test_a_crc_without_a_promise_is_refused() -> None:
    packet = with_crc(b"\x08" + GOOD[1:])
    assert len(decode_cgm_measurements(packet + packet, crc=True)) == 2
    with pytest.raises(PacketError, match="announce"):
        decode_cgm_measurements(packet, crc=False)


def test_more_than_a_value_holds_is_refused() -> None:
    full = GOOD * 84 + bytes.fromhex("080178001e000000")
    assert len(full) == 512
    assert len(decode_cgm_measurements(full, crc=False)) == 85
    with pytest.raises(PacketError, match="at most"):
        decode_cgm_measurements(GOOD * 86, crc=False)


def test_a_feature_s_own_crc_counts_if_there_are_any() -> None:
    assert not decode_cgm_feature(bytes.fromhex("000000 59 0000")).e2e_crc
    assert decode_cgm_feature(with_crc(bytes.fromhex("001000 59"))).e2e_crc
    with pytest.raises(PacketError, match="E2E-CRC"):
        decode_cgm_feature(bytes.fromhex("001000 59 ffff"))


ZONES = st.none() | st.integers(-48, 56).map(lambda quarters: timedelta(minutes=15 * quarters))
DST = st.sampled_from([None, timedelta(0), timedelta(minutes=30), timedelta(hours=1), timedelta(hours=2)])
TIMES = st.none() | st.datetimes(wall(1582, 1, 1), wall(9999, 12, 31)).map(lambda time: time.replace(microsecond=0))


@given(st.builds(SessionStartTime, TIMES, ZONES, DST), st.booleans())
def test_a_session_start_there_and_back(start: SessionStartTime, crc: bool) -> None:  # noqa: FBT001
    octets = encode_session_start_time(start, crc=crc)
    assert len(octets) == (11 if crc else 9)
    assert decode_session_start_time(octets, crc=crc) == start
    with pytest.raises(PacketError):
        decode_session_start_time(octets, crc=not crc)


def test_where_a_session_stands_to_utc() -> None:
    hour = timedelta(hours=1)
    assert SessionStartTime(None, -5 * hour, hour).utc_offset == -4 * hour
    assert SessionStartTime(None, None, hour).utc_offset is None
    assert SessionStartTime(None, hour, None).utc_offset is None


@pytest.mark.parametrize("quarters", [-48, 56])
def test_zones_at_the_edge(quarters: int) -> None:
    start = SessionStartTime(wall(2026, 3, 1), timedelta(minutes=15 * quarters), timedelta(0))
    assert decode_session_start_time(encode_session_start_time(start, crc=False), crc=False) == start


@pytest.mark.parametrize("zone_and_dst", ["39 00", "cf 00", "00 01", "00 fe"])
def test_no_zone(zone_and_dst: str) -> None:
    with pytest.raises(PacketError, match="quarters"):
        decode_session_start_time(bytes.fromhex("ea070301091e0f" + zone_and_dst), crc=False)
