"""A Record Access Control Point server, shared by every device that stores records.

Op codes, operators, response codes and order of events are those of the Glucose Service (GLS 1.0, 3.4), which CGMS,
PLXS and the pill box adopt; operand widths and supported procedures differ.
"""

import asyncio
import struct
from collections.abc import Coroutine, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
from bumble.att import ATT_Error
from bumble.device import Connection
from bumble.gatt import Characteristic

from firmware_sim.ble.faults import Faults
from firmware_sim.ble.gatt_table import Properties, characteristic
from firmware_sim.ble.memory import Memory, Stored

RECORD_ACCESS: Final = 0x2A52


class OpCode(IntEnum):
    """The kinds of requests."""

    REPORT = 1
    DELETE = 2
    ABORT = 3
    COUNT = 4
    COUNT_RESPONSE = 5
    RESPONSE = 6


class Operator(IntEnum):
    """Which records."""

    NULL = 0
    ALL = 1
    UP_TO = 2
    FROM = 3
    RANGE = 4
    FIRST = 5
    LAST = 6


class Response(IntEnum):
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


CCCD_IMPROPERLY_CONFIGURED: Final = 0xFD
PROCEDURE_IN_PROGRESS: Final = 0xFE
"""Common profile error codes (Core Specification Supplement, part B, 1.2)."""

UNDER_WAY_S: Final = 0.005
"""Packets sent before a planned loss arrive within this time, so that it happens at the same record each time."""

KEY_FILTER: Final = 1
"""Filter type: sequence number in GLS and the pill box, time offset in CGMS."""

EVERY_OPERATOR: Final = frozenset(Operator) - {Operator.NULL}
EVERY_PROCEDURE: Final[Mapping[OpCode, frozenset[Operator]]] = {
    OpCode.REPORT: EVERY_OPERATOR,
    OpCode.COUNT: EVERY_OPERATOR,
    OpCode.DELETE: EVERY_OPERATOR,
}


class Refused(Exception):
    """A request that ends with this response instead of records."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.name)
        self.response = response


class Server(Protocol):
    """What a control point needs from its device."""

    memory: Memory
    faults: Faults
    rng: np.random.Generator

    def catch_up(self) -> None:
        """Measure what is due, so that it is among the records."""

    def subscribed(self, connection: Connection, characteristic: Characteristic[bytes]) -> bool:
        """Return whether the connection may be sent this characteristic."""

    async def send(self, connection: Connection, characteristic: Characteristic[bytes], packet: bytes) -> None:
        """Notify or indicate a measurement, spoiled if the faults say so."""

    async def indicate(self, connection: Connection, characteristic: Characteristic[bytes], value: bytes) -> None:
        """Indicate a value as it is."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something while the link lasts."""

    def lose_link(self) -> None:
        """End the link as a lost signal does."""

    def wake(self) -> None:
        """Continue what had to wait for the end of a procedure."""


