"""The contract of every detector: whoever adds one is found and tested here, by itself and among the others."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming
from devices.vocabulary import CODES, Code, Flag
from streaming.episodes import JSON, Episode, Key, Rule, settled_before
from streaming.limits.detectors import AnyDetector, Detector, detectors_of
from streaming.limits.patient_fold import fold_patient, quiet_ms
from streaming.readings import ReadingSeries
from streaming.rules.changes import ENABLED, SETTINGS, settings_json, with_changes
from streaming.rules.history import RESTING, PatientRules, RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.rules.settings import VitalLimit
from streaming.zones import HOUR_MS, ZoneHistory
from tests.streaming.bedside import Bedside, Episodes, fold_parts, joined, since
from tests.streaming.series import (
    MINUTE_MS,
    NIGHTS,
    VITAL_LIMITS,
    ZONES,
    crowded,
    glucose_series,
    random_course,
    random_vitals,
)

NOT_WATCHED = {Code.RR_INTERVAL}
GLUCOSE_RULES = (
    Rule.NOCTURNAL_HYPOGLYCAEMIA,
    Rule.URGENT_LOW,
    Rule.HYPOGLYCAEMIA,
    Rule.PREDICTED_LOW,
    Rule.HYPERGLYCAEMIA,
)
TRAVELLER = ZoneHistory.from_spans(
    [(0, ZoneInfo("Europe/Berlin")), (NIGHTS[1] + 9 * HOUR_MS, ZoneInfo("America/New_York"))]
)


def everything_on() -> PatientRules:
    rules = preset(PatientGroup.FLUCTUATING)
    limits: list[JSON] = [{"code": code.wire, "low": low, "high": high} for code, (low, high) in VITAL_LIMITS.items()]
    return with_changes(rules, Rule.THRESHOLD, {ENABLED: True, "limits": limits})


def only(rule: Rule) -> PatientRules:
    return PatientRules(tuple(pair for pair in ALL_ON.settings if pair[0] is rule))


ALL_ON = everything_on()
EVERY = [detector for code in Code for detector in detectors_of(code, ALL_ON)]
# A rule by itself, then all of them, who hear of each other; of vital signs one sampled all the time, one in two units.
CASES = {
    **{rule.value: (Code.GLUCOSE, only(rule)) for rule in GLUCOSE_RULES},
    "glucose": (Code.GLUCOSE, ALL_ON),
    "heart_rate": (Code.HEART_RATE, ALL_ON),
    "body_temperature": (Code.BODY_TEMPERATURE, ALL_ON),
}
every_detector = pytest.mark.parametrize("detector", EVERY, ids=lambda one: f"{one.rule}-{one.subject}")
every_case = pytest.mark.parametrize(("code", "rules"), CASES.values(), ids=CASES)
moderate = settings(max_examples=20, deadline=None, derandomize=True)

zones = st.sampled_from([*map(ZoneHistory.of, ZONES), TRAVELLER])


SEEDS = st.integers(0, 2**32 - 1)


def series_of(code: Code) -> st.SearchStrategy[ReadingSeries]:
    """Draw a patient's readings in order of time, now and then several at one instant."""

    def seeded(seed: int) -> ReadingSeries:
        rng = np.random.default_rng(seed)
        readings = random_course(rng) if code is Code.GLUCOSE else random_vitals(rng, code)
        return glucose_series(crowded(readings, rng) if seed % 2 else readings)

    return SEEDS.map(seeded)


def shuffled(series: ReadingSeries, data: st.DataObject) -> ReadingSeries:
    return series.take(np.random.default_rng(data.draw(SEEDS)).permutation(len(series)))


