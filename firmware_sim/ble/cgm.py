"""A continuous glucose monitor: CGM Service with record access, its own session clock, optional E2E-CRC."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

import numpy as np
from bumble.att import ATT_INVALID_ATTRIBUTE_LENGTH_ERROR, ATT_Error
from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import Code, DeviceModel, Flag, Unit
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import (
    SFLOAT_NEGATIVE_INFINITY,
    SFLOAT_POSITIVE_INFINITY,
    TIME_UNKNOWN,
    calendar_ms,
    cgm_measurement,
    crc_holds,
    date_time,
    sfloat,
    with_crc,
)
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.racp import RecordAccess
from firmware_sim.ble.truth import Measured
from firmware_sim.clock import WallMs
from firmware_sim.physiology.glucose import GlucoseProcess
from firmware_sim.physiology.noise import MINUTE_MS
from firmware_sim.wristband import SENSOR_RANGE_MG_DL, WristbandTraits

INTERSTITIAL_FLUID, SUBCUTANEOUS_TISSUE = 9, 5
SESSION_STOPPED: Final = 1 << 0
BELOW_DEVICE_RANGE: Final = 1 << 22
ABOVE_DEVICE_RANGE: Final = 1 << 23
"""Bits of the sensor status annunciation (CGMS, CGM Status)."""

FEATURE_LOW_HIGH: Final = 1 << 8
FEATURE_CRC: Final = 1 << 12
FEATURE_TREND: Final = 1 << 15

MISSING_CRC, INVALID_CRC, OUT_OF_RANGE = 0x80, 0x81, 0xFF
"""ATT application errors of CGMS, and the common one."""
ZONE_UNKNOWN, DST_UNKNOWN = -128, 255


@dataclass(frozen=True, slots=True)
class CgmTraits:
    """The body under the sensor and the make of the sensor."""

    body: WristbandTraits
    """Its glucose, zone, dips and `phase_ms` are used; the same seed gives the glucose a wristband would send."""
    every_minutes: int = 5
    run_hours: int = 14 * 24
    crc: bool = True
    trend: bool = True
    knows_start: bool = True
    """Whether the phone that started the session told it the time."""

    @property
    def zone(self) -> ZoneInfo:
        """The wearer's zone."""
        return self.body.zone


