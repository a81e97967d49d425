"""One connection to a device on bleak: reads, writes and notifications with limits, and one tree of errors.

LinkError
├── LinkLostError      the device left, or never came: nothing was wrong with what it said
│   └── CutOffError    it left instead of an answer
├── UnansweredError    it is connected and does not answer
├── FloodedError       it notifies faster than anybody reads; the link is closed, its records are read again
├── MissingError       it does not have that characteristic
├── RefusedError       it answered with an ATT error: carries the code
└── BondError          it would not bond, or has forgotten the bond
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import BaseBleakScanner
from bleak.exc import BleakError, BleakGATTProtocolError
from bleak_retry_connector import establish_connection

CONNECT_WITHIN_S: Final = 15.0
"""Adapters make one connection at a time: a device that is gone keeps the others waiting for this long."""
ANSWER_WITHIN_S: Final = 10.0
BOND_WITHIN_S: Final = 30.0
LEAVE_WITHIN_S: Final = 5.0
CONNECT_ATTEMPTS: Final = 1
"""A device that cannot be reached waits for its next turn, with a back-off."""
# A device that notifies without end, while a slow disk holds up everything, must not fill our memory. Two weeks of a
# CGM at one a minute are 20,160 records.
INBOX_PACKETS: Final = 32_768
LONGEST_VALUE: Final = 512
"""Bytes of an attribute (Core Specification, Vol 3, Part F, 3.2.9)."""

# What bleak and the D-Bus connection under it raise: mostly BleakError, the others when the bus or the adapter goes away.
RADIO_ERRORS: Final = (BleakError, TimeoutError, OSError, EOFError, AttributeError, KeyError)

T = TypeVar("T")


class LinkError(Exception):
    """The root of what can go wrong between us and one device; the text is a sentence for the log."""


class LinkLostError(LinkError):
    """There is no link, or no longer."""


class CutOffError(LinkLostError):
    """The link was lost in the middle of an operation: by chance, or because the device no longer knows our keys."""


class UnansweredError(LinkError):
    """The device took longer to answer than any device should."""


class FloodedError(LinkError):
    """More notifications came than the inbox holds."""


class MissingError(LinkError):
    """The device lacks a characteristic that its model has."""


class RefusedError(LinkError):
    """The device refused an operation; `code` is the ATT error code, or the profile's own from 0x80 on."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class BondError(LinkError):
    """The device and this box could not agree on keys."""


@dataclass(frozen=True, slots=True)
class Radio:
    """What bleak is to use: None is the platform's own. `adapter` names one of several under BlueZ, such as hci0."""

    scanner_backend: type[BaseBleakScanner] | None = None
    client_backend: type[BaseBleakClient] | None = None
    adapter: str | None = None

    @property
    def client_arguments(self) -> dict[str, Any]:
        """Keyword arguments for BleakClient."""
        return {**self._adapter, "backend": self.client_backend}

    @property
    def scanner_arguments(self) -> dict[str, Any]:
        """Keyword arguments for BleakScanner."""
        return {**self._adapter, "backend": self.scanner_backend}

    @property
    def _adapter(self) -> dict[str, Any]:
        return {"bluez": {"adapter": self.adapter}} if self.adapter else {}


@dataclass(frozen=True, slots=True)
class Packet:
    """One notification or indication; `arrived_ms` is when we received it."""

    characteristic: str
    value: bytes
    arrived_ms: int


_NUDGE: Final = Packet("", b"", 0)
_LOST: Final = Packet("", b"", 0)


