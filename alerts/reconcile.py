"""Reconciles the alerts of one patient and rule with the episodes of a fold. Pure.

Data may arrive late, so a fold may move, split, merge or undo episodes that already have alerts. Where episodes
overlap, the alert's id stays (the earliest survives). An alert whose episode is gone is withdrawn, with the survivor it
was merged into if there is one.

A person's answer (acknowledge, snooze, resolve) holds for the grade they saw. While its episode runs, an alert whose grade
is above that is open, whatever was answered before. The answer carries over to the survivor of a merge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from devices.units import glucose_limit
from devices.vocabulary import UNIT_BY_UCUM
from streaming.episodes import JSON, Episode, Rule, Severity

VERY_LOW: Final = 5
"""Urgent, and below 2.5 mmol/L (45 mg/dL) or LO; the others are 1 low, 2 medium, 3 high, 4 urgent."""
_VERY_LOW_MMOL: Final = 2.5
_LOWS: Final = frozenset({Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW})


class AlertState(StrEnum):
    """The states of an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    RESOLVED = "resolved"
    WITHDRAWN = "withdrawn"


class Action(StrEnum):
    """What happened to an alert; the values appear in its history and in the outbox."""

    RAISED = "raised"
    UPDATED = "updated"
    SEVERITY_RAISED = "severity_raised"
    RESOLVED = "resolved"
    REOPENED = "reopened"
    WITHDRAWN = "withdrawn"
    MERGED = "merged"
    DATA_UNKNOWN = "data_unknown"
    DATA_CURRENT = "data_current"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class StandingAlert:
    """An alert as it stands in the store, not withdrawn. Times are event times in ms.

    `answered_grade`: the gravest that a person saw who answered it, None when nobody did.
    """

    id: int
    subject: str
    severity: Severity
    state: AlertState
    opened_at: int
    resolved_at: int | None
    running: bool
    acknowledged_by: int | None
    acknowledged_at: int | None
    grade: int
    answered_grade: int | None
    finding: Mapping[str, JSON]

    def covers(self, at_ms: int) -> bool:
        """Whether its episode was open at `at_ms`, ends included."""
        return self.opened_at <= at_ms and (self.running or self.resolved_at is None or at_ms <= self.resolved_at)

    @property
    def unanswered(self) -> bool:
        """Whether it is over, and nobody had answered it at its grade."""
        return not self.running and not is_answered(self.grade, self.answered_grade)

    def overlaps(self, episode: Episode) -> bool:
        """Whether alert and episode share an instant, ends included."""
        end = None if self.running else self.resolved_at
        return (
            self.subject == episode.subject
            and (end is None or episode.opened_at <= end)
            and (episode.resolved_at is None or self.opened_at <= episode.resolved_at)
        )


@dataclass(frozen=True, slots=True)
class Raise:
    """A new alert for an episode that has none."""

    episode: Episode


@dataclass(frozen=True, slots=True)
class Change:
    """The alert `after.id` now stands for `episode`; `actions` says what happened to it."""

    before: StandingAlert
    after: StandingAlert
    episode: Episode
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The alert's episode is gone; `survivor` is the alert it was merged into, if any."""

    alert: StandingAlert
    survivor: int | None


Decision = Raise | Change | Withdraw


