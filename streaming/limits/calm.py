"""Calm readings, on the right side of every limit: what they do to open episodes of many patients, without a fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from streaming.limits.excursions import Open
from streaming.limits.patient_fold import PatientState
from streaming.rules.history import RulesHistory


@dataclass(frozen=True, slots=True)
class Calm:
    """How long calm readings change nothing but the recovery (ms).

    Before `ends_at` they end no episode that is already recovering; one that is not recovering yet ends no sooner than
    `recovery` after the first of them.
    """

    ends_at: int
    recovery: int


NOT_CALM: Final = Calm(DISTANT_PAST_MS, 0)
"""Every reading has to be folded."""


def calm_of(state: PatientState, rules: RulesHistory) -> Calm:
    """Return how long calm readings need no fold into a state; never beyond a change of the patient's rules."""
    ends_at = next((start for start, _ in rules.spans[1:] if start > state.last_at_ms), DISTANT_FUTURE_MS)
    recovery = DISTANT_FUTURE_MS
    for key, remembered in state.of.items():
        course = getattr(state.detectors[key], "course", None)
        if not isinstance(remembered, Open) or course is None:
            return NOT_CALM
        if remembered.recovering_since_ms is None:
            recovery = min(recovery, course.recovery_ms)
        else:
            ends_at = min(ends_at, remembered.recovering_since_ms + course.recovery_ms)
    return Calm(ends_at, recovery)


def calmed(state: PatientState, since_ms: int) -> PatientState:
    """Return a state whose open episodes have been recovering since the first calm reading that was not folded."""
    of = {
        key: replace(remembered, recovering_since_ms=since_ms)
        if isinstance(remembered, Open) and remembered.recovering_since_ms is None
        else remembered
        for key, remembered in state.of.items()
    }
    return replace(state, of=of)
