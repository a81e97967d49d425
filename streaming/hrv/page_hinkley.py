"""The sequential test behind HRV drift, Page and Hinkley's by river, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from river.drift import PageHinkley

from streaming.hrv.nights import BASELINE_DAYS

MOST_DELTA: Final = 5.0
MOST_THRESHOLD: Final = 1000.0
MOST_Z: Final = 100.0
MOST_ANCHOR_NIGHTS: Final = 1000
MOST_NIGHTS: Final = 30
MOST_BAND: Final = 5.0


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How drift is decided. `delta` and `threshold` are Page and Hinkley's, in spreads of the patient's baseline.

    A night counts for at most `most_z` spreads: recorded nights have long tails, and drift is what lasts, so no single
    night may alarm (Lucas and Crosier 1982, robust CUSUM). `anchor_nights`: so many nights at the baseline's centre the
    test believes to have seen when it starts; its running mean follows a fall, and hides it, the slower the more there
    are. `least_to_show`, `least_to_alarm`: nights in the baseline. `falling_nights`: so many nights in a row, each lower
    than the one before, make it `high`. `recovery_nights` in a row not below the baseline by more than `recovery_band`
    spreads end it.
    """

    delta: float = 0.55
    threshold: float = 3.8
    most_z: float = 2.0
    anchor_nights: int = 180
    least_to_show: int = 7
    least_to_alarm: int = 14
    falling_nights: int = 3
    recovery_nights: int = 3
    recovery_band: float = 0.5

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing, or with which no fall would ever be found."""
        if not 0 <= self.delta <= MOST_DELTA:
            raise ValueError(f"delta must be 0 to {MOST_DELTA:g}")
        if not 0 < self.threshold <= MOST_THRESHOLD:
            raise ValueError(f"the threshold must be above 0, at most {MOST_THRESHOLD:g}")
        if not self.delta < self.most_z <= MOST_Z:
            raise ValueError(f"most_z must be above delta, at most {MOST_Z:g}")
        if not 1 <= self.anchor_nights <= MOST_ANCHOR_NIGHTS:
            raise ValueError(f"anchor_nights must be 1 to {MOST_ANCHOR_NIGHTS}")
        if not 2 <= self.least_to_show <= self.least_to_alarm <= BASELINE_DAYS:
            raise ValueError(f"least_to_show must be 2 to least_to_alarm, that at most {BASELINE_DAYS}")
        if not all(1 <= nights <= MOST_NIGHTS for nights in (self.falling_nights, self.recovery_nights)):
            raise ValueError(f"falling_nights and recovery_nights must be 1 to {MOST_NIGHTS}")
        if not 0 <= self.recovery_band <= MOST_BAND:
            raise ValueError(f"recovery_band must be 0 to {MOST_BAND:g}")


class SequentialTest:
    """Page and Hinkley's test for a fall of standardised nights, and a plain one-sided CUSUM (k = delta) beside it.

    The test's running mean begins at the baseline's centre, as if it had seen `anchor_nights` nights at 0: a mean taken
    from the nights themselves would hide a fall that begins with them.
    """

    def __init__(self, settings: DriftSettings, seen: Sequence[float] = ()) -> None:
        """Begin with the nights `seen` already, oldest first, without a verdict on them."""
        self.cusum = 0.0
        self._settings = settings
        self._seen: list[float] = []
        self._test: Any = PageHinkley(  # river has no types
            min_instances=settings.anchor_nights,
            delta=settings.delta,
            threshold=float("inf"),
            alpha=1.0,
            mode="down",
        )
        for _ in range(settings.anchor_nights):
            self._test.update(0.0)
        for z in seen:
            self.update(z)
        self._test.threshold = settings.threshold

    def under(self, settings: DriftSettings) -> SequentialTest:
        """Return the test as if it had had these settings since it began; itself where they decide alike."""
        mine, other = self._settings, settings
        alike = (mine.delta, mine.threshold, mine.most_z, mine.anchor_nights) == (
            other.delta, other.threshold, other.most_z, other.anchor_nights,
        )  # fmt: skip
        return self if alike else SequentialTest(settings, self._seen)

    def update(self, z: float) -> bool:
        """Take one night; whether it is drift."""
        self._seen.append(z)
        drawn_in = max(-self._settings.most_z, min(z, self._settings.most_z))
        self._test.update(drawn_in)
        self.cusum = max(0.0, self.cusum - drawn_in - self._settings.delta)
        return bool(self._test.drift_detected)

    @property
    def statistic(self) -> float:
        """How far the test has got: it fires above the threshold. river shows the verdict only."""
        return float(self._test._max_decrease - self._test._sum_decrease)  # noqa: SLF001