class CgmPeripheral(Peripheral):
    """Measures on a grid of minutes since its session began; a record's key is its time offset in minutes."""

    model: ClassVar[DeviceModel] = DeviceModel.CGM
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x181F),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Begin the session with the last point of the body's grid that is not after `started_ms`."""
        super().__init__(plan, wall_ms, started_ms=started_ms)
        traits = traits_of(plan, CgmTraits)
        self._traits = traits
        self._glucose = GlucoseProcess([*plan.seed, 10], traits.body.glucose, traits.zone, traits.body.dips)
        self._every_ms = traits.every_minutes * MINUTE_MS
        self._session_start = self.started_ticks - (self.started_ticks - traits.body.phase_ms) % self._every_ms
        self._start_stamp = self._known_start() if traits.knows_start else None
        self._last_mg_dl: float | None = None
        self._sent = 0
        self.session = 0
        """The number of earlier sessions; `truth` records to which one a value belongs."""
        self._measurement = characteristic(0x2AA7, Properties.NOTIFY, encrypted=plan.encrypted)
        self._access = RecordAccess(self, [self._measurement], encrypted=plan.encrypted)

    @property
    def session_start_ms(self) -> int:
        """True time at which the session began."""
        return self.clock.wall_of(self._session_start)

    def new_session(self) -> None:
        """Begin a session now, as if the sensor had been replaced: nothing of the old one remains."""
        self.catch_up()
        self.memory.clear()
        self.session += 1
        self._session_start = self.clock.ticks()
        self._start_stamp = self._known_start() if self._traits.knows_start else None
        self._last_mg_dl = None
        self._sent = 0

    def services(self) -> Sequence[Service]:
        """Return the CGM Service; the control point for calibration and alert levels is left out."""
        encrypted = self.plan.encrypted
        start = characteristic(
            0x2AAA,
            Properties.READ | Properties.WRITE,
            read=self._read_start,
            write=self._write_start,
            encrypted=encrypted,
        )
        features = FEATURE_LOW_HIGH | FEATURE_CRC * self._traits.crc | FEATURE_TREND * self._traits.trend
        described = features.to_bytes(3, "little") + bytes([INTERSTITIAL_FLUID | SUBCUTANEOUS_TISSUE << 4])
        # Without the feature bit the place of the CRC holds 0xFFFF (CGMS, CGM Feature).
        feature = with_crc(described) if self._traits.crc else described + b"\xff\xff"
        parts = [
            self._measurement,
            readable(0x2AA8, feature, encrypted=encrypted),
            readable(0x2AA9, self._read_status, encrypted=encrypted),
            start,
            readable(0x2AAB, self._sealed(struct.pack("<H", self._traits.run_hours)), encrypted=encrypted),
            self._access.characteristic,
        ]
        return [Service(uuid(0x181F), parts)]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the measurement."""
        return [self._measurement]

    def access(self) -> RecordAccess:
        """Return the control point of the stored records."""
        return self._access

    def next_due(self, after: int) -> int:
        """Return the next point of the grid."""
        return after + self._every_ms - (after - self._session_start) % self._every_ms

    def measure(self, after: int, until: int) -> None:
        """Store a record for each point of the grid, as long as the session runs."""
        end = min(until, self._session_start + self._traits.run_hours * 60 * MINUTE_MS)
        times = np.arange(self.next_due(after), end + 1, self._every_ms, dtype=np.int64)
        for at, mmol_l in zip(times.tolist(), self._glucose.at(times).tolist(), strict=True):
            self._store(at, mmol_l * 18.0)

    def _store(self, at: int, mg_dl: float) -> None:
        low, high = SENSOR_RANGE_MG_DL
        number, status, flags = sfloat(round(mg_dl)), 0, Flag(0)
        if mg_dl < low:
            number, status, flags = SFLOAT_NEGATIVE_INFINITY, BELOW_DEVICE_RANGE, Flag.BELOW_RANGE
        elif mg_dl > high:
            number, status, flags = SFLOAT_POSITIVE_INFINITY, ABOVE_DEVICE_RANGE, Flag.ABOVE_RANGE
        trend = b""
        if self._traits.trend and self._last_mg_dl is not None:
            trend = sfloat(round((mg_dl - self._last_mg_dl) / self._traits.every_minutes * 10), -1)
        self._last_mg_dl = mg_dl
        minutes = (at - self._session_start) // MINUTE_MS
        packet = cgm_measurement(number, minutes, status=status, trend=trend, crc=self._traits.crc)
        self.memory.append(minutes, packet)
        value = None if flags else float(round(mg_dl))
        at_ms = self.clock.wall_of(at)
        self.truth.append(Measured(minutes, at_ms, Code.GLUCOSE, Unit.MG_DL, value, flags, self.session))

    def begin_stream(self) -> None:
        """Leave records that are already stored to record access."""
        self._sent = self.memory.newest

    async def send_live(self, connection: Connection) -> None:
        """Notify every record since the last one that was notified."""
        for record in self.memory.between(self._sent + 1):
            self._sent = record.key
            await self.send(connection, self._measurement, record.packets[0])

    # The session

    def _read_status(self) -> bytes:
        elapsed = (self.clock.ticks() - self._session_start) // MINUTE_MS
        stopped = elapsed >= self._traits.run_hours * 60
        return self._sealed(struct.pack("<H", min(elapsed, 0xFFFF)) + (SESSION_STOPPED * stopped).to_bytes(3, "little"))

    def _read_start(self) -> bytes:
        if self._start_stamp is None:
            return self._sealed(TIME_UNKNOWN + struct.pack("<bB", ZONE_UNKNOWN, DST_UNKNOWN))
        start, zone, dst = self._start_stamp
        return self._sealed(date_time(start) + struct.pack("<bB", zone, dst))

    def _write_start(self, _connection: Connection, packet: bytes) -> None:
        """Take the current time from a client and count back to the start of the session (CGMS, Session Start Time)."""
        if self._traits.crc:
            if len(packet) == 9:
                raise ATT_Error(MISSING_CRC)
            if not crc_holds(packet):
                raise ATT_Error(INVALID_CRC)
            packet = packet[:-2]
        if len(packet) != 9:
            raise ATT_Error(ATT_INVALID_ATTRIBUTE_LENGTH_ERROR)
        try:
            now = calendar_ms(packet[:7])
        except ValueError:
            raise ATT_Error(OUT_OF_RANGE) from None
        zone, dst = struct.unpack("<bB", packet[7:])
        self._start_stamp = (now - (self.clock.ticks() - self._session_start), zone, dst)

    def _known_start(self) -> tuple[int, int, int]:
        """Return the start by the device's calendar, with zone and daylight saving in quarters of an hour."""
        local = datetime.fromtimestamp(self._session_start // 1000, UTC).astimezone(self._traits.zone)
        dst = local.dst() or timedelta()
        standard = (local.utcoffset() or timedelta()) - dst
        quarter = timedelta(minutes=15)
        return self.clock.at(self._session_start), standard // quarter, dst // quarter

    def jump_clock(self, by_ms: int) -> None:
        """Move the start of the session: the only calendar time this device knows."""
        super().jump_clock(by_ms)
        if self._start_stamp is not None:
            self._start_stamp = (self._start_stamp[0] + by_ms, *self._start_stamp[1:])

    def lose_power(self) -> None:
        """Forget when the session began, if the calendar has no battery of its own; keep counting minutes."""
        super().lose_power()
        if not self.plan.keeps_clock:
            self._start_stamp = None

    def _sealed(self, value: bytes) -> bytes:
        return with_crc(value) if self._traits.crc else value