class Link:
    """A connection that is up. Every method raises LinkError, nothing else; `inbox` has the device's notifications."""

    def __init__(self, client: BleakClient, now_ms: Callable[[], int]) -> None:
        self._client = client
        self._now_ms = now_ms
        self._packets: asyncio.Queue[Packet] = asyncio.Queue()
        self._flooded = False

    def has(self, characteristic: str) -> bool:
        """Whether the device has it."""
        return self._find(characteristic) is not None

    async def bond(self) -> None:
        """Encrypt the link, with the keys kept from last time or with new ones. Raises BondError, UnansweredError."""
        try:
            async with asyncio.timeout(BOND_WITHIN_S):
                await self._client.pair()
        except RADIO_ERRORS as error:
            if not self._client.is_connected:
                raise CutOffError(f"the link was lost while bonding: {_cause(error)}") from error
            if isinstance(error, TimeoutError):
                raise UnansweredError(f"bonding: no answer within {BOND_WITHIN_S:.0f} s") from error
            raise BondError(f"the device did not bond: {_cause(error)}") from error

    async def forget_bond(self) -> None:
        """Delete the keys kept for this device; the link is lost with them."""
        with suppress(*RADIO_ERRORS):
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await self._client.unpair()

    async def read(self, characteristic: str) -> bytes:
        """Return a characteristic's value."""
        found = self._require(characteristic)
        value = await self._ask(lambda: self._client.read_gatt_char(found), f"reading {characteristic}")
        if len(value) > LONGEST_VALUE:
            raise RefusedError(f"reading {characteristic}: {len(value)} bytes are no attribute", 0x0D)
        return bytes(value)

    async def write(self, characteristic: str, value: bytes) -> None:
        """Write a characteristic and wait for the device's answer."""
        found = self._require(characteristic)
        what = f"writing {characteristic}"
        await self._ask(lambda: self._client.write_gatt_char(found, value, response=True), what)

    async def listen(self, characteristic: str) -> None:
        """Subscribe; notifications go into the inbox in the order they come."""
        found = self._require(characteristic)

        def put(_: BleakGATTCharacteristic, value: bytearray) -> None:
            if self._packets.qsize() >= INBOX_PACKETS:
                self._flooded = True
                return
            self._packets.put_nowait(Packet(characteristic, bytes(value), self._now_ms()))

        await self._ask(lambda: self._client.start_notify(found, put), f"subscribing to {characteristic}")

    async def next_packet(self, within_s: float | None = None, *, heed_nudges: bool = True) -> Packet | None:
        """Return the next notification, or None if none comes `within_s` or somebody nudged.

        Raises FloodedError, or LinkLostError once everything that came before the loss was taken.
        """
        if self._flooded:
            raise FloodedError(f"more than {INBOX_PACKETS} packets are waiting")
        packet = _NUDGE
        try:
            async with asyncio.timeout(within_s):
                while packet is _NUDGE:
                    packet = await self._packets.get()
                    if packet is _NUDGE and heed_nudges:
                        return None
        except TimeoutError:
            return None
        if packet is _LOST:
            self._packets.put_nowait(_LOST)  # for the next call
            raise LinkLostError("the link was lost")
        return packet

    def nudge(self) -> None:
        """Wake the task that waits for a packet: `next_packet` returns None."""
        self._packets.put_nowait(_NUDGE)

    def lose(self) -> None:
        """Record that the link is gone; bleak calls this."""
        self._packets.put_nowait(_LOST)

    def _find(self, characteristic: str) -> BleakGATTCharacteristic | None:
        """Return the first characteristic of that UUID; a device may have several."""
        try:
            everything = self._client.services.characteristics.values()
        except BleakError:
            return None
        return next((one for one in everything if one.uuid == characteristic), None)

    def _require(self, characteristic: str) -> BleakGATTCharacteristic:
        if not self._client.is_connected:
            raise LinkLostError("the link was lost")
        found = self._find(characteristic)
        if found is None:
            raise MissingError(f"the device has no characteristic {characteristic}")
        return found

    async def _ask(self, operation: Callable[[], Awaitable[T]], what: str) -> T:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await operation()
        except BleakGATTProtocolError as error:
            raise RefusedError(f"{what}: {_cause(error)}", int(error.args[0])) from error
        except RADIO_ERRORS as error:
            if not self._client.is_connected:
                raise CutOffError(f"{what}: the link was lost") from error
            if isinstance(error, TimeoutError):
                raise UnansweredError(f"{what}: no answer within {ANSWER_WITHIN_S:.0f} s") from error
            raise LinkError(f"{what}: {_cause(error)}") from error


@asynccontextmanager
async def connected(radio: Radio, device: BLEDevice, now_ms: Callable[[], int]) -> AsyncIterator[Link]:
    """Connect for the length of the block. Raises LinkLostError when the device cannot be reached."""
    link: Link | None = None

    def on_loss(_: BleakClient) -> None:
        if link is not None:
            link.lose()

    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            client = await establish_connection(
                BleakClient,
                device,
                device.name or device.address,
                on_loss,
                max_attempts=CONNECT_ATTEMPTS,
                **radio.client_arguments,
            )
    except RADIO_ERRORS as error:
        raise LinkLostError(f"no connection: {_cause(error)}") from error
    link = Link(client, now_ms)
    if not client.is_connected:
        link.lose()
    try:
        yield link
    finally:
        with suppress(*RADIO_ERRORS):
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await client.disconnect()


def _cause(error: BaseException) -> str:
    """Return the message of a radio error on one line, or its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
