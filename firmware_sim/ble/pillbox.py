"""A pill box: the vendor service with a log in flash, a clock in UTC, a schedule and reminders."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from bumble.att import ATT_INVALID_ATTRIBUTE_LENGTH_ERROR, ATT_Error
from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import CommandType, DeviceModel, EventType, Topic
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import crc_holds, with_crc
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.racp import EVERY_OPERATOR, OpCode, Operator, RecordAccess
from firmware_sim.ble.truth import ClockStep, Happened
from firmware_sim.clock import WallMs
from firmware_sim.pillbox import PillBox, PillBoxTraits

BASE: Final = "f504{:04x}-be74-47b1-b9e3-f11df3daa2a5"
SERVICE, FEATURE, LOG_ENTRY, CLOCK, SCHEDULE, REMINDER = (BASE.format(number) for number in range(1, 7))

ENTRY_TYPES: Final[Mapping[EventType, int]] = {
    EventType.COMPARTMENT_OPENED: 1,
    EventType.COMPARTMENT_CLOSED: 2,
    EventType.DOSE_TAKEN: 3,
    EventType.DOSE_SKIPPED: 4,
    EventType.BUTTON_PRESSED: 5,
    EventType.LOW_BATTERY: 6,
    EventType.TAMPER: 7,
}
CLOCK_BEFORE, CLOCK_AFTER = 64, 65
CLOCK_LOST_MS: Final = 0

COMPARTMENTS: Final = 8
LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""
FARTHEST_ZONE_MINUTES: Final = 14 * 60
MAX_DOSES: Final = 64
COUNTS_PILLS, REMINDS, SCHEDULES = 0x01, 0x02, 0x04
SMALLEST_STEP_MS: Final = 1_000
"""A clock that is moved by no more than this leaves no trace in the log."""
INVALID_CRC, OUT_OF_RANGE = 0x81, 0xFF

PROCEDURES: Final[Mapping[OpCode, frozenset[Operator]]] = {
    OpCode.REPORT: EVERY_OPERATOR - {Operator.UP_TO},
    OpCode.COUNT: frozenset({Operator.ALL, Operator.FROM}),
    OpCode.DELETE: frozenset({Operator.UP_TO}),
}


@dataclass(frozen=True, slots=True)
class ScheduledDose:
    """One row of the schedule a phone wrote."""

    compartment: int
    minute: int
    """Of the local day."""
    weekdays: int
    """Bit 0 = Monday."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The doses that the box was told to expect."""

    revision: int = 0
    utc_offset_minutes: int = 0
    doses: tuple[ScheduledDose, ...] = ()


@dataclass(frozen=True, slots=True)
class Reminder:
    """A reminder that the box was asked for."""

    at_ms: int
    """True time."""
    compartment: int
    signals: int
    seconds: int


def log_entry(sequence: int, time_ms: int, kind: int, compartment: int = 0, count: int = 0) -> bytes:
    """Return a Log Entry: 18 bytes with their CRC."""
    return with_crc(struct.pack("<IQBBBB", sequence, time_ms, kind, compartment, count, 0))


