"""Adherence: how much of what was prescribed was taken, and how regularly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Final

from streaming.doses.matching import DoseOutcome, DoseState
from streaming.zones import ZoneHistory

HOLIDAY_DAYS: Final = 3
_NOT_PRESCRIBED: Final = frozenset({DoseState.PAUSED})
_NOT_JUDGED: Final = frozenset({DoseState.DUE, DoseState.UNKNOWN, DoseState.PAUSED})


@dataclass(frozen=True, slots=True)
class DrugHoliday:
    """Consecutive days with doses on which none was taken: first and last local date, and their number."""

    first: date
    last: date
    days: int


@dataclass(frozen=True, slots=True)
class Adherence:
    """How doses were taken over a period (Vrijens 2012, 10.1111/j.1365-2125.2012.04167.x).

    `prescribed`: doses that were not paused. `judged`: those of them for which it is known whether they were taken; all
    shares are of these, and `None` if there are none. `taken`: at any time; a doubled dose counts once. `on_time`:
    taken inside the window; a doubled dose counts if its first opening was inside. `days`: local days with doses, all
    of them judged. `correct_days`: days on which every dose was taken, at whatever time, and none twice. `streak` and
    `longest_streak`: consecutive judged doses that were taken, up to the last one and at most; a dose that is not
    judged neither counts nor breaks a streak.
    """

    prescribed: int
    judged: int
    taken: int
    on_time: int
    days: int
    correct_days: int
    streak: int
    longest_streak: int
    holidays: tuple[DrugHoliday, ...]

    @property
    def taking(self) -> float | None:
        """Taking adherence: the share of doses taken."""
        return _share(self.taken, self.judged)

    @property
    def timing(self) -> float | None:
        """Timing adherence: the share of doses taken inside their window."""
        return _share(self.on_time, self.judged)

    @property
    def correct_dosing(self) -> float | None:
        """The share of days with the right number of doses taken."""
        return _share(self.correct_days, self.days)


def adherence(outcomes: Iterable[DoseOutcome], zone: ZoneHistory, first: date, last: date) -> Adherence:
    """Return the adherence over the doses due on the local dates `first` to `last`, inclusive.

    The doses may be of one medication or of several: then a day is correct if all of them were taken correctly, and a
    drug holiday is a holiday from all of them. What is not known counts neither for nor against the patient.
    """
    ordered = sorted(outcomes, key=lambda outcome: (outcome.dose.due_at, outcome.dose.schedule_id))
    dated = [(zone.local(outcome.dose.due_at).date(), outcome) for outcome in ordered]
    dated = sorted(((day, outcome) for day, outcome in dated if first <= day <= last), key=lambda pair: pair[0])
    doses = [outcome for _, outcome in dated if outcome.state not in _NOT_PRESCRIBED]
    judged = [outcome for outcome in doses if outcome.state not in _NOT_JUDGED]
    days = [(day, [outcome for _, outcome in pairs]) for day, pairs in groupby(dated, key=lambda pair: pair[0])]
    whole = [(day, prescribed) for day, found in days if (prescribed := _judged_day(found))]
    streaks = list(_streaks(judged))
    return Adherence(
        prescribed=len(doses),
        judged=len(judged),
        taken=sum(outcome.state.was_taken for outcome in judged),
        on_time=sum(map(_was_on_time, judged)),
        days=len(whole),
        correct_days=sum(all(map(_was_correct, found)) for _, found in whole),
        streak=streaks[-1] if streaks and judged[-1].state.was_taken else 0,
        longest_streak=max(streaks, default=0),
        holidays=tuple(_holidays(days)),
    )


def _judged_day(outcomes: Sequence[DoseOutcome]) -> list[DoseOutcome]:
    """Return a day's prescribed doses if all of them are judged, otherwise none."""
    prescribed = [outcome for outcome in outcomes if outcome.state not in _NOT_PRESCRIBED]
    return prescribed if all(outcome.state not in _NOT_JUDGED for outcome in prescribed) else []


def _was_on_time(outcome: DoseOutcome) -> bool:
    dose, at_ms = outcome.dose, outcome.taken_at
    return outcome.state.was_taken and at_ms is not None and dose.window_start <= at_ms < dose.window_end


def _was_correct(outcome: DoseOutcome) -> bool:
    return outcome.state.was_taken and outcome.state is not DoseState.DOUBLED


def _streaks(judged: Iterable[DoseOutcome]) -> Iterator[int]:
    """Yield the lengths of the runs of taken doses, in order."""
    for was_taken, run in groupby(judged, key=lambda outcome: outcome.state.was_taken):
        if was_taken:
            yield sum(1 for _ in run)


def _holidays(days: Iterable[tuple[date, Sequence[DoseOutcome]]]) -> Iterator[DrugHoliday]:
    """Yield the runs of at least three days on which no dose was taken (Vrijens 2008, 10.1136/bmj.39553.670231.25).

    A day without doses is skipped. A day with a dose that is paused or not judged ends a run: we never claim more time
    without medicine than we know of.
    """
    for none_taken, run in groupby(days, key=lambda day: _none_was_taken(day[1])):
        dates = [day for day, _ in run] if none_taken else []
        if len(dates) >= HOLIDAY_DAYS:
            yield DrugHoliday(dates[0], dates[-1], len(dates))


def _none_was_taken(outcomes: Iterable[DoseOutcome]) -> bool:
    return all(outcome.state in {DoseState.MISSED, DoseState.SKIPPED} for outcome in outcomes)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
