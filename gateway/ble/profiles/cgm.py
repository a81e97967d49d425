"""Continuous glucose monitors: catch up on the session by records, then follow it live (CGM Profile 1.0.2)."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.cgm import (
    CgmMeasurement,
    CgmStatusOctet,
    CgmWarningOctet,
    SessionStartTime,
    decode_cgm_feature,
    decode_cgm_measurements,
    decode_cgm_status,
    decode_session_start_time,
    encode_session_start_time,
)
from devices.gatt.floats import Special
from devices.vocabulary import Code, Flag, Unit
from gateway.ble.device_time import CgmStart, cgm_start
from gateway.ble.findings import NO_FLAGS, Finding, Reading, Record
from gateway.ble.link import LinkError, Packet, RefusedError
from gateway.ble.record_access import RecordAccess
from gateway.ble.visit import BATTERY_EVERY_MS, Visit

MEASUREMENT: Final = full_uuid(Characteristic.CGM_MEASUREMENT)
FEATURE: Final = full_uuid(Characteristic.CGM_FEATURE)
STATUS: Final = full_uuid(Characteristic.CGM_STATUS)
SESSION_START: Final = full_uuid(Characteristic.CGM_SESSION_START_TIME)

START: Final = "cgm start"
MINUTE_MS: Final = 60_000
LONGEST_SPACING: Final = 15
"""Minutes: sensors measure every 1 to 15. Records further apart have a gap between them."""
AT_ONCE: Final = 256
"""At most this many records are read before they are on disk: what a kill loses is read again."""
UNRELIABLE: Final = (
    CgmStatusOctet.SESSION_STOPPED | CgmStatusOctet.SENSOR_MALFUNCTION | CgmStatusOctet.GENERAL_DEVICE_FAULT
)
_STATED: Final = Flag.BELOW_RANGE | Flag.ABOVE_RANGE
_UTC: Final = timedelta(0)

log = logging.getLogger(__name__)


async def follow_glucose(visit: Visit) -> None:
    """Read what the sensor stored since the last committed record, then follow it live until asked to leave."""
    session = await _open_session(visit)
    await visit.link.listen(MEASUREMENT)
    await session.access.listen()
    await session.catch_up()
    await visit.read_battery()
    battery_ms = visit.now_ms()
    while not visit.leaving:
        packet = await visit.link.next_packet(BATTERY_EVERY_MS / 1000)
        if packet is not None and packet.characteristic == MEASUREMENT:
            await session.hear(packet)
        if visit.now_ms() - battery_ms >= BATTERY_EVERY_MS:
            await visit.read_battery()
            battery_ms = visit.now_ms()


async def _open_session(visit: Visit) -> "_Session":
    """Find out when the session began, in real time, and have the sensor know it too.

    What is written to the Session Start Time is the current time; the sensor subtracts its minutes (CGM Service 1.0.2,
    3.4.1). Any later reader, another box too, reads the same start and gives each record the same time.
    """
    link, device = visit.link, visit.device
    crc = decode_cgm_feature(await link.read(FEATURE)).e2e_crc
    start, minutes = await _start(visit, crc=crc)
    if start.should_write:
        now = datetime.fromtimestamp(visit.now_ms() / 1000, UTC).replace(tzinfo=None)
        try:
            await link.write(SESSION_START, encode_session_start_time(SessionStartTime(now, _UTC, _UTC), crc=crc))
        except RefusedError as refused:
            log.info("the sensor keeps its own start of session", extra={"device": device.id, "cause": str(refused)})
        else:
            start, minutes = await _start(visit, crc=crc)
    visit.spool.set_fact(device.id, START, str(start.start_ms))
    return _Session(visit, start.start_ms, minutes, crc)


async def _start(visit: Visit, *, crc: bool) -> tuple[CgmStart, int]:
    """Return when the session began, as far as is known now, and how many minutes it has run by the sensor's count."""
    status = decode_cgm_status(await visit.link.read(STATUS), crc=crc)
    now_ms = visit.now_ms()
    told = decode_session_start_time(await visit.link.read(SESSION_START), crc=crc)
    offset = told.utc_offset
    if offset is None and told.time is not None:
        offset = told.time.replace(tzinfo=visit.zone).utcoffset()
    held = visit.spool.fact(visit.device.id, START)
    return cgm_start(told.time, offset, status.time_offset, now_ms, int(held) if held else None), status.time_offset


