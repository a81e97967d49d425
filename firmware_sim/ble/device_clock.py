"""The clock of a Bluetooth device: a quartz that only counts, and a calendar on top that can be wrong."""

from typing import Final

from firmware_sim.clock import DriftingClock, WallMs

FIRST_DAY_MS: Final = 946_684_800_000
"""2000-01-01T00:00, where a clock that lost its power starts."""


class Calendar:
    """`ticks` is the true time as a drifting quartz measures it, without jumps; the calendar is ticks plus a shift.

    A phone or a person may set the calendar, it may jump, and without power it is lost.
    """

    def __init__(self, wall_ms: WallMs, *, started_ms: int, drift_ppm: float, shift_ms: int) -> None:
        """Begin with a quartz that was right at `started_ms` and has been gaining `drift_ppm` since."""
        gained = round((wall_ms() - started_ms) * drift_ppm / 1e6)
        self._quartz = DriftingClock(wall_ms, drift_ppm=drift_ppm, offset_ms=gained)
        self._shift_ms = shift_ms

    def ticks(self) -> int:
        """Return the quartz in ms."""
        return self._quartz.now_ms()

    def wall_of(self, ticks: int) -> int:
        """Return the true time at which the quartz shows `ticks`."""
        return self._quartz.wall_of(ticks)

    def at(self, ticks: int) -> int:
        """Return what the calendar, as it is set now, shows when the quartz shows `ticks`."""
        return ticks + self._shift_ms

    def now_ms(self) -> int:
        """Return what the calendar shows."""
        return self.at(self.ticks())

    def set(self, calendar_ms: int) -> None:
        """Make the calendar show this now."""
        self._shift_ms = calendar_ms - self.ticks()

    def jump(self, by_ms: int) -> None:
        """Move the calendar."""
        self._shift_ms += by_ms

    def lose(self) -> None:
        """Restart at 2000-01-01."""
        self.set(FIRST_DAY_MS)
