"""A radio without hardware: any number of peripherals and centrals that hear each other inside one event loop."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bumble.device import DeviceConfiguration
from bumble.gatt import Service
from bumble.hci import Address
from bumble.host import Host
from bumble.keys import JsonKeyStore, KeyStore, MemoryKeyStore
from bumble.transport.common import AsyncPipeSink

from firmware_sim.ble.attributes import encrypt_subscriptions, enforce
from firmware_sim.ble.backend import Central, SteadyDevice
from firmware_sim.ble.controller import RadioController, RadioLink

_LEGACY_ADVERTISEMENT_BYTES = 31


class RadioDevice(SteadyDevice):
    """A Bluetooth host on a controller of the virtual radio; `controller` injects the faults."""

    controller: RadioController

    async def start_advertising(self, *arguments: Any, **options: Any) -> None:
        """Advertise; ValueError for more than a legacy advertisement can hold, which upstream would send."""
        for name in ("advertising_data", "scan_response_data"):
            if (size := len(options.get(name) or b"")) > _LEGACY_ADVERTISEMENT_BYTES:
                raise ValueError(f"{size} bytes of {name}: there is room for {_LEGACY_ADVERTISEMENT_BYTES}")
        await super().start_advertising(*arguments, **options)


class VirtualRadio:
    """The air. Create it inside the running loop, and close it, or its timers outlive the test."""

    def __init__(self) -> None:
        self.link = RadioLink()
        self.devices: list[RadioDevice] = []
        self._made = 0

    async def device(
        self,
        name: str,
        address: str | None = None,
        *,
        services: Iterable[Service] = (),
        encrypted: bool = False,
        advertising_interval_ms: float = 100,
        keystore: KeyStore | None = None,
        **config: Any,
    ) -> RadioDevice:
        """Return a powered-on device with these services.

        `address`: its static random address, by default the next of C0:00:00:00:00:01… `encrypted`: subscriptions need
        an encrypted link (permissions of the characteristics decide the others). A connection waits for an
        advertisement: tests are quick with 20 ms, while many devices cost less to scan at 100 ms. `config`: further
        fields of bumble's `DeviceConfiguration`.
        """
        self._made += 1
        own = Address(address or f"C0:00:00:00:{self._made >> 8:02X}:{self._made & 255:02X}")
        controller = RadioController(name, self.link)
        configuration = DeviceConfiguration(
            name=name,
            address=own,
            irk=(bytes(own) * 3)[:16],
            advertising_interval_min=advertising_interval_ms,
            advertising_interval_max=advertising_interval_ms,
            **config,
        )
        device = RadioDevice(config=configuration, host=Host(controller, AsyncPipeSink(controller)))
        device.controller = controller
        device.keystore = keystore or MemoryKeyStore()
        for service in services:
            device.add_service(service)
        if encrypted:
            encrypt_subscriptions(device.gatt_server.attributes)
        for attribute in device.gatt_server.attributes:
            enforce(attribute)
        await device.power_on()
        self.devices.append(device)
        return device

    async def central(self, name: str, keys: Path | None = None) -> Central:
        """Return a new central with backends for bleak; its bonds survive in the file `keys`, if one is given."""
        keystore = None if keys is None else JsonKeyStore(name, str(keys))
        return Central(await self.device(name, keystore=keystore))

    async def close(self) -> None:
        """Switch everything off. Connections end as if their supervision had timed out."""
        for device in self.devices:
            device.controller.drop_links()
            await device.stop_advertising()
            await device.power_off()
            self.link.remove_controller(device.controller)
        self.devices.clear()
