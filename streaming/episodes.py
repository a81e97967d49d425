"""Episodes, what every rule concludes: one continuous finding about one patient, with its severity and its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"


class Rule(StrEnum):
    """The rules, by their names in the contract."""

    NOCTURNAL_HYPOGLYCAEMIA = "nocturnal_hypoglycaemia"
    URGENT_LOW = "urgent_low"
    HYPOGLYCAEMIA = "hypoglycaemia"
    PREDICTED_LOW = "predicted_low"
    HYPERGLYCAEMIA = "hyperglycaemia"
    THRESHOLD = "threshold"
    HRV_DRIFT = "hrv_drift"
    MISSED_DOSE = "missed_dose"
    LOW_ADHERENCE = "low_adherence"
    DATA_SILENCE = "data_silence"
    DEVICE_OFFLINE = "device_offline"


class Severity(StrEnum):
    """How urgent a finding is. Compare by `rank`: as strings the members sort alphabetically."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """3 for urgent down to 0 for low."""
        return _RANK[self]


_RANK = {severity: rank for rank, severity in enumerate(reversed(Severity))}


@dataclass(frozen=True, slots=True)
class Episode:
    """One continuous finding of one rule for one patient.

    `opened_at` and `resolved_at` are event times in ms (`None`: still open). `subject` distinguishes the episodes of a
    rule that may have several open at once (one for each dose). Evidence keys that end in `_at` are ms since the epoch.
    """

    opened_at: int
    resolved_at: int | None
    severity: Severity
    evidence: Mapping[str, JSON] = field(default_factory=dict)
    subject: str = ""

    def covers(self, at_ms: int) -> bool:
        """Whether the episode was open at `at_ms`, ends included."""
        return self.opened_at <= at_ms and (self.resolved_at is None or at_ms <= self.resolved_at)


class Spanning(Protocol):
    """An episode or what represents one, such as an alert: it has a beginning and knows which instants it covers."""

    @property
    def opened_at(self) -> int:
        """When it began, ms."""

    def covers(self, at_ms: int) -> bool:
        """Whether it was open at `at_ms`, ends included."""


def settled_before(episodes: Iterable[Spanning], at_ms: int, quiet_ms: int = 0) -> int:
    """Return the settled point: the newest instant up to `at_ms` with no open episode in the `quiet_ms` before it.

    A rule whose closed state remembers at most `quiet_ms` of readings can be folded again, without state, from
    `quiet_ms` before this instant when a late reading arrives at `at_ms`: its conclusions from before the instant stay
    as they were.
    """
    start = at_ms
    for episode in sorted(episodes, key=lambda found: found.opened_at, reverse=True):
        if episode.opened_at <= start and episode.covers(max(episode.opened_at, start - quiet_ms)):
            start = episode.opened_at
    return start


Key = tuple[Rule, str]
"""A rule and the subject of its episodes."""
