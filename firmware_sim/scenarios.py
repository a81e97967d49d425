"""Named fleets: the simulated patients, and what happens to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from enum import StrEnum
from types import MappingProxyType
from zoneinfo import ZoneInfo

import numpy as np

from devices.vocabulary import DeviceModel, Unit
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.physiology.glucose import Dip, GlucoseTraits, compression_low, insulin_low
from firmware_sim.physiology.heart import HeartTraits, VariabilityStep
from firmware_sim.physiology.local_time import date_of, local_day, utc_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from firmware_sim.pillbox import PillBoxTraits, Regimen
from firmware_sim.plan import Coverage, DevicePlan, DosePlan, PatientPlan
from firmware_sim.wristband import GLUCOSE_EVERY_MS, WristbandTraits
from firmware_sim.zones import zone_where_it_is

DRIFT_NIGHTS = 8
"""How many nights before now the HRV of a drifting patient steps down."""
DRIFT_DEVIATIONS = 3.5
"""By how much: after 30 nights a sequential test notices each of 1,000 such patients."""
FIRST_LOW_AFTER_MS = 20_000
"""A planned low appears this long after the start."""
MISS_AFTER_MS = -45_000
"""A planned miss: the window closes at the first whole minute that is not before start + this."""
WINDOW_MINUTES = 60
DEEP_ENOUGH = 1.2
"""mmol/L that the planned compression low subtracts at least, so that it looks like a low."""
NIGHT_HOUR = 3.0
MORNING_HOUR = 9.0

GIVEN_NAMES = ("Wei", "Amara", "Jonas", "Lucía", "Noor", "Tomasz", "Yuki", "Elena", "Samuel", "Ines", "Ravi", "Greta")
FAMILY_NAMES = ("Chen", "Okafor", "Lindqvist", "Moreno", "Haddad", "Nowak", "Tanaka", "Petrova", "Mwangi", "Costa")
MEDICATIONS = ("Metformin 500 mg", "Ramipril 5 mg", "Bisoprolol 2.5 mg", "Atorvastatin 20 mg")


class Scenario(StrEnum):
    """The values of `--scenario`."""

    STEADY = "steady"
    NIGHT_LOW = "night_low"
    HRV_DRIFT = "hrv_drift"
    MISSED_DOSE = "missed_dose"
    COMPRESSION_LOW = "compression_low"
    OFFLINE = "offline"
    CLINIC = "clinic"
    DEMO = "demo"


class Story(StrEnum):
    """What happens to one patient."""

    STEADY = "steady"
    NIGHT_LOW = "night_low"
    HRV_DRIFT = "hrv_drift"
    MISSED_DOSE = "missed_dose"
    COMPRESSION_LOW = "compression_low"
    OFFLINE = "offline"
    ORDINARY = "ordinary"
    """The life of a clinic's patient: an occasional low, an occasional forgotten pill."""


STORIES: Mapping[Scenario, tuple[Story, ...]] = MappingProxyType(
    {
        Scenario.STEADY: (Story.STEADY,),
        Scenario.NIGHT_LOW: (Story.NIGHT_LOW,),
        Scenario.HRV_DRIFT: (Story.HRV_DRIFT,),
        Scenario.MISSED_DOSE: (Story.MISSED_DOSE,),
        Scenario.COMPRESSION_LOW: (Story.COMPRESSION_LOW,),
        Scenario.OFFLINE: (Story.OFFLINE,),
        Scenario.CLINIC: (
            Story.ORDINARY,
            Story.NIGHT_LOW,
            Story.MISSED_DOSE,
            Story.HRV_DRIFT,
            Story.ORDINARY,
            Story.COMPRESSION_LOW,
            Story.OFFLINE,
            Story.ORDINARY,
        ),
        Scenario.DEMO: (Story.NIGHT_LOW, Story.MISSED_DOSE, Story.HRV_DRIFT, Story.STEADY),
    }
)
"""Patients get these stories in turn."""


@dataclass(frozen=True, slots=True)
class Start:
    """The inputs of a scenario."""

    now_ms: int
    days: float
    seed: int
    prefix: str
    """First part of every device id; must be new to the database."""

    @property
    def history_from_ms(self) -> int:
        """When the devices were put on."""
        return self.now_ms - round(self.days * DAY_MS)


