"""Bytes made to hurt: bombs, random noise, mutations. Refusals or rows come out, quickly, and never an exception."""

import contextlib
import random
import struct
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.errors import PayloadError
from devices.payload import load_cbor
from devices.status import decode_status
from devices.vocabulary import MAX_PAYLOAD_BYTES, Reason
from gateway.runtime.clock import cpu_seconds
from tests.devices.vectors import AT, RELAXED, STORED, decode, decode_events, glucose, refused_of, to_cbor, to_json


def declared(major: int, length: int) -> bytes:
    return bytes([major << 5 | 27]) + struct.pack(">Q", length)


FULL = MAX_PAYLOAD_BYTES - 100
BOMBS = {
    "huge array": declared(4, 2**40),
    "hugest array": declared(4, 2**64 - 1),
    "huge map": declared(5, 2**40),
    "hugest map": declared(5, 2**64 - 1),
    "huge text": declared(3, 2**40),
    "hugest bytes": declared(2, 2**64 - 1),
    "arrays in arrays": b"\x81" * FULL,
    "huge arrays in arrays": declared(4, 2**31) * 7000,
    "maps in maps": b"\xa1\x61a" * 20_000,
    "tags on tags": b"\xc6" * FULL + b"\x01",
    "big number": b"\xc2\x59\xff\x00" + b"\xff" * 0xFF00,
    "decimal with a giant exponent": b"\xc4\x82\x1a\x7f\xff\xff\xff\x01",
    "rational": b"\xd8\x1e\x82\x01\x00",
    "regular expression": b"\xd8\x23\x67(a+)+$b",
    "shared reference to itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "string references": b"\xd9\x01\x00\x80",
    "self-described": b"\xd9\xd9\xf7\xa0",
    "unknown tag": b"\xda\x12\x34\x56\x78\x00",
    "endless array": b"\x9f" + b"\x00" * 1000,
    "endless map": b"\xbf\xff",
    "text in pieces": b"\x7f" + b"\x60" * FULL,
    "repeated key": b"\xa2\x61a\x01\x61a\x02",
    "repeated key, longer length": b"\xa2\x61a\x01\x78\x01a\x02",
    "number as key": b"\xa1\x01\x02",
    "array as key": b"\xa1\x80\x02",
    "NaN as key": b"\xa1\xf9\x7e\x00\x02",
    "reserved length": b"\x1c",
    "reserved simple value": b"\xf8\x05",
    "break alone": b"\xff",
    "text that is no UTF-8": b"\x61\xff",
    "nothing": b"",
    "two items": b"\xa0\xa0",
}


@pytest.mark.parametrize("where", ["alone", "in an unknown key"])
@pytest.mark.parametrize("name", BOMBS)
def test_cbor_bomb(name: str, where: str) -> None:
    payload = BOMBS[name] if where == "alone" else b"\xa1\x61z" + BOMBS[name]
    tracemalloc.start()
    began = cpu_seconds()
    try:
        with pytest.raises(PayloadError) as caught:
            load_cbor(payload)
        assert cpu_seconds() - began < 0.5
        assert tracemalloc.get_traced_memory()[1] < 64 * MAX_PAYLOAD_BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.detail.isprintable()
    assert refused_of(decode(payload, content_type="application/cbor")) == {Reason.MALFORMED: None}


@pytest.mark.parametrize(
    "payload",
    [
        b"{" * FULL,
        b'{"a":' + b"[" * FULL,
        b'{"a":' + b"[" * (FULL // 2) + b"]" * (FULL // 2) + b"}",
        b'{"observations":' + b"[" * FULL,
        b'{"observations":[' + b'{"a":' * 10_000,
        b'{"observations":[' + b"0," * 30_000 + b"0]}",
        b'{"observations":[{"code":"' + b"x" * FULL,
        b'{"seq":' + b"9" * FULL + b"}",
        b'{"a":"\\ud800","observations":[]}',
        b'{"seq":1,"observations":[],"device":"\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"observations":[{"code":"\xff\xfe","unit":"\xff","at":1,"value":1}],"seq":"\xff"}',
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_json_bomb(payload: bytes) -> None:
    began = cpu_seconds()
    for decoder in (decode, decode_events):
        assert set(refused_of(decoder(payload)).values()) == {None}
    assert cpu_seconds() - began < 0.5


def test_text_that_is_no_utf8_refuses_its_series_alone() -> None:
    payload = to_json({"observations": [glucose(5.0), glucose(5.0, "?")]}).replace(b"?", b"\xff")
    batch = decode(payload)
    assert len(batch) == 1
    assert refused_of(batch) == {Reason.MALFORMED: (1,)}


def swallow(payload: bytes, content_type: str | None = None) -> None:
    """Every decoder takes the bytes, and every sentence can be stored."""
    for batch in (decode(payload, content_type=content_type), decode_events(payload, content_type=content_type)):
        for refusal in batch.refusals:
            assert refusal.detail
            assert refusal.detail.isprintable()
    with contextlib.suppress(PayloadError):
        decode_status(payload, content_type)


CONTENT_TYPES = st.sampled_from([None, "application/json", "application/cbor"])


@RELAXED
@given(st.binary(max_size=300), CONTENT_TYPES)
def test_any_bytes(payload: bytes, content_type: str | None) -> None:
    swallow(payload, content_type)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["code", "unit", "at", "value", "values", "period_ms", "flags", "type", "compartment", "count", "id", "ok"]
)
THING = st.dictionaries(WORDS, ANYTHING | st.sampled_from(["glucose", "mmol/L", "tamper", AT, 5.0]), max_size=7)


@RELAXED
@given(st.fixed_dictionaries({}, optional={
    "seq": ANYTHING, "sent_at": ANYTHING, "oldest": ANYTHING, "device": ANYTHING, "online": ANYTHING,
    "observations": st.lists(THING | ANYTHING, max_size=5) | ANYTHING, "events": st.lists(THING, max_size=5) | ANYTHING,
}))  # fmt: skip
def test_any_objects(message: dict[str, Any]) -> None:
    swallow(cbor2.dumps(message))
    try:
        text = to_json(message)
    except TypeError:  # bytes in it: JSON cannot say them
        return
    swallow(text)


@settings(RELAXED, max_examples=300)
@given(st.sampled_from(STORED), st.booleans(), st.data())
def test_any_mutation(vector: Any, cbor: bool, data: st.DataObject) -> None:  # noqa: FBT001
    payload = bytearray(to_cbor(vector.message) if cbor else to_json(vector.message))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    swallow(bytes(payload))


def noise(count: int) -> None:
    chance = random.Random(7)
    for _ in range(count // 500):
        payloads = [
            chance.choice((b"", b"{", b'{"observations":', b"\xa1", b"\xa1\x6cobservations"))
            + chance.randbytes(chance.randrange(48))
            for _ in range(500)
        ]
        assert len(decode(*payloads)) == 0
        assert not decode_events(*payloads).events


def test_noise() -> None:
    noise(20_000)


@pytest.mark.soak
def test_much_noise() -> None:
    noise(1_000_000)
