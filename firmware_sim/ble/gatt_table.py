"""Building blocks of a simulated device's GATT database and its advertisements."""

from collections.abc import Callable, Sequence
from typing import Final

from bumble.core import UUID, AdvertisingData
from bumble.data_types import (
    CompleteListOf16BitServiceUUIDs,
    CompleteListOf128BitServiceUUIDs,
    CompleteLocalName,
    Flags,
)
from bumble.device import Connection
from bumble.gatt import Characteristic, CharacteristicValue, Service

Properties = Characteristic.Properties
Permissions = Characteristic.Permissions

ADVERTISING_BYTES: Final = 31
"""Legacy advertising data and scan responses hold no more; the simulated radio would send more, a real one cannot."""

Read = Callable[[], bytes]
Write = Callable[[Connection, bytes], None]


def uuid(number: int | str) -> UUID:
    """Return an assigned number's UUID, or a vendor's from its text."""
    return UUID.from_16_bits(number) if isinstance(number, int) else UUID(number)


def characteristic(
    number: int | str,
    properties: Properties,
    *,
    read: Read | bytes | None = None,
    write: Write | None = None,
    encrypted: bool,
) -> Characteristic[bytes]:
    """Return a characteristic; `read` is a value, or a function that computes it at that moment."""
    permissions = Permissions(0)
    if properties & Properties.READ:
        permissions |= Permissions.READABLE | (Permissions.READ_REQUIRES_ENCRYPTION if encrypted else Permissions(0))
    if properties & Properties.WRITE:
        permissions |= Permissions.WRITEABLE | (Permissions.WRITE_REQUIRES_ENCRYPTION if encrypted else Permissions(0))
    if isinstance(read, bytes):
        return Characteristic(uuid(number), properties, permissions, read)
    get = None if read is None else (lambda _connection, make=read: make())
    return Characteristic(uuid(number), properties, permissions, CharacteristicValue(read=get, write=write))


def readable(number: int | str, read: Read | bytes, *, encrypted: bool) -> Characteristic[bytes]:
    """Return a characteristic that can only be read."""
    return characteristic(number, Properties.READ, read=read, encrypted=encrypted)


def information_service(*, model: str, serial: str, firmware: str) -> Service:
    """Return a Device Information Service, readable without encryption."""
    texts = {0x2A29: "Vigil Simulated Devices", 0x2A24: model, 0x2A25: serial, 0x2A26: firmware}
    strings = [readable(number, text.encode(), encrypted=False) for number, text in texts.items()]
    return Service(uuid(0x180A), strings)


def advertisement(services: Sequence[UUID]) -> bytes:
    """Return advertising data that name the services; ValueError if they do not fit."""
    lists = {2: CompleteListOf16BitServiceUUIDs, 16: CompleteListOf128BitServiceUUIDs}
    discoverable = Flags(
        AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE | AdvertisingData.Flags.BR_EDR_NOT_SUPPORTED
    )
    named = [
        lists[size]([one for one in services if len(one.to_bytes()) == size])
        for size in lists
        if any(len(one.to_bytes()) == size for one in services)
    ]
    return _fitting(bytes(AdvertisingData([discoverable, *named])))


def scan_response(name: str) -> bytes:
    """Return a scan response with the device's name; ValueError if it does not fit."""
    return _fitting(bytes(AdvertisingData([CompleteLocalName(name)])))


def _fitting(data: bytes) -> bytes:
    if len(data) > ADVERTISING_BYTES:
        raise ValueError(f"{len(data)} bytes of advertising data, {ADVERTISING_BYTES} are possible")
    return data