def reconcile(rule: Rule, standing: Sequence[StandingAlert], episodes: Sequence[Episode]) -> list[Decision]:
    """Return the decisions after which the alerts of a rule match the episodes.

    `standing` holds every alert that touches the span that was folded, `episodes` every episode of that span: an alert
    without an episode there is withdrawn. Withdrawals come first, so that "one alert per episode" holds at each step.
    """
    ordered = sorted(standing, key=lambda alert: (alert.opened_at, alert.id))
    claimed: dict[int, Episode] = {}
    unclaimed = {alert.id: alert for alert in ordered}
    fresh: list[Decision] = []
    for episode in sorted(episodes, key=lambda found: found.opened_at):
        survivor = next((alert for alert in unclaimed.values() if alert.overlaps(episode)), None)
        if survivor is None:
            fresh.append(Raise(episode))
        else:
            del unclaimed[survivor.id]
            claimed[survivor.id] = episode
    survivors = [alert for alert in ordered if alert.id in claimed]
    heirs: dict[int, StandingAlert] = {}
    withdrawn: list[Decision] = []
    for alert in unclaimed.values():
        heir = next((other for other in survivors if alert.overlaps(claimed[other.id])), None)
        withdrawn.append(Withdraw(alert, heir.id if heir else None))
        if heir is not None and alert.answered_grade is not None:
            other = heirs.get(heir.id)
            if other is None or (other.answered_grade or 0) < alert.answered_grade:
                heirs[heir.id] = alert
    changed = [
        change
        for alert in survivors
        if (change := _change(rule, alert, claimed[alert.id], heirs.get(alert.id))) is not None
    ]
    return [*withdrawn, *changed, *fresh]


def grade_of(rule: Rule, episode: Episode) -> int:
    """Return the grade of an alert that stands for an episode: 1 to 5, the gravest that it has been."""
    if rule in _LOWS and episode.severity is Severity.URGENT and _is_very_low(episode):
        return VERY_LOW
    return episode.severity.rank + 1


def is_answered(grade: int, answered_grade: int | None) -> bool:
    """Return whether an answer holds: the alert is no graver than what the person saw who answered it."""
    return answered_grade is not None and answered_grade >= grade


def _is_very_low(episode: Episode) -> bool:
    """Return whether the lowest reading is very low; one without a number is LO."""
    if "lowest_unit" not in episode.evidence:
        return False
    lowest, unit = episode.evidence.get("lowest_value"), episode.evidence["lowest_unit"]
    if lowest is None:
        return True
    return isinstance(lowest, int | float) and lowest < glucose_limit(_VERY_LOW_MMOL, UNIT_BY_UCUM[str(unit)])


def state_of(*, running: bool, answered: bool) -> AlertState:
    """Return the state of an alert that nobody has closed by hand."""
    if not running:
        return AlertState.RESOLVED
    return AlertState.ACKNOWLEDGED if answered else AlertState.OPEN


def _change(rule: Rule, before: StandingAlert, episode: Episode, bequest: StandingAlert | None) -> Change | None:
    """Return how the alert moves to `episode`, or None if it already matches."""
    actions: list[Action] = []
    running = episode.resolved_at is None
    after = replace(
        before,
        opened_at=episode.opened_at,
        running=running,
        severity=episode.severity,
        grade=grade_of(rule, episode),
        finding=episode.evidence,
    )
    if bequest is not None and (before.answered_grade or 0) < (bequest.answered_grade or 0):
        after = replace(
            after,
            acknowledged_by=bequest.acknowledged_by,
            acknowledged_at=bequest.acknowledged_at,
            answered_grade=bequest.answered_grade,
        )
        actions.append(Action.MERGED)
    answered = is_answered(after.grade, after.answered_grade)
    if before.running and not running:
        after = replace(after, state=AlertState.RESOLVED, resolved_at=episode.resolved_at)
        actions.append(Action.RESOLVED)
    elif running and not before.running:
        after = replace(after, state=state_of(running=True, answered=answered), resolved_at=None)
        actions.append(Action.REOPENED)
    elif not running:
        after = replace(after, resolved_at=episode.resolved_at)
    elif answered and before.state is AlertState.OPEN:
        after = replace(after, state=AlertState.ACKNOWLEDGED)
    elif not answered and before.state is not AlertState.OPEN:
        after = replace(after, state=AlertState.OPEN, resolved_at=None)
        actions.append(Action.REOPENED)
    if episode.severity.rank > before.severity.rank:
        actions.append(Action.SEVERITY_RAISED)
    if after == before:
        return None
    return Change(before, after, episode, tuple(actions) or (Action.UPDATED,))
