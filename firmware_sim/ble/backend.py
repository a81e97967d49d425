"""A central of the virtual radio as bleak sees it: the types to hand to BleakScanner and BleakClient."""

import asyncio

from bleak.backends.client import BaseBleakClient
from bleak.backends.scanner import BaseBleakScanner
from bumble.device import Device

from firmware_sim.ble.client import RadioClient
from firmware_sim.ble.scanner import RadioScanner, Scanning


class SteadyDevice(Device):
    """A Bluetooth host whose peers never change their addresses."""

    async def refresh_resolving_list(self) -> None:
        """Resolve nothing.

        Upstream would scan for a bonded peer's identity before each connection, without any time limit.
        """


class Central:
    """One adapter. `scanner_backend` and `client_backend` are types bound to it: `BleakClient(…, backend=…)`."""

    scanner_backend: type[BaseBleakScanner]
    client_backend: type[BaseBleakClient]

    def __init__(self, device: Device) -> None:
        self.device = device
        scanning = Scanning(device)
        scanner = type("BoundScanner", (RadioScanner,), {"scanning": scanning})
        bound = {"device": device, "scanner_type": scanner, "connecting": asyncio.Lock()}
        self.scanner_backend = scanner
        self.client_backend = type("BoundClient", (RadioClient,), bound)
