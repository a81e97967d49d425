"""When doses are due: schedules in the patient's local time, turned into instants and windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from streaming.rules.history import Pause
from streaming.zones import DAY_MS, HOUR_MS, ZoneHistory

EVERY_DAY: Final = frozenset(range(1, 8))


@dataclass(frozen=True, slots=True)
class DoseSchedule:
    """One medication's doses: local times on ISO weekdays (1 is Monday), on the local dates from–until, inclusive."""

    id: int
    local_times: tuple[time, ...]
    valid_from: date
    created_at: int
    valid_until: date | None = None
    weekdays: frozenset[int] = EVERY_DAY
    compartment: int | None = None
    window_before_ms: int = HOUR_MS
    window_after_ms: int = HOUR_MS
    critical: bool = False


@dataclass(frozen=True, slots=True)
class DueDose:
    """One dose of a schedule, with the window [`window_start`, `window_end`) in which it is on time (ms).

    `alerts`: a miss is worth an alert; false if the window had closed more than a day before the schedule was entered.
    `contact_seen_at`: when a box of the patient was first known to have been in contact after the window; the caller
    keeps it from earlier outcomes. `paused`: the dose is due while the patient is paused.
    """

    schedule_id: int
    due_at: int
    window_start: int
    window_end: int
    compartment: int | None = None
    critical: bool = False
    alerts: bool = True
    contact_seen_at: int | None = None
    paused: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the dose among all doses of the patient."""
        return (self.schedule_id, self.due_at)

    @property
    def subject(self) -> str:
        """The subject of an episode about this dose."""
        return f"{self.schedule_id}:{self.due_at}"


def with_pauses(doses: Iterable[DueDose], pauses: Sequence[Pause]) -> list[DueDose]:
    """Return the doses, with those that are due inside a pause marked as paused."""
    return [replace(dose, paused=any(one.start <= dose.due_at < one.end for one in pauses)) for dose in doses]


def due_doses(schedule: DoseSchedule, zone: ZoneHistory, start_ms: int, end_ms: int) -> list[DueDose]:
    """Return the doses of a schedule that are due in [start, end), in order.

    A local time that does not exist on that day moves forward by the gap; of one that occurs twice, the first counts.
    Two local times that thereby become the same instant are one dose.
    """
    due = {
        at_ms
        for day in _days(schedule, start_ms, end_ms)
        if day.isoweekday() in schedule.weekdays
        for local_time in schedule.local_times
        if start_ms <= (at_ms := zone.instant(datetime.combine(day, local_time))) < end_ms
    }
    return [
        DueDose(
            schedule_id=schedule.id,
            due_at=at_ms,
            window_start=at_ms - schedule.window_before_ms,
            window_end=at_ms + schedule.window_after_ms,
            compartment=schedule.compartment,
            critical=schedule.critical,
            alerts=at_ms + schedule.window_after_ms >= schedule.created_at - DAY_MS,
        )
        for at_ms in sorted(due)
    ]


def _days(schedule: DoseSchedule, start_ms: int, end_ms: int) -> Iterator[date]:
    """Yield the local dates on which a dose may be due in [start, end); no zone is two whole days from UTC."""
    first = max(_utc_date(start_ms) - timedelta(days=2), schedule.valid_from)
    last = _utc_date(end_ms) + timedelta(days=2)
    if schedule.valid_until is not None:
        last = min(last, schedule.valid_until)
    for day in range((last - first).days + 1):
        yield first + timedelta(days=day)


def _utc_date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms // 1000, UTC).date()
