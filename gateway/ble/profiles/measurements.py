"""Devices that send each measurement once: cuff, thermometer, scale, pulse oximeter. A table, and one way to read them.

They have no numbered records: a measurement is indicated when it is made or at the next connection, and most devices
forget it once the indication is confirmed. It is on our disk before anything else is done with it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
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
from gateway.ble.findings import NO_FLAGS, Finding, Reading, Record, Unreadable
from gateway.ble.link import Packet
from gateway.ble.profiles.device_clock import read_clock, set_clock
from gateway.ble.record_access import CONTROL_POINT, ProcedureError, RecordAccess
from gateway.ble.visit import Visit

QUIET_S: Final = 5.0
"""This long after its last measurement a device has nothing more to send."""

RUNNING: Final = full_uuid(Characteristic.PLX_CONTINUOUS_MEASUREMENT)
"""Comes about once a second while the finger is in: emitted a minute at a time, on whole seconds."""
RUNNING_AT_ONCE: Final = 120
STORED: Final = "stored"
"""The stream of records that a device reports again at each visit; never covered, because the keys do not rise."""

Value = tuple[Code, Unit, Medical | None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: its values, the flags that apply to all of them, and the device's stamp if it gave one."""

    values: tuple[Value, ...]
    stamp: datetime | None
    flags: Flag = NO_FLAGS


@dataclass(frozen=True, slots=True)
class Kind:
    """How the packets of one characteristic are decoded, and what they contain."""

    decode: Callable[[bytes], Any]
    measurement_of: Callable[[Any], Measurement]


@dataclass(frozen=True, slots=True)
class Measuring:
    """A kind of device: the characteristics by which it measures."""

    characteristics: tuple[tuple[Characteristic, Callable[[bytes], Any], Callable[[Any], Measurement]], ...]

    async def serve(self, visit: Visit) -> None:
        """Listen until the device has nothing more to send, then set its clock."""
        clock = await read_clock(visit)
        await visit.read_battery()
        kinds = {
            full_uuid(number): Kind(decode, measurement_of) for number, decode, measurement_of in self.characteristics
        }
        for uuid in kinds:
            if visit.link.has(uuid):
                await visit.link.listen(uuid)
        hearing = _Hearing(visit, clock, kinds)
        try:
            if visit.link.has(CONTROL_POINT):
                await hearing.report_stored()
            await hearing.listen()
        finally:
            visit.keep(hearing.running)
        await set_clock(visit)


@dataclass(slots=True)
class _Hearing:
    """What a connected device sends, on its way to the spool."""

    visit: Visit
    clock: WallClock
    kinds: Mapping[str, Kind]
    running: list[Finding] = field(default_factory=list)
    """Findings of the continuous measurement that are not on disk yet."""
    stored: list[Record] = field(default_factory=list)

    async def listen(self) -> None:
        """Take what comes until nothing has come for a while, or the link is wanted elsewhere."""
        told_ms = self.visit.now_ms()
        while not self.visit.leaving and (packet := await self.visit.link.next_packet(QUIET_S)) is not None:
            if self._take(packet):
                told_ms = packet.arrived_ms
            elif packet.arrived_ms - told_ms >= QUIET_S * 1000:
                return  # it continues without a number: no finger is in it

    async def report_stored(self) -> None:
        """Have stored measurements reported. They have no numbers, so the device reports all of them each time."""
        access = RecordAccess(self.visit.link, self._take_stored)
        await access.listen()
        try:
            with suppress(ProcedureError):
                await access.report(Operator.ALL_RECORDS)
        finally:
            self.visit.keep_records(STORED, self.stored)

    def _take(self, packet: Packet) -> bool:
        """Keep the findings of a packet; return whether it had any."""
        if (kind := self.kinds.get(packet.characteristic)) is None:
            return False
        findings = self._findings(packet, kind, packet.arrived_ms)
        if packet.characteristic != RUNNING:
            self.visit.keep(findings)
        elif not self.running or not findings or findings[-1].at_ms > self.running[-1].at_ms:
            self.running.extend(findings)  # the first one of each second counts
        if len(self.running) >= RUNNING_AT_ONCE:
            self.visit.keep(self.running)
            self.running.clear()
        return bool(findings)

    def _take_stored(self, packet: Packet) -> bool:
        """Take a stored record; without a stamp nobody knows when it was measured. False: it is not a stored record."""
        kind = self.kinds.get(packet.characteristic)
        if kind is None or packet.characteristic == RUNNING:
            self._take(packet)
            return False
        self.stored.append(Record(_identity(packet), tuple(self._findings(packet, kind, None))))
        return True

    def _findings(self, packet: Packet, kind: Kind, unstamped_ms: int | None) -> list[Finding]:
        """Return the findings of a packet; `unstamped_ms` is the time of those without a stamp."""
        try:
            measurement = kind.measurement_of(kind.decode(packet.value))
            at_ms = self._time(packet, measurement, unstamped_ms)
        except PacketError as error:
            refused: Unreadable | None = self.visit.refuse(packet, error)
            return [refused] if refused else []
        readings = [
            Reading(code, unit, at_ms, _number(value), measurement.flags) for code, unit, value in measurement.values
        ]
        return [one for one in readings if packet.characteristic != RUNNING or one.value is not None]

    def _time(self, packet: Packet, measurement: Measurement, unstamped_ms: int | None) -> int:
        """Return when a measurement was made. Raises PacketError if nobody can know."""
        if packet.characteristic == RUNNING:
            return packet.arrived_ms // 1000 * 1000
        if measurement.stamp is not None:
            return wall_times([(0, measurement.stamp)], self.clock, packet.arrived_ms)[0].at_ms
        if unstamped_ms is None:
            raise PacketError("a stored measurement without its time")
        return unstamped_ms


def _identity(packet: Packet) -> int:
    """Return a key that identifies a record of a device: from its own stamp and values, since it has no number."""
    return int.from_bytes(blake2b(packet.value, digest_size=7).digest())


def _number(value: Medical | None) -> float | None:
    return None if value is None or isinstance(value, Special) else float(value)


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


def _pressure(measured: BloodPressureMeasurement) -> Measurement:
    values: Iterable[Value] = (
        (Code.SYSTOLIC_PRESSURE, measured.unit, measured.systolic),
        (Code.DIASTOLIC_PRESSURE, measured.unit, measured.diastolic),
        *(((Code.HEART_RATE, Unit.PER_MIN, measured.pulse_rate),) if measured.pulse_rate is not None else ()),
    )
    return Measurement(tuple(values), measured.timestamp, _artifact(doubted=measured.status & _PRESSURE_DOUBTED))


def _temperature(measured: TemperatureMeasurement) -> Measurement:
    return Measurement(((Code.BODY_TEMPERATURE, measured.unit, measured.temperature),), measured.timestamp)


def _weight(measured: WeightMeasurement) -> Measurement:
    return Measurement(((Code.BODY_WEIGHT, measured.unit, measured.weight),), measured.timestamp)


def _oxygen(measured: SpotCheck | Continuous) -> Measurement:
    flags = _artifact(doubted=measured.status & _OXIMETER_DOUBTED or measured.sensor_status & _SENSOR_DOUBTED)
    if measured.sensor_status & _SENSOR_OFF:
        flags |= Flag.OFF_BODY
    values = ((Code.SPO2, Unit.PERCENT, measured.spo2), (Code.HEART_RATE, Unit.PER_MIN, measured.pulse_rate))
    stamped = isinstance(measured, SpotCheck) and not measured.clock_not_set
    return Measurement(values, measured.timestamp if isinstance(measured, SpotCheck) and stamped else None, flags)


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
