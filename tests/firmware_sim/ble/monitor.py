"""A small peripheral to try the radio with, and the two calls of bleak that every test makes."""

from collections.abc import Callable
from typing import Any

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bumble import data_types
from bumble.core import UUID, AdvertisingData
from bumble.gatt import Characteristic, Service

from firmware_sim.ble.backend import Central
from firmware_sim.ble.radio import RadioDevice, VirtualRadio

HEART_RATE = "00002a37-0000-1000-8000-00805f9b34fb"
BATTERY = "00002a19-0000-1000-8000-00805f9b34fb"
SECRET = "f5040002-be74-47b1-b9e3-f11df3daa2a5"
SECRET_EVENT = "f5040003-be74-47b1-b9e3-f11df3daa2a5"
LONG = "f5040005-be74-47b1-b9e3-f11df3daa2a5"
SECRET_VALUE = b"for bonded eyes"
LONG_VALUE = bytes(range(256)) * 2

_P = Characteristic.Properties
_R, _W = Characteristic.READABLE, Characteristic.WRITEABLE
_ENCRYPTED_READ = _R | Characteristic.READ_REQUIRES_ENCRYPTION
_NONE = Characteristic.Permissions(0)


def advertising(name: str) -> bytes:
    flags = AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE | AdvertisingData.Flags.BR_EDR_NOT_SUPPORTED
    return bytes(AdvertisingData([data_types.Flags(flags), data_types.CompleteLocalName(name)]))


class Monitor:
    """Heart rate to subscribe to, battery level 87 %, a value behind encryption, a long one."""

    def __init__(self) -> None:
        self.heart_rate: Characteristic[bytes] = Characteristic(UUID.from_16_bits(0x2A37), _P.NOTIFY, _NONE)
        self.battery: Characteristic[bytes] = Characteristic(UUID.from_16_bits(0x2A19), _P.READ, _R, bytes([87]))
        self.secret: Characteristic[bytes] = Characteristic(UUID(SECRET), _P.READ, _ENCRYPTED_READ, SECRET_VALUE)
        self.event: Characteristic[bytes] = Characteristic(UUID(SECRET_EVENT), _P.NOTIFY, _NONE)
        self.long: Characteristic[bytes] = Characteristic(UUID(LONG), _P.READ | _P.WRITE, _R | _W, LONG_VALUE)
        self.services = [
            Service(UUID.from_16_bits(0x180D), [self.heart_rate]),
            Service(UUID.from_16_bits(0x180F), [self.battery]),
            Service(UUID("f5040001-be74-47b1-b9e3-f11df3daa2a5"), [self.secret, self.event, self.long]),
        ]
        self.device: RadioDevice

    async def start(self, radio: VirtualRadio, name: str = "Band", **options: Any) -> "Monitor":
        settings = {"advertising_interval_ms": 20, **options}
        self.device = await radio.device(name, services=self.services, **settings)
        await self.device.start_advertising(advertising_data=advertising(name), auto_restart=True)
        return self

    async def beat(self, rate: int) -> None:
        await self.device.notify_subscribers(self.heart_rate, bytes([0, rate]))


async def find(central: Central, name: str = "Band", within_s: float = 2.0) -> BLEDevice:
    device = await BleakScanner.find_device_by_name(name, within_s, backend=central.scanner_backend)
    assert device is not None, name
    return device


def client(central: Central, device: BLEDevice | str, **options: Any) -> BleakClient:
    return BleakClient(device, backend=central.client_backend, **options)


def collect(rates: list[int]) -> Callable[[object, bytearray], None]:
    """Return a callback that appends each heart rate to the list."""

    def on_heart_rate(_characteristic: object, value: bytearray) -> None:
        rates.append(value[1])

    return on_heart_rate
