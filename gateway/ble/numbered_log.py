"""A log of numbered entries on a device, read from the last committed one on, as glucose meters and pill boxes have."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from devices.errors import PacketError
from devices.gatt.record_access import KEY_SIZE, Operator
from gateway.ble.findings import Finding, Record
from gateway.ble.link import Packet
from gateway.ble.record_access import RecordAccess
from gateway.ble.visit import Visit

EPOCH: Final = "log epoch"

log = logging.getLogger(__name__)


class Numbered(Protocol):
    """An entry of such a log."""

    @property
    def sequence(self) -> int:
        """Rises with real time; begins anew when the device loses its memory."""


EntryT = TypeVar("EntryT", bound=Numbered)


@dataclass(slots=True)
class NumberedLog(Generic[EntryT]):
    """The log of a connected device; `characteristic` notifies its entries, `key_size` is that of its numbers.

    The time of an entry depends on those that follow it: so nothing is kept of a report that breaks off.
    """

    visit: Visit
    characteristic: str
    decode: Callable[[bytes], EntryT]
    key_size: int = KEY_SIZE
    access: RecordAccess = field(init=False)
    reported: list[tuple[Packet, EntryT]] = field(default_factory=list)
    """The entries of the last report, in the order they came."""
    _refused: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.access = RecordAccess(self.visit.link, self._take, self.key_size)

    async def listen(self) -> None:
        """Subscribe to entries and to the control point."""
        await self.visit.link.listen(self.characteristic)
        await self.access.listen()

    @property
    def stream(self) -> str:
        """The name of the log in the spool; it changes with each loss of memory."""
        return f"log {self._epoch}"

    @property
    def committed(self) -> int | None:
        """The number up to which the gateway has everything; None: nothing yet."""
        return self.visit.spool.committed(self.visit.device.id, self.stream)

    def begin_anew(self) -> None:
        """Treat the device's numbers as new ones: it has lost the committed entries."""
        about = {"device": self.visit.device.id, "committed": self.committed}
        log.warning("a device's numbers began anew", extra=about)
        self.visit.spool.set_fact(self.visit.device.id, EPOCH, str(self._epoch + 1))

    async def report(self, operator: Operator, *keys: int) -> None:
        """Have entries reported. Raises LinkError."""
        self.reported, self._refused = [], []
        await self.access.report(operator, *keys)

    async def report_from(self, number: int) -> None:
        """Have all entries reported from a number on; once more if one came spoiled, as it may come whole.

        Raises LinkError.
        """
        for _ in range(2):
            self.reported, self._refused = [], []
            await self.access.report_from(number)
            if not self._refused:
                return

    @property
    def entries(self) -> list[tuple[Packet, EntryT]]:
        """The reported entries by number, each once, although new entries may also be notified unasked."""
        once = {entry.sequence: (packet, entry) for packet, entry in self.reported}
        return [once[number] for number in sorted(once)]

    def keep(self, records: Sequence[Record]) -> None:
        """Spool the entries of a whole report, including those that could not be read. Raises SpoolFullError."""
        self.visit.keep(self._refused)
        if records:
            self.visit.keep_records(self.stream, records)
            self.visit.spool.cover(self.visit.device.id, self.stream, max(record.key for record in records))

    @property
    def _epoch(self) -> int:
        return int(self.visit.spool.fact(self.visit.device.id, EPOCH) or 0)

    def _take(self, packet: Packet) -> bool:
        """Take an entry that came while a procedure ran; return whether it was one, good or spoiled."""
        if packet.characteristic != self.characteristic:
            return False
        try:
            self.reported.append((packet, self.decode(packet.value)))
        except PacketError as error:
            if unreadable := self.visit.refuse(packet, error):
                self._refused.append(unreadable)
        return True
