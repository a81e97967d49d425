"""One visit to one device, as its profile sees it: the link, the way to the spool, and when to leave."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.battery import decode_battery_level
from devices.roster import RosterDevice
from devices.vocabulary import Code, Unit
from gateway.ble.findings import Finding, Reading, Record, Unreadable
from gateway.ble.heart_beats import HeartStream
from gateway.ble.link import Link, Packet
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import Spool, SpoolFullError

BATTERY_LEVEL: Final = full_uuid(Characteristic.BATTERY_LEVEL)
# A device that sends nothing but garbage must not fill spool and quarantine; packets beyond this are counted and logged.
UNREADABLE_A_VISIT: Final = 32
BATTERY: Final = "battery"
BATTERY_EVERY_MS: Final = 60 * 60_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Carried:
    """What one visit to a device passes on to the next, for as long as the program runs."""

    heart: HeartStream = field(default_factory=HeartStream)
    """So that beats keep their order over a reconnect, and none is emitted twice."""


@dataclass(slots=True)
class Visit:
    """What a profile works with between connecting and leaving. Times are ms since the Unix epoch."""

    device: RosterDevice
    link: Link
    spool: Spool
    now_ms: Callable[[], int]
    metrics: BleMetrics
    carried: Carried = field(default_factory=Carried)
    leaving: bool = False
    """Another device waits for the link: finish the current step, and return."""
    kept: int = 0
    """Findings and new records of this visit that are on disk."""
    unreadable: int = 0

    @property
    def zone(self) -> ZoneInfo:
        """The wearer's time zone; UTC where this machine does not know its name."""
        try:
            return ZoneInfo(self.device.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            return ZoneInfo("UTC")

    def leave(self) -> None:
        """Ask the profile to come to its end."""
        self.leaving = True
        self.link.nudge()

    def keep(self, findings: Sequence[Finding]) -> None:
        """Spool findings that the device does not store. A full spool loses them, which is counted and logged."""
        if not findings:
            return
        try:
            self.spool.keep(self.device.id, findings)
            self.kept += len(findings)
        except SpoolFullError:
            self.metrics.lost.inc(len(findings))
            log.error("the spool is full: live data are lost", extra={"device": self.device.id})  # noqa: TRY400

    def keep_records(self, stream: str, records: Sequence[Record]) -> None:
        """Spool stored records, without known ones. On SpoolFullError they stay on the device."""
        if not records:
            return
        new = self.spool.keep_records(self.device.id, stream, records)
        self.metrics.records.labels(self.device.model).inc(new)
        self.kept += new

    def refuse(self, packet: Packet, error: PacketError) -> Unreadable | None:
        """Return the finding for a packet that no decoder accepts; None if there were too many already."""
        self.unreadable += 1
        self.metrics.unreadable.inc()
        if self.unreadable > UNREADABLE_A_VISIT:
            return None
        name = _short(packet.characteristic)
        about = {"device": self.device.id, "characteristic": name, "bytes": len(packet.value)}
        log.warning("a packet cannot be read", extra=about)
        return Unreadable(packet.arrived_ms, name, packet.value, error.detail)

    async def read_battery(self, *, as_contact: bool = False) -> None:
        """Spool the battery level if the device has one: when it changed, hourly, or as a sign of contact now."""
        if not self.link.has(BATTERY_LEVEL):
            return
        value = await self.link.read(BATTERY_LEVEL)
        at_ms = self.now_ms()
        try:
            level = decode_battery_level(value)
        except PacketError as error:
            refused = self.refuse(Packet(BATTERY_LEVEL, value, at_ms), error)
            self.keep([refused] if refused else [])
            return
        last, _, last_ms = (self.spool.fact(self.device.id, BATTERY) or " 0").partition(" ")
        if as_contact or last != str(level) or at_ms - int(last_ms) >= BATTERY_EVERY_MS:
            self.keep([Reading(Code.BATTERY, Unit.PERCENT, at_ms, level)])
            self.spool.set_fact(self.device.id, BATTERY, f"{level} {at_ms}")


def _short(uuid: str) -> str:
    """Return the 16-bit number of an assigned characteristic in hex, another UUID whole."""
    number = uuid[4:8]
    return number if uuid == full_uuid(int(number, 16)) else uuid
