"""Glucose series for tests: from plain readings, at random (hypothesis), and seeded synthetic nights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st

from devices.vocabulary import FLAG_BY_WIRE, UNIT_BY_UCUM, Flag
from streaming.glucose import GlucoseSeries
from tests.streaming.nocturnal_reference import Reading

MINUTE_MS = 60_000
ZONES = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns")
# Just before nights in which clocks change somewhere: end of March, end of October, beginning of November, of April.
NIGHTS = (1_774_720_000_000, 1_792_860_000_000, 1_793_480_000_000, 1_775_300_000_000)


def glucose_series(readings: Sequence[Reading]) -> GlucoseSeries:
    return GlucoseSeries(
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
