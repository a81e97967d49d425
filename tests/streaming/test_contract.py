"""The contract of every detector: whoever adds one to the list is tested here."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streaming
from devices.vocabulary import Code
from streaming.detectors import DETECTORS, Detector
from streaming.episodes import Episode, Rule, settled_before
from streaming.glucose import GlucoseSeries
from streaming.zones import ZoneHistory
from tests.streaming.nocturnal_reference import Reading, lowest_per_instant
from tests.streaming.series import ZONES, glucose_series, readings_of_one_patient

# How to draw readings of a code; a detector of another code needs a line here.
READINGS = {Code.GLUCOSE: readings_of_one_patient()}

every_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.rule.value)


def fold(detector: Detector[Any], parts: Sequence[GlucoseSeries], zone: ZoneHistory) -> list[Episode]:
    """Fold part after part; return every episode as it stands at the end."""
    state, standing = None, {}
    for part in parts:
        state, found = detector.fold(state, part, zone)
        standing.update({episode.opened_at: episode for episode in found})
    if state is not None:
        standing[state.episode.opened_at] = state.episode
    return [standing[opened_at] for opened_at in sorted(standing)]


def test_the_list_is_complete() -> None:
    modules = [import_module(f"streaming.{module.name}") for module in pkgutil.iter_modules(streaming.__path__)]
    found = {
        thing
        for module in modules
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if hasattr(thing, "fold") and hasattr(thing, "candidates") and thing is not Detector
    }
    assert found == {type(detector) for detector in DETECTORS}
    assert len({detector.rule for detector in DETECTORS}) == len(DETECTORS)


@every_detector
def test_introduces_itself(detector: Detector[Any]) -> None:
    assert detector.rule in Rule
    assert detector.version >= 1
    assert detector.code in READINGS


@every_detector
def test_says_nothing_without_readings(detector: Detector[Any]) -> None:
    assert detector.fold(None, glucose_series([]), ZoneHistory.of("UTC")) == (None, [])
    empty = glucose_series([])
    assert detector.candidates(empty.value, empty.unit, empty.flags).size == 0


@every_detector
@given(data=st.data())
def test_changes_nothing_it_is_given(detector: Detector[Any], data: st.DataObject) -> None:
    series = glucose_series(data.draw(READINGS[detector.code]))
    columns: list[np.ndarray[Any, Any]] = [series.at, series.value, series.unit, series.flags]
    before = [column.copy() for column in columns]
    for column in columns:
        column.flags.writeable = False
    detector.candidates(series.value, series.unit, series.flags)
    detector.fold(None, series, ZoneHistory.of("UTC"))
    for column, copy in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, copy)


@every_detector
@given(data=st.data(), zone=st.sampled_from(ZONES))
def test_any_batching_gives_the_same(detector: Detector[Any], data: st.DataObject, zone: str) -> None:
    readings = lowest_per_instant(data.draw(READINGS[detector.code]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(readings)), max_size=8)))
    parts = [glucose_series(readings[a:b]) for a, b in zip([0, *cuts], [*cuts, len(readings)], strict=True)]
    history = ZoneHistory.of(zone)
    assert fold(detector, parts, history) == fold(detector, [glucose_series(readings)], history)


@every_detector
@given(data=st.data())
def test_any_order_within_a_batch_gives_the_same(detector: Detector[Any], data: st.DataObject) -> None:
    readings = lowest_per_instant(data.draw(READINGS[detector.code]))
    shuffled = data.draw(st.permutations(readings))
    zone = ZoneHistory.of("UTC")
    assert fold(detector, [glucose_series(shuffled)], zone) == fold(detector, [glucose_series(readings)], zone)


@every_detector
@given(data=st.data())
def test_missing_and_flagged_values_neither_break_nor_open(detector: Detector[Any], data: st.DataObject) -> None:
    readings = data.draw(READINGS[detector.code])
    useless = [
        Reading(one.at, None if index % 2 else 1.2, one.unit, () if index % 2 else ("artifact",))
        for index, one in enumerate(readings)
    ]
    zone = ZoneHistory.of("UTC")
    assert fold(detector, [glucose_series(useless)], zone) == []
    assert fold(detector, [glucose_series([*readings, *useless])], zone) == fold(
        detector, [glucose_series(readings)], zone
    )


@every_detector
@given(data=st.data())
def test_only_candidates_open(detector: Detector[Any], data: st.DataObject) -> None:
    series = glucose_series(data.draw(READINGS[detector.code]))
    others = series.take(~detector.candidates(series.value, series.unit, series.flags))
    assert fold(detector, [others], ZoneHistory.of("UTC")) == []


@every_detector
@given(data=st.data(), zone=st.sampled_from(ZONES))
def test_hydrated_equals_replayed(detector: Detector[Any], data: st.DataObject, zone: str) -> None:
    readings = lowest_per_instant(data.draw(READINGS[detector.code]))
    if not readings:
        return
    history = ZoneHistory.of(zone)
    replayed = fold(detector, [glucose_series(readings)], history)
    settled = settled_before(replayed, data.draw(st.sampled_from(readings)).at)
    hydrated = fold(detector, [glucose_series([one for one in readings if one.at >= settled])], history)
    assert hydrated == [episode for episode in replayed if episode.opened_at >= settled]
