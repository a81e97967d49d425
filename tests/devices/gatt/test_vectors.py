"""Every vector: decoded, cut at every octet, with octets behind it."""

import pytest

from devices.errors import PacketError
from tests.devices.gatt.vectors import VECTORS, Vector

EACH = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


@EACH
def test_a_packet_says_what_it_says(vector: Vector) -> None:
    assert vector.decode(vector.packet) == vector.expected
    assert vector.decode(bytearray(vector.packet)) == vector.expected  # type: ignore[arg-type]  # as radios hand it over


@EACH
def test_a_cut_packet_is_refused(vector: Vector) -> None:
    for length in range(len(vector.packet)):
        if length in vector.still_good:
            assert vector.decode(vector.packet[:length]) != vector.expected
        else:
            with pytest.raises(PacketError):
                vector.decode(vector.packet[:length])


@EACH
@pytest.mark.parametrize("surplus", [b"\0", b"\xff", b"\x06"])
def test_a_surplus_octet_is_refused(vector: Vector, surplus: bytes) -> None:
    with pytest.raises(PacketError):
        vector.decode(vector.packet + surplus)


@EACH
def test_a_packet_longer_than_a_value_can_be_is_refused(vector: Vector) -> None:
    with pytest.raises(PacketError):
        vector.decode(vector.packet + bytes(2 * 512))


def test_names_differ() -> None:
    assert len({vector.name for vector in VECTORS}) == len(VECTORS)
