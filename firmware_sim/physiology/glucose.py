"""Interstitial glucose over days: meals, dawn, night lows, compression lows and the sensor's own noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from firmware_sim.physiology.local_time import local_ms, utc_ms
from firmware_sim.physiology.noise import DAY_MS, MINUTE_MS, RelaxingNoise

MEAL_MINUTES = (7 * 60 + 30, 12 * 60 + 30, 18 * 60 + 45)
MEAL_SHARES = (0.8, 1.0, 1.1)

SENSOR_NOISE_TAU_MS = -5 * MINUTE_MS / math.log(0.7)
"""Breton and Kovatchev 2008 (10.1177/193229680800200517): CGM errors at 5 min correlate with 0.7."""


@dataclass(frozen=True, slots=True)
class Dip:
    """One fall and recovery. Insulin pulls glucose to a `level`; pressure on the sensor subtracts a `depth`.

    All times in ms, glucose in mmol/L; exactly one of `level` and `depth` is set.
    """

    start_ms: int
    fall_ms: int
    hold_ms: int
    rise_ms: int
    level: float | None = None
    depth: float | None = None

    def weight(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 0 outside, 1 at the bottom, and a smooth transition between."""
        into = np.clip((times - self.start_ms) / self.fall_ms, 0.0, 1.0)
        out = np.clip((self.start_ms + self.fall_ms + self.hold_ms + self.rise_ms - times) / self.rise_ms, 0.0, 1.0)
        ramp = np.minimum(into, out)
        return ramp * ramp * (3.0 - 2.0 * ramp)

    def apply(self, times: NDArray[np.int64], glucose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `glucose` with this dip; a level never raises what is already below it."""
        weight = self.weight(times)
        if self.level is not None:
            return glucose - weight * np.maximum(glucose - self.level, 0.0)
        return glucose - weight * (self.depth or 0.0)


def insulin_low(first_low_ms: int, *, level: float = 3.4, low_for_ms: int = 25 * MINUTE_MS) -> Dip:
    """Return a low that stays under 4.0 mmol/L for about `low_for_ms`, beginning just before `first_low_ms`.

    Too much evening insulin in somebody who wakes and eats. With a reading every 5 min, the one before `first_low_ms`
    is still above 4.0 if the fall starts at 5.4 mmol/L or more.
    """
    fall, rise = 15 * MINUTE_MS, 15 * MINUTE_MS
    into, back = round(0.85 * fall), round(0.32 * rise)
    hold = max(low_for_ms - (fall - into) - back, 0)
    return Dip(first_low_ms - into, fall, hold, rise, level=level)


def compression_low(start_ms: int, rng: np.random.Generator) -> Dip:
    """Return a dip like that of a sleeper lying on the sensor: abrupt in and out.

    45 (30-70) min and 24 (10-48) mg/dL: Facchinetti 2016 (10.1089/dia.2015.0250), Baysal 2014
    (10.1177/1932296814553267).
    """
    edge = 4 * MINUTE_MS
    depth_mg_dl = rng.triangular(10, 24, 48)
    minutes = rng.triangular(30, 45, 70)
    return Dip(start_ms, edge, round(minutes * MINUTE_MS) - 2 * edge, edge, depth=depth_mg_dl / 18)


@dataclass(frozen=True, slots=True)
class GlucoseTraits:
    """One person's glucose, in mmol/L."""

    basal: float = 5.9
    dawn: float = 0.9
    """Monnier 2013 (10.2337/dc12-2127): the rise from the night's nadir to breakfast, some 16 mg/dL."""
    meal: float = 3.2
    floor: float = 4.7
    """Counter-regulation keeps ordinary days above it; dips go through."""
    noise: float = 0.12
    night_low_probability: float = 0.0
    compression_probability: float = 0.0


class GlucoseProcess:
    """One person's glucose as the sensor sees it, at ascending times; the same for any split into calls."""

    def __init__(self, seed: Sequence[int], traits: GlucoseTraits, zone: ZoneInfo, dips: Sequence[Dip] = ()) -> None:
        """Everything follows from `seed`; `dips` are planned ones in addition to random ones."""
        self._seed = tuple(seed)
        self._traits = traits
        self._zone = zone
        self._planned = tuple(dips)
        self._noise = RelaxingNoise(np.random.default_rng([*seed, 0]), sd=traits.noise, tau_ms=SENSOR_NOISE_TAU_MS)
        self._day = lru_cache(maxsize=4)(self._draw_day)

    def at(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return glucose in mmol/L at `times` (ms since the epoch, ascending, later than the call before)."""
        if not len(times):
            return np.empty(0)
        wall = local_ms(times, self._zone)
        traits = self._traits
        glucose = traits.basal + traits.dawn * _dawn(wall % DAY_MS / MINUTE_MS)
        dips = list(self._planned)
        for day in range(int(wall[0]) // DAY_MS - 1, int(wall[-1]) // DAY_MS + 1):
            meals, chance_dips = self._day(day)
            for minute, size in meals:
                glucose += size * _absorbed((wall - day * DAY_MS) / MINUTE_MS - minute)
            dips += chance_dips
        glucose = traits.floor + np.logaddexp(0.0, 4.0 * (glucose - traits.floor)) / 4.0
        for dip in dips:
            glucose = dip.apply(times, glucose)
        return np.maximum(glucose + self._noise.at(times), 1.5)

    def _draw_day(self, day: int) -> tuple[list[tuple[float, float]], list[Dip]]:
        """Return the meals (local minute, height in mmol/L) and the random dips of a local day."""
        rng = np.random.default_rng([*self._seed, 1, day])
        meals = [
            (minute + rng.normal(0.0, 20.0), self._traits.meal * share * rng.lognormal(0.0, 0.25))
            for minute, share in zip(MEAL_MINUTES, MEAL_SHARES, strict=True)
        ]
        dips = []
        night = int(rng.uniform(60, 240))
        level, low_minutes = rng.uniform(3.2, 3.8), rng.uniform(20, 60)
        if rng.random() < self._traits.night_low_probability:
            first_low = utc_ms(day, night, self._zone)
            dips.append(insulin_low(first_low, level=level, low_for_ms=round(low_minutes * MINUTE_MS)))
        if rng.random() < self._traits.compression_probability:
            dips.append(compression_low(utc_ms(day, int(rng.uniform(30, 300)), self._zone), rng))
        return meals, dips


def _absorbed(minutes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a meal's excursion, 0 before it and 1 at its peak after 60 min.

    Gut absorption over two compartments gives `t exp(-t / tau)`: Hovorka 2004 (10.1088/0967-3334/25/4/010).
    """
    since = np.maximum(minutes, 0.0) / 60.0
    return since * np.exp(1.0 - since)


def _dawn(minute_of_day: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 0 until 03:00 local, rising to 1 at 07:30 and gone by 12:00."""
    return np.cos(np.clip((minute_of_day - 450.0) / 270.0, -1.0, 1.0) * (np.pi / 2)) ** 2
