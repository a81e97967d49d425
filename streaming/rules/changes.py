"""Changes to a rule's settings, as JSON: checked, then applied to the patient's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from streaming.episodes import JSON, Rule
from streaming.rules.history import PatientRules
from streaming.rules.settings import (
    DataSilenceSettings,
    DeviceOfflineSettings,
    DriftSettings,
    HyperglycaemiaSettings,
    HypoglycaemiaSettings,
    LowAdherenceSettings,
    MissedDoseSettings,
    NocturnalSettings,
    PredictedLowSettings,
    ThresholdSettings,
    UrgentLowSettings,
    VitalLimit,
)

ENABLED: Final = "enabled"
"""The key beside a rule's own settings that switches it on or off."""

SETTINGS: Final[Mapping[Rule, type[Any]]] = MappingProxyType(
    {
        Rule.NOCTURNAL_HYPOGLYCAEMIA: NocturnalSettings,
        Rule.URGENT_LOW: UrgentLowSettings,
        Rule.HYPOGLYCAEMIA: HypoglycaemiaSettings,
        Rule.PREDICTED_LOW: PredictedLowSettings,
        Rule.HYPERGLYCAEMIA: HyperglycaemiaSettings,
        Rule.THRESHOLD: ThresholdSettings,
        Rule.HRV_DRIFT: DriftSettings,
        Rule.MISSED_DOSE: MissedDoseSettings,
        Rule.LOW_ADHERENCE: LowAdherenceSettings,
        Rule.DATA_SILENCE: DataSilenceSettings,
        Rule.DEVICE_OFFLINE: DeviceOfflineSettings,
    }
)
OFF_UNTIL_SWITCHED_ON: Final = frozenset({Rule.HYPOGLYCAEMIA, Rule.PREDICTED_LOW, Rule.HYPERGLYCAEMIA, Rule.THRESHOLD})


LARGEST: Final = 2**53
"""No setting is larger; above it, not every whole number has an exact double."""


class SettingError(ValueError):
    """A setting that does not exist or has an impossible value; says which and why."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """Changed settings of one rule from a time on (ms): all differences from the layer below, possibly none."""

    since_ms: int
    rule: Rule
    changes: Mapping[str, JSON]


def with_changes(rules: PatientRules, rule: Rule, changes: Mapping[str, JSON]) -> PatientRules:
    """Return the rules with some of one rule's settings changed, or the rule switched on or off.

    Raises:
        SettingError: there is no such setting, or its value has the wrong type or is impossible.
    """
    values = dict(changes)
    standing = rules.of(rule)
    enabled = values.pop(ENABLED, standing is not None)
    if not isinstance(enabled, bool):
        raise SettingError(f"{rule}.{ENABLED} must be true or false")
    base = standing if standing is not None else SETTINGS[rule]()
    settings = _parsed(rule, base, values)
    others = [pair for pair in rules.settings if pair[0] is not rule]
    chosen = sorted([*others, *([(rule, settings)] if enabled else [])], key=lambda pair: list(Rule).index(pair[0]))
    return replace(rules, settings=tuple(chosen))


def settings_json(settings: object) -> dict[str, JSON]:
    """Return a rule's settings as they appear in an alert, in the API and in the store."""
    return asdict(settings) if settings is not None else {}  # type: ignore[call-overload]


@lru_cache(maxsize=1)
def default_rules() -> PatientRules:
    """Return the rules before any change by group, clinic or patient."""
    return PatientRules(tuple((rule, kind()) for rule, kind in SETTINGS.items() if rule not in OFF_UNTIL_SWITCHED_ON))


def _parsed(rule: Rule, base: Any, changes: Mapping[str, JSON]) -> Any:
    known = {field.name: getattr(base, field.name) for field in fields(base)}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise SettingError(f"{rule} has no setting {name!r}; it has {', '.join(known)}")
        values[name] = (
            _limits(value) if isinstance(known[name], tuple) else _scalar(f"{rule}.{name}", known[name], value)
        )
    try:
        return replace(base, **values)
    except ValueError as error:
        raise SettingError(f"{rule}: {error}") from error


def _scalar(name: str, standing: object, value: JSON) -> object:
    """Return a value in the type of the one it replaces; a whole number may replace any number."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
    if isinstance(standing, bool | str):
        if type(value) is type(standing):
            return value
    elif isinstance(standing, int) and number and float(value) == int(value):  # type: ignore[arg-type]
        return int(value)  # type: ignore[arg-type]
    elif isinstance(standing, float) and number:
        return float(value)  # type: ignore[arg-type]
    expected = {bool: "true or false", str: "text", int: "a whole number"}.get(type(standing), "a number")
    raise SettingError(f"{name} must be {expected}, not {value!r}")


def _limits(value: JSON) -> tuple[VitalLimit, ...]:
    names = {field.name for field in fields(VitalLimit)}
    if not isinstance(value, list) or not all(
        isinstance(limit, Mapping) and {"code"} <= set(limit) <= names for limit in value
    ):
        raise SettingError(f"threshold.limits must be a list of objects with {', '.join(sorted(names))}")
    words = {"code", "severity"}
    for limit in value:
        for name, part in limit.items():
            number = isinstance(part, int | float) and not isinstance(part, bool)
            if not (isinstance(part, str) if name in words else number or part is None):
                raise SettingError(
                    f"threshold.limits: {name} must be {'text' if name in words else 'a number'}, not {part!r}"
                )
    try:
        return tuple(VitalLimit(**limit) for limit in value)
    except ValueError as error:
        raise SettingError(f"threshold: {error}") from error
