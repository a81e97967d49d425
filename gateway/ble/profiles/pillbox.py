"""Pill boxes with Vigil's own service: read the log, delete committed entries, and pass on waiting commands."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from devices.errors import PacketError
from devices.gatt.pillbox import (
    KEY_SIZE,
    Dose,
    LogEntry,
    LogType,
    PillBoxUuid,
    Schedule,
    Signal,
    decode_clock,
    decode_log_entry,
    encode_clock,
    encode_reminder,
    encode_schedule,
)
from devices.gatt.record_access import Operator
from devices.vocabulary import CommandType, EventType
from gateway.ble.device_time import BOX_AGREES_MS, box_times
from gateway.ble.findings import Finding, Happening, Record
from gateway.ble.link import Packet, RefusedError
from gateway.ble.numbered_log import NumberedLog
from gateway.ble.record_access import ProcedureError
from gateway.ble.spool import Command
from gateway.ble.visit import Visit

LOG_ENTRY: Final = str(PillBoxUuid.LOG_ENTRY)
CLOCK: Final = str(PillBoxUuid.CLOCK)
DELETED: Final = "log deleted"
REMINDER_S: Final = 60
ALL_SIGNALS: Final = Signal.LIGHT | Signal.SOUND | Signal.VIBRATION

EVENTS: Final[Mapping[int, EventType]] = MappingProxyType(
    {
        LogType.COMPARTMENT_OPENED: EventType.COMPARTMENT_OPENED,
        LogType.COMPARTMENT_CLOSED: EventType.COMPARTMENT_CLOSED,
        LogType.DOSE_TAKEN: EventType.DOSE_TAKEN,
        LogType.DOSE_SKIPPED: EventType.DOSE_SKIPPED,
        LogType.BUTTON_PRESSED: EventType.BUTTON_PRESSED,
        LogType.LOW_BATTERY: EventType.LOW_BATTERY,
        LogType.TAMPER: EventType.TAMPER,
    }
)
CLOCK_ENTRIES: Final = frozenset({LogType.CLOCK_BEFORE, LogType.CLOCK_AFTER})

log = logging.getLogger(__name__)


async def read_box(visit: Visit) -> None:
    """Read the log from the last committed entry on; then the battery, as a sign that the box was in contact until now.

    The order matters: whoever hears of the contact has already heard of every opening before it.
    """
    numbered = NumberedLog(visit, LOG_ENTRY, decode_log_entry, KEY_SIZE)
    await numbered.listen()
    await _read_log(numbered)
    await visit.read_battery(as_contact=True)
    await _forget_committed(numbered)
    await _obey_commands(visit)


async def _read_log(numbered: NumberedLog[LogEntry]) -> None:
    """Keep every entry since the last committed one, in real time, found from the clock steps that follow it."""
    committed = numbered.committed
    if committed is not None and await _began_anew(numbered, committed):
        numbered.begin_anew()
        numbered.visit.spool.set_fact(numbered.visit.device.id, DELETED, "")
        committed = None
    clock_ms, now_ms = await _set_clock(numbered.visit)
    await numbered.report_from((committed or 0) + 1)
    entries = numbered.entries
    times = box_times([entry for _, entry in entries], clock_ms, now_ms)
    numbered.keep(
        [
            Record(entry.sequence, _findings(numbered.visit, packet, entry, time.at_ms))
            for (packet, entry), time in zip(entries, times, strict=True)
        ]
    )


async def _began_anew(numbered: NumberedLog[LogEntry], committed: int) -> bool:
    """Whether the last entry has a lower number than a committed one: the box lost its memory."""
    await numbered.report(Operator.LAST_RECORD)
    return bool(numbered.reported) and numbered.reported[-1][1].sequence < committed


async def _forget_committed(numbered: NumberedLog[LogEntry]) -> None:
    """Have the box delete the entries covered by receipts, to make room in its log."""
    spool, name, committed = numbered.visit.spool, numbered.visit.device.id, numbered.committed
    if committed is None or committed <= int(spool.fact(name, DELETED) or 0):
        return
    try:
        await numbered.access.delete_up_to(committed)
    except ProcedureError as error:
        log.info("the box keeps its log", extra={"device": name, "cause": str(error)})
        return
    spool.set_fact(name, DELETED, str(committed))


async def _set_clock(visit: Visit) -> tuple[int | None, int]:
    """Set a clock that is off; return its reading (None if unknown) and when it was read.

    It is set before the log is read: the log then contains the step, and times come out the same for every reader.
    """
    try:
        clock_ms, now_ms = await _read_clock(visit)
        if abs(clock_ms - now_ms) >= BOX_AGREES_MS:
            await visit.link.write(CLOCK, encode_clock(visit.now_ms()))
            log.info("a clock was set", extra={"device": visit.device.id, "clock_ms": clock_ms})
            clock_ms, now_ms = await _read_clock(visit)
    except PacketError as error:
        log.warning("a clock cannot be read", extra={"device": visit.device.id, "cause": error.detail})
        return None, visit.now_ms()
    return clock_ms, now_ms


async def _read_clock(visit: Visit) -> tuple[int, int]:
    value = await visit.link.read(CLOCK)
    return decode_clock(value), visit.now_ms()


def _findings(visit: Visit, packet: Packet, entry: LogEntry, at_ms: int) -> tuple[Finding, ...]:
    if entry.type in CLOCK_ENTRIES:
        return ()
    kind = EVENTS.get(entry.type)
    if kind is None:
        unreadable = visit.refuse(packet, PacketError(f"Log Entry: type {entry.type} is not known"))
        return (unreadable,) if unreadable else ()
    count = entry.count if kind is EventType.DOSE_TAKEN else None
    return (Happening(kind, at_ms, entry.compartment, count),)


class _Remind(Struct):
    compartment: Annotated[int, Meta(ge=1, le=255)] | None = None


class _DoseLine(Struct):
    compartment: int
    minute: int
    weekdays: list[int]


class _SetSchedule(Struct):
    revision: int
    utc_offset_minutes: int
    doses: list[_DoseLine]


async def _obey_commands(visit: Visit) -> None:
    """Send the box its waiting commands, each once; report how each went."""
    for command in visit.spool.commands(visit.device.id, visit.now_ms()):
        action = ACTIONS.get(command.type)
        done = False
        if action is not None:
            try:
                await action(visit, command)
                done = True
            except (RefusedError, msgspec.MsgspecError, ValueError) as error:
                about = {"device": visit.device.id, "command": command.type, "cause": str(error)}
                log.warning("a command was not done", extra=about)
        visit.keep([Happening(EventType.COMMAND_DONE, visit.now_ms(), id=command.id, ok=done)])
        visit.spool.finish_command(command.id)


async def _remind(visit: Visit, command: Command) -> None:
    wanted = msgspec.json.decode(command.body, type=_Remind)
    await visit.link.write(PillBoxUuid.REMINDER, encode_reminder(wanted.compartment, ALL_SIGNALS, REMINDER_S))


async def _set_schedule(visit: Visit, command: Command) -> None:
    wanted = msgspec.json.decode(command.body, type=_SetSchedule)
    doses = tuple(Dose(line.compartment, line.minute, frozenset(line.weekdays)) for line in wanted.doses)
    schedule = Schedule(wanted.revision, wanted.utc_offset_minutes, doses)
    await visit.link.write(PillBoxUuid.SCHEDULE, encode_schedule(schedule))


async def _set_box_clock(visit: Visit, _command: Command) -> None:
    """Set the clock to the time now; the time in the command was that of its sending."""
    await visit.link.write(CLOCK, encode_clock(visit.now_ms()))


ACTIONS: Final[Mapping[str, Callable[[Visit, Command], Awaitable[None]]]] = MappingProxyType(
    {
        CommandType.REMIND: _remind,
        CommandType.SET_SCHEDULE: _set_schedule,
        CommandType.SET_CLOCK: _set_box_clock,
    }
)
