"""Glucose meters: the stored measurements since the last committed one, by sequence number (Glucose Profile 1.0.1)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.floats import Special
from devices.gatt.glucose import GlucoseMeasurement, GlucoseStatus, decode_glucose_measurement
from devices.gatt.record_access import Operator
from devices.vocabulary import Code, Flag
from gateway.ble.device_time import WallClock, wall_times
from gateway.ble.findings import NO_FLAGS, Finding, Reading, Record
from gateway.ble.link import Packet
from gateway.ble.profiles.device_clock import read_clock, set_clock
from gateway.ble.record_access import ProcedureError, RecordAccess
from gateway.ble.visit import Visit

MEASUREMENT: Final = full_uuid(Characteristic.GLUCOSE_MEASUREMENT)
EPOCH: Final = "log epoch"
LAST: Final = "log last"
DOUBTED: Final = (
    GlucoseStatus.SENSOR_MALFUNCTION
    | GlucoseStatus.SAMPLE_SIZE_INSUFFICIENT
    | GlucoseStatus.STRIP_INSERTION_ERROR
    | GlucoseStatus.STRIP_TYPE_INCORRECT
    | GlucoseStatus.TEMPERATURE_TOO_HIGH
    | GlucoseStatus.TEMPERATURE_TOO_LOW
    | GlucoseStatus.READ_INTERRUPTED
    | GlucoseStatus.GENERAL_DEVICE_FAULT
)

log = logging.getLogger(__name__)


async def read_meter(visit: Visit) -> None:
    """Read what was stored since the last committed record; leave the meter its copy, and the right time."""
    clock = await read_clock(visit)
    meter = _Meter(visit, clock)
    await visit.link.listen(MEASUREMENT)
    await meter.access.listen()
    await meter.read_log()
    await visit.read_battery()
    await set_clock(visit)


@dataclass(slots=True)
class _Meter:
    """The log of a connected meter. Keys are sequence numbers; they begin anew when the meter's memory is erased.

    A stamp cannot be judged before all that were made after it: so nothing is kept of a report that breaks off.
    """

    visit: Visit
    clock: WallClock
    access: RecordAccess = field(init=False)
    reported: list[tuple[Packet, GlucoseMeasurement]] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.access = RecordAccess(self.visit.link, self._take)

    async def read_log(self) -> None:
        """Report from the last committed record on. It comes along: if it is another one, the numbers began anew."""
        spool, name = self.visit.spool, self.visit.device.id
        epoch = int(spool.fact(name, EPOCH) or 0)
        committed = spool.committed(name, _stream(epoch))
        if committed is not None and await self._began_anew(committed):
            log.warning("the meter's numbers began anew", extra={"device": name, "committed": committed})
            epoch, committed = epoch + 1, None
            spool.set_fact(name, EPOCH, str(epoch))
        for _ in range(2):
            await self._report(Operator.GREATER_THAN_OR_EQUAL_TO, 0 if committed is None else committed)
            if not self.refused:
                break  # else once more: what came spoiled may come whole
        self.visit.keep(self.refused)
        if not self.reported:
            return
        newest, measured = max(self.reported, key=lambda pair: pair[1].sequence)
        self.visit.keep_records(_stream(epoch), self._records())
        spool.set_fact(name, LAST, _mark(measured.sequence, newest))
        spool.cover(name, _stream(epoch), measured.sequence)

    async def _began_anew(self, committed: int) -> bool:
        """Whether the record with the committed number is not the one that was read, or no number is as high."""
        try:
            await self._report(Operator.LAST_RECORD)
            if self.reported and self.reported[-1][1].sequence < committed:
                return True
            await self._report(Operator.WITHIN_RANGE_OF, committed, committed)
        except ProcedureError:
            return False  # a meter need not know these; most do
        known = self.visit.spool.fact(self.visit.device.id, LAST)
        if not self.reported or not known or not known.startswith(f"{committed} "):
            return False
        packet, measured = self.reported[-1]
        return _mark(measured.sequence, packet) != known

    async def _report(self, operator: Operator, *keys: int) -> None:
        self.reported, self.refused = [], []
        await self.access.report(operator, *keys)

    def _take(self, packet: Packet) -> None:
        if packet.characteristic != MEASUREMENT:
            return
        try:
            self.reported.append((packet, decode_glucose_measurement(packet.value)))
        except PacketError as error:
            if unreadable := self.visit.refuse(packet, error):
                self.refused.append(unreadable)

    def _records(self) -> list[Record]:
        """Return what was reported with real times, in the order of the numbers."""
        self.reported.sort(key=lambda pair: pair[1].sequence)
        stamped = [(one.sequence, one.user_time) for _, one in self.reported]
        timed: Sequence[tuple[int, datetime]] = [(number, stamp) for number, stamp in stamped if stamp is not None]
        times = dict(
            zip((number for number, _ in timed), wall_times(timed, self.clock, self.visit.now_ms()), strict=True)
        )
        return [
            Record(one.sequence, self._findings(packet, one, times[one.sequence].at_ms if one.user_time else None))
            for packet, one in self.reported
        ]

    def _findings(self, packet: Packet, measured: GlucoseMeasurement, at_ms: int | None) -> tuple[Finding, ...]:
        if measured.concentration is None or measured.unit is None:
            return ()  # the meter noted that something went wrong, and measured nothing
        if at_ms is None:
            unreadable = self.visit.refuse(packet, PacketError("Glucose Measurement: the meter did not know the time"))
            return (unreadable,) if unreadable else ()
        return (reading(measured, at_ms),)


def reading(measured: GlucoseMeasurement, at_ms: int) -> Reading:
    """Return a measurement in the contract's words. Raises AssertionError for one without a concentration."""
    if measured.concentration is None or measured.unit is None:
        raise AssertionError("a measurement without a concentration is no reading")
    flags = NO_FLAGS
    if measured.status & GlucoseStatus.RESULT_TOO_LOW or measured.concentration is Special.NEGATIVE_INFINITY:
        flags |= Flag.BELOW_RANGE
    if measured.status & GlucoseStatus.RESULT_TOO_HIGH or measured.concentration is Special.POSITIVE_INFINITY:
        flags |= Flag.ABOVE_RANGE
    if measured.sample is not None and measured.sample.is_control_solution:
        flags |= Flag.CALIBRATION  # the meter was checked: no patient's value
    if measured.status & DOUBTED:
        flags |= Flag.ARTIFACT
    stated = isinstance(measured.concentration, Special) or flags & (Flag.BELOW_RANGE | Flag.ABOVE_RANGE)
    value = None if stated or isinstance(measured.concentration, Special) else float(measured.concentration)
    return Reading(Code.GLUCOSE, measured.unit, at_ms, value, flags)


def _stream(epoch: int) -> str:
    return f"log {epoch}"


def _mark(sequence: int, packet: Packet) -> str:
    """Return what tells a record from another one with its number."""
    return f"{sequence} {packet.value.hex()}"
