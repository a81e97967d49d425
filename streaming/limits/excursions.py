"""Excursions, for every limit rule: readings beyond a limit open an episode, a run of readings within it ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from devices.vocabulary import Unit
from streaming.episodes import JSON, Episode, Severity
from streaming.readings import Bool, Float64, Int16
from streaming.zones import MINUTE_MS, Int64

SPLITTING_GAP_MS: Final = 45 * MINUTE_MS
"""Readings further apart than this prove nothing about the time between them (as in the R package iglu)."""


@dataclass(frozen=True, slots=True)
class Course:
    """How long readings must be beyond the limit to open an episode, and within it to end one (ms).

    `recovery_ms` `None`: no recovery ends it, only a reading that `ends`. `grave_ms`: how long they must be far beyond
    to make it grave.
    """

    duration_ms: int = 0
    recovery_ms: int | None = 0
    grave_ms: int = 0

    @property
    def memory_ms(self) -> int:
        """How far back readings matter without an open episode: to the start of a run that has not opened one yet."""
        return self.duration_ms + SPLITTING_GAP_MS if self.duration_ms else 0


def _nothing(_row: int) -> Mapping[str, JSON]:
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class JudgedReadings:
    """Readings of one patient in order of time, and how a rule judges each; arrays of one length.

    `beyond`: beyond the limit. `opens`: beyond it, and able to open an episode of this rule. `ends`: an open episode
    ends here whatever the reading is, with `ended_as` as evidence. `grave`: makes the episode grave at once; `far`: so
    far beyond the limit that an unbroken run of such readings, `Course.grave_ms` long, makes it grave. `badness` is
    higher the worse the reading is; the worst one becomes evidence as `{worst}_value`, `{worst}_unit`, `{worst}_at`,
    and the number of readings beyond as `{count}`. `opening_evidence` returns further evidence of an episode that opens
    with a given row.
    """

    at: Int64
    value: Float64
    unit: Int16
    badness: Float64
    beyond: Bool
    opens: Bool
    severity: tuple[Severity, Severity]
    grave: Bool
    worst: str = "lowest"
    count: str = "lows"
    subject: str = ""
    far: Bool | None = None
    ends: Bool | None = None
    ended_as: Mapping[str, JSON] = field(default_factory=dict)
    opening_evidence: Callable[[int], Mapping[str, JSON]] = _nothing

    def far_since(self, row: int, since_ms: int | None) -> int | None:
        """Return when the run far beyond the limit began that this row goes on with (`since_ms`), begins, or ends."""
        if self.far is None or not self.far[row]:
            return None
        return int(self.at[row]) if since_ms is None else since_ms

    def severity_of(self, row: int, far_since_ms: int | None, course: Course) -> Severity:
        """Return how severe this row makes an episode that has been far beyond the limit since some time."""
        lasting = far_since_ms is not None and int(self.at[row]) - far_since_ms >= course.grave_ms
        return self.severity[1] if lasting or self.grave[row] else self.severity[0]

    def evidence(self, row: int) -> dict[str, JSON]:
        """Return a reading as evidence: its value as sent (`None`: LO or HI), its unit and its time."""
        numberless = bool(np.isinf(self.badness[row])) or bool(np.isnan(self.value[row]))
        return {
            f"{self.worst}_value": None if numberless else float(self.value[row]),
            f"{self.worst}_unit": Unit(int(self.unit[row])).ucum,
            f"{self.worst}_at": int(self.at[row]),
        }


@dataclass(frozen=True, slots=True)
class Pending:
    """A run of readings beyond the limit that is too short to open an episode, or may not (ms)."""

    since_ms: int
    last_at_ms: int
    far_since_ms: int | None = None

    @property
    def episode(self) -> Episode | None:
        """None: no episode is open."""
        return None

    def closed(self) -> Pending:
        """Return the run."""
        return self


@dataclass(frozen=True, slots=True)
class Open:
    """An open episode between two folds, always up to date, with the count of its readings beyond the limit.

    `far_since_ms` says nothing while it is recovering.
    """

    episode: Episode
    badness: float
    recovering_since_ms: int | None
    last_at_ms: int
    far_since_ms: int | None = None

    def closed(self) -> None:
        """Return None: apart from the episode there is no state."""


Excursion: TypeAlias = Pending | Open


def fold_excursions(
    state: Excursion | None, rows: JudgedReadings, course: Course
) -> tuple[Excursion | None, list[Episode]]:
    """Fold readings, later than all folded before, into the state; any batching gives the same result.

    Closed: an episode opens at the first reading that `opens` in an unbroken run beyond the limit at least
    `duration_ms` long. Open: a reading beyond the limit restarts the recovery; a reading within it resolves the episode
    once it lies at least `recovery_ms` after the first of an unbroken run of such readings. Each happens at that
    reading's own time. Silence neither opens nor resolves, but splits a run that has not opened yet. Nothing looks
    ahead.

    Returns the last version of each episode that these rows opened, made more severe or worse, or resolved, in order.
    Raises `ValueError` for readings not later than the state's.
    """
    if state is not None and rows.at.size and rows.at[0] <= state.last_at_ms:
        raise ValueError("late readings: fold the patient again from a settled point")
    candidates = np.flatnonzero(rows.beyond if course.duration_ms else rows.opens)
    found: list[Episode] = []
    row = 0
    while row < rows.at.size:
        before = state if isinstance(state, Open) else None
        if before is None:
            state, row = _await(state, rows, candidates[np.searchsorted(candidates, row) :], row, course)
        if isinstance(state, Open):
            state, row = _follow(state, rows, row, course)
            if _worth_telling(before, state):
                found.append(state.episode)
            if state.episode.resolved_at is not None:
                state = None
    return state, found


def _await(
    state: Excursion | None, rows: JudgedReadings, candidates: Int64, row: int, course: Course
) -> tuple[Excursion | None, int]:
    """Continue from `row` to the next opening or the end; also return the row after the last one used."""
    if course.duration_ms == 0:
        if not candidates.size:
            return None, rows.at.size
        here = int(candidates[0])
        return _opened(rows, here, rows.far_since(here, None), course), here + 1
    pending = state if isinstance(state, Pending) else None
    since, last, far = (pending.since_ms, pending.last_at_ms, pending.far_since_ms) if pending else (None, 0, None)
    expected = row
    for here in candidates.tolist():
        at_ms = int(rows.at[here])
        if since is None or here > expected or at_ms - last > SPLITTING_GAP_MS:
            since, far = at_ms, None
        far = rows.far_since(here, far)
        if rows.opens[here] and at_ms - since >= course.duration_ms:
            return _opened(rows, here, far, course), here + 1
        last, expected = at_ms, here + 1
    return (Pending(since, last, far) if since is not None and expected == rows.at.size else None), rows.at.size


def _opened(rows: JudgedReadings, row: int, far_since_ms: int | None, course: Course) -> Open:
    at_ms = int(rows.at[row])
    evidence = {**rows.opening_evidence(row), **rows.evidence(row), rows.count: 1}
    episode = Episode(at_ms, None, rows.severity_of(row, far_since_ms, course), evidence, rows.subject)
    return Open(episode, float(rows.badness[row]), None, at_ms, far_since_ms)


def _follow(state: Open, rows: JudgedReadings, row: int, course: Course) -> tuple[Open, int]:
    """Follow an open episode from `row` to its resolution or the end; also return the row after the last one used."""
    while row < rows.at.size:
        at_ms = int(rows.at[row])
        if rows.ends is not None and rows.ends[row]:
            return _resolved(state, at_ms, rows.ended_as), row + 1
        if rows.beyond[row]:
            state = _worse(state, rows, row, course)
        else:
            since = at_ms if state.recovering_since_ms is None else state.recovering_since_ms
            state = replace(state, recovering_since_ms=since, last_at_ms=at_ms)
            if course.recovery_ms is not None and at_ms - since >= course.recovery_ms:
                return _resolved(state, at_ms, {}), row + 1
        row += 1
    return state, row


def _resolved(state: Open, at_ms: int, ended_as: Mapping[str, JSON]) -> Open:
    evidence = {**state.episode.evidence, **ended_as} if ended_as else state.episode.evidence
    return replace(state, episode=replace(state.episode, resolved_at=at_ms, evidence=evidence), last_at_ms=at_ms)


def _worse(state: Open, rows: JudgedReadings, row: int, course: Course) -> Open:
    """Return the state after one more reading beyond the limit, which also interrupts any recovery."""
    at_ms, badness = int(rows.at[row]), float(rows.badness[row])
    unbroken = state.recovering_since_ms is None and at_ms - state.last_at_ms <= SPLITTING_GAP_MS
    far = rows.far_since(row, state.far_since_ms if unbroken else None)
    count = state.episode.evidence[rows.count]
    evidence = {**state.episode.evidence, rows.count: count + 1 if isinstance(count, int) else 1}
    if badness > state.badness:
        evidence |= rows.evidence(row)
    severity = max(state.episode.severity, rows.severity_of(row, far, course), key=lambda one: one.rank)
    episode = replace(state.episode, severity=severity, evidence=evidence)
    return Open(episode, max(badness, state.badness), None, at_ms, far)


def _worth_telling(before: Open | None, after: Open) -> bool:
    """Whether an episode is new, resolved, more severe or worse; one more reading waits for the next such change."""
    return (
        before is None
        or after.episode.resolved_at is not None
        or after.episode.severity is not before.episode.severity
        or after.badness > before.badness
    )