class PillboxPeripheral(Peripheral):
    """Logs its wearer's habits; sequence numbers start at 1 and survive everything."""

    model: ClassVar[DeviceModel] = DeviceModel.PILLBOX
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(SERVICE),)
    local_calendar: ClassVar[bool] = False

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Hand the box to its wearer at `started_ms`."""
        super().__init__(plan, wall_ms, started_ms=started_ms)
        self._traits = traits_of(plan, PillBoxTraits)
        self._box = PillBox(plan.seed, self._traits)
        self.schedule = Schedule()
        self.reminders: list[Reminder] = []
        self.clock_steps: list[ClockStep] = []
        self._sent = 0
        encrypted = plan.encrypted
        self._entry = characteristic(LOG_ENTRY, Properties.NOTIFY, encrypted=encrypted)
        self._access = RecordAccess(self, [self._entry], encrypted=encrypted, width=4, procedures=PROCEDURES)

    def services(self) -> Sequence[Service]:
        """Return the pill-box service."""
        encrypted = self.plan.encrypted
        features = REMINDS | SCHEDULES | (COUNTS_PILLS if self._traits.counts_pills else 0)
        feature = with_crc(struct.pack("<BBHH", 1, COMPARTMENTS, min(self.plan.capacity, 0xFFFF), features))
        both = Properties.READ | Properties.WRITE
        parts = [
            readable(FEATURE, feature, encrypted=encrypted),
            self._entry,
            characteristic(CLOCK, both, read=self._read_clock, write=self._write_clock, encrypted=encrypted),
            characteristic(SCHEDULE, both, read=self._read_schedule, write=self._write_schedule, encrypted=encrypted),
            characteristic(REMINDER, Properties.WRITE, write=self._write_reminder, encrypted=encrypted),
            self._access.characteristic,
        ]
        return [Service(uuid(SERVICE), parts)]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the log entry."""
        return [self._entry]

    def access(self) -> RecordAccess:
        """Return the control point of the log."""
        return self._access

    def next_due(self, after: int) -> int:
        """Return the next opening or closing, or the next time when it is worth checking."""
        return self._box.next_due(after)

    def measure(self, after: int, until: int) -> None:
        """Log the events of the box."""
        for draft in self._box.measure(after, until, live=True):
            if draft.topic is Topic.EVENT:
                for event in draft.items:
                    at, kind = _number(event["at"]), EventType(str(event["type"]))
                    self._log(at, kind, _number(event.get("compartment")), _number(event.get("count")))

    def happen(self, kind: EventType, compartment: int = 0, count: int = 0) -> None:
        """Do something to the box now: press its button, open it, tamper with it."""
        self.catch_up()
        self._log(self.clock.ticks(), kind, compartment, count)
        self.wake()

    def begin_stream(self) -> None:
        """Leave entries that are already logged to record access."""
        self._sent = self.memory.newest

    async def send_live(self, connection: Connection) -> None:
        """Notify each entry since the last one that was notified."""
        for record in self.memory.between(self._sent + 1):
            self._sent = record.key
            await self.send(connection, self._entry, record.packets[0])

    def battery(self) -> int:
        """Return the charge in %."""
        return self._box.battery(self.clock.ticks())

    def lose_power(self) -> None:
        """Reboot with the clock at 2000-01-01, and log that it was lost."""
        self.catch_up()
        self.clock.lose()
        self._log_clock(CLOCK_LOST_MS, self.clock.now_ms())
        self.reboot()

    # The log

    def _log(self, ticks: int, kind: EventType, compartment: int, count: int) -> None:
        key = self.memory.newest + 1
        self.memory.append(key, log_entry(key, self.clock.at(ticks), ENTRY_TYPES[kind], compartment, count))
        self.truth.append(Happened(key, self.clock.wall_of(ticks), kind, compartment, count))

    def _log_clock(self, before_ms: int, after_ms: int) -> None:
        key = self.memory.newest + 1
        self.memory.append(key, log_entry(key, before_ms, CLOCK_BEFORE))
        self.memory.append(key + 1, log_entry(key + 1, after_ms, CLOCK_AFTER))
        self.clock_steps.append(ClockStep(key, self.clock.wall_of(self.clock.ticks()), before_ms, after_ms))
        self.wake()

    # Reads and writes

    def _read_clock(self) -> bytes:
        return with_crc(struct.pack("<Q", self.clock.now_ms()))

    def _write_clock(self, _connection: Connection, packet: bytes) -> None:
        (wanted,) = struct.unpack("<Q", _checked(packet, 10))
        if wanted > LATEST_MS:
            raise ATT_Error(OUT_OF_RANGE)
        self.catch_up()
        before = self.clock.now_ms()
        self.clock.set(wanted)
        if abs(wanted - before) > SMALLEST_STEP_MS:
            self._log_clock(before, wanted)

    def _read_schedule(self) -> bytes:
        schedule = self.schedule
        rows = b"".join(struct.pack("<BHB", one.compartment, one.minute, one.weekdays) for one in schedule.doses)
        return with_crc(struct.pack("<HhB", schedule.revision, schedule.utc_offset_minutes, len(schedule.doses)) + rows)

    def _write_schedule(self, _connection: Connection, packet: bytes) -> None:
        if len(packet) < 7:
            raise ATT_Error(ATT_INVALID_ATTRIBUTE_LENGTH_ERROR)
        revision, offset, count = struct.unpack("<HhB", packet[:5])
        body = _checked(packet, 7 + 4 * count)
        doses = tuple(ScheduledDose(*row) for row in struct.iter_unpack("<BHB", body[5:]))
        if count > MAX_DOSES or abs(offset) > FARTHEST_ZONE_MINUTES or not all(_possible(dose) for dose in doses):
            raise ATT_Error(OUT_OF_RANGE)
        self.schedule = Schedule(revision, offset, doses)

    def _write_reminder(self, _connection: Connection, packet: bytes) -> None:
        compartment, signals, seconds = struct.unpack("<BBH", _checked(packet, 6))
        if compartment > COMPARTMENTS:
            raise ATT_Error(OUT_OF_RANGE)
        self.catch_up()
        now = self.clock.ticks()
        self.reminders.append(Reminder(self.clock.wall_of(now), compartment, signals, seconds))
        self._box.command({"type": CommandType.REMIND, "compartment": compartment or None}, now)
        self.wake()


def _checked(packet: bytes, length: int) -> bytes:
    """Return the value without its CRC; an ATT error for a wrong length or CRC."""
    if len(packet) != length:
        raise ATT_Error(ATT_INVALID_ATTRIBUTE_LENGTH_ERROR)
    if not crc_holds(packet):
        raise ATT_Error(INVALID_CRC)
    return packet[:-2]


def _possible(dose: ScheduledDose) -> bool:
    return 1 <= dose.compartment <= COMPARTMENTS and dose.minute < 24 * 60 and bool(dose.weekdays & 0x7F)


def _number(value: object) -> int:
    """Return a whole number of an event; 0 if there is none."""
    return value if isinstance(value, int) else 0
