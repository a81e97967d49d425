"""Blood-pressure cuff, thermometer and scale: one indication per measurement, kept until it is confirmed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

import numpy as np
from bumble.core import UUID
from bumble.gatt import Service

from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import blood_pressure, date_time, float32, sfloat, temperature, weight
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.spot import ForwardingPeripheral, Use
from firmware_sim.clock import WallMs
from firmware_sim.physiology.heart import ACROPHASE_MS
from firmware_sim.physiology.local_time import local_ms
from firmware_sim.physiology.noise import DAY_MS

MM_HG_PER_KPA: Final = 7.500616827
KG_PER_LB: Final = 0.45359237
MOUTH: Final = 6


@dataclass(frozen=True, slots=True)
class CuffTraits:
    """A person's blood pressure in mm[Hg], and how the cuff reports it."""

    zone: ZoneInfo
    use: Use = field(default_factory=lambda: Use((7 * 60 + 15, 21 * 60 + 15)))
    systolic: float = 128.0
    diastolic: float = 81.0
    pulse: float = 70.0
    kpa: bool = False
    stamped: bool = True


@dataclass(frozen=True, slots=True)
class ThermometerTraits:
    """A person's temperature in °C, and how the thermometer reports it."""

    zone: ZoneInfo
    use: Use = field(default_factory=lambda: Use((8 * 60,)))
    celsius: float = 36.7
    fahrenheit: bool = False
    stamped: bool = True


@dataclass(frozen=True, slots=True)
class ScaleTraits:
    """A person's weight in kg, and how the scale reports it."""

    zone: ZoneInfo
    use: Use = field(default_factory=lambda: Use((7 * 60,)))
    kilograms: float = 74.0
    pounds: bool = False
    stamped: bool = True


def body_value(seed: Sequence[int], zone: ZoneInfo, at: int, *, mean: float, swing: float, spread: float) -> float:
    """Return a value that swings over the local day, highest in the afternoon, with noise; a pure function."""
    noise = float(np.random.default_rng([*seed, 61, at // 1000]).standard_normal())
    phase = 2 * np.pi * float((local_ms(np.array([at]), zone)[0] % DAY_MS - ACROPHASE_MS) / DAY_MS)
    return mean + swing * float(np.cos(phase)) + spread * noise


class CuffPeripheral(ForwardingPeripheral):
    """Blood Pressure Service."""

    model: ClassVar[DeviceModel] = DeviceModel.BLOOD_PRESSURE
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x1810),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the cuff out at `started_ms`."""
        self._traits = traits_of(plan, CuffTraits)
        super().__init__(plan, self._traits, wall_ms, started_ms=started_ms)
        self.indicated = characteristic(0x2A35, Properties.INDICATE, encrypted=plan.encrypted)

    def services(self) -> Sequence[Service]:
        """Return the Blood Pressure Service and the clock."""
        feature = readable(0x2A49, bytes(2), encrypted=self.plan.encrypted)
        parts = [self.indicated, feature, *self.clock_characteristics()]
        return [Service(uuid(0x1810), parts), *self.clock_services()]

    def take(self, at: int) -> None:
        """Measure pressure and pulse."""
        traits = self._traits
        means = ((traits.systolic, 7.0, 6.0, 1), (traits.diastolic, 5.0, 4.0, 2), (traits.pulse, 5.0, 4.0, 3))
        systolic, diastolic, pulse = (
            body_value([*self.plan.seed, part], traits.zone, at, mean=mean, swing=swing, spread=spread)
            for mean, swing, spread, part in means
        )
        per_unit, exponent = (MM_HG_PER_KPA, -1) if traits.kpa else (1.0, 0)
        units = [round(v / per_unit * 10**-exponent) for v in (systolic, diastolic, (systolic + 2 * diastolic) / 3)]
        stamp = date_time(self.clock.at(at)) if traits.stamped else b""
        high, low, mean_pressure = (sfloat(number, exponent) for number in units)
        beats = sfloat(round(pulse))
        packet = blood_pressure(high, low, mean_pressure, kpa=traits.kpa, stamp=stamp, pulse=beats)
        unit, numbers = (Unit.KPA if traits.kpa else Unit.MM_HG), [number / 10**-exponent for number in units]
        values = [
            (Code.SYSTOLIC_PRESSURE, unit, numbers[0]),
            (Code.DIASTOLIC_PRESSURE, unit, numbers[1]),
            (Code.HEART_RATE, Unit.PER_MIN, float(round(pulse))),
        ]
        self.record(at, values, packet)


class ThermometerPeripheral(ForwardingPeripheral):
    """Health Thermometer Service."""

    model: ClassVar[DeviceModel] = DeviceModel.THERMOMETER
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x1809),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the thermometer out at `started_ms`."""
        self._traits = traits_of(plan, ThermometerTraits)
        super().__init__(plan, self._traits, wall_ms, started_ms=started_ms)
        self.indicated = characteristic(0x2A1C, Properties.INDICATE, encrypted=plan.encrypted)

    def services(self) -> Sequence[Service]:
        """Return the Health Thermometer Service and the clock."""
        site = readable(0x2A1D, bytes([MOUTH]), encrypted=self.plan.encrypted)
        parts = [self.indicated, site, *self.clock_characteristics()]
        return [Service(uuid(0x1809), parts), *self.clock_services()]

    def take(self, at: int) -> None:
        """Measure the temperature to a tenth of a degree."""
        traits = self._traits
        celsius = body_value(self.plan.seed, traits.zone, at, mean=traits.celsius, swing=0.3, spread=0.15)
        tenths = round((celsius * 9 / 5 + 32 if traits.fahrenheit else celsius) * 10)
        stamp = date_time(self.clock.at(at)) if traits.stamped else b""
        packet = temperature(float32(tenths, -1), fahrenheit=traits.fahrenheit, stamp=stamp, site=MOUTH)
        unit = Unit.DEGF if traits.fahrenheit else Unit.CEL
        self.record(at, [(Code.BODY_TEMPERATURE, unit, tenths / 10)], packet)


class ScalePeripheral(ForwardingPeripheral):
    """Weight Scale Service."""

    model: ClassVar[DeviceModel] = DeviceModel.SCALE
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x181D),)

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Lay the scale out at `started_ms`."""
        self._traits = traits_of(plan, ScaleTraits)
        super().__init__(plan, self._traits, wall_ms, started_ms=started_ms)
        self.indicated = characteristic(0x2A9D, Properties.INDICATE, encrypted=plan.encrypted)

    def services(self) -> Sequence[Service]:
        """Return the Weight Scale Service and the clock."""
        time_stamps = (0x01).to_bytes(4, "little")
        feature = readable(0x2A9E, time_stamps if self._traits.stamped else bytes(4), encrypted=self.plan.encrypted)
        parts = [self.indicated, feature, *self.clock_characteristics()]
        return [Service(uuid(0x181D), parts), *self.clock_services()]

    def take(self, at: int) -> None:
        """Weigh to 0.1 kg, or 0.2 lb."""
        traits = self._traits
        kilograms = body_value(self.plan.seed, traits.zone, at, mean=traits.kilograms, swing=0.0, spread=0.4)
        step, per_unit = (20, 100) if traits.pounds else (20, 200)
        units = round((kilograms / KG_PER_LB if traits.pounds else kilograms) * per_unit / step) * step
        stamp = date_time(self.clock.at(at)) if traits.stamped else b""
        packet = weight(units, pounds=traits.pounds, stamp=stamp)
        unit = Unit.LB_AV if traits.pounds else Unit.KG
        self.record(at, [(Code.BODY_WEIGHT, unit, units / per_unit)], packet)
