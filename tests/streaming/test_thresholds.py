"""Thresholds: a patient's own limits of vital signs, in whatever unit they are sent, from several devices at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.words import summary
from devices.vocabulary import CODES, Code, Flag, Unit
from streaming.episodes import JSON, Episode, Key, Rule, Severity
from streaming.limits.detectors import detectors_of
from streaming.limits.patient_fold import PatientState, fold_patient
from streaming.limits.thresholds import Threshold
from streaming.readings import ReadingSeries
from streaming.rules.changes import ENABLED, with_changes
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.rules.settings import NOT_WATCHED, VitalLimit
from streaming.zones import MINUTE_MS, ZoneHistory

UTC = ZoneHistory.of("UTC")
NOON = 1_790_856_000_000  # 2026-10-01T12:00Z
Row = tuple[int, float, Unit] | tuple[int, float, Unit, Flag]


def rules_with(*limits: dict[str, JSON]) -> PatientRules:
    return with_changes(preset(PatientGroup.STABLE), Rule.THRESHOLD, {ENABLED: True, "limits": list(limits)})


def series_of(rows: Sequence[Row]) -> ReadingSeries:
    """Readings by minutes since noon."""
    flags = [row[3] if len(row) == 4 else 0 for row in rows]
    return ReadingSeries(
        np.array([NOON + row[0] * MINUTE_MS for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float64),
        np.array([row[2] for row in rows], dtype=np.int16),
        np.array(flags, dtype=np.int16),
    )


def standing(code: Code, parts: Sequence[ReadingSeries], history: RulesHistory) -> dict[tuple[Key, int], Episode]:
    """Fold part after part; return every episode as it stands at the end."""
    state: PatientState | None = None
    found: dict[tuple[Key, int], Episode] = {}
    for part in parts:
        state, news = fold_patient(code, state, part, UTC, history)
        found.update({(one.key, one.episode.opened_at): one.episode for one in news})
    for one in state.open_episodes() if state is not None else ():
        found[one.key, one.episode.opened_at] = one.episode
    return found


def minutes(found: dict[tuple[Key, int], Episode]) -> list[tuple[str, int, int | None]]:
    return [
        (one.subject, (one.opened_at - NOON) // MINUTE_MS,
         None if one.resolved_at is None else (one.resolved_at - NOON) // MINUTE_MS)
        for _, one in sorted(found.items())
    ]  # fmt: skip


def concluded(code: Code, rows: Sequence[Row], **limit: JSON) -> dict[tuple[Key, int], Episode]:
    history = RulesHistory.of(rules_with({"code": code.wire, **limit}))
    return standing(code, [series_of(rows)], history)


CEL, FAHRENHEIT, PERCENT, MM_HG, KPA, PER_MIN = (
    Unit.CEL, Unit.DEGF, Unit.PERCENT, Unit.MM_HG, Unit.KPA, Unit.PER_MIN,
)  # fmt: skip


def test_one_measurement_beyond_the_limit_is_enough_for_what_is_measured_now_and_then() -> None:
    rows: list[Row] = [(0, 38.0, CEL), (30, 38.6, CEL), (60, 39.1, CEL), (90, 38.0, CEL), (120, 38.2, CEL)]
    found = concluded(Code.BODY_TEMPERATURE, rows, high=38.0)
    subject = "body_temperature:high"
    assert minutes(found) == [(subject, 30, 90), (subject, 120, None)]
    [first, _] = found.values()
    assert first.severity is Severity.MEDIUM
    assert first.evidence == {
        "code": "body_temperature", "limit": 38.0, "limit_unit": "Cel", "beyond": 2,
        "highest_value": 39.1, "highest_unit": "Cel", "highest_at": NOON + 60 * MINUTE_MS,
    }  # fmt: skip
    sentence = summary(Rule.THRESHOLD, first, UTC)
    assert sentence == "Body temperature above 38 Cel, told at 12:30: highest 39.1 Cel at 13:00"


def test_an_urgent_threshold_waits() -> None:
    rows: list[Row] = [(minute, 150.0, PER_MIN) for minute in range(6)]
    found = concluded(Code.HEART_RATE, rows, high=120.0, severity="urgent", duration_minutes=4)
    [episode] = found.values()
    assert (episode.severity, episode.opened_at - NOON) == (Severity.URGENT, 4 * MINUTE_MS)


def test_both_sides_have_their_own_episodes_and_severity_is_the_limits() -> None:
    rows: list[Row] = [(0, 195, MM_HG), (60, 85, MM_HG), (120, 120, MM_HG)]
    found = concluded(Code.SYSTOLIC_PRESSURE, rows, low=90.0, high=180.0, severity="high")
    assert minutes(found) == [("systolic_pressure:high", 0, 60), ("systolic_pressure:low", 60, 120)]
    assert {one.severity for one in found.values()} == {Severity.HIGH}
    low = next(one for one in found.values() if one.subject.endswith("low"))
    assert summary(Rule.THRESHOLD, low, UTC).startswith("Systolic pressure below 90 mm[Hg]")


@pytest.mark.parametrize(
    ("code", "limit", "row", "beyond"),
    [
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 100.4, FAHRENHEIT), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 100.5, FAHRENHEIT), True),
        (Code.BODY_TEMPERATURE, {"low": 35.0}, (0, 95.0, FAHRENHEIT), False),
        (Code.BODY_TEMPERATURE, {"low": 35.0}, (0, 94.9, FAHRENHEIT), True),
        (Code.SYSTOLIC_PRESSURE, {"high": 180.0}, (0, 24.1, KPA), True),
        (Code.SYSTOLIC_PRESSURE, {"high": 180.0}, (0, 23.9, KPA), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 36.0, CEL, Flag.ABOVE_RANGE), True),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 40.0, CEL, Flag.BELOW_RANGE), False),
        (Code.BODY_TEMPERATURE, {"low": 35.0}, (0, float("nan"), CEL, Flag.BELOW_RANGE), True),
        (Code.BODY_TEMPERATURE, {"low": 35.0}, (0, 30.0, CEL, Flag.ABOVE_RANGE), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, float("nan"), CEL), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 40.0, CEL, Flag.WARMUP), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 40.0, CEL, Flag.CALIBRATION), False),
        (Code.BODY_TEMPERATURE, {"high": 38.0}, (0, 40.0, CEL, Flag.ARTIFACT), False),
        (Code.BODY_TEMPERATURE, {"low": 35.0}, (0, 25.0, CEL, Flag.OFF_BODY), False),
    ],
)  # fmt: skip
def test_a_reading_is_compared_in_the_canonical_unit(
    code: Code,
    limit: dict[str, JSON],
    row: Row,
    beyond: bool,  # noqa: FBT001 a table's last column
) -> None:
    assert bool(concluded(code, [row], **limit)) is beyond
    [detector] = detectors_of(code, rules_with({"code": code.wire, **limit}))
    one = series_of([row])
    assert detector.candidates(one.value, one.unit, one.flags).tolist() == [beyond]


def test_what_is_sampled_all_the_time_must_last() -> None:
    pulse: list[Row] = [(minute, 130, PER_MIN) for minute in range(12)]
    assert minutes(concluded(Code.HEART_RATE, pulse, high=120)) == [("heart_rate:high", 10, None)]
    assert concluded(Code.HEART_RATE, pulse[:10], high=120) == {}
    assert minutes(concluded(Code.HEART_RATE, pulse, high=120, duration_minutes=3)) == [("heart_rate:high", 3, None)]
    oxygen: list[Row] = [*((minute, 86, PERCENT) for minute in range(6)), *((6 + m, 95, PERCENT) for m in range(9))]
    assert minutes(concluded(Code.SPO2, oxygen, low=88)) == [("spo2:low", 5, 11)]
    assert minutes(concluded(Code.SPO2, oxygen, low=88, recovery_minutes=8)) == [("spo2:low", 5, 14)]


def test_readings_that_do_not_count_neither_interrupt_nor_recover() -> None:
    rows: list[Row] = [(m, 86.0, PERCENT) for m in range(0, 6, 2)]
    rows += [(m, 98.0, PERCENT, Flag.OFF_BODY) for m in range(1, 40, 2)] + [
        (7, float("nan"), PERCENT),
        (6, 86, PERCENT),
    ]
    assert minutes(concluded(Code.SPO2, sorted(rows), low=88)) == [("spo2:low", 6, None)]


def test_of_two_devices_at_one_instant_the_worse_counts_on_each_side() -> None:
    rows: list[Row] = [(0, 200, MM_HG), (0, 80, MM_HG), (0, 120, MM_HG), (60, 120, MM_HG), (60, 16, KPA)]
    for order in (rows, rows[::-1]):
        found = concluded(Code.SYSTOLIC_PRESSURE, order, low=90, high=180)
        assert minutes(found) == [("systolic_pressure:high", 0, 60), ("systolic_pressure:low", 0, 60)]
        high, low = (one for _, one in sorted(found.items()))
        assert (high.evidence["highest_value"], high.evidence["beyond"]) == (200.0, 1)
        assert (low.evidence["lowest_value"], low.evidence["beyond"]) == (80.0, 1)


def test_every_vital_sign_but_glucose_and_rr_intervals_can_have_a_limit() -> None:
    for code in Code:
        canonical = CODES[code].units[CODES[code].canonical]
        limits: dict[str, JSON] = {"code": code.wire, "low": canonical.minimum, "high": canonical.maximum}
        if code in NOT_WATCHED:
            with pytest.raises(ValueError, match="no threshold"):
                rules_with(limits)
            continue
        found = detectors_of(code, rules_with(limits))
        assert [one.subject for one in found] == [f"{code.wire}:low", f"{code.wire}:high"]
        assert {(one.rule, one.code) for one in found} == {(Rule.THRESHOLD, code)}
        assert detectors_of(code, preset(PatientGroup.STABLE)) == ()


def test_a_limit_taken_back_ends_its_episode() -> None:
    watched, lower = (rules_with({"code": "body_weight", "high": limit}) for limit in (80.0, 70.0))
    history = RulesHistory(
        ((0, watched), (NOON + 60 * MINUTE_MS, preset(PatientGroup.STABLE)), (NOON + 90 * MINUTE_MS, lower))
    )
    rows: list[Row] = [(0, 81, Unit.KG), (70, 81, Unit.KG), (100, 160, Unit.LB_AV)]
    found = standing(Code.BODY_WEIGHT, [series_of(rows)], history)
    assert minutes(found) == [("body_weight:high", 0, 60), ("body_weight:high", 100, None)]
    [first, second] = [one for _, one in sorted(found.items())]
    assert first.evidence["ended_by"] == "rest"
    assert (second.evidence["highest_value"], second.evidence["highest_unit"]) == (72.574779, "kg")


def test_a_side_without_a_limit_is_no_rule() -> None:
    with pytest.raises(ValueError, match="no low limit"):
        Threshold(VitalLimit("spo2", high=99.0), "low")


VALUES = st.sampled_from(
    [(35.0, CEL), (37.0, CEL), (38.0, CEL), (38.1, CEL), (100.4, FAHRENHEIT), (101.0, FAHRENHEIT), (94.0, FAHRENHEIT)]
)
FLAGS = st.sampled_from([Flag(0)] * 8 + [Flag.OFF_BODY, Flag.ARTIFACT, Flag.ABOVE_RANGE, Flag.BELOW_RANGE])


@given(data=st.data())
def test_any_split_and_any_order_of_one_instant_give_the_same(data: st.DataObject) -> None:
    times = sorted(data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 13, 60, 61, 62, 70, 130]), max_size=20)))
    rows: list[Any] = [(minute, *data.draw(VALUES), data.draw(FLAGS)) for minute in times]
    limits: dict[str, JSON] = {
        "code": "body_temperature",
        "low": 35.0,
        "high": 38.0,
        "duration_minutes": 2,
        "recovery_minutes": 3,
    }
    history = RulesHistory.of(rules_with(limits))
    whole = standing(Code.BODY_TEMPERATURE, [series_of(rows)], history)
    edges = [row for row in range(1, len(rows)) if rows[row][0] > rows[row - 1][0]]
    cuts = sorted(data.draw(st.lists(st.sampled_from(edges), max_size=5))) if edges else []
    parts = [series_of(rows[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert standing(Code.BODY_TEMPERATURE, parts, history) == whole
    assert standing(Code.BODY_TEMPERATURE, [series_of(data.draw(st.permutations(rows)))], history) == whole
