"""A trial: the rules and settings that a back-test runs; given by options, on the command line or in one string."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from streaming.episodes import JSON, Rule
from streaming.rules.changes import ENABLED, SettingError, with_changes
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.presets import PatientGroup, preset

OPTIONS: Final = ("--rule", "--group", "--set", "--on", "--off")
TESTABLE: Final = tuple(rule for rule in Rule if rule is not Rule.DEVICE_OFFLINE)
"""All rules but one: recordings do not contain when a device was in contact."""


class TrialError(ValueError):
    """Impossible options; says which and why."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The difference from the patient's own rules.

    `group` replaces the patient's group and all changes ever made; `changes` apply on top of either; `rules` are
    switched on and only they are reported (by default all that are on). Pauses stay as they are.
    """

    label: str
    group: PatientGroup | None
    changes: Mapping[Rule, Mapping[str, JSON]]
    rules: tuple[Rule, ...]

    def history(self, own: RulesHistory) -> RulesHistory:
        """Return the rules under trial for a patient with rules of their own. Raises `SettingError`."""
        return RulesHistory(tuple((start, self._of(rules)) for start, rules in own.spans))

    def check(self, histories: Iterable[RulesHistory]) -> None:
        """Raise `TrialError` for a setting of a rule that is on for nobody: it would change nothing."""
        on = {rule for history in histories for _, rules in history.spans for rule, _ in rules.settings}
        for rule, changes in self.changes.items():
            if rule not in on and ENABLED not in changes:
                raise TrialError(f"{rule} is off: --on {rule} switches it on")

    def _of(self, rules: PatientRules) -> PatientRules:
        if rules.resting:
            return rules
        if self.group is not None:
            rules = preset(self.group)
        for rule, changes in self.changes.items():
            if rules.of(rule) is not None or ENABLED in changes:
                rules = with_changes(rules, rule, changes)
        return rules


def trial_of(
    rules: Sequence[str] = (),
    group: str | None = None,
    settings: Sequence[str] = (),
    on: Sequence[str] = (),
    off: Sequence[str] = (),
) -> Trial:
    """Return the trial for these options. Raises `TrialError`; `SettingError` for values of the wrong type."""
    if group is not None and group not in set(PatientGroup):
        raise TrialError(f"--group must be one of {', '.join(PatientGroup)}, not {group!r}")
    changes: dict[Rule, dict[str, JSON]] = {}
    for setting in settings:
        rule, name, value = _setting(setting)
        changes.setdefault(rule, {})[name] = value
    chosen = tuple(dict.fromkeys(map(_rule, rules)))
    switched_on, switched_off = {*chosen, *map(_rule, on)}, set(map(_rule, off))
    if both := switched_on & switched_off:
        raise TrialError(f"{min(both)} cannot be on and off at once")
    for rule in Rule:
        if rule in switched_on | switched_off:
            changes.setdefault(rule, {})[ENABLED] = rule in switched_on
    label = shlex.join(_words(rules, group, settings, on, off))
    return Trial(label or "as they are", PatientGroup(group) if group else None, changes, chosen)


def parse_trial(text: str) -> Trial:
    """Return the trial of a string such as `--group new --set urgent_low.limit_mmol=3.0`; an empty one changes nothing.

    Raises `TrialError` or `SettingError`.
    """
    try:
        words = iter(shlex.split(text))
    except ValueError as error:
        raise TrialError(f"{text!r} cannot be split into options: {error}") from error
    options: dict[str, list[str]] = {name: [] for name in OPTIONS}
    for word in words:
        name, given, value = word.partition("=")
        if name not in options:
            raise TrialError(f"{word!r} is not one of {', '.join(OPTIONS)}")
        following = value if given else next(words, None)
        if following is None:
            raise TrialError(f"{name} needs a value")
        options[name].append(following)
    group = options["--group"][-1] if options["--group"] else None
    found = trial_of(options["--rule"], group, options["--set"], options["--on"], options["--off"])
    return replace(found, label=text.strip() or found.label)


def _words(
    rules: Sequence[str], group: str | None, settings: Sequence[str], on: Sequence[str], off: Sequence[str]
) -> Iterator[str]:
    given = {"--rule": rules, "--group": [group] if group else [], "--set": settings, "--on": on, "--off": off}
    for name, values in given.items():
        for value in values:
            yield from (name, value)


def _rule(name: str) -> Rule:
    if name not in TESTABLE:
        raise TrialError(f"{name!r} is not one of the rules {', '.join(TESTABLE)}")
    return Rule(name)


def _setting(setting: str) -> tuple[Rule, str, JSON]:
    """Split `RULE.FIELD=VALUE`; the value is JSON, or otherwise plain text."""
    place, given, text = setting.partition("=")
    rule, dot, name = place.partition(".")
    if not given or not dot or not name:
        raise TrialError(f"{setting!r} is not of the form RULE.FIELD=VALUE")
    if name == ENABLED:
        raise SettingError(f"{rule}: --on and --off switch a rule")
    try:
        value: JSON = json.loads(text)
    except ValueError:
        value = text
    return _rule(rule), name, value
