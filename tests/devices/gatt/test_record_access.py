"""Record Access Control Point: requests there and back, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PacketError
from devices.gatt.record_access import (
    OpCode,
    Operator,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
)

REPORT, DELETE, COUNT = (
    OpCode.REPORT_STORED_RECORDS, OpCode.DELETE_STORED_RECORDS, OpCode.REPORT_NUMBER_OF_STORED_RECORDS,
)  # fmt: skip
FROM, UP_TO, RANGE = (
    Operator.GREATER_THAN_OR_EQUAL_TO, Operator.LESS_THAN_OR_EQUAL_TO, Operator.WITHIN_RANGE_OF,
)  # fmt: skip


@pytest.mark.parametrize(
    ("octets", "code", "operator", "keys"),
    [
        ("0101", REPORT, Operator.ALL_RECORDS, ()),
        ("0105", REPORT, Operator.FIRST_RECORD, ()),
        ("0106", REPORT, Operator.LAST_RECORD, ()),
        ("0103010f00", REPORT, FROM, (15,)),
        ("010401 0a00 ff00", REPORT, RANGE, (10, 255)),
        ("020201 e803", DELETE, UP_TO, (1000,)),
        ("0401", COUNT, Operator.ALL_RECORDS, ()),
        ("0300", OpCode.ABORT_OPERATION, Operator.NULL, ()),
    ],
)
def test_requests(octets: str, code: OpCode, operator: Operator, keys: tuple[int, ...]) -> None:
    assert encode_request(code, operator, *keys) == bytes.fromhex(octets)
    assert decode_request(bytes.fromhex(octets)) == Request(code, operator, keys)


@given(st.sampled_from([REPORT, DELETE, COUNT]), st.sampled_from([2, 4]), st.data())
def test_any_request_there_and_back(code: OpCode, key_size: int, data: st.DataObject) -> None:
    operator, needed = data.draw(st.sampled_from([(FROM, 1), (UP_TO, 1), (RANGE, 2), (Operator.ALL_RECORDS, 0)]))
    keys = data.draw(st.tuples(*[st.integers(0, 256**key_size - 1)] * needed))
    octets = encode_request(code, operator, *keys, key_size=key_size)
    assert len(octets) == 2 + (1 + needed * key_size if needed else 0)
    assert decode_request(octets, key_size=key_size) == Request(code, operator, keys)


@pytest.mark.parametrize(("operator", "keys"), [(FROM, ()), (RANGE, (1,)), (Operator.ALL_RECORDS, (1,))])
def test_as_many_keys_as_the_operator_needs(operator: Operator, keys: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="keys"):
        encode_request(REPORT, operator, *keys)


def test_a_key_has_to_fit() -> None:
    with pytest.raises(OverflowError):
        encode_request(REPORT, FROM, 65_536)
    with pytest.raises(OverflowError):
        encode_request(REPORT, FROM, -1, key_size=4)


@pytest.mark.parametrize(
    "octets", ["", "01", "0001", "0501", "0601", "0701", "0107", "010302ea070301091e0f", "01010000"]
)
def test_no_request(octets: str) -> None:
    with pytest.raises(PacketError):
        decode_request(bytes.fromhex(octets))


@pytest.mark.parametrize(
    ("octets", "response"),
    [
        ("06000101", Response(request=1, code=1)),
        ("0600ffff", Response(request=255, code=255)),
        ("05000000", Response(count=0)),
        ("0500ffff", Response(count=65_535)),
    ],
)
def test_responses(octets: str, response: Response) -> None:
    assert decode_response(bytes.fromhex(octets)) == response


@pytest.mark.parametrize("octets", ["", "06", "060001", "0600010100", "06010101", "050000", "050000000000", "01010101"])
def test_no_response(octets: str) -> None:
    with pytest.raises(PacketError):
        decode_response(bytes.fromhex(octets))


def test_a_count_is_as_wide_as_a_key() -> None:
    assert decode_response(bytes.fromhex("0500ffffffff"), key_size=4) == Response(count=2**32 - 1)
    with pytest.raises(PacketError):
        decode_response(bytes.fromhex("05000100"), key_size=4)