@st.composite
def histories(draw: st.DrawFn, code: Code, rules: PatientRules, series: ReadingSeries) -> RulesHistory:
    """Draw what the rules were from when on: as they are, changed, one of them off, at rest."""
    if len(series) == 0 or draw(st.integers(0, 3)) == 0:
        return RulesHistory.of(rules)
    mine = [rule for rule, _ in rules.settings if rule in GLUCOSE_RULES or rule is Rule.THRESHOLD]
    offs = [PatientRules(tuple(pair for pair in rules.settings if pair[0] is not rule)) for rule in mine]
    variants = st.sampled_from([rules, rules, RESTING, *offs, *changed(code, rules)])
    around = st.builds(int.__add__, st.sampled_from(series.at.tolist()), st.sampled_from([0, 1, 7 * MINUTE_MS]))
    starts = sorted(draw(st.sets(around, max_size=4)))
    spans = [(start, draw(variants)) for start in starts]
    return RulesHistory(((0, rules), *spans))


def changed(code: Code, rules: PatientRules) -> list[PatientRules]:
    """Return other settings of the same rules, one at a time."""
    if code is not Code.GLUCOSE:
        [low, high] = VITAL_LIMITS[code]
        mine: dict[str, JSON] = {"code": code.wire, "low": low, "high": high}
        return [
            with_changes(rules, Rule.THRESHOLD, {"limits": [{**mine, **told}]})
            for told in ({"duration_minutes": 30}, {"duration_minutes": 0, "recovery_minutes": 20}, {"low": None})
        ]
    changes = {
        Rule.NOCTURNAL_HYPOGLYCAEMIA: {"limit_mmol": 3.5, "recovery_minutes": 0},
        Rule.URGENT_LOW: {"limit_mmol": 3.5, "recovery_minutes": 30},
        Rule.HYPOGLYCAEMIA: {"limit_mmol": 5.0, "duration_minutes": 60},
        Rule.PREDICTED_LOW: {"day_limit_mmol": 5.0},
        Rule.HYPERGLYCAEMIA: {"limit_mmol": 10.0, "duration_minutes": 0, "fasting_limit_mmol": 6.0},
    }
    return [with_changes(rules, rule, told) for rule, told in changes.items() if rules.of(rule) is not None]


def pieces(series: ReadingSeries, data: st.DataObject) -> list[ReadingSeries]:
    """Split readings in order of time anywhere but within an instant."""
    instants = np.unique(series.at).tolist()
    cuts = sorted(data.draw(st.sets(st.sampled_from(instants), max_size=8))) if instants else []
    rows = [0, *np.searchsorted(series.at, cuts, side="left").tolist(), len(series)]
    return [series.take(slice(start, end)) for start, end in pairwise(rows)]


def standing(episodes: Episodes) -> list[Episode]:
    return [episode for some in episodes.values() for episode in some]


def test_every_detector_is_in_the_list() -> None:
    modules = [import_module(module.name) for module in pkgutil.walk_packages(streaming.__path__, "streaming.")]
    found = {
        thing
        for module in modules
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if hasattr(thing, "fold") and hasattr(thing, "candidates") and thing is not Detector
    }
    assert found == {type(detector) for detector in EVERY}


def test_every_rule_about_readings_watches_what_it_is_about() -> None:
    for code in Code:
        keys = [(one.rule, one.subject) for one in detectors_of(code, ALL_ON)]
        if code is Code.GLUCOSE:
            assert keys == [
                (Rule.NOCTURNAL_HYPOGLYCAEMIA, ""),
                (Rule.URGENT_LOW, ""),
                (Rule.HYPOGLYCAEMIA, ""),
                (Rule.PREDICTED_LOW, ""),
                (Rule.HYPERGLYCAEMIA, ""),
                (Rule.HYPERGLYCAEMIA, "fasting"),
            ]
        elif code in NOT_WATCHED:
            assert keys == []
        else:
            assert sorted(keys) == [(Rule.THRESHOLD, f"{code.wire}:high"), (Rule.THRESHOLD, f"{code.wire}:low")]
        assert detectors_of(code, RESTING) == ()


@every_detector
def test_introduces_itself(detector: AnyDetector) -> None:
    assert detector.rule in SETTINGS
    assert isinstance(detector.settings, VitalLimit if detector.rule is Rule.THRESHOLD else SETTINGS[detector.rule])
    assert settings_json(detector.settings)
    assert detector.version >= 1
    assert detector.code in CODES
    assert detector.memory_ms >= 0


