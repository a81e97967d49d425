"""Heart rate over the day, and single heartbeats whose variability is set exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from firmware_sim.physiology.local_time import local_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS, RelaxingNoise

ACROPHASE_MS = 15 * HOUR_MS
"""Local time of the day's highest heart rate; the night's lowest follows twelve hours later."""

BREATHING_HZ = 0.24
BREATHING_SPREAD_HZ = 0.02
"""Asleep, some 14 breaths a minute."""

NIGHT_LAG_ONE = 0.2
"""Correlation of one night's lnRMSSD with the next one's."""


@dataclass(frozen=True, slots=True)
class HeartTraits:
    """One person's heart."""

    mesor: float = 68.0
    """Mean heart rate over the day, /min."""
    amplitude: float = 8.0
    """Half the circadian swing, /min."""
    ln_rmssd: float = 3.6
    """Mean of the nightly lnRMSSD (ln ms); 3.6 is 37 ms."""
    ln_rmssd_sd: float = 0.15
    """Spread of the nightly lnRMSSD from night to night; Plews 2013 (10.1007/s40279-013-0071-8)."""


class HeartRateProcess:
    """Cosinor with correlated noise: `mesor + amplitude cos(2 pi (t - acrophase) / 24 h) + noise`.

    Cosinor: Cornelissen 2014 (10.1186/1742-4682-11-16); that heart rate has a circadian rhythm of its own: Vandewalle
    2007 (10.1111/j.1365-2869.2007.00581.x).
    """

    def __init__(self, seed: Sequence[int], traits: HeartTraits, zone: ZoneInfo) -> None:
        """Everything follows from `seed`."""
        self._traits = traits
        self._zone = zone
        self._noise = RelaxingNoise(np.random.default_rng([*seed, 2]), sd=2.5, tau_ms=20 * MINUTE_MS)

    def rhythm(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rhythm without noise, /min, at any `times` (ms)."""
        phase = 2 * np.pi * (local_ms(times, self._zone) % DAY_MS - ACROPHASE_MS) / DAY_MS
        return self._traits.mesor + self._traits.amplitude * np.cos(phase)

    def at(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return heart rate in /min at `times` (ms, ascending, later than those of the call before)."""
        return np.clip(self.rhythm(times) + self._noise.at(times), 35.0, 200.0)


@dataclass(frozen=True, slots=True)
class VariabilityStep:
    """From local night `day` (days since 1970-01-01) on, lnRMSSD is lower by `deviations` of its nightly spread."""

    day: int
    deviations: float


class NightlyVariability:
    """The RMSSD each night aims at: lnRMSSD normal from night to night, with lag-1 correlation, and perhaps a step.

    With a step, the nights before it have exactly the mean and spread of the traits, so that a baseline over those
    nights measures exactly the step's size in standard deviations.
    """

    def __init__(
        self, seed: Sequence[int], traits: HeartTraits, first_day: int, step: VariabilityStep | None = None
    ) -> None:
        """Count nights from local day `first_day` on."""
        self._traits = traits
        self._first_day = first_day
        self._step = step
        self._rng = np.random.default_rng([*seed, 3])
        self._deviations: list[float] = []
        if step is not None and step.day - first_day >= 2:
            self._grow(step.day - first_day)
            before = np.array(self._deviations)
            self._deviations = ((before - before.mean()) / before.std(ddof=1)).tolist()

    def rmssd(self, day: int) -> float:
        """Return the target RMSSD in ms of the night of local `day`, which may not be before the first."""
        night = max(day - self._first_day, 0)
        self._grow(night + 1)
        deviations = self._deviations[night]
        if self._step is not None and day >= self._step.day:
            deviations -= self._step.deviations
        return float(np.exp(self._traits.ln_rmssd + self._traits.ln_rmssd_sd * deviations))

    def _grow(self, nights: int) -> None:
        while len(self._deviations) < nights:
            draw = self._rng.standard_normal()
            if self._deviations:
                draw = NIGHT_LAG_ONE * self._deviations[-1] + (1.0 - NIGHT_LAG_ONE**2) ** 0.5 * draw
            self._deviations.append(float(draw))


def rr_intervals(rng: np.random.Generator, *, mean_ms: float, rmssd_ms: float, duration_ms: int) -> NDArray[np.int64]:
    """Return RR intervals in whole ms over at least `duration_ms`, whose RMSSD is `rmssd_ms`.

    A mixture of breathing (the vagal rhythm of 0.15-0.4 Hz, Task Force 1996, 10.1161/01.CIR.93.5.1043, as AR(2)), white
    noise, and slow AR(1) noise (everything that only SDNN sees). It is scaled so that the series itself has the RMSSD,
    not merely its expectation. Rounding to ms adds sqrt(1/6) ms in quadrature, which is subtracted beforehand.
    """
    beats = int(duration_ms / mean_ms) + 3
    white = rng.standard_normal(beats)
    breaths_a_beat = rng.normal(BREATHING_HZ, BREATHING_SPREAD_HZ) * mean_ms / 1000
    deviation = _breathing(rng, beats, breaths_a_beat) + 0.4 * white + 1.2 * _slow_waves(rng, beats)
    wanted = np.sqrt(max(rmssd_ms**2 - 1 / 6, 0.01))
    deviation = (deviation - deviation.mean()) * wanted / np.sqrt(np.mean(np.diff(deviation) ** 2))
    whole: NDArray[np.int64] = np.clip(np.rint(mean_ms + deviation), 300, 2000).astype(np.int64)
    return whole


def _breathing(rng: np.random.Generator, beats: int, frequency: float) -> NDArray[np.float64]:
    """Return an AR(2) process that swings at `frequency` (cycles a beat), with standard deviation 1 over the series."""
    radius = 0.95
    first, second = 2 * radius * np.cos(2 * np.pi * frequency), -(radius**2)
    series = rng.standard_normal(beats)
    for beat in range(2, beats):
        series[beat] += first * series[beat - 1] + second * series[beat - 2]
    series /= series.std()
    return series


def _slow_waves(rng: np.random.Generator, beats: int) -> NDArray[np.float64]:
    """Return an AR(1) process with a memory of some 20 beats and standard deviation 1."""
    phi = 0.95
    series = rng.standard_normal(beats)
    series[1:] *= np.sqrt(1 - phi**2)
    for beat in range(1, beats):
        series[beat] += phi * series[beat - 1]
    return series
