"""bleak's scanner on a bumble host."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal
from uuid import UUID

from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.exc import BleakError, BleakGATTProtocolError
from bumble import core
from bumble.att import ATT_Error
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Device

_Type = AdvertisingData.Type
_SERVICE_LISTS = (
    _Type.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    _Type.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    _Type.INCOMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS,
    _Type.COMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS,
    _Type.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
    _Type.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
)
_SERVICE_DATA = (
    _Type.SERVICE_DATA_16_BIT_UUID,
    _Type.SERVICE_DATA_32_BIT_UUID,
    _Type.SERVICE_DATA_128_BIT_UUID,
)


@contextmanager
def bleak_errors() -> Iterator[None]:
    """Turn bumble's errors into bleak's."""
    try:
        yield
    except ATT_Error as error:
        raise BleakGATTProtocolError(int(error.error_code)) from error
    except core.TimeoutError as error:
        raise TimeoutError(str(error)) from error
    except core.BaseBumbleError as error:
        raise BleakError(str(error)) from error


@contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Be cancelled even where upstream misses it: `wait_for` of Python 3.11 drops it if the answer has just come."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


def full_uuid(uuid: core.UUID) -> str:
    """Return the form bleak uses: 128 bits, lower case, dashed."""
    return str(UUID(bytes=uuid.to_bytes(force_128=True)[::-1]))


class Scanning:
    """The scan of one controller, shared by its scanners: the first one starts it, the last one stops it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._scanners = 0

    async def join(self) -> None:
        """Start the scan unless it is running."""
        self._scanners += 1
        if self._scanners == 1:
            with bleak_errors(), heeding_cancellation():
                await self.device.start_scanning(filter_duplicates=False)

    async def leave(self) -> None:
        """Stop the scan if nobody else needs it."""
        self._scanners -= 1
        if self._scanners == 0:
            with bleak_errors(), heeding_cancellation():
                await self.device.stop_scanning()


class RadioScanner(BaseBleakScanner):
    """Scanner backend; `Central` binds it to its device."""

    scanning: ClassVar[Scanning]

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        _scanning_mode: Literal["active", "passive"] = "active",
        **_options: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)

    async def start(self) -> None:
        """Scan from now on."""
        self.seen_devices = {}
        self.scanning.device.on(Device.EVENT_ADVERTISEMENT, self._on_advertisement)
        await self.scanning.join()

    async def stop(self) -> None:
        """Stop hearing anything."""
        self.scanning.device.remove_listener(Device.EVENT_ADVERTISEMENT, self._on_advertisement)
        await self.scanning.leave()

    def _on_advertisement(self, advertisement: Advertisement) -> None:
        data = advertisement_data(advertisement)
        if self.is_allowed_uuid(data.service_uuids):
            address = advertisement.address.to_string(with_type_qualifier=False)
            device = self.create_or_update_device(address, address, data.local_name, advertisement.address, data)
            self.call_detection_callbacks(device, data)


def advertisement_data(advertisement: Advertisement) -> AdvertisementData:
    """Return an advertisement in bleak's form."""
    fields: Any = advertisement.data  # typed as the union of all that any field may hold
    lists = (uuids for kind in _SERVICE_LISTS for uuids in fields.get_all(kind))
    return AdvertisementData(
        local_name=fields.get(_Type.COMPLETE_LOCAL_NAME) or fields.get(_Type.SHORTENED_LOCAL_NAME),
        manufacturer_data=dict(fields.get_all(_Type.MANUFACTURER_SPECIFIC_DATA)),
        service_data={full_uuid(uuid): bytes(data) for kind in _SERVICE_DATA for uuid, data in fields.get_all(kind)},
        # Advertising data and scan response may name the same service.
        service_uuids=list(dict.fromkeys(full_uuid(uuid) for uuids in lists for uuid in uuids)),
        tx_power=fields.get(_Type.TX_POWER_LEVEL),
        rssi=advertisement.rssi,
        platform_data=(advertisement,),
    )
