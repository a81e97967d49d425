"""Devices that tell each measurement once: cuff, thermometer, scale, pulse oximeter. A table, and one way to read them.

They have no numbered records: a measurement is indicated when it is made or at the next connection, and most devices
forget it once the indication is confirmed. It is on our disk before anything else is done with it.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.blood_pressure import BloodPressureMeasurement, PressureStatus, decode_blood_pressure_measurement
from devices.gatt.floats import Medical, Special
from devices.gatt.oximeter import (
    Continuous,
    OximeterStatus,
    SensorStatus,
    SpotCheck,
    decode_continuous,
    decode_spot_check,
)
from devices.gatt.record_access import Operator
from devices.gatt.thermometer import TemperatureMeasurement, decode_temperature_measurement
from devices.gatt.weight import WeightMeasurement, decode_weight_measurement
from devices.vocabulary import Code, Flag, Unit
from gateway.ble.device_time import WallClock, wall_times
from gateway.ble.findings import NO_FLAGS, Finding, Reading, Unreadable
from gateway.ble.link import Packet
from gateway.ble.profiles.device_clock import read_clock, set_clock
from gateway.ble.record_access import CONTROL_POINT, ProcedureError, RecordAccess
from gateway.ble.visit import Visit

QUIET_S: Final = 5.0
"""So long after its last measurement a device has no more to tell."""

RUNNING: Final = full_uuid(Characteristic.PLX_CONTINUOUS_MEASUREMENT)
"""Comes about once a second while the finger is in: told a minute at a time, on whole seconds."""
RUNNING_AT_ONCE: Final = 120

log = logging.getLogger(__name__)

Value = tuple[Code, Unit, Medical | None]


@dataclass(frozen=True, slots=True)
class Told:
    """One measurement: its values, what is doubtful about all of them, and the device's stamp if it gave one."""

    values: tuple[Value, ...]
    stamp: datetime | None
    flags: Flag = NO_FLAGS


@dataclass(frozen=True, slots=True)
class Measuring:
    """A kind of device: for each of its characteristics, how a packet is decoded and what it tells."""

    characteristics: tuple[tuple[Characteristic, Callable[[bytes], Any], Callable[[Any], Told]], ...]

    async def serve(self, visit: Visit) -> None:
        """Listen until the device has no more to tell, then leave it with the right time."""
        clock = await read_clock(visit)
        await visit.read_battery()
        tables = {full_uuid(number): (decode, tell) for number, decode, tell in self.characteristics}
        for uuid in tables:
            if visit.link.has(uuid):
                await visit.link.listen(uuid)

        running: list[Finding] = []

        def take(packet: Packet) -> None:
            if packet.characteristic not in tables:
                return
            findings = _findings(visit, packet, clock, *tables[packet.characteristic])
            if packet.characteristic != RUNNING:
                visit.keep(findings)
                return
            if not running or not findings or findings[-1].at_ms > running[-1].at_ms:
                running.extend(findings)  # the first of a second counts
            if len(running) >= RUNNING_AT_ONCE:
                visit.keep(running)
                running.clear()

        try:
            if visit.link.has(CONTROL_POINT):
                await _report_stored(visit, take)
            while not visit.leaving and (packet := await visit.link.next_packet(QUIET_S)) is not None:
                take(packet)
        finally:
            visit.keep(running)
        await set_clock(visit)


async def _report_stored(visit: Visit, take: Callable[[Packet], None]) -> None:
    """Have stored measurements reported. They have no numbers: all are told each time, the gateway knows those it has."""
    access = RecordAccess(visit.link, take)
    await access.listen()
    with suppress(ProcedureError):
        await access.report(Operator.ALL_RECORDS)


def _findings(
    visit: Visit, packet: Packet, clock: WallClock, decode: Callable[[bytes], Any], tell: Callable[[Any], Told]
) -> list[Finding]:
    try:
        told = tell(decode(packet.value))
    except PacketError as error:
        refused: Unreadable | None = visit.refuse(packet, error)
        return [refused] if refused else []
    at_ms = packet.arrived_ms // 1000 * 1000 if packet.characteristic == RUNNING else packet.arrived_ms
    if told.stamp is not None:
        at_ms = wall_times([(0, told.stamp)], clock, packet.arrived_ms)[0].at_ms
    return [_reading(value, at_ms, told.flags) for value in told.values]


