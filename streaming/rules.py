"""Which rules watch a patient, with which settings, from when on: the clinic's, the group's, the patient's own, and rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np

from streaming.doses.calendar import Pause
from streaming.doses.low_adherence import LowAdherenceSettings
from streaming.doses.missed import MissedDoseSettings
from streaming.episodes import JSON, Rule
from streaming.hrv.page_hinkley import DriftSettings
from streaming.limits.highs import HyperglycaemiaSettings
from streaming.limits.lows import HypoglycaemiaSettings, NocturnalSettings, UrgentLowSettings
from streaming.limits.prediction import PredictedLowSettings
from streaming.limits.thresholds import ThresholdSettings, VitalLimit
from streaming.silence.gaps import DataSilenceSettings, DeviceOfflineSettings
from streaming.zones import Int64

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


T = TypeVar("T")
EVER_BEFORE: Final = -(2**62)

LARGEST: Final = 2**53
"""No setting is larger; whole numbers above are not exact as a double either."""


class PatientGroup(StrEnum):
    """Groups of patients that begin with different settings."""

    NEW = "new"
    FLUCTUATING = "fluctuating"
    STABLE = "stable"


PRESETS: Final[Mapping[PatientGroup, Mapping[Rule, Mapping[str, JSON]]]] = MappingProxyType(
    {
        # Somebody who begins: what does not work yet must show early, and the first doses of insulin are being found.
        PatientGroup.NEW: {
            Rule.HYPOGLYCAEMIA: {ENABLED: True},
            Rule.DATA_SILENCE: {"days": 1.0},
        },
        # Somebody whose glucose goes up and down: warned ahead, and told of what lasts.
        PatientGroup.FLUCTUATING: {
            Rule.HYPOGLYCAEMIA: {ENABLED: True},
            # With 7.0 fasting most of them would be told of every morning; 10.0 is the upper end of the target range.
            Rule.HYPERGLYCAEMIA: {ENABLED: True, "duration_minutes": 60.0, "fasting_limit_mmol": 10.0},
            Rule.PREDICTED_LOW: {ENABLED: True},
        },
        PatientGroup.STABLE: {},
    }
)


class SettingError(ValueError):
    """A setting that does not exist or means nothing; says which and why."""


@dataclass(frozen=True, slots=True)
class PatientRules:
    """The rules that watch one patient at one time, each with its settings; a rule that is not here is off.

    `resting`: the patient is paused; then there is no rule at all.
    """

    settings: tuple[tuple[Rule, Any], ...]
    resting: bool = False
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Hash once: rules are looked up with every fold."""
        object.__setattr__(self, "_hash", hash((self.settings, self.resting)))

    def __hash__(self) -> int:
        """Return the hash of the settings."""
        return self._hash

    def of(self, rule: Rule) -> Any | None:
        """Return a rule's settings (an instance of its class in `SETTINGS`); None: it is off."""
        return next((settings for one, settings in self.settings if one is rule), None)