class RecordAccess:
    """The control point of one device: one procedure at a time, and an abort at any time."""

    def __init__(
        self,
        server: Server,
        data: Sequence[Characteristic[bytes]],
        *,
        encrypted: bool,
        width: int = 2,
        procedures: Mapping[OpCode, frozenset[Operator]] = EVERY_PROCEDURE,
    ) -> None:
        """Serve the server's memory: `data` carry the packets of a record in their order, `width` bytes hold a number."""
        self._server = server
        self._data = tuple(data)
        self._number = {2: "H", 4: "I"}[width]
        self._procedures = procedures
        self._procedure: asyncio.Task[None] | None = None
        self._answering = False
        """Only the confirmation of the last answer is awaited: the central may ask again as soon as it has it."""
        self.characteristic = characteristic(
            RECORD_ACCESS, Properties.WRITE | Properties.INDICATE, write=self._request, encrypted=encrypted
        )

    @property
    def busy(self) -> bool:
        """Whether a procedure runs."""
        return self._procedure is not None and not self._procedure.done()

    def _request(self, connection: Connection, request: bytes) -> None:
        """Take a write; the procedure runs afterwards, since the write response goes out before the first record."""
        if not self._server.subscribed(connection, self.characteristic):
            raise ATT_Error(CCCD_IMPROPERLY_CONFIGURED)
        if request[:1] == bytes([OpCode.ABORT]):
            valid = request[1:] == bytes([Operator.NULL])
            if valid and self._procedure is not None:
                self._procedure.cancel()
            outcome = Response.SUCCESS if valid else Response.INVALID_OPERATOR
            self._server.spawn(self._respond(connection, request, outcome))
            return
        if self.busy and not self._answering:
            raise ATT_Error(PROCEDURE_IN_PROGRESS)
        if request[:1] == bytes([OpCode.REPORT]) and not self._server.subscribed(connection, self._data[0]):
            raise ATT_Error(CCCD_IMPROPERLY_CONFIGURED)
        self._answering = False
        self._procedure = self._server.spawn(self._run(connection, request))
        self._procedure.add_done_callback(lambda _: self._server.wake())

    async def _run(self, connection: Connection, request: bytes) -> None:
        self._server.catch_up()
        try:
            op, chosen = self._select(request)
        except Refused as refused:
            await self._respond(connection, request, refused.response)
            return
        if op is OpCode.COUNT:
            count = struct.pack(f"<BB{self._number}", OpCode.COUNT_RESPONSE, Operator.NULL, len(chosen))
            await self._indicate(connection, count)
            return
        if op is OpCode.DELETE:
            self._server.memory.delete(chosen)
        elif not await self._report(connection, chosen):
            return
        await self._respond(connection, request, Response.SUCCESS if chosen else Response.NO_RECORDS_FOUND)

    async def _report(self, connection: Connection, records: Sequence[Stored]) -> bool:
        """Send the records; return whether the link is still there."""
        for number, record in enumerate(records, 1):
            if self._server.faults.loses_link(number, self._server.rng):
                await asyncio.sleep(UNDER_WAY_S)
                self._server.lose_link()
                return False
            for carrier, packet in zip(self._data, record.packets, strict=False):
                await self._server.send(connection, carrier, packet)
            await asyncio.sleep(self._server.faults.pace_s)
        return True

    async def _respond(self, connection: Connection, request: bytes, response: Response) -> None:
        """Indicate how the procedure ended."""
        await self._indicate(connection, bytes([OpCode.RESPONSE, Operator.NULL, *(request[:1] or b"\0"), response]))

    async def _indicate(self, connection: Connection, answer: bytes) -> None:
        if not self._server.faults.withholds_response:
            self._answering = True
            await self._server.indicate(connection, self.characteristic, answer)

    def _select(self, request: bytes) -> tuple[OpCode, list[Stored]]:
        """Return the op code and the records it is about; Refused if the request is invalid."""
        op = next((op for op in self._procedures if request[:1] == bytes([op])), None)
        if op is None:
            raise Refused(Response.OP_CODE_NOT_SUPPORTED)
        if len(request) < 2 or request[1] == Operator.NULL:
            raise Refused(Response.INVALID_OPERATOR)
        operator = next((one for one in self._procedures[op] if one == request[1]), None)
        if operator is None:
            raise Refused(Response.OPERATOR_NOT_SUPPORTED)
        return op, self._records(operator, request[2:])

    def _records(self, operator: Operator, operand: bytes) -> list[Stored]:
        memory = self._server.memory
        if operator in {Operator.ALL, Operator.FIRST, Operator.LAST}:
            if operand:
                raise Refused(Response.INVALID_OPERAND)
            records = memory.between()
            return {Operator.ALL: records, Operator.FIRST: records[:1], Operator.LAST: records[-1:]}[operator]
        if operand[:1] != bytes([KEY_FILTER]):
            raise Refused(Response.OPERAND_NOT_SUPPORTED if operand else Response.INVALID_OPERAND)
        layout = f"<{2 if operator is Operator.RANGE else 1}{self._number}"
        if len(operand) != 1 + struct.calcsize(layout):
            raise Refused(Response.INVALID_OPERAND)
        low, *high = struct.unpack_from(layout, operand, 1)
        if high and low > high[0]:
            raise Refused(Response.INVALID_OPERAND)
        return memory.between(high=low) if operator is Operator.UP_TO else memory.between(low, *high)
