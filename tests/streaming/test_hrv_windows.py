"""Windows of heart-rate variability: against the recordings' reference, gaps, several devices, any range asked for."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import Modality
from streaming.hrv.rr_cleaning import RRRun, beats_of
from streaming.hrv.windows import CONTEXT_MS, WINDOW_MS, HrvWindow, hrv_statistics, windows_of
from tests.recordings import RECORDINGS

START = 1_790_812_800_000  # 2026-10-01T00:00Z


def resting_heart(seed: int, minutes: float, at_ms: float = START, mean: float = 950) -> RRRun:
    """Return a seeded series with breathing and noise, like somebody asleep."""
    rng = np.random.default_rng(seed)
    beats = int(minutes * 60_000 / mean)
    rr = mean + 35 * np.sin(np.arange(beats) / 4) + rng.normal(0, 15, beats)
    return RRRun(at_ms, np.round(rr))


def pieces(run: RRRun, cuts: list[int]) -> Iterator[RRRun]:
    """Yield the run in pieces, each as a device would send it."""
    ends = run.at_ms + np.cumsum(run.intervals_ms) - run.intervals_ms[0]
    for start, stop in zip([0, *cuts], [*cuts, ends.size], strict=True):
        if stop > start:
            yield RRRun(float(ends[start]), run.intervals_ms[start:stop])


@pytest.mark.parametrize(("record", "windows"), [("000", 138), ("003", 189), ("005", 145)])
def test_clean_windows_of_the_recordings(record: str, windows: int) -> None:
    folder = RECORDINGS / "rr_healthy_irurzun2021"
    if not folder.exists():
        pytest.skip("the recordings are not here")
    with gzip.open(folder / f"{record}.txt.gz", "rt") as file:
        rr = np.array([float(line) for line in file if line.strip()])
    with gzip.open(folder / "reference_5min_windows.csv.gz", "rt") as file:
        wanted = [row for row in csv.DictReader(file) if row["record"] == f"healthy_{record}" and row["clean"] == "1"]
    beats = beats_of([RRRun(rr[0], rr)])
    assert len(wanted) == windows  # 472 in all
    for row in wanted:
        start = int(row["window"]) * WINDOW_MS
        window = beats.between(start, start + WINDOW_MS)
        found = hrv_statistics(window)
        assert len(window) == int(row["n"])
        assert found.rmssd == pytest.approx(float(row["rmssd"]), abs=0.01)
        assert found.sdnn == pytest.approx(float(row["sdnn"]), abs=0.01)
        assert found.mean_heart_rate == pytest.approx(60_000 / float(row["mean_nn"]), abs=0.01)


def test_a_quiet_hour() -> None:
    windows = windows_of({7: [resting_heart(1, 60)]}, START, START + 60 * 60_000)
    assert [window.start_ms for window in windows] == [START + i * WINDOW_MS for i in range(12)]
    assert all(window.valid and window.device == 7 for window in windows)
    assert all(window.coverage > 0.99 and 300 < window.beats < 330 for window in windows[:-1])
    assert all(window.rmssd is not None and 15 < window.rmssd < 35 for window in windows)


def test_validity_needs_beats_or_coverage_and_few_corrections() -> None:
    def window(minutes: float, mean: float, spoil: int = 0) -> HrvWindow:
        run = resting_heart(3, minutes, mean=mean)
        run.intervals_ms[20 : 20 + 10 * spoil : 10] *= 1.6
        return windows_of({1: [run]}, START, START + WINDOW_MS)[0]

    assert window(4.1, 1000).valid  # 82 % covered, 245 beats
    assert window(4.05, 1500).valid  # 80 % covered with 160 beats
    assert window(2.5, 600).valid  # half covered with 250 beats
    assert not window(3.5, 1000).valid
    few, many = window(5, 1000, 5), window(5, 1000, 20)
    assert few.valid
    assert 0 < few.corrected <= 0.04 < many.corrected
    assert not many.valid
    assert few.rmssd is not None
    assert few.rmssd < 40  # the spoiled intervals are corrected, not measured


def test_a_sensor_that_repeats_itself_is_not_a_heart() -> None:
    assert not windows_of({1: [RRRun(START, np.full(300, 1000.0))]}, START, START + WINDOW_MS)[0].valid


def test_the_device_with_the_best_coverage_speaks() -> None:
    runs = {1: [resting_heart(1, 3)], 2: [resting_heart(2, 10)], 3: [resting_heart(3, 8, START + 10 * 60_000)]}
    windows = windows_of(runs, START, START + 20 * 60_000)
    assert [(window.start_ms - START) // WINDOW_MS for window in windows] == [0, 1, 2, 3]
    assert [window.device for window in windows] == [2, 2, 3, 3]


def test_electrodes_speak_before_light_while_their_window_is_valid() -> None:
    runs = {1: [resting_heart(1, 10)], 2: [resting_heart(2, 6.5)]}
    windows = windows_of(runs, START, START + 10 * 60_000, electrodes={2})
    assert [(window.device, window.modality) for window in windows] == [(2, Modality.ECG), (1, Modality.PPG)]
    assert [window.device for window in windows_of(runs, START, START + 10 * 60_000)] == [1, 1]


def test_a_beat_belongs_to_the_window_its_end_falls_in() -> None:
    run = RRRun(START, np.array([900.0, 1000.0, 1001.0]))
    assert [(window.start_ms - START, window.beats) for window in windows_of({1: [run]}, START - 1, START + 1)] == [
        (-WINDOW_MS, 1), (0, 2),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.integers(1, 1800), max_size=12), st.integers(0, 5), st.integers(1, 6))
def test_neither_the_pieces_nor_the_range_matter(cuts: list[int], first: int, count: int) -> None:
    night = resting_heart(5, 31)
    night.intervals_ms[::97] = 600
    whole = windows_of({1: [night]}, START, START + 31 * 60_000)
    sent = list(pieces(night, sorted(cut for cut in cuts if cut < night.intervals_ms.size)))
    start, end = START + first * WINDOW_MS, START + (first + count) * WINDOW_MS
    needed = [run for run in sent if overlaps(run, start - CONTEXT_MS - 2_000, end + CONTEXT_MS)]
    assert windows_of({1: needed[::-1]}, start, end) == [one for one in whole if start <= one.start_ms < end]


def overlaps(run: RRRun, start: float, end: float) -> bool:
    return run.at_ms < end and run.at_ms + float(run.intervals_ms[1:].sum()) >= start
