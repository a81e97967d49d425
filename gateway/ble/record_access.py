"""Runs procedures of the Record Access Control Point over a link (Glucose Service 1.0.1, 3.4; CGM Service 1.0.2, 3.6)."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.record_access import (
    KEY_SIZE,
    OpCode,
    Operator,
    Response,
    ResponseCode,
    decode_response,
    encode_request,
)
from gateway.ble.link import FloodedError, Link, LinkError, Packet, RefusedError, UnansweredError

CONTROL_POINT: Final = full_uuid(Characteristic.RECORD_ACCESS_CONTROL_POINT)
IDLE_S: Final = 30.0
"""A procedure that is silent for this long has failed (Glucose Profile 1.0.1, 5.5)."""
ABORT_WITHIN_S: Final = 5.0
# As many as 16-bit keys can distinguish: a device that reports more would never end.
MAX_RECORDS: Final = 65_536
ALREADY_IN_PROGRESS: Final = 0xFE
"""Procedure Already in Progress (Core Specification Supplement, part B, 1.2)."""

log = logging.getLogger(__name__)


class ProcedureError(LinkError):
    """The device ended a procedure with anything but success; `code` is its response code."""

    def __init__(self, op_code: OpCode, code: int) -> None:
        name = ResponseCode(code).name if code in set(ResponseCode) else f"code {code}"
        super().__init__(f"{_words(op_code)} ended with {name.lower()}")
        self.code = code


class RecordAccess:
    """The control point of one connected device. `key_size`: octets of a key and of a count.

    `take` gets every other notification that comes while a procedure runs, in order; it returns False for one that does
    not show that the procedure is still going on.
    """

    def __init__(self, link: Link, take: Callable[[Packet], bool | None], key_size: int = KEY_SIZE) -> None:
        self._link = link
        self._take = take
        self._key_size = key_size

    async def listen(self) -> None:
        """Subscribe to the answers; without that, a device refuses every request."""
        await self._link.listen(CONTROL_POINT)

    async def report(self, operator: Operator, *keys: int) -> bool:
        """Have the records reported; return whether there were any. Raises LinkError."""
        return await self._run(OpCode.REPORT_STORED_RECORDS, operator, *keys)

    async def report_from(self, key: int) -> bool:
        """Have all records reported from `key` on; return whether there were any. Raises LinkError."""
        if key >= 1 << 8 * self._key_size:
            return False  # the highest possible key is committed
        return await self.report(Operator.GREATER_THAN_OR_EQUAL_TO, key)

    async def delete_up_to(self, key: int) -> None:
        """Have the device delete its records up to and including `key`. Raises LinkError."""
        await self._run(OpCode.DELETE_STORED_RECORDS, Operator.LESS_THAN_OR_EQUAL_TO, key)

    async def _run(self, op_code: OpCode, operator: Operator, *keys: int) -> bool:
        """Run one procedure to its end; return whether there were such records.

        Raises LinkError: the link's own, UnansweredError after 30 s of silence, ProcedureError if it was refused.
        """
        await self._request(encode_request(op_code, operator, *keys, key_size=self._key_size))
        try:
            async with asyncio.timeout(IDLE_S) as idle:
                answer = await self._follow(op_code, idle)
        except TimeoutError as error:
            await self._abort()
            raise UnansweredError(f"{_words(op_code)}: nothing came for {IDLE_S:.0f} s") from error
        if answer is None:
            await self._abort()
            raise FloodedError(f"{_words(op_code)}: more than {MAX_RECORDS}")
        if answer not in {ResponseCode.SUCCESS, ResponseCode.NO_RECORDS_FOUND}:
            raise ProcedureError(op_code, answer)
        return answer == ResponseCode.SUCCESS

    async def _follow(self, op_code: OpCode, idle: asyncio.Timeout) -> int | None:
        """Pass on what comes until the procedure's response code; None when there is no end."""
        for _ in range(MAX_RECORDS + 1):
            packet = await self._link.next_packet(heed_nudges=False)
            if packet is None:
                continue
            if packet.characteristic != CONTROL_POINT:
                if self._take(packet) is not False:
                    idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)
                continue
            answer = self._answer(packet)
            if answer is not None and answer.request == op_code and answer.code is not None:
                return answer.code
            # Garbage, or the end of a procedure that an earlier visit began.
        return None

    async def _request(self, request: bytes) -> None:
        """Write a request; if a procedure of an earlier visit still runs, abort that first."""
        try:
            await self._link.write(CONTROL_POINT, request)
        except RefusedError as refused:
            if refused.code != ALREADY_IN_PROGRESS:
                raise
            await self._abort()
            await self._link.write(CONTROL_POINT, request)

    async def _abort(self) -> None:
        """Abort a running procedure. Whatever it still sends is ignored: it is read again."""
        with suppress(LinkError, TimeoutError):
            async with asyncio.timeout(ABORT_WITHIN_S):
                await self._link.write(CONTROL_POINT, encode_request(OpCode.ABORT_OPERATION))
                while (packet := await self._link.next_packet(heed_nudges=False)) is not None:
                    if packet.characteristic == CONTROL_POINT:
                        return

    def _answer(self, packet: Packet) -> Response | None:
        try:
            return decode_response(packet.value, key_size=self._key_size)
        except PacketError as error:
            log.warning("a control point's answer cannot be read", extra={"cause": error.detail})
            return None


def _words(op_code: OpCode) -> str:
    return op_code.name.lower().replace("_", " ")
