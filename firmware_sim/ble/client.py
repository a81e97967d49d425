"""bleak's GATT client on a bumble host."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TypeVar

from bleak.args import SizedBuffer
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bumble import hci
from bumble.att import ATT_INSUFFICIENT_AUTHENTICATION_ERROR, ATT_INSUFFICIENT_ENCRYPTION_ERROR
from bumble.core import BaseBumbleError
from bumble.device import Connection, Device, Peer

from firmware_sim.ble.scanner import RadioScanner, bleak_errors, full_uuid

_T = TypeVar("_T")
_NEED_SECURITY = (ATT_INSUFFICIENT_AUTHENTICATION_ERROR, ATT_INSUFFICIENT_ENCRYPTION_ERROR)
_PAIRING_SECONDS = 30  # the SMP timeout (Core Specification, volume 3, part H, 3.4)
_LARGEST_MTU = 517
_WITHDRAWING_S = 0.01  # until a request for a connection that is to be withdrawn is looked at again


class RadioClient(BaseBleakClient):
    """Client backend; `Central` binds it to its device. Pairs when a server asks for it, as BlueZ does."""

    device: ClassVar[Device]
    scanner_type: ClassVar[type[RadioScanner]]
    connecting: ClassVar[asyncio.Lock]  # a controller takes one pending connection; upstream fails an assertion at two

    def __init__(self, address_or_ble_device: BLEDevice | str, **options: Any) -> None:
        super().__init__(address_or_ble_device, **options)
        self._wanted_services: set[str] | None = options.get("services")
        self._known = address_or_ble_device if isinstance(address_or_ble_device, BLEDevice) else None
        self._connection: Connection | None = None
        self._subscribers: dict[int, Callable[[bytes], None]] = {}

    # Connection

    @property
    def name(self) -> str:
        """The device's own name, otherwise its address."""
        return (self._known and self._known.name) or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        """The ATT MTU."""
        return self._connection.att_mtu if self._connection else 23

    @property
    def is_connected(self) -> bool:
        """Whether there is a link."""
        return self._connection is not None

    async def connect(self, pair: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002  bleak's signature
        """Connect, pair if asked to, and discover the services."""
        if self._connection:
            raise BleakError("already connected")
        seconds = float(options.get("timeout", self._timeout))
        peer = await self._address(seconds)
        async with self.connecting:
            with self._errors():
                connection = await self._reach(peer, seconds)
        self._connection = connection
        connection.on(Connection.EVENT_DISCONNECTION, self._on_disconnection)
        try:
            if pair:
                await self.pair()
            with self._errors():
                await self._discover(connection)
        except BaseException:
            await self.disconnect()
            raise

    async def _reach(self, peer: hci.Address, seconds: float) -> Connection:
        """Connect; when cancelled withdraw the request, which upstream would leave with the controller forever.

        Nobody else may connect before it is withdrawn, however often this is cancelled.
        """
        pending = asyncio.ensure_future(self.device.connect_le(peer, timeout=seconds))
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            withdrawing = asyncio.ensure_future(self._withdraw(pending))
            while not withdrawing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(withdrawing)
            withdrawing.result()
            raise

    async def _withdraw(self, pending: asyncio.Future[Connection]) -> None:
        """Have the controller forget a request for a connection; it has one only from its answer to the request on."""
        with suppress(BaseBumbleError):
            while not pending.done():
                if self.device.is_le_connecting:
                    await self.device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command())
                await asyncio.wait({pending}, timeout=_WITHDRAWING_S)
            await pending.result().disconnect()  # it was made after all

    async def _address(self, seconds: float) -> hci.Address:
        if self._known is None:
            self._known = await self._find(seconds)
        address: hci.Address = self._known.details
        return address

    async def _find(self, seconds: float) -> BLEDevice:
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()

        def on_advertisement(device: BLEDevice, _data: AdvertisementData) -> None:
            if device.address.upper() == self.address.upper() and not found.done():
                found.set_result(device)

        scanner = self.scanner_type(on_advertisement, None)
        await scanner.start()
        try:
            return await asyncio.wait_for(found, seconds)
        except TimeoutError:
            raise BleakDeviceNotFoundError(self.address, f"{self.address} was not found") from None
        finally:
            await scanner.stop()

    def _on_disconnection(self, _reason: int) -> None:
        self._connection = self.services = None
        self._subscribers.clear()
        if self._disconnected_callback:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        """End the connection, if there is one."""
        if self._connection:
            with self._errors():
                await self._connection.disconnect()

    # Security

    async def pair(self, *_: Any, **_options: Any) -> None:
        """Encrypt with the stored key, or pair and store one.

        A peer that has forgotten its key is an error, and the link ends, as on BlueZ: no new bond is made behind the
        user's back (`unpair` first).
        """
        connection = self._require()
        bonded = await self._bond_names()
        try:
            with self._errors():
                async with asyncio.timeout(_PAIRING_SECONDS):
                    await (connection.encrypt() if bonded else connection.pair())
        except (BleakError, TimeoutError) as error:
            if bonded:
                await self.disconnect()
            raise BleakError(f"pairing failed: {error}") from error

    async def unpair(self) -> None:
        """Delete the key, connected or not, and end the connection."""
        for name in await self._bond_names():
            await self._keystore().delete(name)
        await self.disconnect()

    async def _bond_names(self) -> list[str]:
        """Return the names under which keys of this peer are stored: its address, perhaps with the address's type."""
        names = [name for name, _keys in await self._keystore().get_all()]
        return [name for name in names if name.split("/")[0].upper() == self.address.upper()]

    def _keystore(self) -> Any:
        return self.device.keystore

    # GATT

    async def _discover(self, connection: Connection) -> None:
        peer, found = Peer(connection), BleakGATTServiceCollection()
        await peer.request_mtu(_LARGEST_MTU)
        for service in await peer.discover_services():
            if self._wanted_services and full_uuid(service.uuid) not in self._wanted_services:
                continue
            ours = BleakGATTService(service, service.handle, full_uuid(service.uuid))
            found.add_service(ours)
            for proxy in await service.discover_characteristics():
                properties = list(gatt_char_props_to_strs(proxy.properties))
                characteristic = BleakGATTCharacteristic(
                    proxy, proxy.handle, full_uuid(proxy.uuid), properties, lambda: self.mtu_size - 3, ours
                )
                found.add_characteristic(characteristic)
                for descriptor in await proxy.discover_descriptors():
                    uuid = full_uuid(descriptor.type)
                    found.add_descriptor(BleakGATTDescriptor(descriptor, descriptor.handle, uuid, characteristic))
        self.services = found

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **_options: Any
    ) -> bytearray:
        """Read a value, of any length."""
        del use_cached  # nothing is cached here
        return await self._read(characteristic.obj.handle)

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **_options: Any
    ) -> bytearray:
        """Read a descriptor."""
        del use_cached  # as above
        return await self._read(descriptor.obj.handle)

    async def write_gatt_char(
        self,
        characteristic: BleakGATTCharacteristic,
        data: SizedBuffer,
        response: bool,  # noqa: FBT001  bleak's
    ) -> None:
        """Write a value, of any length if a response is requested."""
        await self._write(characteristic.obj.handle, bytes(data), response=response)

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        """Write a descriptor."""
        await self._write(descriptor.obj.handle, bytes(data), response=True)

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_options: Any
    ) -> None:
        """Subscribe to notifications, or to indications if there are no notifications."""
        if characteristic.handle in self._subscribers:
            raise BleakError("Characteristic notifications already started")

        def on_value(value: bytes) -> None:
            callback(bytearray(value))

        await self._secured(lambda: characteristic.obj.subscribe(on_value))
        self._subscribers[characteristic.handle] = on_value

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        """Unsubscribe."""
        if on_value := self._subscribers.pop(characteristic.handle, None):
            await self._secured(lambda: characteristic.obj.unsubscribe(on_value))

    async def _read(self, handle: int) -> bytearray:
        return bytearray(await self._secured(lambda: self._require().gatt_client.read_value(handle)))

    async def _write(self, handle: int, data: bytes, *, response: bool) -> None:
        await self._secured(lambda: self._require().gatt_client.write_value(handle, data, response))

    async def _secured(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Do an ATT operation; retry over an encrypted link if the server asks for one."""
        self._require()
        try:
            with self._errors():
                return await operation()
        except BleakGATTProtocolError as error:
            if error.args[0] not in _NEED_SECURITY:
                raise
        await self.pair()
        with self._errors():
            return await operation()

    def _require(self) -> Connection:
        if not self._connection:
            raise BleakError("Not connected")
        return self._connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn bumble's errors into bleak's. A lost link cancels pending operations: that is a BleakError too."""
        try:
            with bleak_errors():
                yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._connection is None and not (task and task.cancelling()):
                raise BleakError("disconnected") from None
            raise
