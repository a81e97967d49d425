"""A blood-glucose meter: Glucose Service with record access, context, and a calendar that can be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from zoneinfo import ZoneInfo

import numpy as np
from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import date_time, glucose_context, glucose_measurement, sfloat
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.racp import RecordAccess
from firmware_sim.ble.spot import SpotPeripheral, Use
from firmware_sim.clock import WallMs
from firmware_sim.physiology.glucose import Dip, GlucoseProcess, GlucoseTraits
from firmware_sim.physiology.noise import MINUTE_MS

CASUAL_MEAL = 4


@dataclass(frozen=True, slots=True)
class GlucoseMeterTraits:
    """The wearer's glucose and how the meter reports it."""

    zone: ZoneInfo
    use: Use = field(default_factory=lambda: Use((7 * 60, 12 * 60, 18 * 60, 22 * 60)))
    glucose: GlucoseTraits = field(default_factory=GlucoseTraits)
    dips: tuple[Dip, ...] = ()
    unit: Unit = Unit.MMOL_L
    """MMOL_L is sent in mol/L, MG_DL in kg/L."""
    context: bool = True
    offset_minutes: int | None = None
    """Set if the person changed the displayed time: the base time stays, and this is added to it."""


class GlucoseMeterPeripheral(SpotPeripheral):
    """Keeps its records, whoever has read them; a record's key is its 16-bit sequence number."""

    model: ClassVar[DeviceModel] = DeviceModel.GLUCOSE_METER
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x1808),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the meter out at `started_ms`."""
        traits = self._traits = traits_of(plan, GlucoseMeterTraits)
        super().__init__(plan, traits, wall_ms, started_ms=started_ms)
        self.offset_minutes = traits.offset_minutes
        """For the records to come."""
        self._glucose = GlucoseProcess([*plan.seed, 10], traits.glucose, traits.zone, traits.dips)
        self._sent = 0
        encrypted = plan.encrypted
        self._measurement = characteristic(0x2A18, Properties.NOTIFY, encrypted=encrypted)
        self._context = characteristic(0x2A34, Properties.NOTIFY, encrypted=encrypted)
        self._access = RecordAccess(self, [self._measurement, self._context], encrypted=encrypted)

    def services(self) -> Sequence[Service]:
        """Return the Glucose Service and the clock."""
        feature = readable(0x2A51, bytes(2), encrypted=self.plan.encrypted)
        context = [self._context] if self._traits.context else []
        parts = [self._measurement, *context, feature, self._access.characteristic, *self.clock_characteristics()]
        return [Service(uuid(0x1808), parts), *self.clock_services()]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the measurement."""
        return [self._measurement]

    def access(self) -> RecordAccess:
        """Return the control point of the stored records."""
        return self._access

    def displayed_ms(self) -> int:
        """Return the user-facing time."""
        return self.clock.now_ms() + (self.offset_minutes or 0) * MINUTE_MS

    def take(self, at: int) -> None:
        """Measure a drop of blood."""
        mmol_l = float(self._glucose.at(np.array([at]))[0])
        molar = self._traits.unit is Unit.MMOL_L
        number = round(mmol_l * 10) if molar else round(mmol_l * 18)
        key = self.memory.newest + 1
        packet = glucose_measurement(
            key,
            date_time(self.clock.at(at)),
            sfloat(number, -4 if molar else -5),
            molar=molar,
            offset_minutes=self.offset_minutes,
            context=self._traits.context,
        )
        packets = [packet, glucose_context(key, CASUAL_MEAL)] if self._traits.context else [packet]
        value = number / 10 if molar else float(number)
        self.record(at, [(Code.GLUCOSE, self._traits.unit, value)], *packets)

    def begin_stream(self) -> None:
        """Leave records that are already stored to record access."""
        self._sent = self.memory.newest

    async def send_live(self, connection: Connection) -> None:
        """Notify what is measured while somebody listens, with its context."""
        for record in self.memory.between(self._sent + 1):
            self._sent = record.key
            for carrier, packet in zip((self._measurement, self._context), record.packets, strict=False):
                await self.send(connection, carrier, packet)
