"""What the rules remember of one patient stays within 4 KiB, whatever the patient's devices send."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum

import numpy as np
from hypothesis import given

from devices.vocabulary import Code, Unit
from streaming.episodes import Rule
from streaming.limits.detectors import detectors_of
from streaming.limits.patient_fold import PatientState, fold_patient
from streaming.readings import Float64, ReadingSeries
from streaming.rules.changes import ENABLED, OFF_UNTIL_SWITCHED_ON, with_changes
from streaming.rules.history import RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.zones import HOUR_MS, MINUTE_MS, Int64, ZoneHistory
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import glucose_series, readings_of_one_patient

MAX_BYTES = 4096
SIX = 1_790_812_800_000 + 6 * HOUR_MS  # 2026-10-01T06:00Z
PREDICTED = (Rule.PREDICTED_LOW, "")
UTC = ZoneHistory.of("UTC")


def all_rules() -> RulesHistory:
    rules = preset(PatientGroup.STABLE)
    for rule in sorted(OFF_UNTIL_SWITCHED_ON - {Rule.THRESHOLD}):
        rules = with_changes(rules, rule, {ENABLED: True})
    return RulesHistory.of(rules)


def remembered_bytes(thing: object, seen: set[int] | None = None) -> int:
    """Return the bytes of what a detector remembers: objects, numbers and arrays; texts and names are shared by all."""
    seen = set() if seen is None else seen
    if thing is None or isinstance(thing, bool | str | Enum) or id(thing) in seen:
        return 0
    seen.add(id(thing))
    own = sys.getsizeof(thing)
    if isinstance(thing, np.ndarray):
        assert thing.base is None, "a view keeps all of its base"
        return own
    if isinstance(thing, Mapping):
        return own + sum(remembered_bytes(value, seen) for value in thing.values())
    if is_dataclass(thing):
        return own + sum(remembered_bytes(getattr(thing, one.name), seen) for one in fields(thing))
    assert isinstance(thing, int | float), type(thing)
    return own


def folded(at: Int64, mmol: Float64) -> PatientState:
    plain = np.zeros(at.size, dtype=np.int16)
    series = ReadingSeries(at, mmol, plain + np.int16(Unit.MMOL_L), plain)
    state, _ = fold_patient(Code.GLUCOSE, None, series, UTC, all_rules())
    assert state is not None
    return state


def sizes(state: PatientState) -> dict[tuple[Rule, str], int]:
    return {key: remembered_bytes(one) for key, one in state.of.items()}


def worst_states() -> list[PatientState]:
    """Fold series after each of which some of the rules remember as much as they can, an open episode with all else."""
    minute = np.arange(0, 90 * MINUTE_MS, MINUTE_MS // 4)
    falling, rising = np.linspace(9.0, 3.2, minute.size), np.linspace(7.0, 8.0, minute.size)
    steps = np.linspace(5.0, 20.0, minute.size)
    day = SIX + 6 * HOUR_MS
    return [
        folded(day + minute, falling),  # a low foreseen, an hour of readings remembered
        folded(day + minute, np.append(falling[1:] - 0.12, 3.0)),  # urgent
        folded(day + minute, np.full(minute.size, 3.5)),  # a level 1 low
        folded(SIX - 4 * HOUR_MS + minute, np.linspace(6.0, 2.5, minute.size)),  # a nocturnal low
        folded(day + minute, steps),  # a lasting high, and more steps than are kept of them
        folded(SIX + minute, rising),  # a fasting high
    ]


def test_the_worst_of_all_detectors_together_stays_within_4_kib() -> None:
    worst: dict[tuple[Rule, str], int] = {}
    opened, unforeseen = set(), 0
    for state in worst_states():
        opened |= {one.key for one in state.open_episodes()}
        for key, size in sizes(state).items():
            worst[key] = max(size, worst.get(key, 0))
            if key == PREDICTED and state.of[key].episode is None:
                unforeseen = max(unforeseen, size)
    detectors = detectors_of(Code.GLUCOSE, all_rules().spans[0][1])
    assert opened == {(one.rule, one.subject) for one in detectors}
    high = sum(size for (rule, _), size in worst.items() if rule is Rule.HYPERGLYCAEMIA)
    lows = sorted(worst[rule, ""] for rule in (Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW, Rule.HYPOGLYCAEMIA))
    # A nocturnal low ends the other two, an urgent one is no longer foreseen.
    assert high + unforeseen + sum(lows[1:]) <= MAX_BYTES, worst
    assert high + worst[PREDICTED] + lows[-1] <= MAX_BYTES, worst
    assert worst[PREDICTED] <= 2560


@given(readings=readings_of_one_patient())
def test_no_series_makes_more_of_it(readings: list[Reading]) -> None:
    state, _ = fold_patient(Code.GLUCOSE, None, glucose_series(readings), UTC, all_rules())
    assert state is None or sum(sizes(state).values()) <= MAX_BYTES