@dataclass(frozen=True, slots=True)
class _Life:
    """One patient while the story shapes them."""

    zone: ZoneInfo
    glucose: GlucoseTraits
    heart: HeartTraits
    habit: DoseHabit
    regimens: tuple[Regimen, ...]
    dips: tuple[Dip, ...] = ()
    step: VariabilityStep | None = None
    coverage: Coverage | None = None
    phase_ms: int = 0
    certain_misses: frozenset[int] = frozenset()
    certain_since_ms: int | None = None
    hypoglycaemia_risk: bool = False
    duplicates: float = 0.002


def patients(scenario: Scenario, count: int, start: Start) -> list[PatientPlan]:
    """Return `count` patients of the scenario; the same for the same start.

    `night_low`: it is 3 in the morning where the patient lives, a reading falls below 4.0 mmol/L within a minute of
    `start.now_ms`, and glucose is back after 25 min. `missed_dose`: the window of a dose closes unopened, not more than
    45 s before the start and not more than 15 s after it. `hrv_drift`: nightly lnRMSSD is 3.5 SD lower for the last
    eight nights; it takes 14 nights before them to be noticed.
    """
    stories = STORIES[scenario]
    return [_patient(stories[index % len(stories)], index, start) for index in range(count)]


def _patient(story: Story, index: int, start: Start) -> PatientPlan:
    rng = np.random.default_rng([start.seed, index])
    life = SHAPES[story](_ordinary_life(rng, start), rng, start)
    return PatientPlan(
        name=f"{rng.choice(GIVEN_NAMES)} {rng.choice(FAMILY_NAMES)}",
        timezone=life.zone.key,
        devices=(_wristband(life, index, rng, start), *_pillbox(life, index, rng, start)),
        doses=_doses(life, index, start),
        hypoglycaemia_risk=life.hypoglycaemia_risk,
    )


