"""Noise and good packets that were damaged: a value or a `PacketError` with a sentence, nothing else."""

import random
from collections.abc import Iterator

import pytest

from devices.errors import PacketError
from devices.gatt.crc import with_crc
from devices.gatt.information import decode_text
from tests.devices.gatt.vectors import VECTORS, Decoder

DECODERS: list[Decoder] = [decode_text, *dict.fromkeys(vector.decode for vector in VECTORS)]
PACKETS = [vector.packet for vector in VECTORS]


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 2, 4, 7, 9, 10, 12, 18, 20, 244)))


def damaged(chance: random.Random, packet: bytes) -> bytes:
    octets = bytearray(packet)
    for _ in range(chance.randint(1, 3)):
        where = chance.randrange(len(octets) + 1)
        match chance.randrange(4):
            case 0:
                del octets[where:]
            case 1:
                octets[where:where] = chance.randbytes(chance.randint(1, 3))
            case _ if where < len(octets):
                octets[where] = chance.choice((0, 0x7F, 0x80, 0xFF, octets[where] ^ 1 << chance.randrange(8)))
    return bytes(octets)


def with_new_crc(chance: random.Random, packet: bytes) -> bytes:
    """Damaged before its checksum was made: that does not help against it."""
    body = damaged(chance, packet[:-2])
    if chance.random() < 0.5:
        body = bytes((len(body) + 2 & 0xFF,)) + body[1:]  # a record of CGM begins with its size
    return with_crc(body)


def packets(count: int, seed: int) -> Iterator[tuple[Decoder, bytes]]:
    chance = random.Random(seed)
    for number in range(count):
        vector = VECTORS[number % len(VECTORS)]
        match chance.randrange(4):
            case 0:
                yield chance.choice(DECODERS), noise(chance)
            case 1:
                yield chance.choice(DECODERS), damaged(chance, chance.choice(PACKETS))
            case 2:
                yield vector.decode, with_new_crc(chance, vector.packet)
            case _:
                yield vector.decode, damaged(chance, vector.packet)


def swallow(decode: Decoder, packet: bytes) -> bool:
    """Tell whether the packet was taken."""
    try:
        value = decode(packet)
    except PacketError as error:
        value = error
    if isinstance(value, PacketError):
        assert value.detail.isprintable()
        assert 0 < len(value.detail) < 200
        return False
    for derived in ("user_time", "utc_offset", "rr_intervals_ms", "e2e_crc"):
        getattr(value, derived, None)
    hash(value)
    return True


def run(count: int, seed: int) -> None:
    taken = dict.fromkeys(DECODERS, 0)
    refused = dict.fromkeys(DECODERS, 0)
    for decode, packet in packets(count, seed):
        (taken if swallow(decode, packet) else refused)[decode] += 1
    # Otherwise the noise would only have knocked at the door.
    assert min(taken.values()) > count / 5000
    assert min(refused.values()) > count / 5000


def test_a_hundred_thousand_packets() -> None:
    run(100_000, seed=1)


@pytest.mark.soak
def test_five_million_packets() -> None:
    run(5_000_000, seed=2)
