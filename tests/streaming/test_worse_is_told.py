"""An open episode that gets worse is told with the reading that makes it worse, however its readings are cut into folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.vocabulary import Unit
from streaming.episodes import Episode, Severity
from streaming.limits.excursions import Course, Excursion, JudgedReadings, fold_excursions
from streaming.zones import MINUTE_MS

LIMIT = 120.0
COURSES = {
    "at once": Course(recovery_ms=15 * MINUTE_MS),
    "lasting": Course(10 * MINUTE_MS, 15 * MINUTE_MS),
    "until it is told": Course(recovery_ms=None),
}


def judged(minutes: list[int], values: list[float]) -> JudgedReadings:
    """Readings above a limit; none of them changes the severity."""
    value = np.array(values)
    beyond = value > LIMIT
    return JudgedReadings(
        at=np.array(minutes, dtype=np.int64) * MINUTE_MS,
        value=value,
        unit=np.full(value.size, Unit.PERCENT, dtype=np.int16),
        badness=value,
        beyond=beyond,
        opens=beyond,
        severity=(Severity.MEDIUM, Severity.MEDIUM),
        grave=beyond,
        worst="highest",
        count="highs",
    )


def told_of(readings: list[tuple[int, float]], size: int, course: Course) -> list[list[Episode]]:
    """Fold `size` readings at a time; return what each fold told."""
    state: Excursion | None = None
    told = []
    for first in range(0, len(readings), size):
        minutes, values = zip(*readings[first : first + size], strict=True)
        state, found = fold_excursions(state, judged([*minutes], [*values]), course)
        told.append(found)
    return told


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES)
def test_a_worse_reading_of_the_same_severity_is_told(course: Course) -> None:
    readings = [(0, 130.0), (5, 130.0), (10, 131.0), (15, 131.0), (20, 140.0), (25, 135.0), (30, 141.0)]
    told = told_of(readings, 1, course)
    worst = [[one.evidence["highest_value"] for one in found] for found in told]
    if course.duration_ms:
        assert worst == [[], [], [131.0], [], [140.0], [], [141.0]]
    else:
        assert worst == [[130.0], [], [131.0], [], [140.0], [], [141.0]]
    assert [one.evidence["highest_at"] for one in told[-1]] == [30 * MINUTE_MS]


def test_a_worse_reading_among_milder_ones_of_a_batch_is_told() -> None:
    _, then = told_of([(0, 130.0), (5, 125.0), (10, 150.0), (15, 125.0)], 2, COURSES["at once"])
    assert [(one.severity, one.evidence["highest_value"], one.evidence["highs"]) for one in then] == [
        (Severity.MEDIUM, 150.0, 4)
    ]


@given(
    values=st.lists(st.sampled_from([100.0, 121.0, 130.0, 140.0, 150.0]), min_size=1, max_size=20),
    size=st.integers(1, 4),
    course=st.sampled_from([*COURSES.values()]),
)
def test_what_was_told_last_has_the_worst_reading_so_far(values: list[float], size: int, course: Course) -> None:
    readings = [(5 * row, value) for row, value in enumerate(values)]
    told: dict[int, Episode] = {}
    for fold, found in enumerate(told_of(readings, size, course), 1):
        told.update({one.opened_at: one for one in found})
        for one in told.values():
            until = 5 * (size * fold - 1) * MINUTE_MS if one.resolved_at is None else one.resolved_at
            inside = [value for minute, value in readings if one.opened_at <= minute * MINUTE_MS <= until]
            assert one.evidence["highest_value"] == max(inside)
