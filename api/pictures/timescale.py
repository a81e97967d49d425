"""The time axis of a night: instants in the order they happened, labelled with the patient's own clock."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Final

import numpy as np

from streaming.readings import Float64
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, Int64, ZoneHistory

NIGHT_HOURS: Final = (0, 6)
"""The night of the rules, local."""
PICTURE_HOURS: Final = (-2, 8)
"""The local hours of a night's picture: from 2 h before the night, like an alert's evidence, to the end of fasting."""
_TICK_HOURS: Final = (1, 2, 3, 4, 6, 8, 12)
_MAX_TICKS: Final = 6


def night_span(zone: ZoneHistory, night: date) -> tuple[int, int]:
    """Return [start, end) in ms of the picture of the night that ends on the local date `night`: 22:00–08:00."""
    first, last = (_on(night, hours) for hours in PICTURE_HOURS)
    return zone.instant(first), zone.instant(last)


@dataclass(frozen=True, slots=True)
class Tick:
    """A label below the axis at an instant (ms)."""

    at: int
    label: str


@dataclass(frozen=True)
class TimeScale:
    """[start_ms, end_ms) on an axis of hours since the start, which stays monotonic when the clock goes back."""

    zone: ZoneHistory
    start_ms: int
    end_ms: int

    @property
    def hours(self) -> float:
        """The length of the axis."""
        return (self.end_ms - self.start_ms) / HOUR_MS

    def x(self, at: Int64) -> Float64:
        """Return positions on the axis."""
        return (at - self.start_ms) / HOUR_MS

    def x_within(self, at_ms: int) -> float:
        """Return the position of one instant, at the end of the axis if it lies beyond."""
        return (min(max(at_ms, self.start_ms), self.end_ms) - self.start_ms) / HOUR_MS

    def shows(self, at_ms: int) -> bool:
        """Whether the instant lies on the axis."""
        return self.start_ms <= at_ms <= self.end_ms

    @cached_property
    def changes(self) -> list[int]:
        """The minutes (ms) at which the local clock jumps, by a clock change or a journey."""
        minutes = np.arange(self.start_ms // MINUTE_MS, self.end_ms // MINUTE_MS + 1) * MINUTE_MS
        offsets = self.zone.local_ms(minutes) - minutes
        changed: list[int] = minutes[1:][np.diff(offsets) != 0].tolist()
        return changed

    @cached_property
    def ticks(self) -> list[Tick]:
        """Whole local hours; where the clock jumps, the new offset from UTC is shown below."""
        step = next((hours for hours in _TICK_HOURS if self.hours / hours <= _MAX_TICKS), _TICK_HOURS[-1])
        found: list[Tick] = []
        offset = None
        for at in self._marks(step * HOUR_MS):
            local = self.zone.local(at)
            label = f"{local:%H:%M}"
            if self.changes and local.utcoffset() != offset:
                label += f"\n{_offset(local)}"
                offset = local.utcoffset()
            found.append(Tick(at, label))
        return found

    def _marks(self, every_ms: int) -> list[int]:
        quarter = 15 * MINUTE_MS  # every current offset is a multiple of this
        at = np.arange(-(-self.start_ms // quarter), self.end_ms // quarter + 1) * quarter
        marks: list[int] = at[self.zone.local_ms(at) % every_ms == 0].tolist()
        return marks

    @property
    def night_spans(self) -> list[tuple[int, int]]:
        """The nights of the rules that touch the axis, [start, end) in ms."""
        first, last = (self.zone.local(at).date() for at in (self.start_ms, self.end_ms))
        nights = [first + timedelta(days=day) for day in range((last - first).days + 1)]
        begins, ends = NIGHT_HOURS
        spans = [(self.zone.instant(_on(night, begins)), self.zone.instant(_on(night, ends))) for night in nights]
        return [(start, end) for start, end in spans if start < self.end_ms and end > self.start_ms]

    @property
    def dates(self) -> str:
        """The local date or dates: "21–22 Nov 2026"."""
        first, last = (self.zone.local(at) for at in (self.start_ms, self.end_ms - 1))
        if first.date() == last.date():
            return f"{last.day} {last:%b %Y}"
        if (first.year, first.month) == (last.year, last.month):
            return f"{first.day}–{last.day} {last:%b %Y}"
        return f"{first.day} {first:%b}–{last.day} {last:%b %Y}"

    def clock(self, at_ms: int) -> str:
        """Return the local time of an instant, with the date and UTC offset if they are needed to identify it."""
        local = self.zone.local(at_ms)
        local_time = f"{local:%H:%M}"
        if not self.start_ms - DAY_MS // 2 <= at_ms <= self.end_ms + DAY_MS // 2:
            local_time = f"{local.day} {local:%b %H:%M}"
        return f"{local_time} {_offset(local)}" if self.changes else local_time


def _on(night: date, hours: int) -> datetime:
    return datetime.combine(night, time()) + timedelta(hours=hours)


def _offset(local: datetime) -> str:
    minutes = round((local.utcoffset() or timedelta()).total_seconds() / 60)
    hours, minutes_over = divmod(abs(minutes), 60)
    return f"UTC{'−' if minutes < 0 else '+'}{hours}" + (f":{minutes_over:02d}" if minutes_over else "")