@every_detector
def test_says_nothing_without_readings(detector: AnyDetector) -> None:
    empty = glucose_series([])
    assert detector.fold(None, empty, ZoneHistory.of("UTC"), {}) == (None, [])
    assert detector.candidates(empty.value, empty.unit, empty.flags).size == 0
    assert fold_patient(detector.code, None, empty, ZoneHistory.of("UTC"), RulesHistory.of(ALL_ON)) == (None, [])


@every_case
@moderate
@given(data=st.data())
def test_changes_nothing_it_is_given(code: Code, rules: PatientRules, data: st.DataObject) -> None:
    series = data.draw(series_of(code))
    columns: list[np.ndarray[Any, Any]] = [series.at, series.value, series.unit, series.flags]
    before = [column.copy() for column in columns]
    for column in columns:
        column.flags.writeable = False
    for detector in detectors_of(code, rules):
        detector.candidates(series.value, series.unit, series.flags)
    fold_parts(code, pieces(series, data), ZoneHistory.of("UTC"), RulesHistory.of(rules))
    for column, copy in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, copy)


@every_case
@moderate
@given(data=st.data())
def test_a_state_can_be_folded_on_twice(code: Code, rules: PatientRules, data: st.DataObject) -> None:
    series = data.draw(series_of(code))
    history, zone = RulesHistory.of(rules), ZoneHistory.of("UTC")
    [first, *rest] = pieces(series, data)
    later = joined_all(rest)
    state, _ = fold_patient(code, None, first, zone, history)
    open_then = [] if state is None else state.open_episodes()
    once = fold_patient(code, state, later, zone, history)
    again = fold_patient(code, state, later, zone, history)
    assert ([] if state is None else state.open_episodes()) == open_then
    assert once[1] == again[1]


@every_case
@moderate
@given(data=st.data(), zone=zones)
def test_any_batching_gives_the_same(code: Code, rules: PatientRules, data: st.DataObject, zone: ZoneHistory) -> None:
    series = data.draw(series_of(code))
    history = data.draw(histories(code, rules, series))
    assert fold_parts(code, pieces(series, data), zone, history) == fold_parts(code, [series], zone, history)


@every_case
@moderate
@given(data=st.data(), zone=zones)
def test_any_order_within_a_batch_gives_the_same(
    code: Code, rules: PatientRules, data: st.DataObject, zone: ZoneHistory
) -> None:
    series = data.draw(series_of(code))
    history = data.draw(histories(code, rules, series))
    spans = without_values(fold_parts(code, [shuffled(series, data)], zone, history))
    assert spans == without_values(fold_parts(code, [series], zone, history))


@every_case
@moderate
@given(data=st.data(), flag=st.sampled_from([Flag.WARMUP, Flag.CALIBRATION, Flag.ARTIFACT, None]))
def test_warm_up_and_missing_values_neither_open_nor_end(
    code: Code, rules: PatientRules, data: st.DataObject, flag: Flag | None
) -> None:
    series = data.draw(series_of(code))
    useless = useless_copies(series, flag)
    history, zone = RulesHistory.of(rules), ZoneHistory.of("UTC")
    assert fold_patient(code, None, useless, zone, history) == (None, [])
    with_them = fold_parts(code, pieces(in_order(joined(series, useless)), data), zone, history)
    assert with_them == fold_parts(code, [series], zone, history)


@every_case
@moderate
@given(data=st.data())
def test_only_candidates_change_a_patient_without_state(code: Code, rules: PatientRules, data: st.DataObject) -> None:
    series = data.draw(series_of(code))
    others = series
    for detector in detectors_of(code, rules):
        others = others.take(~detector.candidates(others.value, others.unit, others.flags))
    assert fold_patient(code, None, others, ZoneHistory.of("UTC"), RulesHistory.of(rules)) == (None, [])


