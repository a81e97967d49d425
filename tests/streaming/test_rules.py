"""Settings of rules: layers and history, what is refused, and that what is told of them can be set again."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.episodes import JSON, Rule
from streaming.rules.changes import (
    ENABLED,
    OFF_UNTIL_SWITCHED_ON,
    SETTINGS,
    RuleChange,
    SettingError,
    default_rules,
    settings_json,
    with_changes,
)
from streaming.rules.history import RESTING, PatientRules, Pause, RulesHistory
from streaming.rules.presets import PRESETS, PatientGroup, build_history, preset

STABLE = [(0, PatientGroup.STABLE)]
URGENT, HIGH = Rule.URGENT_LOW, Rule.HYPERGLYCAEMIA
every_rule = pytest.mark.parametrize("rule", list(SETTINGS))
every_group = pytest.mark.parametrize("group", list(PatientGroup))


def change(since_ms: int, rule: Rule = URGENT, **changes: JSON) -> RuleChange:
    return RuleChange(since_ms, rule, changes)


def told(rules: PatientRules, rule: Rule = URGENT) -> dict[str, Any]:
    """Return a rule's settings; nothing where it is off."""
    return dict(settings_json(rules.of(rule)))


def limits(history: RulesHistory, *instants: int) -> list[float | None]:
    """Return the limit of the urgent low at each instant; None where it is off."""
    return [told(history.at(at_ms)).get("limit_mmol") for at_ms in instants]


def test_every_rule_has_settings_with_defaults() -> None:
    assert set(SETTINGS) == set(Rule)
    for kind in SETTINGS.values():
        assert is_dataclass(kind)
        assert kind() == kind()
        hash(kind())


def test_what_is_on_until_somebody_says_otherwise() -> None:
    on = {rule for rule, _ in default_rules().settings}
    assert on == set(Rule) - OFF_UNTIL_SWITCHED_ON
    assert {Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW, Rule.MISSED_DOSE, Rule.LOW_ADHERENCE} <= on
    assert {Rule.HRV_DRIFT, Rule.DATA_SILENCE, Rule.DEVICE_OFFLINE} <= on
    assert not on & {Rule.HYPOGLYCAEMIA, Rule.HYPERGLYCAEMIA, Rule.PREDICTED_LOW, Rule.THRESHOLD}


@every_group
def test_presets_mean_something(group: PatientGroup) -> None:
    rules = preset(group)
    assert build_history([(0, group)]).at(0) == rules
    for rule, changes in PRESETS[group].items():
        settings = rules.of(rule)
        assert settings is not None
        assert {name: getattr(settings, name) for name in changes if name != ENABLED} == {
            name: value for name, value in changes.items() if name != ENABLED
        }
    assert [rule for rule, _ in rules.settings] == [rule for rule in Rule if rules.of(rule) is not None]


@every_group
def test_what_is_told_of_settings_can_be_set_again(group: PatientGroup) -> None:
    limit = [{"code": "heart_rate", "high": 120, "duration_minutes": None}, {"code": "spo2", "low": 90.5}]
    rules = with_changes(preset(group), Rule.THRESHOLD, json.loads(json.dumps({ENABLED: True, "limits": limit})))
    again = PatientRules(())
    for rule, mine in rules.settings:
        again = with_changes(again, rule, {ENABLED: True, **json.loads(json.dumps(settings_json(mine)))})
    assert again == rules
    assert settings_json(None) == {}


def test_layers_lie_one_on_the_other() -> None:
    groups = [(0, PatientGroup.STABLE), (100, PatientGroup.FLUCTUATING)]
    clinic = [change(200, HIGH, limit_mmol=12.0), change(200, limit_mmol=3.3)]
    own = [change(300, HIGH, duration_minutes=30), change(400, HIGH, **{ENABLED: False})]
    history = build_history(groups, clinic, own)
    assert history.at(99).of(HIGH) is None
    found = [history.at(at_ms).of(HIGH) for at_ms in (100, 200, 300)]
    assert [(one.limit_mmol, one.duration_minutes) for one in found if one] == [
        (13.9, 60.0),
        (12.0, 60.0),
        (12.0, 30.0),
    ]
    assert history.at(400).of(HIGH) is None
    assert limits(history, 0, 199, 200, 10**15) == [3.1, 3.1, 3.3, 3.3]


def test_a_rule_that_is_off_keeps_what_is_said_of_it() -> None:
    history = build_history(STABLE, [change(10, HIGH, limit_mmol=15.0)], [change(20, HIGH, **{ENABLED: True})])
    assert [history.at(at_ms).of(HIGH) is None for at_ms in (10, 19, 20)] == [True, True, False]
    assert told(history.at(20), HIGH)["limit_mmol"] == 15.0


