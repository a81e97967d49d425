"""The roster: the devices that an edge box reads over Bluetooth, as the gateway publishes it, retained, in JSON."""

import re
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from devices.errors import PayloadError
from devices.messages import Identifier
from devices.payload import DECODE_ERRORS, explain, quote
from devices.vocabulary import MAX_PAYLOAD_BYTES, DeviceModel, Reason

MAX_DEVICES: Final = 256
"""A larger roster would cost an edge box's memory and radio time without bound; this many always fit a payload."""

_ADDRESS: Final = re.compile(
    r"[0-9A-F]{2}(:[0-9A-F]{2}){5}"  # a device address, as everywhere but on macOS
    r"|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}",  # the name macOS has for a device instead
    re.ASCII | re.IGNORECASE,
)


def bluetooth_address(text: str) -> str | None:
    """Return an address in the one form in which it is stored and compared (upper case), None if it is not an address.

    `AA:BB:CC:DD:EE:FF`, or the UUID by which macOS knows a device.
    """
    return text.upper() if _ADDRESS.fullmatch(text) else None


class RosterDevice(Struct, frozen=True):
    """A device that an edge box reads, and its address."""

    id: Identifier
    model: DeviceModel
    address: str
    """As `bluetooth_address` returns it."""
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}\Z")] = "UTC"
    """The IANA zone its wearer lives by now; devices show local time and store it."""


class Roster(Struct, frozen=True):
    """The devices of one edge box."""

    devices: tuple[RosterDevice, ...] = ()
    unsupported: tuple[str, ...] = ()
    """Ids of devices whose model this version does not know: to be logged, not read."""


class _Wire(Struct):
    devices: Annotated[list[msgspec.Raw], Meta(max_length=MAX_DEVICES)]


class _Named(Struct):
    id: Identifier
    model: str


_WIRE: Final = msgspec.json.Decoder(_Wire)
_NAMED: Final = msgspec.json.Decoder(_Named)
_DEVICE: Final = msgspec.json.Decoder(RosterDevice)
_MODELS: Final = frozenset(DeviceModel) - {DeviceModel.EDGE}


def decode_roster(payload: bytes) -> Roster:
    """Decode a roster; a device of a model newer than this version does not cost the others.

    Raises:
        PayloadError: malformed or too large, with a sentence; also if two devices share an id or an address. An
            empty payload is malformed: an edge box with nothing to read gets `{"devices": []}`.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are taken", Reason.TOO_LARGE)
    devices: list[RosterDevice] = []
    unsupported: list[str] = []
    try:
        for raw in _WIRE.decode(payload).devices:
            named = _NAMED.decode(raw)
            if named.model in _MODELS:
                devices.append(_with_address(_DEVICE.decode(raw)))
            else:
                unsupported.append(named.id)
    except DECODE_ERRORS as error:
        raise PayloadError(explain(error)) from error
    _refuse_twins("id", [*(device.id for device in devices), *unsupported])
    _refuse_twins("address", [device.address for device in devices])
    return Roster(tuple(devices), tuple(unsupported))


def encode_roster(devices: Iterable[RosterDevice]) -> bytes:
    """Return the roster of these devices; the same devices in the same order give the same bytes."""
    return msgspec.json.encode({"devices": list(devices)})


def _with_address(device: RosterDevice) -> RosterDevice:
    address = bluetooth_address(device.address)
    if address is None:
        raise PayloadError(f"{quote(device.address)} is no Bluetooth address")
    return device if address == device.address else msgspec.structs.replace(device, address=address)


def _refuse_twins(what: str, values: list[str]) -> None:
    if len(set(values)) < len(values):
        twin = next(value for value in values if values.count(value) > 1)
        raise PayloadError(f"two devices with the {what} {quote(twin)}")
