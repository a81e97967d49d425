"""E2E-CRC: the catalogue's check value, a sensor's packet, and a register that shifts bit by bit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PacketError
from devices.gatt.crc import crc16, with_crc, without_crc


def register(octets: bytes) -> int:
    """As the specification draws it: bits enter the lowest first, feedback at x^0, x^5 and x^12."""
    bits = [1] * 16  # bits[0] holds x^15
    for octet in octets:
        for place in range(8):
            feedback = bits[0] ^ (octet >> place & 1)
            bits = [*bits[1:], feedback]
            bits[15 - 5] ^= feedback
            bits[15 - 12] ^= feedback
    return sum(bit << place for place, bit in enumerate(bits))


def test_the_check_value() -> None:
    assert crc16(b"123456789") == register(b"123456789") == 0x6F91
    assert crc16(b"") == 0xFFFF


def test_a_packet_of_another_implementation() -> None:
    record = bytes.fromhex("0fe378001e0001020350006000")
    assert with_crc(record) == record + bytes.fromhex("ecac")


@given(st.binary(max_size=64))
def test_it_is_the_register(octets: bytes) -> None:
    assert crc16(octets) == register(octets)
    assert without_crc(with_crc(octets), "any") == octets


@given(st.binary(min_size=1, max_size=32), st.data())
def test_every_burst_of_sixteen_bits_is_noticed(octets: bytes, data: st.DataObject) -> None:
    packet = int.from_bytes(with_crc(octets), "little")
    size = len(octets) + 2
    burst = data.draw(st.integers(1, 0xFFFF)) << data.draw(st.integers(0, 8 * size - 16))
    with pytest.raises(PacketError, match="E2E-CRC"):
        without_crc((packet ^ burst).to_bytes(size, "little"), "any")


@pytest.mark.parametrize("packet", [b"", b"\xff", b"\xff\xfe"])
def test_no_room_for_it_or_wrong(packet: bytes) -> None:
    with pytest.raises(PacketError):
        without_crc(packet, "any")