def test_the_newest_change_of_a_layer_replaces_the_earlier_ones() -> None:
    own = [change(30), change(20, recovery_minutes=30), change(10, limit_mmol=3.5)]
    history = build_history(STABLE, own=own)
    assert limits(history, 9, 10, 20, 30) == [3.1, 3.5, 3.1, 3.1]
    assert [told(history.at(at_ms))["recovery_minutes"] for at_ms in (10, 20, 30)] == [15.0, 30.0, 15.0]
    assert history.at(30) == history.at(9)


def test_a_pause_is_rest_from_its_start_and_before_its_end() -> None:
    history = build_history(STABLE, own=[change(15, limit_mmol=3.5)], pauses=[Pause(10, 20), Pause(18, 30)])
    assert [history.at(at_ms) == RESTING for at_ms in (9, 10, 19, 20, 29, 30)] == [False, True, True, True, True, False]
    assert limits(history, 9, 10, 30) == [3.1, None, 3.5]
    assert history.at(10).resting


def test_what_changes_nothing_begins_nothing() -> None:
    history = build_history([*STABLE, (5, PatientGroup.STABLE)], [change(10, limit_mmol=3.1)], [change(20)])
    assert len(history.spans) == 1
    assert history.at(-(10**15)) == history.at(10**15) == preset(PatientGroup.STABLE)


def test_before_the_first_entry_it_was_as_in_the_first() -> None:
    history = build_history([(1_000, PatientGroup.NEW), (2_000, PatientGroup.STABLE)], pauses=[Pause(-50, -40)])
    assert history.at(-(10**15)) == history.at(999) == preset(PatientGroup.NEW)
    assert history.at(-50) == RESTING


def test_nonsense_in_any_layer_is_refused() -> None:
    with pytest.raises(SettingError):
        build_history(STABLE, clinic=[change(1, limit_mmol=-1)])
    with pytest.raises(SettingError):
        build_history(STABLE, own=[change(1, nothing=1)])


def test_what_fits_only_with_the_other_layer_is_judged_with_it() -> None:
    night = Rule.NOCTURNAL_HYPOGLYCAEMIA
    lower = change(10, night, limit_mmol=3.0)
    with pytest.raises(SettingError, match="urgent one not above the other"):
        build_history(STABLE, own=[lower])
    history = build_history(STABLE, [change(5, night, urgent_limit_mmol=2.8)], [lower])
    assert told(history.at(10), night)["limit_mmol"] == 3.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_parts_are_the_rules_at_each_instant(data: st.DataObject) -> None:
    edge = st.integers(-20, 20)
    own = [
        change(since, limit_mmol=3.0 + index / 10) for index, since in enumerate(data.draw(st.lists(edge, max_size=4)))
    ]
    pauses = [
        Pause(start, start + length)
        for start, length in data.draw(st.lists(st.tuples(edge, st.integers(1, 9)), max_size=2))
    ]
    history = build_history(STABLE, own=own, pauses=pauses)
    at = np.array(sorted(data.draw(st.lists(st.integers(-25, 25), max_size=30))), dtype=np.int64)
    parts = list(history.parts(at))
    rows = [row for part, _ in parts for row in range(part.start, part.stop)]
    assert rows == list(range(at.size))
    for part, rules in parts:
        assert all(history.at(at_ms) == rules for at_ms in at[part].tolist())
    assert all(later > earlier for (earlier, _), (later, _) in pairwise(history.spans))
    assert all(later != earlier for (_, earlier), (_, later) in pairwise(history.spans))


NOT_NUMBERS: list[Any] = [
    None, True, "3", float("nan"), float("inf"), float("-inf"), [3], {"at": 3}, 10**400, -(10**400),
]  # fmt: skip


@every_rule
def test_no_setting_takes_what_is_no_number_or_text(rule: Rule) -> None:
    rules = with_changes(default_rules(), rule, {ENABLED: True})
    for field in fields(SETTINGS[rule]):
        standing = getattr(rules.of(rule), field.name)
        wrong = [value for value in NOT_NUMBERS if type(value) is not type(standing) or isinstance(value, float | int)]
        if isinstance(standing, bool):
            wrong = [value for value in [*wrong, 0, 1, 0.0] if not isinstance(value, bool)]
        elif isinstance(standing, int):
            wrong.append(7.5)
        for value in [*wrong, "high noon"]:
            with pytest.raises(SettingError, match=rule.value):
                with_changes(rules, rule, {field.name: value})


@every_rule
def test_unknown_settings_and_half_truths_are_refused(rule: Rule) -> None:
    for changes in ({"colour": 3}, {ENABLED: 1}, {ENABLED: "true"}, {ENABLED: None}):
        with pytest.raises(SettingError, match=rule.value):
            with_changes(default_rules(), rule, changes)


