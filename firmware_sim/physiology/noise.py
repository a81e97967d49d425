"""Correlated noise that does not depend on how a series is split into calls."""

import math

import numpy as np
from numpy.typing import NDArray

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class RelaxingNoise:
    """An Ornstein-Uhlenbeck process sampled at any ascending times: AR(1) where the times are even.

    Discretised exactly: `x' = phi x + sd sqrt(1 - phi²) n` with `phi = exp(-dt / tau)` (Uhlenbeck and Ornstein 1930,
    10.1103/PhysRev.36.823). Mean 0, standard deviation `sd` at every time.
    """

    def __init__(self, rng: np.random.Generator, *, sd: float, tau_ms: float) -> None:
        """Use `rng` alone, one draw a sample."""
        self._rng = rng
        self._sd = sd
        self._tau_ms = tau_ms
        self._at: int | None = None
        self._value = 0.0

    def at(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the noise at `times` (ms, ascending, later than those of the call before)."""
        out = np.empty(len(times))
        for index, (time, draw) in enumerate(zip(times.tolist(), self._rng.standard_normal(len(times)), strict=True)):
            phi = 0.0 if self._at is None else math.exp(-(time - self._at) / self._tau_ms)
            self._value = phi * self._value + self._sd * math.sqrt(1.0 - phi * phi) * draw
            self._at = time
            out[index] = self._value
        return out
