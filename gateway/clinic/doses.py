"""Schedules, doses and pill boxes of one patient as the store has them, and how they become the matcher's values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import Any

from devices.instants import DISTANT_FUTURE_MS
from streaming.doses.calendar import DoseSchedule, DueDose
from streaming.doses.matching import DoseOutcome, DoseState
from streaming.rules.history import Pause, RulesHistory
from streaming.zones import DAY_MS

# A dose whose window closed within the last day before the patient got the box is asked of it, as it alerts within the
# last day before its schedule was written down: both come with somebody setting things up.
HANDED_OVER_WITHIN_MS = DAY_MS
OPEN = frozenset({DoseState.DUE, DoseState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of dose_schedule. `stale`: its doses are to be computed from the beginning."""

    id: int
    medication: str
    local_times: list[time]
    weekdays: list[int]
    compartment: int | None
    window_before_ms: int
    window_after_ms: int
    valid_from: date
    valid_until: date | None
    critical: bool
    created_at: int
    version: int
    stale: bool

    def schedule(self) -> DoseSchedule:
        """Return the schedule as the matcher knows it."""
        return DoseSchedule(
            id=self.id,
            local_times=tuple(self.local_times),
            valid_from=self.valid_from,
            created_at=self.created_at,
            valid_until=self.valid_until,
            weekdays=frozenset(self.weekdays),
            compartment=self.compartment,
            window_before_ms=self.window_before_ms,
            window_after_ms=self.window_after_ms,
            critical=self.critical,
        )


@dataclass(frozen=True, slots=True)
class DoseRow:
    """A row of dose with what of its schedule the rules ask for; times in ms.

    `alerts`: a miss is worth an alert; not if the window had closed more than a day before the schedule was recorded.
    """

    schedule_id: int
    due_at: int
    window_start: int
    window_end: int
    compartment: int | None
    critical: bool
    alerts: bool
    state: str
    taken_at: int | None
    skipped_at: int | None
    doubled_at: int | None
    contact_seen_at: int | None

    @property
    def key(self) -> tuple[int, int]:
        """What tells doses apart."""
        return (self.schedule_id, self.due_at)

    @property
    def is_open(self) -> bool:
        """Whether nothing was said about it yet."""
        return DoseState(self.state) in OPEN

    def dose(self) -> DueDose:
        """Return the dose as it was due when the row was written."""
        return DueDose(
            self.schedule_id,
            self.due_at,
            self.window_start,
            self.window_end,
            self.compartment,
            self.critical,
            self.alerts,
            self.contact_seen_at,
            paused=self.state == DoseState.PAUSED,
        )

    def outcome(self, dose: DueDose | None = None) -> DoseOutcome:
        """Return what is known as the matcher says it, of the dose as it is due now (None: as the row has it)."""
        return DoseOutcome(
            self.dose() if dose is None else dose,
            DoseState(self.state),
            self.taken_at,
            contact_seen_at=self.contact_seen_at,
            skipped_at=self.skipped_at,
            doubled_at=self.doubled_at,
        )

    def says(self, outcome: DoseOutcome) -> bool:
        """Whether the outcome is no news."""
        return outcome.state == self.state and outcome.taken_at == self.taken_at


@dataclass(frozen=True, slots=True)
class BoxRow:
    """A pill box that the patient had from `since` to `until` (None: no end), and how far it told everything; ms."""

    device_key: int
    since: int | None
    until: int | None
    stamp: int | None
    seen_at: int | None
    missing: bool

    def may_hold(self, dose: DueDose) -> bool:
        """Whether the patient may have taken the dose from this box."""
        return (self.since is None or self.since < dose.window_end + HANDED_OVER_WITHIN_MS) and (
            self.until is None or self.until > dose.window_start
        )

    def was_heard_after(self, dose: DueDose) -> bool:
        """Whether the box told everything up to the end of the dose's window."""
        return not self.missing and self.stamp is not None and self.stamp >= dose.window_end


def rests(rules: RulesHistory) -> list[Pause]:
    """Return when a patient rests; the rules know it, and say so of both, rules and doses."""
    ends = [start for start, _ in rules.spans[1:]]
    return [
        Pause(start, end)
        for (start, then), end in zip(rules.spans, [*ends, DISTANT_FUTURE_MS], strict=True)
        if then.resting
    ]


def first_contact(dose: DueDose, row: DoseRow | None, boxes: Iterable[BoxRow], now_ms: int) -> int | None:
    """Return when every box that may hold the dose was first known to have been in contact after the window; or None.

    What was seen stays so; only while no verdict is given, messages that turn out to be missing undo it.
    """
    asked = [box for box in boxes if box.may_hold(dose)]
    seen = row.contact_seen_at if row is not None else None
    if seen is not None and row is not None and not (row.is_open and any(box.missing for box in asked)):
        return seen
    if not asked or not all(box.was_heard_after(dose) for box in asked):
        return None
    return min(now_ms, max(now_ms if box.seen_at is None else box.seen_at for box in asked))


def awaited(outcome: DoseOutcome, boxes: Iterable[BoxRow], now_ms: int) -> int | None:
    """Return the box (its key) that must be heard before more can be said of a dose whose window is over; or None."""
    dose = outcome.dose
    if outcome.state not in OPEN or outcome.contact_seen_at is not None or now_ms < dose.window_end:
        return None
    return next((box.device_key for box in boxes if box.may_hold(dose) and not box.was_heard_after(dose)), None)


def judge_at(outcome: DoseOutcome, grace_ms: int, now_ms: int) -> int | None:
    """Return when time alone will say more of a dose; None: it will not."""
    dose, seen = outcome.dose, outcome.contact_seen_at
    if outcome.state is not DoseState.DUE:
        return None
    if now_ms < dose.window_end:
        return dose.window_end
    return max(dose.window_end, dose.window_end if seen is None else seen) + grace_ms


def columns(outcomes: Sequence[DoseOutcome], boxes: Sequence[BoxRow], grace_ms: int, now_ms: int) -> dict[str, Any]:
    """Return outcomes as the columns that are written."""
    return {
        "schedule_id": [o.dose.schedule_id for o in outcomes],
        "due_at": [o.dose.due_at for o in outcomes],
        "window_start": [o.dose.window_start for o in outcomes],
        "window_end": [o.dose.window_end for o in outcomes],
        "state": [o.state.value for o in outcomes],
        "taken_at": [o.taken_at for o in outcomes],
        "skipped_at": [o.skipped_at for o in outcomes],
        "doubled_at": [o.doubled_at for o in outcomes],
        "contact_seen_at": [o.contact_seen_at for o in outcomes],
        "judge_at": [judge_at(o, grace_ms, now_ms) for o in outcomes],
        "awaits": [awaited(o, boxes, now_ms) for o in outcomes],
    }
