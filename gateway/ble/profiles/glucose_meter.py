"""Glucose meters: the stored measurements since the last committed one, by sequence number (Glucose Profile 1.0.1)."""

from collections.abc import Sequence
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
from gateway.ble.numbered_log import NumberedLog
from gateway.ble.profiles.device_clock import read_clock, set_clock
from gateway.ble.record_access import ProcedureError
from gateway.ble.visit import Visit

MEASUREMENT: Final = full_uuid(Characteristic.GLUCOSE_MEASUREMENT)
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


async def read_meter(visit: Visit) -> None:
    """Read what was stored since the last committed record; leave the meter its copy, and set its clock."""
    clock = await read_clock(visit)
    numbered = NumberedLog(visit, MEASUREMENT, decode_glucose_measurement)
    await numbered.listen()
    await _read_log(numbered, clock)
    await visit.read_battery()
    await set_clock(visit)


async def _read_log(numbered: NumberedLog[GlucoseMeasurement], clock: WallClock) -> None:
    """Report from the last committed record on, inclusive: if that record has changed, the numbers began anew."""
    committed = numbered.committed
    if committed is not None and await _began_anew(numbered, committed):
        numbered.begin_anew()
        committed = None
    await numbered.report_from(committed or 0)
    entries = numbered.entries
    numbered.keep(_records(numbered.visit, entries, clock))
    if entries:
        packet, newest = entries[-1]
        numbered.visit.spool.set_fact(numbered.visit.device.id, LAST, _mark(newest.sequence, packet))


async def _began_anew(numbered: NumberedLog[GlucoseMeasurement], committed: int) -> bool:
    """Whether the record with the committed number is not the one read before, or no number is that high."""
    try:
        await numbered.report(Operator.LAST_RECORD)
        if numbered.reported and numbered.reported[-1][1].sequence < committed:
            return True
        await numbered.report(Operator.WITHIN_RANGE_OF, committed, committed)
    except ProcedureError:
        return False  # support for these is optional; most meters have it
    known = numbered.visit.spool.fact(numbered.visit.device.id, LAST)
    if not numbered.reported or not known or not known.startswith(f"{committed} "):
        return False
    packet, measured = numbered.reported[-1]
    return _mark(measured.sequence, packet) != known


def _records(visit: Visit, entries: Sequence[tuple[Packet, GlucoseMeasurement]], clock: WallClock) -> list[Record]:
    """Return the reported records with real times; a stamp is judged by all records made after it."""
    stamped = [(one.sequence, one.user_time) for _, one in entries]
    timed: Sequence[tuple[int, datetime]] = [(number, stamp) for number, stamp in stamped if stamp is not None]
    times = dict(zip((number for number, _ in timed), wall_times(timed, clock, visit.now_ms()), strict=True))
    return [
        Record(one.sequence, _findings(visit, packet, one, times[one.sequence].at_ms if one.user_time else None))
        for packet, one in entries
    ]


def _findings(visit: Visit, packet: Packet, measured: GlucoseMeasurement, at_ms: int | None) -> tuple[Finding, ...]:
    if measured.concentration is None or measured.unit is None:
        return ()  # the meter recorded an error and measured nothing
    if at_ms is None:
        unreadable = visit.refuse(packet, PacketError("Glucose Measurement: the meter did not know the time"))
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
        flags |= Flag.CALIBRATION  # a control solution: not the patient's value
    if measured.status & DOUBTED:
        flags |= Flag.ARTIFACT
    stated = isinstance(measured.concentration, Special) or flags & (Flag.BELOW_RANGE | Flag.ABOVE_RANGE)
    value = None if stated or isinstance(measured.concentration, Special) else float(measured.concentration)
    return Reading(Code.GLUCOSE, measured.unit, at_ms, value, flags)


def _mark(sequence: int, packet: Packet) -> str:
    """Return a mark that distinguishes a record from another one with its number."""
    return f"{sequence} {packet.value.hex()}"
