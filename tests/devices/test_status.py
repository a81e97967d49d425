"""Status, receipts and commands."""

import json
from typing import Any

import pytest

from devices.errors import PayloadError
from devices.receipts import decode_receipt, encode_command, encode_receipt
from devices.status import Status, decode_status, encode_status
from devices.vocabulary import CommandType, Reason
from tests.devices.vectors import to_cbor, to_json

GOOD: list[tuple[dict[str, Any], Status]] = [
    ({"online": False}, Status(online=False)),
    (
        {"online": True, "battery": 87, "firmware": "1.4.2", "clock": 1763770000123},
        Status(online=True, battery=87.0, firmware="1.4.2", clock=1763770000123),
    ),
    ({"online": True, "battery": None, "spare": [1]}, Status(online=True)),
    ({"online": True, "battery": 0.5}, Status(online=True, battery=0.5)),
]
BAD: list[Any] = [
    {},
    {"online": 1},
    {"online": "true"},
    {"online": None},
    {"online": True, "battery": 101},
    {"online": True, "battery": -1},
    {"online": True, "battery": True},
    {"online": True, "battery": "87"},
    {"online": True, "firmware": ""},
    {"online": True, "firmware": "x" * 65},
    {"online": True, "firmware": "1\0"},
    {"online": True, "firmware": "1\n"},
    {"online": True, "firmware": 1.4},
    {"online": True, "clock": 1.0},
    {"online": True, "clock": -1},
    {"online": True, "clock": 2**63},
    [],
]


@pytest.mark.parametrize("encode", [to_json, to_cbor])
@pytest.mark.parametrize(("message", "status"), GOOD, ids=str)
def test_good_status(message: dict[str, Any], status: Status, encode: Any) -> None:
    assert decode_status(encode(message)) == status
    assert decode_status(encode_status(status), "application/json") == status


@pytest.mark.parametrize("encode", [to_json, to_cbor])
@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_status(message: Any, encode: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_status(encode(message))
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("payload", [b"", b"?", b'{"online":true', to_cbor({"online": True})[:-1]])
def test_bytes_that_are_no_status(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_status(payload)


def test_not_a_number_is_no_battery() -> None:
    with pytest.raises(PayloadError):
        decode_status(to_cbor({"online": True, "battery": float("nan")}))


def test_status_that_is_too_large() -> None:
    with pytest.raises(PayloadError) as caught:
        decode_status(to_json({"online": True}).ljust(64 * 1024 + 1))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("seq", [0, 1042, 2**63 - 1])
def test_receipt(seq: int) -> None:
    assert encode_receipt(seq) == b'{"seq":%d}' % seq
    assert decode_receipt(encode_receipt(seq)) == seq


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"seq":-1}', b'{"seq":1.0}', b'{"seq":"1"}', b"[" * 5000])
def test_bytes_that_are_no_receipt(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_receipt(payload)


def test_command() -> None:
    payload = encode_command("12", CommandType.SET_CLOCK, {"now": 5, "id": "forged", "type": "forged"})
    assert json.loads(payload) == {"id": "12", "type": "set_clock", "now": 5}
    assert json.loads(encode_command("13", CommandType.REMIND)) == {"id": "13", "type": "remind"}
