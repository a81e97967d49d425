"""Silence: when missing glucose, or a device that is not heard, is worth telling."""

from __future__ import annotations

from dataclasses import dataclass

from streaming.zones import MINUTES_PER_DAY


@dataclass(frozen=True, slots=True)
class DataSilenceSettings:
    """No glucose for so many days (to the nurse); for so many minutes at night, with hypoglycaemia risk (technical)."""

    days: float = 3.0
    night_minutes: float = 20.0
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing."""
        if not 0.25 <= self.days <= 90:
            raise ValueError("days must be 0.25 to 90")
        if not 5 <= self.night_minutes <= 360:
            raise ValueError("the minutes at night must be 5 to 360")
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")


@dataclass(frozen=True, slots=True)
class DeviceOfflineSettings:
    """A device is offline after so many of its own expected intervals without contact, or so long after its last will."""

    intervals: float = 3.0
    last_will_minutes: float = 1.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing."""
        if not 1 <= self.intervals <= 100:
            raise ValueError("the intervals must be 1 to 100")
        if not 0 <= self.last_will_minutes <= MINUTES_PER_DAY:
            raise ValueError("the minutes after a last will must be 0 to a day's")