@every_case
@moderate
@given(data=st.data(), zone=zones)
def test_hydrated_equals_replayed(code: Code, rules: PatientRules, data: st.DataObject, zone: ZoneHistory) -> None:
    series = data.draw(series_of(code).filter(len))
    history = data.draw(histories(code, rules, series))
    replayed = fold_parts(code, [series], zone, history)
    quiet = quiet_ms(code, history)
    settled = settled_before(standing(replayed), data.draw(st.sampled_from(series.at.tolist())), quiet)
    hydrated = fold_parts(code, pieces(series.take(series.at >= settled - quiet), data), zone, history, settled)
    assert hydrated == since(replayed, settled)


@every_case
@moderate
@given(data=st.data(), zone=zones)
def test_late_readings_are_mended(code: Code, rules: PatientRules, data: st.DataObject, zone: ZoneHistory) -> None:
    series = data.draw(series_of(code))
    history = data.draw(histories(code, rules, series))
    bedside = Bedside(code, zone, history)
    mixed, size = shuffled(series, data), data.draw(st.integers(1, 20))
    for start in range(0, len(series), size):
        bedside.arrive(mixed.take(slice(start, start + size)))
    assert without_values(bedside.episodes) == without_values(fold_parts(code, [series], zone, history))


@every_case
@moderate
@given(data=st.data(), zone=zones)
def test_a_pause_ends_what_is_open_and_forgets_the_rest(
    code: Code, rules: PatientRules, data: st.DataObject, zone: ZoneHistory
) -> None:
    drawn = data.draw(series_of(code).filter(len))
    last = replace(
        drawn.take(slice(0, 1)), at=drawn.at[-1:] + HOUR_MS, value=np.array([37.0]), flags=np.zeros(1, np.int16)
    )
    series = joined(drawn, last)
    begin, end = sorted(data.draw(st.lists(st.sampled_from(series.at.tolist()), min_size=2, max_size=2)))
    end += data.draw(st.integers(1, HOUR_MS))
    paused = RulesHistory(((0, rules), (begin, RESTING), (end, rules)))
    always = RulesHistory.of(rules)
    before = fold_parts(code, [series.take(series.at < begin)], zone, always)
    after = fold_parts(code, [series.take(series.at >= end)], zone, always)
    expected: dict[Key, list[Episode]] = {}
    for key in sorted({*before, *after}):
        ended = [one if one.resolved_at is not None else rested(one, begin) for one in before.get(key, [])]
        expected[key] = [*ended, *after.get(key, [])]
    assert fold_parts(code, pieces(series, data), zone, paused) == expected


def rested(episode: Episode, at_ms: int) -> Episode:
    return replace(episode, resolved_at=at_ms, evidence={**episode.evidence, "ended_by": "rest"})


def joined_all(parts: Sequence[ReadingSeries]) -> ReadingSeries:
    whole = glucose_series([])
    for part in parts:
        whole = joined(whole, part)
    return whole


def in_order(series: ReadingSeries) -> ReadingSeries:
    return series.take(series.at.argsort(kind="stable"))


def without_values(episodes: Episodes) -> Episodes:
    """Leave out the value told of the worst reading: of two equally bad at one instant the first given is told."""
    return {
        key: [
            replace(
                one,
                evidence={name: told for name, told in one.evidence.items() if not name.endswith(("_value", "_unit"))},
            )
            for one in some
        ]
        for key, some in episodes.items()
    }


def useless_copies(series: ReadingSeries, flag: Flag | None) -> ReadingSeries:
    """Return readings that say nothing, at the instants of others and between them, as low and as high as can be."""
    twice = in_order(joined(series, replace(series, at=series.at + 20_000)))
    value = np.where(np.arange(len(twice)) % 2, 1.0, 400.0)
    if flag is None:
        return replace(twice, value=np.full(len(twice), np.nan), flags=np.zeros(len(twice), np.int16))
    return replace(twice, value=value, flags=np.full(len(twice), flag, np.int16))
