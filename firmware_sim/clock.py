"""A device's own clock: it starts slightly wrong, runs slightly fast or slow, and can be set."""

from collections.abc import Callable

WallMs = Callable[[], int]
"""True time in ms since the Unix epoch."""


class DriftingClock:
    """A quartz clock: `device = reference + elapsed * (1 + ppm / 1e6)`.

    A wrist-watch crystal is off by some 20 ppm, which is 1.7 s a day. Setting the clock removes the offset, never the
    drift.
    """

    def __init__(self, wall_ms: WallMs, *, drift_ppm: float = 0.0, offset_ms: int = 0) -> None:
        """Start `offset_ms` ahead of the true time and gain `drift_ppm` µs a second from now on."""
        self._wall_ms = wall_ms
        self._rate = 1.0 + drift_ppm / 1e6
        self._wall_reference = wall_ms()
        self._clock_reference = self._wall_reference + offset_ms

    def now_ms(self) -> int:
        """Return the time this device believes it is."""
        return self._clock_reference + round((self._wall_ms() - self._wall_reference) * self._rate)

    def wall_of(self, clock_ms: int) -> int:
        """Return the true time at which this clock shows `clock_ms`."""
        return self._wall_reference + round((clock_ms - self._clock_reference) / self._rate)

    def set(self, clock_ms: int) -> None:
        """Make the clock show `clock_ms` now."""
        self._wall_reference = self._wall_ms()
        self._clock_reference = clock_ms
