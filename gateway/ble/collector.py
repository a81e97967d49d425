"""Joins scanning, turns and sessions: visits the devices that are near and due, as many at once as there are links."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from devices.roster import Roster
from gateway.ble.link import Radio
from gateway.ble.metrics import BleMetrics
from gateway.ble.profiles import PROFILES
from gateway.ble.scanning import Neighbourhood, keep_scanning
from gateway.ble.session import Outcome, Session, Stage
from gateway.ble.spool import Spool, SpoolBrokenError
from gateway.ble.turns import TurnState, decide

LINKS: Final = 4
"""What cheap adapters can hold at once."""
STRANGERS_SAID: Final = 64
"""The log names at most this many: phones change their addresses all the time, and anybody can invent some."""
LOOK_EVERY_S: Final = 1.0
"""How often turns are reconsidered while a device nearby has to wait for one."""

log = logging.getLogger(__name__)


class Collector:
    """Visits the devices of the roster until cancelled. It hears other devices too, but never connects to them.

    `now_ms` is the time of day; `monotonic_ms` never jumps, and times the turns.
    """

    def __init__(
        self,
        radio: Radio,
        spool: Spool,
        metrics: BleMetrics,
        now_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
        links: int = LINKS,
    ) -> None:
        self.near = Neighbourhood()
        self._radio = radio
        self._spool = spool
        self._metrics = metrics
        self._now_ms = now_ms
        self._monotonic_ms = monotonic_ms
        self._links = links
        self._sessions: dict[str, Session] = {}
        self._standings: dict[str, TurnState] = {}
        self._by_address: dict[str, str] = {}
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._chance = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def sessions(self) -> dict[str, Session]:
        """The sessions by device id."""
        return self._sessions

    def set_roster(self, roster: Roster) -> None:
        """Read these devices from now on; devices that are no longer on the roster are left at once."""
        wanted = {device.id: device for device in roster.devices if device.model in PROFILES}
        for name in [name for name, session in self._sessions.items() if wanted.get(name) != session.device]:
            self._dismiss(name)
        for name, device in wanted.items():
            if name not in self._sessions:
                self._sessions[name] = Session(device, self._radio, self._spool, self._now_ms, self._metrics)
                self._standings[name] = TurnState(name, device.model)
        self._by_address = {device.address: name for name, device in wanted.items()}
        log.info("roster", extra={"devices": len(wanted), "unsupported": list(roster.unsupported)})
        self._look.set()

    def _dismiss(self, name: str) -> None:
        session = self._sessions.pop(name)
        self._standings.pop(name)
        session.leave()
        if session.stage is Stage.CONNECTING and name in self._visits:
            self._visits[name].cancel()  # there is nothing to keep, and others wait for the radio

    def hurry(self, device: str, command: str) -> bool:
        """Visit the device as soon as it is heard, because a command waits for it; False if no profile obeys it."""
        session = self._sessions.get(device)
        if session is None or command not in PROFILES[session.device.model].commands:
            return False
        self._standings[device] = replace(self._standings[device], urgent=True)
        self._look.set()
        return True

    async def run(self) -> None:
        """Scan and visit until cancelled; visits then put what they heard on disk and disconnect."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_scanning(self._radio, self._hear), name="scan")
            while True:
                self._take_turns(group)
                await self._next_look()

    def _hear(self, found: BLEDevice, heard: AdvertisementData) -> None:
        """Take in an advertisement; many come each second, so this has to be cheap."""
        address = found.address.upper()
        stranger = self.near.get(address) is None
        sighting = self.near.hear(found, heard, self._now_ms())
        name = self._by_address.get(address)
        if name is None:
            if stranger:
                self._metrics.near.set(len(self.near))
            if stranger and len(self.near) <= STRANGERS_SAID:
                # Without its name, which on phones is often a person's. `vigil ble scan` shows names on request.
                log.info("a stranger is near", extra={"address": address, "services": list(sighting.services)})
            return
        standing = self._standings[name]
        self._standings[name] = standing.seen(self._monotonic_ms())
        if standing.seen_ms is None and standing.linked_ms is None:
            self._look.set()  # later turns have to wait for the clock anyway

    def _take_turns(self, group: asyncio.TaskGroup) -> None:
        now_ms = self._monotonic_ms()
        # Sessions of devices that left the roster, or came back to it changed.
        busy_elsewhere = sum(
            name not in self._standings or self._standings[name].linked_ms is None for name in self._visits
        )
        decision = decide(self._standings.values(), self._links - busy_elsewhere, now_ms)
        for name in decision.release:
            self._standings[name] = self._standings[name].asked()
            self._sessions[name].leave()
        for name in decision.connect:
            sighting = self.near.get(self._sessions[name].device.address)
            if sighting is None or name in self._visits:
                continue
            self._standings[name] = replace(self._standings[name].begun(now_ms), urgent=False)
            task = group.create_task(self._visit(name, sighting.found), name=f"visit {name}")
            self._visits[name] = task

    async def _visit(self, name: str, found: BLEDevice) -> None:
        """Visit one device. Whatever goes wrong with it, or with how we read it, other devices are still visited."""
        session = self._sessions[name]
        failed = True
        try:
            outcome = await session.visit(found)
            failed = outcome is not Outcome.DONE and not session.progressed
        except SpoolBrokenError:
            raise
        except Exception:
            log.exception("a visit failed; the device is tried again", extra={"device": name})
        finally:
            self._visits.pop(name, None)
            if self._sessions.get(name) is session:
                now_ms = self._monotonic_ms()
                # Advertisements from before the visit do not show that the device is still there after it.
                standing = replace(self._standings[name], seen_ms=None)
                self._standings[name] = standing.ended(now_ms, failed=failed, chance=self._chance.random())
            self._look.set()

    async def _next_look(self) -> None:
        """Wait until something changes; wake by the clock only while a device nearby waits for its turn."""
        self._look.clear()
        somebody_waits = any(
            standing.linked_ms is None and standing.seen_ms is not None for standing in self._standings.values()
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S if somebody_waits else None):
                await self._look.wait()
