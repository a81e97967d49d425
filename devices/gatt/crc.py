"""E2E-CRC: the checksum at the end of values of Continuous Glucose Monitoring and of our pill-box service.

CGMS 1.0.2, 3.11: polynomial x^16 + x^12 + x^5 + 1, least significant bit first, start value 0xFFFF, nothing inverted at
the end; catalogued as CRC-16/MCRF4XX, check value 0x6F91. It is in the last two octets, low octet first.
"""

from typing import Final

from devices.errors import PacketError

CRC_SIZE: Final = 2
_REVERSED_POLYNOMIAL: Final = 0x8408


def _of_octet(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (_REVERSED_POLYNOMIAL if octet & 1 else 0)
    return octet


_TABLE: Final = tuple(map(_of_octet, range(256)))


def crc16(octets: bytes) -> int:
    """Return the E2E-CRC of some octets."""
    crc = 0xFFFF
    for octet in octets:
        crc = crc >> 8 ^ _TABLE[(crc ^ octet) & 0xFF]
    return crc


def with_crc(octets: bytes) -> bytes:
    """Return the octets followed by their E2E-CRC."""
    return octets + crc16(octets).to_bytes(CRC_SIZE, "little")


def without_crc(packet: bytes, name: str) -> bytes:
    """Return the octets before the E2E-CRC; `name` is for the error message.

    Raises:
        PacketError: the E2E-CRC is wrong, or missing.
    """
    octets, crc = packet[:-CRC_SIZE], packet[-CRC_SIZE:]
    if len(crc) < CRC_SIZE or int.from_bytes(crc, "little") != crc16(octets):
        raise PacketError(f"{name}: the E2E-CRC does not fit, or is missing")
    return octets
