"""Which edge box reads which device over Bluetooth, and at which address."""

from collections.abc import Sequence
from typing import Any

from psycopg.errors import UniqueViolation

from devices.roster import MAX_DEVICES, bluetooth_address
from gateway.clinic.provisioning.core import SQL, Core
from gateway.clinic.provisioning.errors import AlreadyExistsError, InvalidValueError, NotFoundError


class Bindings(Core):
    """The part of Provisioning for edge boxes. A device has one edge box; the others ignore it."""

    async def bind(self, device_id: str, via: str, address: str) -> str:
        """Have the edge box `via` read the device at this address, and no other edge box; return the address.

        Data that an earlier edge box has read and not delivered yet is refused from now on: it no longer speaks for the
        device.
        """
        address = checked_address(address)
        async with self._connection.transaction():
            await self._require_device(device_id)
            await self._check_readers([device_id], [via])
            await self._bind([(device_id, via, address)])
        return address

    async def unbind(self, device_id: str) -> None:
        """Have no edge box read the device; it keeps its address."""
        async with self._connection.transaction():
            key = await self._require_device(device_id)
            if not await self._column(SQL.unbind_device, {"device_key": key}):
                raise InvalidValueError(f"no edge box reads device {device_id}")

    async def _check_readers(self, ids: Sequence[str], vias: Sequence[str], new_edges: Sequence[str] = ()) -> None:
        """Refuse a reader that is not an edge box, and an edge box that is to be read; `new_edges` are being added."""
        edges = {*new_edges, *await self._column(SQL.edges, {"ids": [*ids, *vias]})}
        strangers = set(vias) - edges
        if strangers:
            raise NotFoundError(f"there is no device {min(strangers)} of model edge")
        wrong = edges.intersection(ids)
        if wrong:
            raise InvalidValueError(f"device {min(wrong)} is an edge box: it cannot be read by one")

    async def _bind(self, bindings: Sequence[tuple[str, str, str | None]]) -> None:
        """Store the edge box and address of devices, inside a transaction."""
        ids, vias, addresses = map(list, zip(*bindings, strict=True))
        # One change at a time to the devices of an edge box: the count below would not see a concurrent one.
        values: dict[str, Any] = {"ids": ids, "vias": vias, "addresses": addresses, "most": MAX_DEVICES}
        await self._connection.execute(SQL.lock_edges, values)
        try:
            await self._connection.execute(SQL.bind_devices, values)
        except UniqueViolation as error:
            raise AlreadyExistsError(
                "the edge box finds another device by the same address: `vigil device list` shows which"
            ) from error
        full = await self._column(SQL.full_edges, values)
        if full:
            raise InvalidValueError(f"edge box {full[0]} reads at most {MAX_DEVICES} devices")

    async def _require_device(self, device_id: str) -> int:
        key = await self._value(SQL.lock_device, {"device_id": device_id})
        if key is None:
            raise NotFoundError(f"there is no device {device_id}")
        return int(key)


def checked_address(text: str) -> str:
    """Return the address as it is stored; raise InvalidValueError if it is not an address."""
    address = bluetooth_address(text)
    if address is None:
        raise InvalidValueError(f"{text!r} is not a Bluetooth address such as AA:BB:CC:DD:EE:FF (on macOS: a UUID)")
    return address