OUT_OF_RANGE = [
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, {"limit_mmol": 0}),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, {"limit_mmol": 7.1}),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, {"urgent_limit_mmol": 4.1}),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, {"night_end_minute": 1441}),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, {"recovery_minutes": -1}),
    (Rule.URGENT_LOW, {"limit_mmol": -3.1}),
    (Rule.URGENT_LOW, {"recovery_minutes": 241}),
    (Rule.HYPOGLYCAEMIA, {"duration_minutes": 1e9}),
    (Rule.PREDICTED_LOW, {"day_limit_mmol": 0}),
    (Rule.PREDICTED_LOW, {"night_start_minute": -1}),
    (Rule.HYPERGLYCAEMIA, {"limit_mmol": 4.9}),
    (Rule.HYPERGLYCAEMIA, {"fasting_start_minute": 480}),
    (Rule.HYPERGLYCAEMIA, {"fasting_rise_mmol": -0.1}),
    (Rule.MISSED_DOSE, {"severity": "urgent"}),
    (Rule.LOW_ADHERENCE, {"least_taking": 1.5}),
    (Rule.DATA_SILENCE, {"days": 0}),
    (Rule.DATA_SILENCE, {"night_minutes": 1}),
    (Rule.DEVICE_OFFLINE, {"intervals": 0.5}),
    (Rule.HRV_DRIFT, {"delta": -1}),
]


@pytest.mark.parametrize(("rule", "changes"), OUT_OF_RANGE)
def test_what_means_nothing_is_refused_also_while_the_rule_is_off(rule: Rule, changes: dict[str, JSON]) -> None:
    for enabled in ({}, {ENABLED: True}, {ENABLED: False}):
        with pytest.raises(SettingError, match=rule.value):
            with_changes(default_rules(), rule, {**enabled, **changes})


HEART: dict[str, JSON] = {"code": "heart_rate", "low": 40, "high": 120}
WRONG_LIMITS: list[JSON] = [
    {}, 3, ["heart_rate"], [{}], [{"code": "heart_rate"}], [{"high": 120}], [{**HEART, "colour": 1}],
    [{**HEART, "code": "glucose"}], [{**HEART, "code": "rr_interval"}], [{**HEART, "code": "mood"}],
    [{**HEART, "code": 3}], [{**HEART, "code": ["heart_rate"]}],
    [{**HEART, "low": 120, "high": 40}], [{**HEART, "low": 120}], [{**HEART, "low": 10}], [{**HEART, "high": 301}],
    [{**HEART, "low": "40"}], [{**HEART, "high": float("nan")}], [{**HEART, "high": [120]}],
    [{"code": "step_count", "low": True}], [{**HEART, "duration_minutes": True}],
    [{**HEART, "duration_minutes": -1}], [{**HEART, "duration_minutes": float("nan")}],
    [{**HEART, "duration_minutes": "10"}], [{**HEART, "recovery_minutes": 1e6}],
    [{**HEART, "severity": "urgent"}], [{**HEART, "severity": "urgent", "duration_minutes": 0}], [{**HEART, "severity": None}], [{**HEART, "severity": ["low"]}],
    [HEART, HEART], [HEART] * 33,
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_LIMITS, ids=str)
def test_limits_that_mean_nothing_are_refused(wrong: JSON) -> None:
    with pytest.raises(SettingError, match="threshold"):
        with_changes(default_rules(), Rule.THRESHOLD, {ENABLED: True, "limits": wrong})


def test_limits_replace_each_other_as_a_whole() -> None:
    rules = with_changes(default_rules(), Rule.THRESHOLD, {ENABLED: True, "limits": [HEART]})
    rules = with_changes(rules, Rule.THRESHOLD, {"limits": [{"code": "spo2", "low": 90}]})
    assert [limit["code"] for limit in told(rules, Rule.THRESHOLD)["limits"]] == ["spo2"]
    assert not told(with_changes(rules, Rule.THRESHOLD, {"limits": []}), Rule.THRESHOLD)["limits"]


def test_a_whole_number_stands_for_any() -> None:
    rules = with_changes(default_rules(), URGENT, {"limit_mmol": 3, "recovery_minutes": 20})
    assert repr(told(rules)["limit_mmol"]) == "3.0"
    night = with_changes(default_rules(), Rule.NOCTURNAL_HYPOGLYCAEMIA, {"night_end_minute": 420.0})
    assert repr(told(night, Rule.NOCTURNAL_HYPOGLYCAEMIA)["night_end_minute"]) == "420"
    assert told(default_rules())["limit_mmol"] == 3.1, "what is changed is a copy"
