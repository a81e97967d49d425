"""The presets of patient groups, and the rules history that all layers of settings add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from streaming.episodes import JSON, Rule
from streaming.rules.changes import ENABLED, RuleChange, default_rules, with_changes
from streaming.rules.history import RESTING, PatientRules, Pause, RulesHistory


class PatientGroup(StrEnum):
    """Groups of patients whose rules begin with different settings."""

    NEW = "new"
    FLUCTUATING = "fluctuating"
    STABLE = "stable"


PRESETS: Final[Mapping[PatientGroup, Mapping[Rule, Mapping[str, JSON]]]] = MappingProxyType(
    {
        # New to insulin: problems must show early, while the dose is still being adjusted.
        PatientGroup.NEW: {
            Rule.HYPOGLYCAEMIA: {ENABLED: True},
            Rule.DATA_SILENCE: {"days": 1.0},
        },
        # Labile glucose: warned ahead of lows, and alerted to excursions that last.
        PatientGroup.FLUCTUATING: {
            Rule.HYPOGLYCAEMIA: {ENABLED: True},
            # At 7.0 most of them would alert every morning; 10.0 is the upper end of the target range.
            Rule.HYPERGLYCAEMIA: {ENABLED: True, "duration_minutes": 60.0, "fasting_limit_mmol": 10.0},
            Rule.PREDICTED_LOW: {ENABLED: True},
        },
        PatientGroup.STABLE: {},
    }
)


@lru_cache(maxsize=16)
def preset(group: PatientGroup) -> PatientRules:
    """Return the rules of a patient group before any change by clinic or patient."""
    rules = default_rules()
    for rule, changes in PRESETS[group].items():
        rules = with_changes(rules, rule, changes)
    return rules


def build_history(
    groups: Sequence[tuple[int, PatientGroup]],
    clinic: Iterable[RuleChange] = (),
    own: Iterable[RuleChange] = (),
    pauses: Sequence[Pause] = (),
) -> RulesHistory:
    """Return the history that all layers add up to: the group's preset, the clinic's changes, the patient's own.

    `groups` has the patient's group by the instant from which it applies, the first also before. Within a layer, the
    newest change of a rule replaces the earlier ones. Raises `SettingError` for impossible changes.
    """
    layers = [sorted(layer, key=lambda change: change.since_ms) for layer in (clinic, own)]
    groups = sorted(groups, key=lambda pair: pair[0])
    edges = {since for since, _ in groups[1:]} | {change.since_ms for layer in layers for change in layer}
    edges |= {edge for pause in pauses for edge in (pause.start, pause.end)}
    first = min([0, *edges]) - 1
    spans: list[tuple[int, PatientRules]] = []
    for start in sorted({first, *edges}):
        rules = _in_force(start, groups, layers, pauses)
        if not spans or spans[-1][1] != rules:
            spans.append((start, rules))
    return RulesHistory(tuple(spans))


def _in_force(
    at_ms: int,
    groups: Sequence[tuple[int, PatientGroup]],
    layers: Sequence[Sequence[RuleChange]],
    pauses: Sequence[Pause],
) -> PatientRules:
    if any(pause.start <= at_ms < pause.end for pause in pauses):
        return RESTING
    group = next((group for since, group in reversed(groups) if since <= at_ms), groups[0][1])
    # Merge the layers before applying any: a rule that is off keeps the settings of the layers below.
    merged = {rule: dict(changes) for rule, changes in PRESETS[group].items()}
    for layer in layers:
        newest = {change.rule: change.changes for change in layer if change.since_ms <= at_ms}
        for rule, changes in newest.items():
            merged[rule] = {**merged.get(rule, {}), **changes}
    rules = default_rules()
    for rule, changes in merged.items():
        rules = with_changes(rules, rule, changes)
    return rules
