"""A pulse oximeter: spot-checks in flash, read by record access, and a continuous measurement while a finger is in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import SFLOAT_NAN, continuous_oximetry, date_time, sfloat, spot_check
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.racp import OpCode, Operator, RecordAccess
from firmware_sim.ble.spot import SpotPeripheral, Use
from firmware_sim.ble.spot_devices import body_value
from firmware_sim.ble.truth import Measured
from firmware_sim.clock import WallMs

NOTIFY_EVERY_MS: Final = 1_000
FEATURES: Final = bytes.fromhex("0c00")
"""PLX Features: spot-checks can be stored and carry time stamps."""

ALL_OR_NOTHING: Final = frozenset({Operator.ALL})
PROCEDURES: Final[Mapping[OpCode, frozenset[Operator]]] = {
    OpCode.REPORT: ALL_OR_NOTHING,
    OpCode.COUNT: ALL_OR_NOTHING,
    OpCode.DELETE: ALL_OR_NOTHING,
}
"""PLXS knows no filter: its records have no number."""


@dataclass(frozen=True, slots=True)
class OximeterTraits:
    """A person's oxygen saturation and pulse."""

    zone: ZoneInfo
    use: Use = field(default_factory=lambda: Use((9 * 60, 20 * 60)))
    spo2: float = 97.0
    pulse: float = 68.0
    stamped: bool = True


class OximeterPeripheral(SpotPeripheral):
    """`finger_in`: whether the continuous measurement has a finger; without one its values are NaN."""

    model: ClassVar[DeviceModel] = DeviceModel.OXIMETER
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x1822),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the oximeter out at `started_ms`."""
        self._traits = traits_of(plan, OximeterTraits)
        super().__init__(plan, self._traits, wall_ms, started_ms=started_ms)
        self.finger_in = True
        self.continuous: list[Measured] = []
        """The values notified continuously, by number of the notification."""
        self._sent_until = self.started_ticks
        self._notified = 0
        encrypted = plan.encrypted
        self._spot = characteristic(0x2A5E, Properties.INDICATE, encrypted=encrypted)
        self._continuous = characteristic(0x2A5F, Properties.NOTIFY, encrypted=encrypted)
        self._access = RecordAccess(self, [self._spot], encrypted=encrypted, procedures=PROCEDURES)

    def services(self) -> Sequence[Service]:
        """Return the Pulse Oximeter Service and the clock."""
        feature = readable(0x2A60, FEATURES, encrypted=self.plan.encrypted)
        parts = [self._spot, self._continuous, feature, self._access.characteristic, *self.clock_characteristics()]
        return [Service(uuid(0x1822), parts), *self.clock_services()]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the continuous measurement; spot-checks wait for record access."""
        return [self._continuous]

    def access(self) -> RecordAccess:
        """Return the control point of the stored spot-checks."""
        return self._access

    def next_notification(self, after: int) -> int:
        """Return the next second."""
        return after + NOTIFY_EVERY_MS - (after - self.started_ticks) % NOTIFY_EVERY_MS

    def next_look(self, after: int) -> int:
        """Return when a stream has something to send next."""
        return self.next_notification(after)

    def take(self, at: int) -> None:
        """Make a spot-check."""
        spo2, pulse = self._values(at)
        stamp = date_time(self.clock.at(at)) if self._traits.stamped else b""
        values = [(Code.SPO2, Unit.PERCENT, float(spo2)), (Code.HEART_RATE, Unit.PER_MIN, float(pulse))]
        self.record(at, values, spot_check(sfloat(spo2), sfloat(pulse), stamp=stamp))

    def begin_stream(self) -> None:
        """Send values from now on."""
        self._sent_until = self.clock.ticks()

    async def send_live(self, connection: Connection) -> None:
        """Notify the values of this second, once."""
        now = self.clock.ticks()
        if self.next_notification(self._sent_until) > now:
            return
        self._sent_until = now
        self._notified += 1
        at_ms = self.clock.wall_of(now)
        spo2, pulse = self._values(now)
        for code, unit, value in ((Code.SPO2, Unit.PERCENT, spo2), (Code.HEART_RATE, Unit.PER_MIN, pulse)):
            shown = float(value) if self.finger_in else None
            self.continuous.append(Measured(self._notified, at_ms, code, unit, shown))
        numbers = (sfloat(spo2), sfloat(pulse)) if self.finger_in else (SFLOAT_NAN, SFLOAT_NAN)
        await self.send(connection, self._continuous, continuous_oximetry(*numbers))

    def _values(self, at: int) -> tuple[int, int]:
        traits = self._traits
        spo2 = body_value([*self.plan.seed, 1], traits.zone, at, mean=traits.spo2, swing=0.3, spread=0.7)
        pulse = body_value([*self.plan.seed, 2], traits.zone, at, mean=traits.pulse, swing=5.0, spread=2.0)
        return min(round(spo2), 100), round(pulse)
