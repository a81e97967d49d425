"""The engine of the limit rules: what opens, follows and ends an episode, whatever the limit is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.vocabulary import Unit
from streaming.episodes import Episode, Severity, settled_before
from streaming.limits.excursions import SPLITTING_GAP_MS, Course, Excursion, JudgedReadings, Pending, fold_excursions
from streaming.zones import MINUTE_MS

# A row: minute, and "." within the limit, "x" beyond it, "!" gravely so, "o" beyond but not to open, "e" ends whatever.
Row = tuple[int, str]
AT_ONCE, LASTING = Course(recovery_ms=15 * MINUTE_MS), Course(15 * MINUTE_MS, 15 * MINUTE_MS)


def judged(rows: Sequence[Row]) -> JudgedReadings:
    kinds = [kind for _, kind in rows]
    badness = np.array([{"!": 2.0, "x": 1.0, "o": 1.0}.get(kind, 0.0) for kind in kinds])
    return JudgedReadings(
        at=np.array([minute * MINUTE_MS for minute, _ in rows], dtype=np.int64),
        value=badness,
        unit=np.full(len(rows), Unit.PERCENT, dtype=np.int16),
        badness=badness,
        beyond=np.array([kind in "x!o" for kind in kinds], dtype=np.bool_),
        opens=np.array([kind in "x!" for kind in kinds], dtype=np.bool_),
        severity=(Severity.LOW, Severity.HIGH),
        grave=np.array([kind == "!" for kind in kinds], dtype=np.bool_),
        worst="highest",
        count="beyond",
        ends=np.array([kind == "e" for kind in kinds], dtype=np.bool_),
        ended_as={"continued_as": "another"},
        opening_evidence=lambda row: {"row_at": rows[row][0]},
    )


def standing(parts: Sequence[Sequence[Row]], course: Course) -> list[Episode]:
    """Fold part after part; return every episode as it stands at the end."""
    state: Excursion | None = None
    found: dict[int, Episode] = {}
    for part in parts:
        state, episodes = fold_excursions(state, judged(part), course)
        found.update({episode.opened_at: episode for episode in episodes})
    if state is not None and state.episode is not None:
        found[state.episode.opened_at] = state.episode
    return [found[opened_at] for opened_at in sorted(found)]


def minutes(rows: str, course: Course, cadence: int = 5) -> list[tuple[int, int | None]]:
    found = standing([[(row * cadence, kind) for row, kind in enumerate(rows)]], course)
    return [
        (one.opened_at // MINUTE_MS, None if one.resolved_at is None else one.resolved_at // MINUTE_MS) for one in found
    ]


@pytest.mark.parametrize(
    ("rows", "course", "expected"),
    [
        ("..x....", AT_ONCE, [(10, 30)]),
        ("..x..x....", AT_ONCE, [(10, 45)]),
        ("..x....x", AT_ONCE, [(10, 30), (35, None)]),
        ("oox....", AT_ONCE, [(10, 30)]),
        ("ooo....", AT_ONCE, []),
        ("x..e.x", AT_ONCE, [(0, 15), (25, None)]),
        ("x.", Course(), [(0, 5)]),
        ("xxx.xxx.", LASTING, []),
        ("xxxx....", LASTING, [(15, 35)]),
        ("oooox", LASTING, [(20, None)]),
        ("xxxxxexxxx", LASTING, [(15, 25), (45, None)]),
        ("x......e", Course(recovery_ms=None), [(0, 35)]),
        ("x......x", Course(recovery_ms=None), [(0, None)]),
    ],
)
def test_courses(rows: str, course: Course, expected: list[tuple[int, int | None]]) -> None:
    assert minutes(rows, course) == expected


def test_a_gap_splits_a_run_that_has_not_opened_and_never_an_open_episode() -> None:
    split, joined = SPLITTING_GAP_MS // MINUTE_MS + 1, SPLITTING_GAP_MS // MINUTE_MS
    assert standing([[(0, "x"), (split, "x")]], LASTING) == []
    [episode] = standing([[(0, "x"), (joined, "x"), (1000, "."), (1010, "x"), (2000, "."), (2015, ".")]], LASTING)
    assert (episode.opened_at, episode.resolved_at) == (joined * MINUTE_MS, 2015 * MINUTE_MS)
    state, _ = fold_excursions(None, judged([(0, "x")]), LASTING)
    assert state == Pending(0, 0)


def test_evidence_is_that_of_the_opening_the_worst_and_the_end() -> None:
    [episode] = standing([[(0, "x"), (5, "!"), (10, "x"), (15, "e")]], AT_ONCE)
    assert episode.severity is Severity.HIGH
    assert episode.evidence == {
        "row_at": 0, "highest_value": 2.0, "highest_unit": "%", "highest_at": 5 * MINUTE_MS, "beyond": 3,
        "continued_as": "another",
    }  # fmt: skip


def test_only_news_are_told() -> None:
    state, opened = fold_excursions(None, judged([(0, "x")]), AT_ONCE)
    assert len(opened) == 1
    state, same = fold_excursions(state, judged([(5, "x"), (10, ".")]), AT_ONCE)
    assert same == []
    state, worse = fold_excursions(state, judged([(15, "!")]), AT_ONCE)
    assert [one.evidence["beyond"] for one in worse] == [3]
    with pytest.raises(ValueError, match="late readings"):
        fold_excursions(state, judged([(15, "x")]), AT_ONCE)


ROWS = st.lists(st.tuples(st.sampled_from([1, 5, 5, 5, 15, 45, 46, 200]), st.sampled_from("....xxxxx!oe")), max_size=40)


@given(steps=ROWS, data=st.data(), course=st.sampled_from([Course(), AT_ONCE, LASTING, Course(recovery_ms=None)]))
def test_any_split_gives_the_same(steps: list[Row], data: st.DataObject, course: Course) -> None:
    times = np.cumsum([step for step, _ in steps]).tolist()
    rows = [(int(at), kind) for at, (_, kind) in zip(times, steps, strict=True)]
    whole = standing([rows], course)
    for one in whole:
        assert one.resolved_at is None or one.resolved_at > one.opened_at
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert standing(parts, course) == whole


@given(steps=ROWS, data=st.data(), course=st.sampled_from([Course(), AT_ONCE, LASTING]))
def test_folding_from_a_settled_point_is_folding_all(steps: list[Row], data: st.DataObject, course: Course) -> None:
    # No row that may not open: what suppresses an opening is an episode itself, and counts for what is settled.
    times = np.cumsum([step for step, _ in steps]).tolist()
    rows = [(int(at), kind.replace("o", "x")) for at, (_, kind) in zip(times, steps, strict=True)]
    if not rows:
        return
    whole = standing([rows], course)
    settled = settled_before(whole, data.draw(st.sampled_from(rows))[0] * MINUTE_MS, course.memory_ms)
    later = [row for row in rows if row[0] * MINUTE_MS >= settled - course.memory_ms]
    assert [one for one in standing([later], course) if one.opened_at >= settled] == [
        one for one in whole if one.opened_at >= settled
    ]
