"""The rule `low_adherence`: two misses in a row, or too small a share of a week's doses taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import Final

from streaming.doses_calendar import DueDose
from streaming.doses_matching import DoseOutcome, DoseState
from streaming.episodes import JSON, Episode, Severity
from streaming.zones import DAY_MS


@dataclass(frozen=True, slots=True)
class LowAdherenceSettings:
    """When adherence is low.

    `misses_in_row`: so many misses without a dose taken between them, all due within `row_ms`. `least_taking`: so large a share of the doses of
    `period_ms` has to be taken, and once it was not, `recovered_taking`: with one limit for both, a dose that is
    late opens an episode and, once taken, ends it (22 episodes instead of 10 in 227 days of a recorded pill bottle).
    `least_doses`: the share is of at least so many; with 5 a single miss is never below 80 %.
    """

    misses_in_row: int = 2
    row_ms: int = 28 * DAY_MS
    least_taking: float = 0.8
    recovered_taking: float = 0.9
    period_ms: int = 7 * DAY_MS
    least_doses: int = 5


_DEFAULT: Final = LowAdherenceSettings()


def low_adherence_episodes(outcomes: Iterable[DoseOutcome], settings: LowAdherenceSettings = _DEFAULT) -> list[Episode]:
    """Return the episodes of one patient, from all the doses of all their schedules, in order.

    A dose stands as *missed* from the end of its window until it is taken, if that is late; and nothing counts before
    its own time, so the order of arrival never matters. A schedule is low, after each change, by its doses up to the
    newest one that stands for something:

    - the last `misses_in_row` misses have no taken dose after or between them (a skipped dose is neither), or
    - of at least `least_doses` doses due within `period_ms` up to that newest one, fewer than `least_taking` were
      taken; and so on until `recovered_taking` of them were, or there are not enough.

    Doses that are due or unknown are passed over: silence neither opens an episode nor ends one, and time alone does
    not end one either. With a paused dose a schedule begins anew. Doses too old to alert on do not count.

    An episode is open while any schedule is low, so that one patient is one call, not one for each medication. It is
    `high` once a critical schedule is low. The misses behind it may later turn out to have been taken in time: then it
    is gone, and the caller's alert with it.
    """
    schedules: defaultdict[int, list[DoseOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.dose.alerts:
            schedules[outcome.dose.schedule_id].append(outcome)
    steps = merge(*(_steps(doses, settings) for doses in schedules.values()), key=_at)
    episodes: list[Episode] = []
    low: set[int] = set()
    opened_at, behind = 0, list[_Finding]()
    for at_ms, together in groupby(steps, key=_at):
        for step in together:
            low.discard(step.schedule_id)
            if step.finding is not None:
                low.add(step.schedule_id)
                opened_at = opened_at if behind else at_ms
                behind.append(step.finding)
        if behind and not low:
            episodes.append(_episode(opened_at, at_ms, behind))
            behind = []
    return [*episodes, _episode(opened_at, None, behind)] if behind else episodes


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why a schedule is low; `taking` is the share taken, where there were enough doses for one."""

    schedule_id: int
    critical: bool
    missed_in_row: bool
    taking: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """What is found of a schedule from an instant on."""

    at: int
    schedule_id: int
    finding: _Finding | None


def _at(step: _Step) -> int:
    return step.at


def _episode(opened_at: int, resolved_at: int | None, behind: Sequence[_Finding]) -> Episode:
    shares = [found.taking for found in behind if found.taking is not None]
    evidence: dict[str, JSON] = {
        "schedule_ids": sorted({found.schedule_id for found in behind}),
        "missed_in_row": any(found.missed_in_row for found in behind),
        "taking_adherence": min(shares, default=None),
    }
    severity = Severity.HIGH if any(found.critical for found in behind) else Severity.MEDIUM
    return Episode(opened_at, resolved_at, severity, evidence)


def _steps(outcomes: Iterable[DoseOutcome], settings: LowAdherenceSettings) -> Iterator[_Step]:
    """Yield what is found of one schedule after each instant at which one of its doses changed, in order."""
    doses = [outcome.dose for outcome in sorted(outcomes, key=lambda outcome: outcome.dose.due_at)]
    index = {dose.key: number for number, dose in enumerate(doses)}
    changes = sorted((at, index[outcome.dose.key], state) for outcome in outcomes for at, state in _changes(outcome))
    standing: list[DoseState | None] = [None] * len(doses)
    newest, too_few = 0, False
    for at_ms, together in groupby(changes, key=lambda change: change[0]):
        for _, number, state in together:
            standing[number] = state
            newest = max(newest, number)
        wanted = settings.recovered_taking if too_few else settings.least_taking
        misses, taking = _look_back(doses, standing, newest, settings)
        missed_in_row, too_few = misses >= settings.misses_in_row, taking is not None and taking < wanted
        dose = doses[newest]
        found = _Finding(dose.schedule_id, dose.critical, missed_in_row, taking)
        yield _Step(at_ms, dose.schedule_id, found if missed_in_row or too_few else None)


def _changes(outcome: DoseOutcome) -> Iterator[tuple[int, DoseState]]:
    """Yield from when on a dose stood for what: missed, taken, skipped or paused."""
    dose, state, at_ms = outcome.dose, outcome.state, outcome.taken_at
    if state is DoseState.PAUSED:
        yield dose.due_at, state
    elif state is DoseState.MISSED:
        yield dose.window_end, state
    elif at_ms is not None:
        if at_ms > dose.window_end:
            yield dose.window_end, DoseState.MISSED
        yield at_ms, DoseState.SKIPPED if state is DoseState.SKIPPED else DoseState.TAKEN


def _look_back(
    doses: Sequence[DueDose], standing: Sequence[DoseState | None], newest: int, settings: LowAdherenceSettings
) -> tuple[int, float | None]:
    """Return the misses in a row up to the newest dose that stands for something, and the share taken of its period."""
    period, row = (doses[newest].due_at - length for length in (settings.period_ms, settings.row_ms))
    judged = taken = misses = 0
    counting = True
    for number in range(newest, -1, -1):
        state, due_at = standing[number], doses[number].due_at
        counting = counting and due_at > row
        if state is DoseState.PAUSED or not (counting or due_at > period):
            break
        if state is None:
            continue
        judged += due_at > period
        taken += due_at > period and state is DoseState.TAKEN
        misses += counting and state is DoseState.MISSED
        counting = counting and state is not DoseState.TAKEN and misses < settings.misses_in_row
    return misses, taken / judged if judged >= settings.least_doses else None
