"""When a rule stopped watching a patient: it was switched off, or the patient began to rest."""

from __future__ import annotations

from collections.abc import Callable

from streaming.episodes import Rule
from streaming.limits.detectors import code_of, detectors_of
from streaming.rules.history import PatientRules, RulesHistory
from streaming.silence.gaps import off_since


def rest_of(rule: Rule, subject: str, rules: RulesHistory, opened_at: int, now_ms: int) -> int | None:
    """Return when (ms), after an episode began and by now, its rule first stopped watching, as the fold sees it."""
    return off_since(rules, opened_at, now_ms, _watches(rule, subject))


def _watches(rule: Rule, subject: str) -> Callable[[PatientRules], bool]:
    if rule is Rule.HRV_DRIFT:
        return lambda then: then.of(rule) is not None
    code = code_of((rule, subject))
    if code is None:
        raise ValueError(f"{rule} is not about readings")
    return lambda then: any((one.rule, one.subject) == (rule, subject) for one in detectors_of(code, then))