RESTING: Final = PatientRules((), resting=True)


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What somebody set for one rule from a time on (ms): all that differs from the layer below, none of it: nothing."""

    since_ms: int
    rule: Rule
    changes: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class RulesHistory:
    """Which rules watched a patient from when on (ms), ascending; the first entry also holds for all time before it."""

    spans: tuple[tuple[int, PatientRules], ...]

    @classmethod
    def of(cls, rules: PatientRules) -> RulesHistory:
        """Return the history of a patient with whom nothing ever changed."""
        return cls(((0, rules),))

    def at(self, at_ms: int) -> PatientRules:
        """Return the rules in force at `at_ms`."""
        found = self.spans[0][1]
        for start, rules in self.spans[1:]:
            if start > at_ms:
                break
            found = rules
        return found

    def parts(self, at: Int64) -> Iterator[tuple[slice, PatientRules]]:
        """Yield the rows of ascending instants that each of the entries in force is about."""
        if len(self.spans) == 1:
            yield slice(0, at.size), self.spans[0][1]
            return
        starts = [0, *np.searchsorted(at, [start for start, _ in self.spans[1:]], side="left").tolist(), at.size]
        for index, (_, rules) in enumerate(self.spans):
            if starts[index] < starts[index + 1]:
                yield slice(starts[index], starts[index + 1]), rules


@lru_cache(maxsize=1024)
def differ_from(before: tuple[tuple[int, T], ...], after: tuple[tuple[int, T], ...]) -> int | None:
    """Return the instant (ms, or `EVER_BEFORE`) from which two histories differ first; `None`: they never do.

    Each has what holds from when on, ascending; its first entry also holds for all time before it.
    """
    edges = sorted({start for spans in (before, after) for start, _ in spans[1:]})
    return next((at for at in (EVER_BEFORE, *edges) if _held(before, at) != _held(after, at)), None)


def _held(spans: Sequence[tuple[int, T]], at_ms: int) -> T:
    return next((value for start, value in reversed(spans) if start <= at_ms), spans[0][1])


def with_changes(rules: PatientRules, rule: Rule, changes: Mapping[str, JSON]) -> PatientRules:
    """Return the rules with some of one rule's settings changed, or the rule switched on or off.

    Raises:
        SettingError: there is no such setting, or its value has the wrong type or means nothing.
    """
    told = dict(changes)
    standing = rules.of(rule)
    enabled = told.pop(ENABLED, standing is not None)
    if not isinstance(enabled, bool):
        raise SettingError(f"{rule}.{ENABLED} must be true or false")
    base = standing if standing is not None else SETTINGS[rule]()
    settings = _parsed(rule, base, told)
    others = [pair for pair in rules.settings if pair[0] is not rule]
    chosen = sorted([*others, *([(rule, settings)] if enabled else [])], key=lambda pair: list(Rule).index(pair[0]))
    return replace(rules, settings=tuple(chosen))


def settings_json(settings: object) -> dict[str, JSON]:
    """Return a rule's settings as they stand in an alert, in the API and in the store."""
    return asdict(settings) if settings is not None else {}  # type: ignore[call-overload]


@lru_cache(maxsize=1)
def default_rules() -> PatientRules:
    """Return the rules as they are before any group, clinic or patient says otherwise."""
    return PatientRules(tuple((rule, kind()) for rule, kind in SETTINGS.items() if rule not in OFF_UNTIL_SWITCHED_ON))


@lru_cache(maxsize=16)
def preset(group: PatientGroup) -> PatientRules:
    """Return the rules of a patient group for whom nobody has set anything."""
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
    """Return the history that the layers come to: the group's preset, on it the clinic's changes, on it the patient's.

    `groups` has the patient's group from when on, the first one for all time before. Of the changes of one layer to one
    rule the newest holds, and replaces the earlier ones. Raises `SettingError` for changes that mean nothing.
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
    # One over the other before they mean anything: a rule that is off keeps what a layer below says of it.
    told = {rule: dict(changes) for rule, changes in PRESETS[group].items()}
    for layer in layers:
        newest = {change.rule: change.changes for change in layer if change.since_ms <= at_ms}
        for rule, changes in newest.items():
            told[rule] = {**told.get(rule, {}), **changes}
    rules = default_rules()
    for rule, changes in told.items():
        rules = with_changes(rules, rule, changes)
    return rules


def _parsed(rule: Rule, base: Any, changes: Mapping[str, JSON]) -> Any:
    known = {one.name: getattr(base, one.name) for one in fields(base)}
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
    """Return a value as the type of the one it replaces; a whole number may stand for any."""
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
    names = {one.name for one in fields(VitalLimit)}
    if not isinstance(value, list) or not all(
        isinstance(one, Mapping) and {"code"} <= set(one) <= names for one in value
    ):
        raise SettingError(f"threshold.limits must be a list of objects with {', '.join(sorted(names))}")
    words = {"code", "severity"}
    for one in value:
        for name, part in one.items():
            number = isinstance(part, int | float) and not isinstance(part, bool)
            if not (isinstance(part, str) if name in words else number or part is None):
                raise SettingError(
                    f"threshold.limits: {name} must be {'text' if name in words else 'a number'}, not {part!r}"
                )
    try:
        return tuple(VitalLimit(**one) for one in value)
    except ValueError as error:
        raise SettingError(f"threshold: {error}") from error
