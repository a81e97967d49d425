"""Record Access Control Point (0x2A52): requests for stored records, and the answers.

GATT Specification Supplement, Record Access Control Point. Glucose Service 1.0.1, 3.4 and Continuous Glucose Monitoring
Service 1.0.2, 3.6 define their filters: the sequence number, and the minutes since the start of the session.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from devices.errors import PacketError

KEY_SIZE: Final = 2
"""Octets of a key and of a count in the services of the SIG."""


class OpCode(IntEnum):
    """The kinds of requests and answers."""

    REPORT_STORED_RECORDS = 1
    DELETE_STORED_RECORDS = 2
    ABORT_OPERATION = 3
    REPORT_NUMBER_OF_STORED_RECORDS = 4
    NUMBER_OF_STORED_RECORDS_RESPONSE = 5
    RESPONSE_CODE = 6


class Operator(IntEnum):
    """Which records; bounds are inclusive."""

    NULL = 0
    ALL_RECORDS = 1
    LESS_THAN_OR_EQUAL_TO = 2
    GREATER_THAN_OR_EQUAL_TO = 3
    WITHIN_RANGE_OF = 4
    FIRST_RECORD = 5
    LAST_RECORD = 6


class Filter(IntEnum):
    """The type of the operands."""

    KEY = 1
    """The sequence number; for CGM the time offset."""
    USER_FACING_TIME = 2


class ResponseCode(IntEnum):
    """How a procedure ended."""

    SUCCESS = 1
    OP_CODE_NOT_SUPPORTED = 2
    INVALID_OPERATOR = 3
    OPERATOR_NOT_SUPPORTED = 4
    INVALID_OPERAND = 5
    NO_RECORDS_FOUND = 6
    ABORT_UNSUCCESSFUL = 7
    PROCEDURE_NOT_COMPLETED = 8
    OPERAND_NOT_SUPPORTED = 9


_REQUESTS: Final = {code.value: code for code in OpCode if code < OpCode.NUMBER_OF_STORED_RECORDS_RESPONSE}
_OPERANDS: Final = {
    Operator.LESS_THAN_OR_EQUAL_TO: 1,
    Operator.GREATER_THAN_OR_EQUAL_TO: 1,
    Operator.WITHIN_RANGE_OF: 2,
}


@dataclass(frozen=True, slots=True)
class Request:
    """A procedure to start: `keys` are the bounds that the operator needs."""

    op_code: OpCode
    operator: Operator = Operator.NULL
    keys: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """The end of a procedure: `request` and `code`, or the requested `count`."""

    request: int | None = None
    """The `OpCode` that is answered; another number if the device did not understand it."""
    code: int | None = None
    """A `ResponseCode`, or a reserved number."""
    count: int | None = None
    """The number of records: the end of a successful counting procedure."""


def encode_request(op_code: OpCode, operator: Operator = Operator.NULL, *keys: int, key_size: int = KEY_SIZE) -> bytes:
    """Return a request, `keys` filtering by `Filter.KEY`.

    Raises:
        ValueError: the operator needs another number of keys.
        OverflowError: a key does not fit.
    """
    if len(keys) != _OPERANDS.get(operator, 0):
        raise ValueError(f"{operator.name} with {len(keys)} keys")
    head = bytes((op_code, operator, Filter.KEY) if keys else (op_code, operator))
    return head + b"".join(key.to_bytes(key_size, "little") for key in keys)


def decode_request(packet: bytes, *, key_size: int = KEY_SIZE) -> Request:
    """Decode a request that filters by `Filter.KEY`, or not at all.

    Raises:
        PacketError: the packet is not one.
    """
    try:
        op_code, operator = _REQUESTS[packet[0]], Operator(packet[1])
    except (KeyError, ValueError, IndexError) as error:
        raise PacketError("Record Access Control Point: no op code of a request, or no operator") from error
    operand, needed = packet[2:], _OPERANDS.get(operator, 0)
    if len(operand) != (1 + needed * key_size if needed else 0) or (needed and operand[0] != Filter.KEY):
        raise PacketError(f"Record Access Control Point: no operand of {operator.name}: {operand[:16].hex()}")
    keys = (int.from_bytes(operand[at : at + key_size], "little") for at in range(1, len(operand), key_size))
    return Request(op_code, operator, tuple(keys))


def decode_response(packet: bytes, *, key_size: int = KEY_SIZE) -> Response:
    """Decode an answer.

    Raises:
        PacketError: the packet is not one.
    """
    head, operand = packet[:2], packet[2:]
    if head == bytes((OpCode.RESPONSE_CODE, Operator.NULL)) and len(operand) == 2:
        return Response(request=operand[0], code=operand[1])
    if head == bytes((OpCode.NUMBER_OF_STORED_RECORDS_RESPONSE, Operator.NULL)) and len(operand) == key_size:
        return Response(count=int.from_bytes(operand, "little"))
    raise PacketError(f"Record Access Control Point: no response: {packet[:16].hex()}")
