"""The rule `low_adherence`: two misses in a row, or too small a share of a week's doses taken."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import Final

from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from streaming.doses.calendar import DueDose
from streaming.doses.matching import DoseOutcome, DoseState
from streaming.episodes import JSON, Episode, Severity
from streaming.rules.settings import LowAdherenceSettings
from streaming.zones import DAY_MS

VERSION: Final = 1


SettingsSpans = Sequence[tuple[int, LowAdherenceSettings | None]]
"""Settings by the instant (ms, ascending) from which they apply, the first also before it. None: the rule was off."""

_ALWAYS: Final[SettingsSpans] = ((0, LowAdherenceSettings()),)


def low_adherence_episodes(
    outcomes: Iterable[DoseOutcome],
    spans: SettingsSpans = _ALWAYS,
    *,
    since_ms: int = DISTANT_PAST_MS,
    now_ms: int = DISTANT_FUTURE_MS,
) -> list[Episode]:
    """Return the episodes of one patient, from all the doses of all their schedules, in order.

    A dose counts as *missed* from the end of its window until it is taken late, if ever. Nothing counts before its own
    time, so the order of arrival never matters. A schedule is low, after each change, judged by its doses up to the
    newest one whose state is known, if one of these holds:

    - the last `misses_in_row` misses have no taken dose after or between them (a skipped dose is neither), or
    - of at least `least_doses` doses due within `period_days` up to that newest one, fewer than `least_taking` were
      taken; it then stays low until `recovered_taking` of them were taken, or there are too few of them.

    Doses that are due or unknown are passed over: silence neither opens an episode nor ends one, and neither does time
    alone. After a paused dose the schedule starts anew. Doses too old to alert on do not count.

    An episode is open while any schedule is low, so that a patient is one call, not one for each medication. It becomes
    `high` once a critical schedule is low. If the misses behind it later turn out to have been taken in time, the
    episode is gone, and the caller withdraws its alert.

    Each change is judged by the settings in force at that time. Where the rule is switched off or the patient begins to
    rest, an open episode ends at that instant (`ended_by`: `rest`).

    If no episode was open just before `since_ms`, the fold may start there: only the episodes from `since_ms` on are
    returned, and it needs the doses due up to `memory_ms`, plus the doses' own reach, before it. Nothing counts after
    `now_ms`.
    """
    schedules: defaultdict[int, list[DoseOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.dose.alerts:
            schedules[outcome.dose.schedule_id].append(outcome)
    rests = [_Step(start, None, None) for start, settings in spans[1:] if settings is None]
    steps = merge(rests, *(_steps(doses, spans, since_ms) for doses in schedules.values()), key=_at)
    episodes: list[Episode] = []
    low: set[int] = set()
    opened_at, behind = 0, list[_Finding]()
    for at_ms, together in groupby(steps, key=_at):
        rested = False
        if not since_ms <= at_ms <= now_ms:
            continue
        for step in together:
            if step.schedule_id is None:
                low.clear()
                rested = True
            elif step.finding is None:
                low.discard(step.schedule_id)
            else:
                low.add(step.schedule_id)
                opened_at = opened_at if behind else at_ms
                behind.append(step.finding)
        if behind and not low:
            episodes.append(_episode(opened_at, at_ms, behind, rested=rested))
            behind = []
    return [*episodes, _episode(opened_at, None, behind)] if behind else episodes


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why a schedule is low; `taking` is the share taken, if there were enough doses to compute one."""

    schedule_id: int
    critical: bool
    missed_in_row: bool
    too_few: bool
    taking: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """What is found about a schedule from an instant on; without a schedule: the rule is off from then on."""

    at: int
    schedule_id: int | None
    finding: _Finding | None


def _at(step: _Step) -> int:
    return step.at


def _episode(opened_at: int, resolved_at: int | None, behind: Sequence[_Finding], *, rested: bool = False) -> Episode:
    shares = [found.taking for found in behind if found.taking is not None]
    evidence: dict[str, JSON] = {
        "schedule_ids": sorted({found.schedule_id for found in behind}),
        "missed_in_row": any(found.missed_in_row for found in behind),
        "taking_adherence": min(shares, default=None),
        **({"ended_by": "rest"} if rested else {}),
    }
    severity = Severity.HIGH if any(found.critical for found in behind) else Severity.MEDIUM
    return Episode(opened_at, resolved_at, severity, evidence)


def _steps(outcomes: Iterable[DoseOutcome], spans: SettingsSpans, since_ms: int) -> Iterator[_Step]:
    """Yield the finding about one schedule after each instant, from `since_ms` on, at which a dose of it changes."""
    doses = [outcome.dose for outcome in sorted(outcomes, key=lambda outcome: outcome.dose.due_at)]
    index = {dose.key: number for number, dose in enumerate(doses)}
    changes = sorted((at, index[outcome.dose.key], state) for outcome in outcomes for at, state in _changes(outcome))
    standing: list[DoseState | None] = [None] * len(doses)
    starts = [start for start, _ in spans[1:]]
    newest, too_few, span = 0, False, 0
    for at_ms, together in groupby(changes, key=lambda change: change[0]):
        for _, number, state in together:
            standing[number] = state
            newest = max(newest, number)
        if at_ms < since_ms:
            continue
        now_span = bisect_right(starts, at_ms)
        too_few = too_few and all(settings is not None for _, settings in spans[span:now_span])
        span, settings = now_span, spans[now_span][1]
        found = _find(doses, standing, newest, settings, too_few=too_few) if settings is not None else None
        too_few = found is not None and found.too_few
        yield _Step(at_ms, doses[newest].schedule_id, found)


def _find(
    doses: Sequence[DueDose],
    standing: Sequence[DoseState | None],
    newest: int,
    settings: LowAdherenceSettings,
    *,
    too_few: bool,
) -> _Finding | None:
    """Return why a schedule is low; `too_few`: it was low before by share, so the higher recovery share applies."""
    misses, taking = _look_back(doses, standing, newest, settings)
    wanted = settings.recovered_taking if too_few else settings.least_taking
    missed_in_row, too_few = misses >= settings.misses_in_row, taking is not None and taking < wanted
    if not (missed_in_row or too_few):
        return None
    dose = doses[newest]
    return _Finding(dose.schedule_id, dose.critical, missed_in_row, too_few, taking)


def _changes(outcome: DoseOutcome) -> Iterator[tuple[int, DoseState]]:
    """Yield the states of a dose that count (missed, taken, skipped, paused), each with its first instant."""
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
    """Return the misses in a row up to the newest dose with a known state, and the share taken of its period."""
    period, row = (doses[newest].due_at - days * DAY_MS for days in (settings.period_days, settings.row_days))
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
