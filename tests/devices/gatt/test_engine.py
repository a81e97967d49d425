"""The engine's own promises: no memory to be bought, text, speed."""

from dataclasses import FrozenInstanceError

import pytest

from devices.errors import PacketError
from devices.gatt.battery import decode_battery_level
from devices.gatt.fields import UINT8, UINT16, Field, Layout, Says, bits
from devices.gatt.heart_rate import decode_heart_rate_measurement
from devices.gatt.information import decode_text
from devices.gatt.oximeter import SensorStatus, decode_spot_check
from gateway.runtime.clock import cpu_seconds


def test_a_table() -> None:
    table: Layout[dict[str, object]] = Layout(
        "table", dict,
        Field("narrow", UINT8, unless=0x01), Field("wide", UINT16, given=0x01),
        Says("both", value=True, given=0x03), Field("rest", UINT16, given=0x04, repeated=True),
    )  # fmt: skip
    assert table.decode(bytes.fromhex("00 07")) == {"narrow": 7}
    assert table.decode(bytes.fromhex("03 0701")) == {"wide": 263, "both": True}
    assert table.decode(bytes.fromhex("04 07 0100 0200")) == {"narrow": 7, "rest": (1, 2)}
    for wrong in ("", "00", "01 07", "00 07 08", "04 07 01"):
        with pytest.raises(PacketError, match="table: "):
            table.decode(bytes.fromhex(wrong))


def test_wide_words_of_flags_cannot_be_tables_of_names() -> None:
    with pytest.raises(ValueError, match="more than 12 bits"):
        bits(SensorStatus, "H")


def test_a_peer_that_counts_through_a_status_word_buys_no_memory() -> None:
    seen = {decode_spot_check(b"\x02" + bytes(4) + word.to_bytes(2, "little")).status for word in range(0x10000)}
    assert len(seen) == 2**11


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        decode_heart_rate_measurement(b"\0\x48").rate = 1  # type: ignore[misc]


def test_battery_levels() -> None:
    assert [decode_battery_level(bytes((level,))) for level in range(101)] == list(range(101))
    for octets in (b"", b"\x65", b"\xff", b"\x32\x00"):
        with pytest.raises(PacketError):
            decode_battery_level(octets)


def test_text() -> None:
    assert decode_text("Grün 2.1".encode()) == "Grün 2.1"
    assert decode_text(b"padded\0\0\0") == "padded"
    assert not decode_text(b"")
    for octets in (b"\xff\xfe", b"a\0b", b"line\n", b"\x1b[2J", b"x" * 513):
        with pytest.raises(PacketError):
            decode_text(octets)


def test_a_heart_rate_takes_less_than_ten_microseconds() -> None:
    packet = bytes.fromhex("16 48 5401 ec02")
    rounds = []
    for _ in range(10):
        began = cpu_seconds()
        for _ in range(2000):
            decode_heart_rate_measurement(packet)
        rounds.append((cpu_seconds() - began) / 2000)
    assert min(rounds) < 10e-6
