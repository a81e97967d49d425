"""Which devices are near: advertisements of known devices and of strangers. It only listens and never connects."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.link import RADIO_ERRORS, Radio

# Phones change their address every quarter of an hour, and anybody can invent addresses.
MAX_REMEMBERED: Final = 512
MAX_SERVICES: Final = 16
LONGEST_NAME: Final = 64
START_WITHIN_S: Final = 30.0
STOP_WITHIN_S: Final = 5.0
RETRY_S: Final = 5.0
SILENT_S: Final = 60.0
RESTART_AFTER: Final = 60
"""A scan is restarted when a minute brought nothing, and every hour: radios fall silent without an error, and one that
is gone reports it only when started."""

Hear = Callable[[BLEDevice, AdvertisementData], None]
"""Called for each advertisement; many come each second."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device as it was last heard; `found` is what bleak connects to."""

    address: str
    name: str
    services: tuple[str, ...]
    rssi: int
    """dBm"""
    seen_ms: int
    found: BLEDevice


class Neighbourhood:
    """The devices heard lately, by address in upper case; the one heard longest ago is dropped first."""

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
            services=tuple(heard.service_uuids[:MAX_SERVICES]),
            rssi=heard.rssi,
            seen_ms=now_ms,
            found=found,
        )
        self._sightings[sighting.address] = sighting
        self._sightings.move_to_end(sighting.address)
        if len(self._sightings) > MAX_REMEMBERED:
            self._sightings.popitem(last=False)
        return sighting

    def get(self, address: str) -> Sighting | None:
        """Return the last sighting of a device."""
        return self._sightings.get(address)

    def everybody(self) -> list[Sighting]:
        """Return all sightings, the strongest signal first."""
        return sorted(self._sightings.values(), key=lambda sighting: -sighting.rssi)


async def scan(radio: Radio, hear: Hear, *, for_s: float | None = None) -> None:
    """Listen for `for_s` seconds; if None, until nothing has been heard for a while, or for an hour.

    Raises one of RADIO_ERRORS if there is no radio, or it goes away.
    """
    heard = 0

    def listen(found: BLEDevice, said: AdvertisementData) -> None:
        nonlocal heard
        heard += 1
        hear(found, said)

    scanner = BleakScanner(listen, **radio.scanner_arguments)
    async with asyncio.timeout(START_WITHIN_S):
        await scanner.start()
    try:
        if for_s is not None:
            await asyncio.sleep(for_s)
        else:
            await _until_silent(lambda: heard)
    except asyncio.CancelledError:
        # A radio that is gone cannot stop its scan, and must not keep us from stopping.
        with suppress(*RADIO_ERRORS):
            await _stop(scanner)
        raise
    await _stop(scanner)


async def _until_silent(heard: Callable[[], int]) -> None:
    for _ in range(RESTART_AFTER):
        before = heard()
        await asyncio.sleep(SILENT_S)
        if heard() == before:
            return


async def _stop(scanner: BleakScanner) -> None:
    async with asyncio.timeout(STOP_WITHIN_S):
        await scanner.stop()


async def keep_scanning(radio: Radio, hear: Hear) -> NoReturn:
    """Listen until cancelled, whatever happens to the radio meanwhile."""
    silent = False
    while True:
        try:
            await scan(radio, hear)
            silent = False
        except RADIO_ERRORS as error:
            if not silent:
                log.error("no radio; trying again", extra={"cause": str(error) or type(error).__name__})  # noqa: TRY400
            silent = True
            await asyncio.sleep(RETRY_S)


async def survey(radio: Radio, now_ms: Callable[[], int], seconds: float) -> list[Sighting]:
    """Return the devices heard within `seconds`. Raises one of RADIO_ERRORS if there is no radio."""
    near = Neighbourhood()
    await scan(radio, lambda found, heard: _remember(near, found, heard, now_ms()), for_s=seconds)
    return near.everybody()


def _remember(near: Neighbourhood, found: BLEDevice, heard: AdvertisementData, now_ms: int) -> None:
    near.hear(found, heard, now_ms)


def _printable(name: str) -> str:
    """Return a name, which anybody may have chosen, made safe for a log and a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in name[:LONGEST_NAME])
