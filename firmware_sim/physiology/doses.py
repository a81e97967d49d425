"""When people really take their pills: mostly on time, sometimes late, sometimes not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from firmware_sim.physiology.noise import MINUTE_MS


@dataclass(frozen=True, slots=True)
class DoseHabit:
    """How one person takes pills.

    Electronic pill bottles of 4,783 people: about one dose in ten is left out on any day (Vrijens 2008,
    10.1136/bmj.39553.670231.25); taking time scatters around a routine with a long tail to the late side.
    """

    miss_probability: float = 0.05
    late_probability: float = 0.08
    routine_minutes: float = 4.0
    """Mean lateness of an ordinary dose."""
    scatter_minutes: float = 12.0
    """Its standard deviation."""
    late_minutes: float = 90.0
    """Mean of the exponential tail that comes on top of a late one."""
    answers_reminder: float = 0.6
    """Probability that a reminder is followed by taking the dose within minutes."""

    def lateness_ms(self, seed: Sequence[int], due_ms: int) -> int | None:
        """Return how late (negative: early) the dose due at `due_ms` is taken; None: missed. A pure function."""
        rng = np.random.default_rng([*seed, 4, due_ms // MINUTE_MS])
        missed, late, ordinary, tail = rng.random(), rng.random(), rng.standard_normal(), rng.exponential()
        if missed < self.miss_probability:
            return None
        minutes = self.routine_minutes + self.scatter_minutes * float(np.clip(ordinary, -3.5, 3.5))
        if late < self.late_probability:
            minutes += self.late_minutes * tail
        return round(minutes * MINUTE_MS)
