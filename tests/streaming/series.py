"""Glucose series for tests: from plain readings, at random (hypothesis), and seeded synthetic nights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from devices.vocabulary import CODES, FLAG_BY_WIRE, UCUM, UNIT_BY_UCUM, Code, Flag
from streaming.readings import ReadingSeries
from tests.streaming.nocturnal_reference import Reading

MINUTE_MS = 60_000
ZONES = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns")
# Just before nights in which clocks change somewhere: end of March, end of October, beginning of November, of April.
NIGHTS = (1_774_720_000_000, 1_792_860_000_000, 1_793_480_000_000, 1_775_300_000_000)


def glucose_series(readings: Sequence[Reading]) -> ReadingSeries:
    return ReadingSeries(
        at=np.array([reading.at for reading in readings], dtype=np.int64),
        value=np.array([np.nan if r.value is None else r.value for r in readings], dtype=np.float64),
        unit=np.array([UNIT_BY_UCUM[reading.unit] for reading in readings], dtype=np.int16),
        flags=np.array([flag_bits(reading.flags) for reading in readings], dtype=np.int16),
    )


def flag_bits(names: Iterable[str]) -> int:
    bits = Flag(0)
    for name in names:
        bits |= FLAG_BY_WIRE[name]
    return int(bits)


MMOL_VALUES = st.sampled_from([1.1, 2.9, 3.0, 3.09, 3.1, 3.5, 3.9, 3.99, 3.996, 4.0, 4.01, 5.5, 12.0])
MG_VALUES = st.sampled_from([20.0, 53.0, 54.0, 54.9, 55.0, 56.0, 70.0, 71.0, 71.9, 72.0, 73.0, 200.0])
FLAGS = st.sampled_from(
    [(), (), (), (), (), (), ("below_range",), ("above_range",), ("warmup",), ("calibration",), ("artifact",),
     ("off_body",), ("below_range", "artifact")]
)  # fmt: skip


@st.composite
def readings_of_one_patient(draw: st.DrawFn) -> list[Reading]:
    """Draw readings in order of time at a sensor's cadence, with gaps, jitter, flags, two units and shared instants."""
    at = draw(st.sampled_from(NIGHTS)) + draw(st.integers(0, 6 * 60)) * MINUTE_MS
    cadence = draw(st.sampled_from([1, 3, 5, 15])) * MINUTE_MS
    found: list[Reading] = []
    for _ in range(draw(st.integers(0, 60))):
        mg = draw(st.booleans())
        value = draw(MG_VALUES if mg else MMOL_VALUES)
        flags = draw(FLAGS)
        numberless = draw(st.integers(0, 9)) == 0
        found.append(Reading(at, None if numberless else value, "mg/dL" if mg else "mmol/L", flags))
        at += draw(st.sampled_from([cadence] * 8 + [0, cadence // 2, 4 * cadence, 50 * MINUTE_MS, 1]))
    return found


WELL = ((4.0, 4.01, 5.5, 6.1, 6.9, 10.0), (72.0, 73.0, 99.0, 110.0, 125.0, 180.0))
LOW = ((1.1, 2.9, 3.0, 3.09, 3.1, 3.5, 3.89, 3.9, 3.99), (20.0, 53.0, 54.0, 54.9, 55.0, 56.0, 69.9, 70.0, 71.9))
MORNING = ((6.9, 7.0, 7.1, 7.3, 7.9, 8.0, 8.3), (108.0, 125.0, 125.9, 126.0, 127.0, 143.0, 144.0))
HIGH = ((13.8, 13.9, 13.91, 14.0, 20.0), (248.0, 250.0, 250.1, 251.0, 400.0))
COURSES = (WELL, LOW, MORNING, HIGH)
LONG_GAPS = (31, 44, 45, 46, 61)
ODD_FLAGS = (("below_range",), ("above_range",), ("warmup",), ("calibration",), ("artifact",), ("off_body",))


def random_course(rng: np.random.Generator) -> list[Reading]:
    """Return 10 to 120 readings in order of time, none at one instant: now low, now high, now well, or drifting.

    From any time of day on at 1, 3, 5 or 15 min; mmol/L, mg/dL or both; with gaps, LO, HI, flags, and now and then one
    more reading 10 s later.
    """
    at = NIGHTS[int(rng.integers(4))] + int(rng.integers(24 * 60)) * MINUTE_MS
    cadence = (1, 3, 5, 15)[int(rng.integers(4))] * MINUTE_MS
    mg_share = (0.0, 0.5, 1.0)[int(rng.integers(3))]
    drifting = rng.random() < 0.4
    level, trend = float(rng.uniform(3.0, 15.0)), 0.0
    kind = COURSES[int(rng.integers(4))]
    rows = int(rng.integers(10, 121))
    chances, steps = rng.random((rows, 5)).tolist(), rng.normal(0, 0.12, rows).tolist()
    found: list[Reading] = []
    for (unit, change, which, odd, gap), step in zip(chances, steps, strict=True):
        mg = unit < mg_share
        if change < 0.08:
            kind = COURSES[int(change * 50)]
        trend = 0.85 * trend + step + 0.01 * (6.0 - level)
        level = min(max(level + trend, 2.0), 18.0)
        drifted = float(round(level * 18)) if mg else round(level, 1)
        value = drifted if drifting else kind[mg][int(which * len(kind[mg]))]
        flags = ODD_FLAGS[int(odd * 100)] if odd < 0.06 else ()
        numberless = bool(flags) and which < 0.5
        found.append(Reading(at, None if numberless else value, "mg/dL" if mg else "mmol/L", flags))
        at += (10_000 if gap > 0.92 else cadence) + int(which < 0.25)
        if gap < 0.12:
            at += cadence * int(gap * 25) + (LONG_GAPS[int(gap * 250)] * MINUTE_MS if gap < 0.02 else 0)
    return found


# Limits (low, high) of the vital signs for tests, in the canonical unit.
VITAL_LIMITS: dict[Code, tuple[float, float]] = {
    Code.HEART_RATE: (45, 120),
    Code.SPO2: (90, 99),
    Code.BODY_TEMPERATURE: (35.5, 38.0),
    Code.SYSTOLIC_PRESSURE: (90, 160),
    Code.DIASTOLIC_PRESSURE: (50, 100),
    Code.BODY_WEIGHT: (50, 90),
    Code.STEP_COUNT: (10, 5_000),
    Code.BATTERY: (15, 100),
}


def random_vitals(rng: np.random.Generator, code: Code) -> list[Reading]:
    """Return up to 40 readings of a vital sign around its limits, in all its units, in order of time, as above."""
    low, high = VITAL_LIMITS[code]
    around = ((low - 1, low - 0.1, low), (low + 0.1, (low + high) / 2, high - 0.1), (high, high + 0.1, high + 2))
    at = int(rng.choice(NIGHTS))
    cadence = int(rng.choice([1, 5, 15])) * MINUTE_MS
    side = int(rng.integers(3))
    found: list[Reading] = []
    for _ in range(int(rng.integers(0, 41))):
        side = int(rng.integers(3)) if rng.random() < 0.3 else side
        unit, rule = list(CODES[code].units.items())[int(rng.integers(len(CODES[code].units)))]
        value = round((float(rng.choice(around[side])) - rule.shift) / rule.factor, 9)
        flags = (("off_body",), ("artifact",), ("warmup",))[int(rng.integers(3))] if rng.random() < 0.1 else ()
        found.append(Reading(at, None if rng.random() < 0.05 else value, UCUM[unit], flags))
        at += int(rng.choice([cadence] * 9 + [4 * cadence, 50 * MINUTE_MS, 1]))
    return found


def crowded(readings: Sequence[Reading], rng: np.random.Generator) -> list[Reading]:
    """Return readings with some at the instant of the one before, as of a second sensor."""
    found: list[Reading] = []
    for reading in readings:
        found.append(replace(reading, at=found[-1].at) if found and rng.random() < 0.05 else reading)
    return found


def synthetic_nights(seed: int, days: int, cadence_minutes: int, start_ms: int) -> list[Reading]:
    """Return a seeded random walk of glucose with dips at night, in mmol/L with one decimal, a few flags and gaps."""
    rng = np.random.default_rng(seed)
    rows = days * 24 * 60 // cadence_minutes
    at = start_ms + np.arange(rows) * cadence_minutes * MINUTE_MS
    level = 6.0
    found = []
    for row in range(rows):
        level = float(np.clip(level + 0.1 * (5.5 - level) * cadence_minutes / 15 + rng.normal(0, 0.6), 1.2, 20))
        if rng.random() < 0.03:
            continue
        flags = ("below_range",) if level < 1.5 else (("artifact",) if rng.random() < 0.02 else ())
        found.append(Reading(int(at[row]), round(level, 1), "mmol/L", flags))
    return found
