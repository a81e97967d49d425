"""What the gateway sends to devices: cumulative receipts and commands, in JSON."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from devices.errors import PayloadError
from devices.messages import Count64
from devices.payload import DECODE_ERRORS, explain
from devices.vocabulary import CommandType


class _Receipt(Struct):
    seq: Count64


_DECODER: Final = msgspec.json.Decoder(_Receipt)


def encode_receipt(seq: int) -> bytes:
    """Return the receipt for everything up to and including `seq`."""
    return b'{"seq":%d}' % seq


def decode_receipt(payload: bytes) -> int:
    """Return the `seq` of a receipt.

    Raises:
        PayloadError: the payload is not a receipt.
    """
    try:
        return _DECODER.decode(payload).seq
    except DECODE_ERRORS as error:
        raise PayloadError(explain(error)) from error


def encode_command(command_id: str, kind: CommandType, arguments: Mapping[str, object] | None = None) -> bytes:
    """Return a command; `arguments` are added to `id` and `type` and cannot replace them."""
    return msgspec.json.encode({**(arguments or {}), "id": command_id, "type": kind})