@dataclass(slots=True)
class _Session:
    """One session of a sensor while the link lasts. Keys are minutes since its start."""

    visit: Visit
    start_ms: int
    asked_at: int
    """The sensor's minute when records were last requested: later measurements arrive unasked."""
    crc: bool
    access: RecordAccess = field(init=False)
    reported: list[Record] = field(default_factory=list)
    """Records of the running procedure that are not on disk yet, in the order they came."""
    newest: int = -1
    """The newest key up to which everything is on disk."""
    ascending: bool = True
    spoiled: bool = False
    """Something that came since `newest` could not be read."""
    spacing: int = 0
    """The shortest distance seen between two records, in minutes; 0: not known yet."""

    def __post_init__(self) -> None:
        self.access = RecordAccess(self.visit.link, self._take)

    @property
    def stream(self) -> str:
        """The session's name in the spool."""
        return f"session {self.start_ms}"

    async def catch_up(self) -> None:
        """Read all records from the last committed one on. Raises LinkError; what came before the error is kept."""
        committed = self.visit.spool.committed(self.visit.device.id, self.stream)
        after = self.newest if self.newest >= 0 else -1 if committed is None else committed
        self.newest, self.ascending, self.spoiled = after, True, False
        try:
            for _ in range(2):
                await self.access.report_from(after + 1)
                if not self.spoiled:
                    break  # otherwise once more: a spoiled record may come whole
        except LinkError:
            self._store(whole=False)
            raise
        self._store(whole=True)

    async def hear(self, packet: Packet) -> None:
        """Keep what the sensor has just measured; if something before it is missing, request that."""
        records = self._records(packet)
        self.visit.keep_records(self.stream, records)
        for key in sorted(record.key for record in records):
            if self.spacing and key <= self.newest + self.spacing:
                self._cover(key)
            elif key > self.newest:
                self.asked_at = max(self.asked_at, key)
                await self.catch_up()

    def _take(self, packet: Packet) -> None:
        """Take a notification that came while a procedure ran."""
        if packet.characteristic != MEASUREMENT:
            return
        for record in self._records(packet):
            if record.key > self.asked_at:
                # Measured meanwhile, not reported: it does not show that everything before it has come.
                self.visit.keep_records(self.stream, [record])
                continue
            self.ascending = self.ascending and record.key > (self.reported[-1].key if self.reported else self.newest)
            self.reported.append(record)
        if len(self.reported) >= AT_ONCE and self.ascending:
            self._store(whole=False)

    def _store(self, *, whole: bool) -> None:
        """Put the reported records on disk. A sensor that reports in order left nothing out before its last record."""
        records, self.reported = self.reported, []
        if not records:
            return
        keys = sorted(record.key for record in records)
        known = (self.newest, *keys) if self.newest >= 0 else keys
        steps = {later - earlier for earlier, later in pairwise(known)}
        self.spacing = min((step for step in steps if 0 < step <= LONGEST_SPACING), default=self.spacing)
        self.visit.keep_records(self.stream, records)
        if whole or (self.ascending and not self.spoiled):
            self._cover(keys[-1])

    def _cover(self, key: int) -> None:
        self.newest = max(self.newest, key)
        self.visit.spool.cover(self.visit.device.id, self.stream, self.newest)

    def _records(self, packet: Packet) -> list[Record]:
        try:
            measured = decode_cgm_measurements(packet.value, crc=self.crc)
        except PacketError as error:
            self.spoiled = True
            refused = self.visit.refuse(packet, error)
            self.visit.keep([refused] if refused else [])
            return []
        return [
            Record(one.time_offset, (reading(one, self.start_ms + one.time_offset * MINUTE_MS),)) for one in measured
        ]


def reading(measured: CgmMeasurement, at_ms: int) -> Finding:
    """Return a measurement in the contract's words: LO and HI are flags, what the sensor doubts is an artifact."""
    flags = NO_FLAGS
    if measured.warnings & CgmWarningOctet.RESULT_TOO_LOW or measured.glucose is Special.NEGATIVE_INFINITY:
        flags |= Flag.BELOW_RANGE
    if measured.warnings & CgmWarningOctet.RESULT_TOO_HIGH or measured.glucose is Special.POSITIVE_INFINITY:
        flags |= Flag.ABOVE_RANGE
    if measured.status & UNRELIABLE:
        flags |= Flag.ARTIFACT
    value = None if isinstance(measured.glucose, Special) or flags & _STATED else float(measured.glucose)
    return Reading(Code.GLUCOSE, Unit.MG_DL, at_ms, value, flags)
