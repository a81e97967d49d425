"""What became of every dose: taken, missed or not known, and the missed-dose alerts that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from devices.instants import DISTANT_PAST_MS
from streaming.doses.calendar import DueDose
from streaming.doses.matching import DoseOutcome, DoseSettings, DoseState, Matcher, Opening, acts_of
from streaming.episodes import Episode
from streaming.rules.settings import MissedDoseSettings

VERSION: Final = 1


_DEFAULT: Final = MissedDoseSettings()


@dataclass(frozen=True, slots=True)
class Contact:
    """The newest stamp of a patient's box with no gap before it, and when Vigil saw it (ms).

    With several boxes: that of the box with the oldest stamp, because the dose may have been in that one.
    """

    stamp_ms: int
    seen_at_ms: int


def settle(
    doses: Iterable[DueDose],
    openings: Iterable[Opening],
    contact: Contact | None,
    now_ms: int,
    settings: DoseSettings | None = None,
    *,
    known: Iterable[DoseOutcome] = (),
    since_ms: int | None = None,
) -> list[DoseOutcome]:
    """Decide for every dose of one patient what became of it; in order of `due_at`, then schedule.

    Openings are processed in order of time, whatever order they arrived in. For each, among the doses whose compartment
    it may be (a schedule or an event without compartment matches any), the first of these that applies decides:

    1. It is inside windows. The nearest unsettled dose of each schedule, by due time, is *taken*. If all of them are
       settled, the nearest of all is *doubled*: a second opening.
    2. A dose before it is unsettled and was due at most `late_ms` ago. The latest such dose is *late*.
    3. The next dose is due within `reach_ms`. It is *early*, or *doubled* if an opening has settled it before.
    4. The dose before it is settled and was due within `reach_ms`. It is *doubled*.

    In 2 and 3, doses of other schedules that are due inside the found dose's window are settled with it: one opening
    settles at most one dose of each schedule. A skip settles in the same way, but doubles nothing, and an opening
    inside the window takes a skipped dose after all.

    A dose due in a pause asks for nothing, so it is never late, early or skipped. An opening inside its window still
    takes it; otherwise it is *paused*.

    Any other dose that nothing settled is *due* until its window has closed and the grace is over; then *missed* if a
    box was in contact since (stamp at or after the window's end, known for the length of the grace), otherwise
    *unknown*.

    What an opening means depends on what earlier ones settled, through any number of doses. So pass everything from the
    schedules' beginning, or continue at `since_ms` from the `known` outcomes of an earlier fold over the same doses (it
    may have seen later openings, but must have seen all the earlier ones): doses and known outcomes from `since_ms -
    reach_ms()` on, openings from `since_ms - same_act_ms` on. Both give the same states.
    """
    settings = settings or DoseSettings()
    since_ms = DISTANT_PAST_MS if since_ms is None else since_ms
    stood = {outcome.dose.key: outcome.before(since_ms) for outcome in known}
    ordered = sorted(doses, key=lambda dose: (dose.due_at, dose.schedule_id))
    matcher = Matcher(ordered, stood, settings)
    for act in acts_of(openings, settings):
        if since_ms <= act.at <= now_ms:
            matcher.match(act)
    return [_judged(outcome, contact, now_ms, settings) for outcome in matcher.outcomes]


def missed_episode(
    outcome: DoseOutcome, settings: MissedDoseSettings = _DEFAULT, *, was_missed: bool = False
) -> Episode | None:
    """Return the missed-dose episode of a dose: open while missed, resolved once a dose known as missed is settled.

    It opens at the end of the window. It resolves at the time of the opening, or at the end of the window for an
    opening inside the window that was delivered late. `None` for doses that were never missed or are too old to alert
    on.
    """
    dose = outcome.dose
    if not dose.alerts:
        return None
    resolved_at: int | None = None
    if outcome.state is not DoseState.MISSED:
        if not was_missed or outcome.taken_at is None:
            return None
        resolved_at = max(dose.window_end, outcome.taken_at)
    evidence = {
        "schedule_id": dose.schedule_id,
        "due_at": dose.due_at,
        "window_end_at": dose.window_end,
        "contact_seen_at": outcome.contact_seen_at,
        "state": outcome.state.value,
        "taken_at": outcome.taken_at,
    }
    return Episode(dose.window_end, resolved_at, settings.severity_of(critical=dose.critical), evidence, dose.subject)


def _judged(outcome: DoseOutcome, contact: Contact | None, now_ms: int, settings: DoseSettings) -> DoseOutcome:
    """Return the outcome of a dose that nothing settled, as due, missed or unknown."""
    dose, grace = outcome.dose, settings.contact_grace_ms
    seen = dose.contact_seen_at
    if seen is None and contact is not None and contact.stamp_ms >= dose.window_end:
        seen = min(contact.seen_at_ms, now_ms)
    outcome = replace(outcome, contact_seen_at=seen)
    if dose.paused and outcome.state is DoseState.DUE:
        return replace(outcome, state=DoseState.PAUSED)
    if outcome.state is not DoseState.DUE or now_ms < dose.window_end + grace:
        return outcome
    if seen is None:
        return replace(outcome, state=DoseState.UNKNOWN)
    return replace(outcome, state=DoseState.MISSED) if now_ms >= seen + grace else outcome
