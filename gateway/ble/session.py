"""The state machine of one device: connect, bond, read, follow, leave; every way a visit can end has a name."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

from bleak.backends.device import BLEDevice

from devices.errors import PacketError
from devices.roster import RosterDevice
from gateway.ble.link import (
    BondError,
    CutOffError,
    FloodedError,
    Link,
    LinkError,
    LinkLostError,
    Radio,
    UnansweredError,
    connected,
)
from gateway.ble.metrics import BleMetrics
from gateway.ble.profiles import PROFILES
from gateway.ble.spool import Spool, SpoolFullError
from gateway.ble.visit import Carried, Visit

BONDED: Final = "bonded"
FORGOTTEN_AFTER: Final = 5
"""A device that has forgotten its bond leaves as soon as the link is to be encrypted. A device at the edge of range
sometimes does too, and some bond again only after somebody pressed a button: a few bad links must not cost the keys."""
OVERSTAY_S: Final = 600.0
"""A device that is asked to leave may finish what it is doing: a log of thousands of records, at a few in each
connection interval. One that sends a record now and then, forever, would hold its link and starve the others."""

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """The stages of a session."""

    AWAY = "away"
    CONNECTING = "connecting"
    BONDING = "bonding"
    READING = "reading"


class Outcome(StrEnum):
    """How a visit ended."""

    DONE = "done"
    LOST = "lost"
    UNANSWERED = "unanswered"
    REFUSED = "refused"
    """The device answered, but not as its profile requires."""
    NO_BOND = "no_bond"
    OVERSTAYED = "overstayed"
    """It had to be cut off in the middle of something, long after another device had asked for its link."""
    FLOODED = "flooded"
    UNREADABLE = "unreadable"
    """The first thing it sent could not be read."""
    SPOOL_FULL = "spool_full"


ENDINGS: Final[tuple[tuple[type[Exception], Outcome], ...]] = (
    (LinkLostError, Outcome.LOST),
    (UnansweredError, Outcome.UNANSWERED),
    (BondError, Outcome.NO_BOND),
    (FloodedError, Outcome.FLOODED),
    (LinkError, Outcome.REFUSED),
    (PacketError, Outcome.UNREADABLE),
    (SpoolFullError, Outcome.SPOOL_FULL),
)
"""The first match counts."""


class Session:
    """Everything this box does with one device; call `visit` again and again."""

    def __init__(
        self,
        device: RosterDevice,
        radio: Radio,
        spool: Spool,
        now_ms: Callable[[], int],
        metrics: BleMetrics,
    ) -> None:
        self.device = device
        self.stage = Stage.AWAY
        self._radio = radio
        self._spool = spool
        self._now_ms = now_ms
        self._metrics = metrics
        self.progressed = False
        """Whether the last visit brought something, however it ended."""
        self._cut_off = 0
        """So many visits in a row ended in the middle of what may have needed our keys."""
        self._carried = Carried()
        self._visit: Visit | None = None
        self._told_to_leave = False
        self._patience: asyncio.Timeout | None = None

    def leave(self) -> None:
        """Have the running visit come to its end, because the device's link is wanted elsewhere."""
        self._told_to_leave = True
        if self._patience is not None and self._patience.when() is None:
            self._patience.reschedule(asyncio.get_running_loop().time() + OVERSTAY_S)
        if self._visit is not None:
            self._visit.leave()

    async def visit(self, found: BLEDevice) -> Outcome:
        """Connect to the device and read it until it is finished, lost, or another device wants the link."""
        self._told_to_leave = self.progressed = False
        try:
            async with asyncio.timeout(None) as self._patience:
                outcome = await self._visit_twice(found)
        except TimeoutError:
            about = {"device": self.device.id, "stage": self.stage}
            log.warning("a device did not come to its end in time and was left", extra=about)
            outcome = Outcome.OVERSTAYED
        finally:
            self._patience = None
            self.stage = Stage.AWAY
            self.progressed = self._visit is not None and self._visit.kept > 0
            self._visit = None
        self._metrics.visits.labels(self.device.model, outcome).inc()
        return outcome

    async def _visit_twice(self, found: BLEDevice) -> Outcome:
        """Visit, and once more if that failed for lack of a bond that both sides know."""
        outcome = await self._once(found, self._serve)
        if not self._bond_is_forgotten(outcome):
            return outcome
        log.warning("the device seems to have forgotten its bond; bonding anew", extra={"device": self.device.id})
        self._spool.set_fact(self.device.id, BONDED, "")
        if self._cut_off:
            self._cut_off = 0
            await self._once(found, Link.forget_bond)
        return await self._once(found, self._serve)

    def _bond_is_forgotten(self, outcome: Outcome) -> bool:
        """Whether our keys are useless: the device refuses them, or leaves whenever the link is to be encrypted."""
        if self._told_to_leave:
            return False
        refused = outcome is Outcome.NO_BOND and bool(self._spool.fact(self.device.id, BONDED))
        return refused or self._cut_off >= FORGOTTEN_AFTER

    async def _once(self, found: BLEDevice, serve: Callable[[Link], Awaitable[None]]) -> Outcome:
        self.stage = Stage.CONNECTING
        try:
            async with connected(self._radio, found, self._now_ms) as link:
                self._metrics.links.inc()
                try:
                    await serve(link)
                finally:
                    self._metrics.links.dec()
        except tuple(kind for kind, _ in ENDINGS) as error:
            outcome = next(outcome for kind, outcome in ENDINGS if isinstance(error, kind))
            about = {"device": self.device.id, "stage": self.stage, "outcome": outcome, "cause": str(error)}
            log.info("a visit ended early", extra=about)
            self._count_cut_offs(error)
            return outcome
        self._cut_off = 0
        return Outcome.DONE

    def _count_cut_offs(self, error: Exception) -> None:
        """Count visits that ended as if the device no longer knew our keys; a device out of reach shows nothing."""
        if self.stage is Stage.CONNECTING:
            return
        encrypted = self.stage is Stage.READING and PROFILES[self.device.model].bonds_first
        self._cut_off = self._cut_off + 1 if isinstance(error, CutOffError) and not encrypted else 0

    async def _serve(self, link: Link) -> None:
        profile = PROFILES[self.device.model]
        if profile.bonds_first:
            self.stage = Stage.BONDING
            await self._bond(link)
        self.stage = Stage.READING
        self._visit = Visit(self.device, link, self._spool, self._now_ms, self._metrics, self._carried)
        if self._told_to_leave:
            self._visit.leave()
        await profile.serve(self._visit)

    async def _bond(self, link: Link) -> None:
        try:
            await link.bond()
        except BondError:
            # Keys that the other side does not accept are useless: without them the next visit bonds anew.
            await link.forget_bond()
            raise
        if not self._spool.fact(self.device.id, BONDED):
            self._spool.set_fact(self.device.id, BONDED, "yes")
            log.info("bonded", extra={"device": self.device.id})