def _doses(life: _Life, index: int, start: Start) -> tuple[DosePlan, ...]:
    """Return the schedules, from the first day whose doses all fall after the box was given (a planned miss counts)."""
    if not life.regimens:
        return ()
    first_day = local_day(start.history_from_ms, life.zone)
    first_minute = min(minute for regimen in life.regimens for minute in regimen.minutes)
    if utc_ms(first_day, first_minute, life.zone) - WINDOW_MINUTES * MINUTE_MS < start.history_from_ms:
        first_day += 1
    first_day = min([first_day, *(local_day(due, life.zone) for due in life.certain_misses)])
    return tuple(
        DosePlan(
            medication=MEDICATIONS[(index + regimen.compartment) % len(MEDICATIONS)],
            at=tuple(time(minute // 60, minute % 60) for minute in regimen.minutes),
            compartment=regimen.compartment,
            valid_from=date_of(first_day),
            window_before_minutes=WINDOW_MINUTES,
            window_after_minutes=WINDOW_MINUTES,
        )
        for regimen in life.regimens
    )


def _ordinary_life(rng: np.random.Generator, start: Start) -> _Life:
    """Return a healthy life: it is morning where they live, glucose is never low, pills are taken."""
    zone = ZoneInfo(zone_where_it_is(MORNING_HOUR, start.now_ms))
    return _Life(
        zone=zone,
        glucose=GlucoseTraits(basal=6.0 + rng.uniform(-0.3, 0.4), meal=3.0 + rng.uniform(-0.8, 0.8)),
        heart=HeartTraits(mesor=66 + rng.uniform(-7, 8), ln_rmssd=3.5 + rng.uniform(-0.4, 0.4)),
        habit=DoseHabit(miss_probability=0.0, late_probability=0.0),
        regimens=(Regimen((7 * 60 + 30, 19 * 60 + 30), 1),),
        phase_ms=int(rng.integers(GLUCOSE_EVERY_MS)),
    )


def _steady(life: _Life, _rng: np.random.Generator, _start: Start) -> _Life:
    """No pills: a wristband, and nothing that ever needs anybody."""
    return replace(life, regimens=())


def _night_low(life: _Life, rng: np.random.Generator, start: Start) -> _Life:
    first_low = start.now_ms + FIRST_LOW_AFTER_MS + int(rng.integers(15_000))
    return replace(
        life,
        zone=ZoneInfo(zone_where_it_is(NIGHT_HOUR, start.now_ms)),
        dips=(insulin_low(first_low, level=3.4),),
        phase_ms=first_low % GLUCOSE_EVERY_MS,
        hypoglycaemia_risk=True,
    )


def _compression_low(life: _Life, rng: np.random.Generator, start: Start) -> _Life:
    first_low = start.now_ms + FIRST_LOW_AFTER_MS
    dip = compression_low(first_low - 5 * MINUTE_MS, rng)
    return replace(
        life,
        zone=ZoneInfo(zone_where_it_is(NIGHT_HOUR, start.now_ms)),
        glucose=replace(life.glucose, basal=4.6, compression_probability=0.1),
        dips=(replace(dip, depth=max(dip.depth or 0.0, DEEP_ENOUGH)),),
        phase_ms=first_low % GLUCOSE_EVERY_MS,
    )


def _hrv_drift(life: _Life, _rng: np.random.Generator, start: Start) -> _Life:
    last_night = local_day(start.now_ms, life.zone)
    return replace(life, step=VariabilityStep(last_night - DRIFT_NIGHTS + 1, DRIFT_DEVIATIONS))


def _missed_dose(life: _Life, _rng: np.random.Generator, start: Start) -> _Life:
    """Plan a dose whose window closes about now, with nobody to open the box."""
    window_end = -(-(start.now_ms + MISS_AFTER_MS) // MINUTE_MS) * MINUTE_MS
    due = window_end - WINDOW_MINUTES * MINUTE_MS
    local = datetime.fromtimestamp(due / 1000, UTC).astimezone(life.zone)
    minute = local.hour * 60 + local.minute
    return replace(
        life,
        regimens=(Regimen(tuple(sorted({minute, (minute + 12 * 60) % (24 * 60)})), 1),),
        habit=replace(life.habit, answers_reminder=0.0),
        certain_misses=frozenset({due}),
    )


def _offline(life: _Life, rng: np.random.Generator, start: Start) -> _Life:
    """Lose the signal for two of every five minutes, and every time the battery is changed."""
    phase = start.now_ms + int(rng.integers(60_000, 180_000))
    coverage = Coverage(5 * MINUTE_MS, 2 * MINUTE_MS, phase, reboots=True)
    return replace(life, coverage=coverage, duplicates=0.05)


def _ordinary(life: _Life, rng: np.random.Generator, start: Start) -> _Life:
    """Forget pills and have lows occasionally, but nothing by chance during the last day."""
    certain = start.now_ms - 25 * HOUR_MS
    return replace(
        life,
        glucose=replace(life.glucose, night_low_probability=0.06),
        habit=DoseHabit(miss_probability=float(rng.uniform(0.02, 0.08))),
        regimens=(*life.regimens, Regimen((21 * 60,), 2)),
        certain_since_ms=certain,
    )


SHAPES: Mapping[Story, Callable[[_Life, np.random.Generator, Start], _Life]] = MappingProxyType(
    {
        Story.STEADY: _steady,
        Story.NIGHT_LOW: _night_low,
        Story.HRV_DRIFT: _hrv_drift,
        Story.MISSED_DOSE: _missed_dose,
        Story.COMPRESSION_LOW: _compression_low,
        Story.OFFLINE: _offline,
        Story.ORDINARY: _ordinary,
    }
)


def _wristband(life: _Life, index: int, rng: np.random.Generator, start: Start) -> DevicePlan:
    return DevicePlan(
        id=f"{start.prefix}-band-{index + 1}",
        model=DeviceModel.WRISTBAND,
        seed=(start.seed, index),
        traits=WristbandTraits(
            zone=life.zone,
            first_day=local_day(start.history_from_ms, life.zone),
            glucose_unit=Unit.MG_DL if index % 3 == 2 else Unit.MMOL_L,
            glucose=life.glucose,
            heart=life.heart,
            dips=life.dips,
            step=life.step,
            phase_ms=life.phase_ms,
        ),
        cbor=index % 4 == 3,
        drift_ppm=float(rng.normal(0.0, 20.0)),
        offset_ms=-abs(int(rng.normal(0.0, 400.0))),
        coverage=life.coverage,
        duplicate_probability=life.duplicates,
    )


def _pillbox(life: _Life, index: int, rng: np.random.Generator, start: Start) -> tuple[DevicePlan, ...]:
    if not life.regimens:
        return ()
    box = DevicePlan(
        id=f"{start.prefix}-box-{index + 1}",
        model=DeviceModel.PILLBOX,
        seed=(start.seed, index),
        traits=PillBoxTraits(
            zone=life.zone,
            regimens=life.regimens,
            habit=life.habit,
            counts_pills=index % 3 == 1,
            certain_misses=life.certain_misses,
            certain_since_ms=life.certain_since_ms,
            phase_ms=int(rng.integers(5 * MINUTE_MS)),
        ),
        firmware="2.0.1",
        drift_ppm=float(rng.normal(0.0, 20.0)),
        coverage=life.coverage,
        status_every_s=30,
    )
    return (box,)
