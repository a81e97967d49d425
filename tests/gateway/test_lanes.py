"""Which rows may be taken for new, and which beats are stored already: against plain models."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.rr_runs import SAME_BEAT_MS, uncovered
from gateway.ingest.transaction import split
from gateway.store.rows import Rows

Key = tuple[int, int, int]  # device, code, at
SENT = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 6)), max_size=30)
STORED = st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(-1, 6))
MS = st.integers(0, 40).map(lambda step: step * SAME_BEAT_MS / 2)


def rows_of(keys: Sequence[Key]) -> Rows:
    device, code, at = zip(*keys, strict=True) if keys else ((), (), ())
    small = np.array(code, np.int16)
    key = np.array(device, np.int32)
    return Rows(key, key, key, np.array(at, np.int64), small, small, small, np.zeros(len(keys)))


@given(SENT, STORED)
def test_a_row_is_fast_only_if_it_is_later_than_all_stored_and_the_first_of_its_key(
    sent: list[Key], stored: dict[tuple[int, int], int]
) -> None:
    newest = [stored.get((device, code), -1) for device, code, _ in sent]
    lanes = split(rows_of(sent), np.array(newest, np.int64))
    first = [row for row, key in enumerate(sent) if key not in sent[:row]]
    assert sorted(lanes.fast.tolist()) == [row for row in first if sent[row][2] > newest[row]]
    assert sorted(lanes.slow.tolist()) == [row for row in first if sent[row][2] <= newest[row]]
    assert sorted(lanes.repeats.tolist()) == [row for row in range(len(sent)) if row not in first]


@given(st.lists(MS, min_size=1, max_size=20, unique=True).map(sorted), st.lists(st.tuples(MS, MS), max_size=3))
def test_a_beat_is_stored_if_a_stored_run_has_one_within_50_ms(
    beats: list[float], bounds: list[tuple[float, float]]
) -> None:
    stored = [(min(pair), max(pair)) for pair in bounds]
    found = uncovered(np.array(beats), stored)
    left = {n for start, stop in found for n in range(start, stop)}
    near = {n for n, at in enumerate(beats) if any(first - 50 <= at <= last + 50 for first, last in stored)}
    assert left == set(range(len(beats))) - near
    assert all(before[1] < after[0] for before, after in pairwise(found)), "ranges are whole"
