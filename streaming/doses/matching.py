"""Matches openings of the pill box to doses: one act after the other, each settling the dose it is nearest to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from devices.vocabulary import EventType
from streaming.doses.calendar import DoseSchedule, DueDose
from streaming.zones import HOUR_MS, MINUTE_MS


class DoseState(StrEnum):
    """What became of a dose."""

    DUE = "due"
    TAKEN = "taken"
    EARLY = "early"
    LATE = "late"
    MISSED = "missed"
    DOUBLED = "doubled"
    SKIPPED = "skipped"
    PAUSED = "paused"
    UNKNOWN = "unknown"

    @property
    def was_taken(self) -> bool:
        """Whether the medicine was taken, at whatever time."""
        return self in _WAS_TAKEN


_WAS_TAKEN = frozenset({DoseState.TAKEN, DoseState.EARLY, DoseState.LATE, DoseState.DOUBLED})


@dataclass(frozen=True, slots=True)
class Opening:
    """What the box reported about a dose: `compartment_opened`, `dose_taken` or `dose_skipped`, at its own time.

    `count` is the number of pills if the box counts them, otherwise `None`. With 0 nothing was taken, and the opening
    before it settles nothing.
    """

    at: int
    type: EventType = EventType.COMPARTMENT_OPENED
    compartment: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class DoseSettings:
    """How openings are matched to doses.

    `late_ms`: an opening up to this long after the due time still settles a dose (both ends inclusive). `reach_ms`: an
    opening says nothing about a dose that is due further away than this. `same_act_ms`: a `dose_taken` or
    `dose_skipped` this soon after the opening of its compartment is the same act. `contact_grace_ms`: a box that
    reconnects reports itself before it has sent everything it stored.
    """

    late_ms: int = 6 * HOUR_MS
    reach_ms: int = 12 * HOUR_MS
    same_act_ms: int = 10 * MINUTE_MS
    contact_grace_ms: int = 2 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class DoseOutcome:
    """What became of one dose, as far as is known.

    `taken_at`: event time of the first opening that settled it (for a skipped dose, of the skip). `openings`: their
    number. `count`: pills taken, if the box counts. `contact_seen_at`: the caller keeps it for the next fold.
    `skipped_at`: time of the skip, also if the dose was taken after all. `doubled_at`: time of the second opening. A
    fold that continued from `known` outcomes has `openings` and `count` of the events it saw only.
    """

    dose: DueDose
    state: DoseState
    taken_at: int | None = None
    openings: int = 0
    count: int | None = None
    contact_seen_at: int | None = None
    skipped_at: int | None = None
    doubled_at: int | None = None

    def before(self, at_ms: int) -> DoseOutcome:
        """Return the outcome as it stood just before `at_ms`, without anything done from then on."""
        dose = self.dose
        if self.state.was_taken and self.taken_at is not None and self.taken_at < at_ms:
            if self.doubled_at is not None and self.doubled_at < at_ms:
                return self
            return replace(self, state=_state_when_taken(dose, self.taken_at), doubled_at=None, openings=1)
        if self.skipped_at is not None and self.skipped_at < at_ms:
            return DoseOutcome(dose, DoseState.SKIPPED, self.skipped_at, skipped_at=self.skipped_at)
        return DoseOutcome(dose, DoseState.DUE)


def _state_when_taken(dose: DueDose, at_ms: int) -> DoseState:
    if at_ms < dose.window_start:
        return DoseState.EARLY
    return DoseState.TAKEN if at_ms < dose.window_end else DoseState.LATE


def reach_ms(schedules: Iterable[DoseSchedule], settings: DoseSettings | None = None) -> int:
    """Return how far from an opening a dose may be due for the opening to say something about it."""
    settings = settings or DoseSettings()
    windows = [max(schedule.window_before_ms, schedule.window_after_ms) for schedule in schedules]
    return max(settings.reach_ms, settings.late_ms, *windows)


@dataclass(frozen=True, slots=True)
class Act:
    """Something a person did at the box, reported in one or two events."""

    at: int
    skips: bool
    compartment: int | None
    count: int | None


def acts_of(openings: Iterable[Opening], settings: DoseSettings) -> list[Act]:
    """Return the acts in order of time; a `dose_taken` or `dose_skipped` right after its opening is part of it."""
    acts: list[Act] = []
    unconfirmed: dict[int | None, int] = {}
    for opening in sorted(set(openings), key=_opening_order):
        act = Act(opening.at, opening.type is EventType.DOSE_SKIPPED, opening.compartment, opening.count)
        if opening.type is EventType.COMPARTMENT_OPENED:
            unconfirmed[opening.compartment] = len(acts)
            acts.append(act)
            continue
        index = unconfirmed.pop(opening.compartment, None)
        if index is not None and opening.at - acts[index].at <= settings.same_act_ms:
            acts[index] = replace(act, at=acts[index].at)
        else:
            acts.append(act)
    return [act for act in acts if act.count != 0]


_EVENT_ORDER: Final = (EventType.COMPARTMENT_OPENED, EventType.DOSE_TAKEN, EventType.DOSE_SKIPPED)


def _opening_order(opening: Opening) -> tuple[int, int, int, int]:
    """Return a key that orders openings totally, so that the order of arrival never matters."""
    return (opening.at, _EVENT_ORDER.index(opening.type), _number(opening.compartment), _number(opening.count))


def _number(value: int | None) -> int:
    return -1 if value is None else value


class Matcher:
    """Settles doses, sorted by `due_at`, by acts given in order of time."""

    def __init__(
        self, doses: Sequence[DueDose], stood: Mapping[tuple[int, int], DoseOutcome], settings: DoseSettings
    ) -> None:
        self.outcomes = [
            replace(stood[dose.key], dose=dose) if dose.key in stood else DoseOutcome(dose, DoseState.DUE)
            for dose in doses
        ]
        self._due = [dose.due_at for dose in doses]
        self._settings = settings
        widest = max((max(d.window_end - d.due_at, d.due_at - d.window_start) for d in doses), default=0)
        self._reach = max(widest, settings.reach_ms, settings.late_ms)

    def match(self, act: Act) -> None:
        """Settle the doses that this act settles."""
        near = [
            index
            for index in range(
                bisect_left(self._due, act.at - self._reach), bisect_right(self._due, act.at + self._reach)
            )
            if None in (act.compartment, self._dose(index).compartment)
            or act.compartment == self._dose(index).compartment
        ]
        inside = [i for i in near if self._dose(i).window_start <= act.at < self._dose(i).window_end]
        if inside:
            self._match_inside(inside, act)
        else:
            self._match_outside(near, act)

    def _match_inside(self, inside: list[int], act: Act) -> None:
        """Take each schedule's nearest unsettled dose, a paused one last; if none is left, double the nearest dose."""
        inside.sort(key=lambda index: (abs(self._due[index] - act.at), self._due[index], self._dose(index).schedule_id))
        free = [i for i in inside if self._is_open_to(i, act)]
        free.sort(key=lambda index: self._dose(index).paused)
        self._settle_each_schedule(free, act, DoseState.TAKEN)
        if not free:
            self._double(inside[0], act)

    def _match_outside(self, near: list[int], act: Act) -> None:
        """Settle the previous dose as late; failing that, the next one as early; failing that, double the previous."""
        settings = self._settings
        near = [i for i in near if not self._dose(i).paused or self._state(i).was_taken]
        before = [index for index in near if self._dose(index).window_end <= act.at]
        late = [i for i in before if self._is_free(i) and act.at - self._due[i] <= settings.late_ms]
        if late:
            self._settle_each_schedule(self._together(late[-1], late[::-1]), act, DoseState.LATE)
            return
        after = [i for i in near if self._dose(i).window_start > act.at and self._due[i] - act.at <= settings.reach_ms]
        soon = self._together(after[0], after) if after else []
        if free := [i for i in soon if self._is_free(i)]:
            self._settle_each_schedule(free, act, DoseState.EARLY)
        elif soon:
            self._double(soon[0], act)
        elif before and act.at - self._due[before[-1]] <= settings.reach_ms:
            self._double(before[-1], act)

    def _together(self, found: int, others: list[int]) -> list[int]:
        """Return the doses that are due inside the window of `found`, itself the first of them."""
        window = self._dose(found)
        return [index for index in others if window.window_start <= self._due[index] < window.window_end]

    def _settle_each_schedule(self, ranked: list[int], act: Act, state: DoseState) -> None:
        """Settle the first dose of each schedule."""
        best: dict[int, int] = {}
        for index in ranked:
            best.setdefault(self._dose(index).schedule_id, index)
        for index in best.values():
            self._settle(index, act, state)

    def _settle(self, index: int, act: Act, state: DoseState) -> None:
        old = self.outcomes[index]
        self.outcomes[index] = replace(
            old,
            state=DoseState.SKIPPED if act.skips else state,
            taken_at=act.at,
            openings=0 if act.skips else 1,
            count=act.count,
            skipped_at=act.at if act.skips else old.skipped_at,
        )

    def _double(self, index: int, act: Act) -> None:
        """Record one more opening for a dose that already had one; a skip takes nothing and so doubles nothing."""
        old = self.outcomes[index]
        if act.skips or not old.state.was_taken:
            return
        counts = [count for count in (old.count, act.count) if count is not None]
        self.outcomes[index] = replace(
            old,
            state=DoseState.DOUBLED,
            openings=old.openings + 1,
            count=sum(counts) if counts else None,
            doubled_at=act.at if old.doubled_at is None else old.doubled_at,
        )

    def _dose(self, index: int) -> DueDose:
        return self.outcomes[index].dose

    def _state(self, index: int) -> DoseState:
        return self.outcomes[index].state

    def _is_open_to(self, index: int, act: Act) -> bool:
        """Whether an act inside the dose's window settles it: a skipped dose can be taken, a paused one not skipped."""
        if act.skips:
            return self._is_free(index) and not self._dose(index).paused
        return self._is_free(index) or self._state(index) is DoseState.SKIPPED

    def _is_free(self, index: int) -> bool:
        return self._state(index) is DoseState.DUE
