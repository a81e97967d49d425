"""Patients with Bluetooth devices near one edge box, and their stories: the fleet's scenarios without a broker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

from devices.vocabulary import DeviceModel, Unit
from firmware_sim.ble.cgm import CgmTraits
from firmware_sim.ble.glucose_meter import GlucoseMeterTraits
from firmware_sim.ble.oximeter import OximeterTraits
from firmware_sim.ble.plan import BlePlan, Traits
from firmware_sim.ble.spot import ClockKind, Use
from firmware_sim.ble.spot_devices import CuffTraits, ScaleTraits, ThermometerTraits
from firmware_sim.physiology.local_time import local_day
from firmware_sim.physiology.noise import MINUTE_MS
from firmware_sim.pillbox import PillBoxTraits, Regimen
from firmware_sim.plan import DevicePlan, PatientPlan
from firmware_sim.scenarios import Scenario, Start, patients
from firmware_sim.wristband import WristbandTraits


@dataclass(frozen=True, slots=True)
class Bedside:
    """One patient and the devices near the box."""

    patient: PatientPlan
    """Name, zone, doses and risk; without devices of its own."""
    devices: tuple[BlePlan, ...]


def bedsides(scenario: Scenario, count: int, start: Start, *, advertising_interval_ms: float = 250) -> list[Bedside]:
    """Return the scenario's patients with Bluetooth devices: a CGM and a band for a wristband, a box for a box.

    What the scenarios promise holds: under `night_low` it is 3 in the morning where the patient lives, and the reading
    that comes 20 to 35 s after `start.now_ms` is the first below 4.0 mmol/L; under `missed_dose` the window of a dose
    closes unopened about now, and all earlier doses were taken. Start the devices with `started_ms` in the past.
    """
    return [
        Bedside(
            patient=replace(patient, devices=()),
            devices=tuple(
                replace(one, advertising_interval_ms=advertising_interval_ms)
                for device in patient.devices
                for one in _over_bluetooth(device)
            ),
        )
        for patient in patients(scenario, count, start)
    ]


def _over_bluetooth(device: DevicePlan) -> list[BlePlan]:
    """Return the Bluetooth devices that do a device's work; the same seed, hence the same numbers."""
    traits = device.traits
    common = BlePlan(device.id, device.model, device.seed, traits, drift_ppm=device.drift_ppm, firmware=device.firmware)
    if not isinstance(traits, WristbandTraits):
        return [common]
    sensor = replace(common, id=device.id.replace("-band-", "-cgm-"), model=DeviceModel.CGM, traits=CgmTraits(traits))
    return [sensor, common]


def mixed_ward(count: int, start: Start, zone: ZoneInfo, *, advertising_interval_ms: float = 250) -> list[BlePlan]:
    """Return `count` devices of ordinary people, the models in turn, half of them on slightly wrong clocks."""
    makers = list(MAKERS.items())
    plans = []
    for index in range(count):
        model, make = makers[index % len(makers)]
        plans.append(
            BlePlan(
                id=f"{start.prefix}-{model.replace('_', '-')}-{index + 1}",
                model=model,
                seed=(start.seed, index),
                traits=make(zone, start),
                drift_ppm=(-20.0, 0.0, 20.0)[index % 3],
                clock_error_ms=(0, -40_000)[index % 2],
                keeps_clock=index % 4 != 3,
                advertising_interval_ms=advertising_interval_ms,
            )
        )
    return plans


def _band(zone: ZoneInfo, start: Start) -> WristbandTraits:
    phase_ms = start.now_ms % (5 * MINUTE_MS) // 2
    return WristbandTraits(zone, first_day=local_day(start.history_from_ms, zone), phase_ms=phase_ms)


MAKERS: Final[Mapping[DeviceModel, Callable[[ZoneInfo, Start], Traits]]] = MappingProxyType(
    {
        DeviceModel.CGM: lambda zone, start: CgmTraits(_band(zone, start)),
        DeviceModel.WRISTBAND: _band,
        DeviceModel.PILLBOX: lambda zone, _: PillBoxTraits(zone, (Regimen((7 * 60 + 30, 19 * 60 + 30), 1),)),
        DeviceModel.GLUCOSE_METER: lambda zone, _: GlucoseMeterTraits(zone, unit=Unit.MG_DL),
        DeviceModel.BLOOD_PRESSURE: lambda zone, _: CuffTraits(zone),
        DeviceModel.THERMOMETER: lambda zone, _: ThermometerTraits(zone, Use((8 * 60,), clock=ClockKind.NONE)),
        DeviceModel.SCALE: lambda zone, _: ScaleTraits(zone, Use((7 * 60,), clock=ClockKind.DATE_TIME)),
        DeviceModel.OXIMETER: lambda zone, _: OximeterTraits(zone),
    }
)
