"""The sequential test behind HRV drift: river's Page-Hinkley test with our start and clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streaming.rules.settings import DriftSettings


class SequentialTest:
    """A Page-Hinkley test for a fall of standardised nights, with a plain one-sided CUSUM (k = delta) for comparison.

    The test's running mean begins at the baseline's centre, as if it had seen `anchor_nights` nights at 0: a mean taken
    from the nights themselves would hide a fall that begins with them.
    """

    def __init__(self, settings: DriftSettings, seen: Sequence[float] = ()) -> None:
        """Begin with the nights `seen` already, oldest first, without a verdict on them."""
        from river.drift import PageHinkley  # noqa: PLC0415 - a second that only whoever judges drift needs

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
        """Return the test as if it had always had these settings; itself if they decide alike."""
        mine, other = self._settings, settings
        alike = (mine.delta, mine.threshold, mine.most_z, mine.anchor_nights) == (
            other.delta, other.threshold, other.most_z, other.anchor_nights,
        )  # fmt: skip
        return self if alike else SequentialTest(settings, self._seen)

    def update(self, z: float) -> bool:
        """Take one night; return whether the test fires."""
        self._seen.append(z)
        clipped = max(-self._settings.most_z, min(z, self._settings.most_z))
        self._test.update(clipped)
        self.cusum = max(0.0, self.cusum - clipped - self._settings.delta)
        return bool(self._test.drift_detected)

    @property
    def statistic(self) -> float:
        """The test's statistic, which fires above the threshold; river exposes only the verdict."""
        return float(self._test._max_decrease - self._test._sum_decrease)  # noqa: SLF001