def _reading(value: Value, at_ms: int, flags: Flag) -> Reading:
    code, unit, number = value
    return Reading(code, unit, at_ms, None if number is None or isinstance(number, Special) else float(number), flags)


def _artifact(*, doubted: int) -> Flag:
    return Flag.ARTIFACT if doubted else NO_FLAGS


_PRESSURE_DOUBTED: Final = (
    PressureStatus.BODY_MOVEMENT | PressureStatus.CUFF_TOO_LOOSE | PressureStatus.IMPROPER_POSITION
)
_OXIMETER_DOUBTED: Final = (
    OximeterStatus.FOR_DEMONSTRATION
    | OximeterStatus.FOR_TESTING
    | OximeterStatus.CALIBRATION_ONGOING
    | OximeterStatus.MEASUREMENT_UNAVAILABLE
    | OximeterStatus.QUESTIONABLE
    | OximeterStatus.INVALID
)
_SENSOR_DOUBTED: Final = (
    SensorStatus.EQUIPMENT_MALFUNCTION
    | SensorStatus.INADEQUATE_SIGNAL
    | SensorStatus.ERRATIC_SIGNAL
    | SensorStatus.NONPULSATILE_SIGNAL
    | SensorStatus.QUESTIONABLE_PULSE
    | SensorStatus.SENSOR_DISPLACED
    | SensorStatus.SENSOR_MALFUNCTION
)
_SENSOR_OFF: Final = SensorStatus.SENSOR_UNCONNECTED_TO_USER | SensorStatus.SENSOR_DISCONNECTED


def _pressure(measured: BloodPressureMeasurement) -> Told:
    values: Iterable[Value] = (
        (Code.SYSTOLIC_PRESSURE, measured.unit, measured.systolic),
        (Code.DIASTOLIC_PRESSURE, measured.unit, measured.diastolic),
        *(((Code.HEART_RATE, Unit.PER_MIN, measured.pulse_rate),) if measured.pulse_rate is not None else ()),
    )
    return Told(tuple(values), measured.timestamp, _artifact(doubted=measured.status & _PRESSURE_DOUBTED))


def _temperature(measured: TemperatureMeasurement) -> Told:
    return Told(((Code.BODY_TEMPERATURE, measured.unit, measured.temperature),), measured.timestamp)


def _weight(measured: WeightMeasurement) -> Told:
    return Told(((Code.BODY_WEIGHT, measured.unit, measured.weight),), measured.timestamp)


def _oxygen(measured: SpotCheck | Continuous) -> Told:
    flags = _artifact(doubted=measured.status & _OXIMETER_DOUBTED or measured.sensor_status & _SENSOR_DOUBTED)
    if measured.sensor_status & _SENSOR_OFF:
        flags |= Flag.OFF_BODY
    values = ((Code.SPO2, Unit.PERCENT, measured.spo2), (Code.HEART_RATE, Unit.PER_MIN, measured.pulse_rate))
    stamped = isinstance(measured, SpotCheck) and not measured.clock_not_set
    return Told(values, measured.timestamp if isinstance(measured, SpotCheck) and stamped else None, flags)


BLOOD_PRESSURE: Final = Measuring(
    ((Characteristic.BLOOD_PRESSURE_MEASUREMENT, decode_blood_pressure_measurement, _pressure),)
)
THERMOMETER: Final = Measuring(
    ((Characteristic.TEMPERATURE_MEASUREMENT, decode_temperature_measurement, _temperature),)
)
SCALE: Final = Measuring(((Characteristic.WEIGHT_MEASUREMENT, decode_weight_measurement, _weight),))
OXIMETER: Final = Measuring(
    (
        (Characteristic.PLX_SPOT_CHECK_MEASUREMENT, decode_spot_check, _oxygen),
        (Characteristic.PLX_CONTINUOUS_MEASUREMENT, decode_continuous, _oxygen),
    )
)
