"""Who is near: advertisements of known devices and of strangers. Listening only; nothing here ever connects."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.link import RADIO_ERRORS, Radio

# Phones change their address every quarter of an hour, and anybody can make addresses up.
MOST_REMEMBERED: Final = 512
MOST_SERVICES: Final = 16
LONGEST_NAME: Final = 64
START_WITHIN_S: Final = 30.0
RETRY_S: Final = 5.0
RESTART_S: Final = 3600.0
"""A scan is begun anew now and then: adapters have been seen to fall silent without a word."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device as it was heard last; `found` is what bleak connects to."""

    address: str
    name: str
    services: tuple[str, ...]
    rssi: int
    """dBm"""
    seen_ms: int
    found: BLEDevice


class Neighbourhood:
    """The devices heard lately, by address in upper case; the one heard longest ago is forgotten first."""

    def __init__(self) -> None:
        self._sightings: OrderedDict[str, Sighting] = OrderedDict()

    def __len__(self) -> int:
        """Return how many devices are remembered."""
        return len(self._sightings)

    def hear(self, found: BLEDevice, heard: AdvertisementData, now_ms: int) -> Sighting:
        """Remember an advertisement."""
        sighting = Sighting(
            address=found.address.upper(),
            name=_printable(heard.local_name or found.name or ""),
            services=tuple(heard.service_uuids[:MOST_SERVICES]),
            rssi=heard.rssi,
            seen_ms=now_ms,
            found=found,
        )
        self._sightings[sighting.address] = sighting
        self._sightings.move_to_end(sighting.address)
        if len(self._sightings) > MOST_REMEMBERED:
            self._sightings.popitem(last=False)
        return sighting

    def get(self, address: str) -> Sighting | None:
        """Return the last sighting of a device."""
        return self._sightings.get(address)

    def everybody(self) -> list[Sighting]:
        """Return all, the strongest signal first."""
        return sorted(self._sightings.values(), key=lambda sighting: -sighting.rssi)


async def scan(
    radio: Radio, on_advertisement: Callable[[BLEDevice, AdvertisementData], None], *, for_s: float | None = None
) -> None:
    """Listen `for_s` seconds. Raises one of RADIO_ERRORS where there is no radio, or when it goes."""
    scanner = BleakScanner(on_advertisement, **radio.scanner_arguments)
    async with asyncio.timeout(START_WITHIN_S):
        await scanner.start()
    try:
        await asyncio.sleep(RESTART_S if for_s is None else for_s)
    finally:
        async with asyncio.timeout(START_WITHIN_S):
            await scanner.stop()


async def keep_scanning(radio: Radio, on_advertisement: Callable[[BLEDevice, AdvertisementData], None]) -> NoReturn:
    """Listen until cancelled, whatever becomes of the radio meanwhile."""
    silent = False
    while True:
        try:
            await scan(radio, on_advertisement)
            silent = False
        except RADIO_ERRORS as error:
            if not silent:
                log.error("no radio; trying again", extra={"cause": str(error) or type(error).__name__})  # noqa: TRY400
            silent = True
            await asyncio.sleep(RETRY_S)


async def survey(radio: Radio, now_ms: Callable[[], int], seconds: float) -> list[Sighting]:
    """Return who is heard within some seconds. Raises one of RADIO_ERRORS where there is no radio."""
    near = Neighbourhood()
    await scan(radio, lambda found, heard: _remember(near, found, heard, now_ms()), for_s=seconds)
    return near.everybody()


def _remember(near: Neighbourhood, found: BLEDevice, heard: AdvertisementData, now_ms: int) -> None:
    near.hear(found, heard, now_ms)


def _printable(name: str) -> str:
    """Return a name that anybody may have chosen, fit for a log and a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in name[:LONGEST_NAME])
