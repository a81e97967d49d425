"""Consensus episodes: against a slow reference and R's iglu, at every cadence, with jitter, gaps, two units, LO and HI."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import Unit
from gateway.runtime import clock
from streaming.glucose.episodes import (
    SPLITTING_GAP_MS,
    ConsensusEpisode,
    End,
    EpisodeCount,
    Level,
    cadence,
    consensus_episodes,
    count_episodes,
)
from streaming.glucose.values import high_mask, low_mask, merge
from streaming.readings import ReadingSeries
from tests.recordings import RECORDINGS
from tests.streaming.episode_references import PlainEpisode, iglu_counts, plain_episodes
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import FLAGS, MINUTE_MS, glucose_series, synthetic_nights
from tests.streaming.test_glucose import recorded_subjects

START = 1_790_812_800_000  # 2026-10-01T00:00Z
CADENCES = (1, 3, 5, 15)
MMOL = (1.1, 2.99, 3.0, 3.89, 3.9, 6.0, 10.0, 10.01, 13.9, 13.91, 20.0)
MG = (20.0, 53.0, 54.0, 69.0, 70.0, 108.0, 180.0, 181.0, 250.0, 251.0, 390.0)


def plain(episodes: list[ConsensusEpisode]) -> list[PlainEpisode]:
    return [
        PlainEpisode(str(one.level), one.started_at, one.known_at, one.ended_at, str(one.end), one.extended)
        for one in episodes
    ]


@st.composite
def readings_at_a_cadence(draw: st.DrawFn) -> tuple[list[Reading], int]:
    """Runs of readings on one side of the limits, with jitter, missing ones, gaps, flags, both units, shared instants."""
    minutes = draw(st.sampled_from(CADENCES))
    rng = random.Random(draw(st.integers(0, 2**32)))
    regular, at = rng.random() < 0.3, START
    found: list[Reading] = []
    for _ in range(draw(st.integers(0, 12))):
        index, flags = rng.randrange(len(MMOL)), draw(FLAGS) if rng.random() < 0.2 else ()
        for _ in range(rng.choice([1, 1, 2, 3, 4, 15 // minutes, 15 // minutes + 1, 130 // minutes])):
            mg = rng.random() < 0.5
            value = None if rng.random() < 0.02 else (MG if mg else MMOL)[index]
            found.append(Reading(at, value, "mg/dL" if mg else "mmol/L", flags))
            jitter = 0 if regular else rng.choice([0, 0, 0, -1000, 1000, 1, 20_000])
            steps = 1 if regular else rng.choice([1] * 20 + [0, 2, 3])
            at += max(0, steps * minutes * MINUTE_MS + jitter)
        at += 0 if rng.random() < 0.8 else rng.choice([44, 45, 46, 300]) * MINUTE_MS
    return found, minutes


@settings(max_examples=1000, deadline=None)
@given(drawn=readings_at_a_cadence())
def test_agrees_with_the_slow_reference(drawn: tuple[list[Reading], int]) -> None:
    readings, minutes = drawn
    found = consensus_episodes(glucose_series(readings), minutes * MINUTE_MS)
    assert plain(found) == plain_episodes(readings, minutes)


@settings(max_examples=100, deadline=None)
@given(drawn=readings_at_a_cadence(), order=st.integers(0, 1000))
def test_order_and_repetition_change_nothing(drawn: tuple[list[Reading], int], order: int) -> None:
    readings, minutes = drawn
    shuffled = readings + readings[::3]
    random.Random(order).shuffle(shuffled)
    again = consensus_episodes(glucose_series(shuffled), minutes * MINUTE_MS)
    assert again == consensus_episodes(glucose_series(readings), minutes * MINUTE_MS)


@settings(max_examples=100, deadline=None)
@given(drawn=readings_at_a_cadence())
def test_what_always_holds(drawn: tuple[list[Reading], int]) -> None:
    readings, minutes = drawn
    series = merge(glucose_series(readings), (3.9, 3.0))
    found = consensus_episodes(series, minutes * MINUTE_MS)
    for one in found:
        assert one.started_at < one.known_at <= one.ended_at
        assert one.minutes >= 15
        assert one.started_at in series.at
        assert not one.extended or one.minutes > 120
    for level in Level:
        ours = [one for one in found if one.level is level]
        assert all(old.ended_at <= new.started_at for old, new in pairwise(ours))
        assert all(one.end is not End.OPEN for one in ours[:-1])


@settings(max_examples=100, deadline=None)
@given(drawn=readings_at_a_cadence())
def test_a_gap_makes_two_series_of_one(drawn: tuple[list[Reading], int]) -> None:
    readings, minutes = drawn
    series = merge(glucose_series(readings), (3.9, 3.0))
    cuts = [0, *(np.flatnonzero(np.diff(series.at) > SPLITTING_GAP_MS) + 1).tolist(), len(series)]
    parts = [
        (one.level, one.started_at, one.known_at, one.ended_at, one.extended)
        for first, after in pairwise(cuts)
        for one in consensus_episodes(series.take(slice(first, after)), minutes * MINUTE_MS)
    ]
    whole = consensus_episodes(series, minutes * MINUTE_MS)
    assert sorted(parts) == sorted(
        (one.level, one.started_at, one.known_at, one.ended_at, one.extended) for one in whole
    )


def at_cadence(minutes: int, *values: float) -> ReadingSeries:
    return glucose_series([Reading(START + row * minutes * MINUTE_MS, one) for row, one in enumerate(values)])


def told(series: ReadingSeries, minutes: int, level: Level = Level.LOW_1) -> list[tuple[int, int, int, str]]:
    """Start, known and end in minutes, and why it ended."""
    return [
        ((one.started_at - START) // MINUTE_MS, (one.known_at - START) // MINUTE_MS,
         (one.ended_at - START) // MINUTE_MS, str(one.end))
        for one in consensus_episodes(series, minutes * MINUTE_MS) if one.level is level
    ]  # fmt: skip


@pytest.mark.parametrize(("minutes", "enough"), [(1, 15), (3, 5), (5, 3), (15, 1), (7, 3), (10, 2)])
def test_what_a_quarter_of_an_hour_is_at_each_cadence(minutes: int, enough: int) -> None:
    opens = [3.8] * enough
    assert told(at_cadence(minutes, 6.0, *opens[1:], 6.0), minutes) == []
    lows = enough * minutes
    assert told(at_cadence(minutes, *opens, *[6.0] * enough), minutes) == [(0, 15, lows, "recovered")]
    if enough > 1:
        short = [6.0] * (enough - 1)
        assert told(at_cadence(minutes, *opens, *short, 3.8, *[6.0] * enough), minutes) == [
            (0, 15, (2 * enough) * minutes, "recovered")
        ]


def test_seconds_of_jitter_do_not_matter() -> None:
    early = [Reading(START + row * 299_000, 3.5 if row < 3 else 6.0) for row in range(6)]
    assert [one.minutes for one in consensus_episodes(glucose_series(early))] == [15]


def test_extended_is_more_than_two_hours_in_a_row() -> None:
    for lows, extended in ((24, False), (25, True)):
        (found,) = consensus_episodes(at_cadence(5, *[3.5] * lows, *[6.0] * 3))
        assert (found.extended, found.minutes) == (extended, lows * 5)
    broken = at_cadence(5, *[3.5] * 20, 6.0, *[3.5] * 20, *[6.0] * 3)
    assert [(one.extended, one.minutes) for one in consensus_episodes(broken)] == [(False, 205)]


@pytest.mark.parametrize(
    ("gap", "wanted"), [(45, [(0, 15, 60, "open")]), (46, [(0, 15, 15, "gap"), (56, 71, 71, "open")])]
)
def test_a_gap_of_more_than_45_min_splits(gap: int, wanted: list[tuple[int, int, int, str]]) -> None:
    minutes = [0, 5, 10, 10 + gap, 15 + gap, 20 + gap][: 6 if gap > 45 else 4]
    series = glucose_series([Reading(START + one * MINUTE_MS, 3.5) for one in minutes])
    assert told(series, 5) == wanted


def test_a_reading_holds_for_one_cadence_only() -> None:
    """Two lows, then nothing for 20 min: nobody knows of 15 min in a row."""
    series = glucose_series([Reading(START + one * MINUTE_MS, 3.5 if one < 10 else 6.0) for one in (0, 5, 30, 35, 40)])
    assert told(series, 5) == []


def test_limits_are_those_of_the_unit_and_lo_and_hi_count() -> None:
    mg = (70.0, 69.9, 54.0, 53.9, 180.0, 180.1, 250.0, 250.1)
    mmol = (3.9, 3.89, 3.0, 2.99, 10.0, 10.01, 13.9, 13.91)
    wanted = [[], ["low_1"], ["low_1"], ["low_1", "low_2"], [], ["high_1"], ["high_1"], ["high_1", "high_2"]]
    for unit, values in ((Unit.MG_DL, mg), (Unit.MMOL_L, mmol)):
        found = [
            consensus_episodes(glucose_series([Reading(START, value, unit.ucum)]), 15 * MINUTE_MS) for value in values
        ]
        assert [[str(one.level) for one in each] for each in found] == wanted
    for flag, wanted_levels in (("below_range", ["low_1", "low_2"]), ("above_range", ["high_1", "high_2"])):
        series = glucose_series([Reading(START, 6.0, flags=(flag,))])
        assert [str(one.level) for one in consensus_episodes(series, 15 * MINUTE_MS)] == wanted_levels
    warmup = glucose_series([Reading(START, 2.0, flags=("warmup",))])
    assert consensus_episodes(warmup, 15 * MINUTE_MS) == []


def test_no_reading_is_low_and_high() -> None:
    both = glucose_series([Reading(START, 6.0, flags=("below_range", "above_range")), Reading(START, None)])
    columns = (both.value, both.unit, both.flags)
    assert low_mask(*columns, 3.9).tolist() == [True, False]
    assert high_mask(*columns, 10.0).tolist() == [False, False]


def test_readings_that_are_not_of_a_sensor_have_no_cadence() -> None:
    assert [cadence(at_cadence(minutes, *[5.0] * 9)) for minutes in (1, 5, 15, 16, 30, 360)] == [
        MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, None, None, None,
    ]  # fmt: skip
    assert cadence(at_cadence(5, 3.0)) is None
    assert cadence(at_cadence(5)) is None
    assert consensus_episodes(at_cadence(240, *[2.0] * 9)) == []
    assert consensus_episodes(at_cadence(5)) == []
    assert cadence(glucose_series([Reading(START + row, 5.0) for row in range(9)])) == MINUTE_MS


@pytest.mark.parametrize("wrong", [0, -1, 15 * MINUTE_MS + 1])
def test_a_cadence_that_no_sensor_has_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="cadence"):
        consensus_episodes(at_cadence(5, 3.5, 3.5), wrong)


def test_counts_by_level() -> None:
    series = at_cadence(15, *[3.5] * 9, 6.0, 2.5, 6.0, 11.0, 14.0, 6.0)
    assert count_episodes(consensus_episodes(series)) == {
        Level.LOW_1: EpisodeCount(2, 1, 150), Level.LOW_2: EpisodeCount(1, 0, 15),
        Level.HIGH_1: EpisodeCount(1, 0, 30), Level.HIGH_2: EpisodeCount(1, 0, 15),
    }  # fmt: skip


def counted(episodes: list[ConsensusEpisode]) -> dict[str, tuple[int, int]]:
    table: dict[str, tuple[int, int]] = {
        str(level): (one.episodes, one.minutes) for level, one in count_episodes(episodes).items()
    }
    return table | {"extended": (count_episodes(episodes)[Level.LOW_1].extended, 0)}


def without_extended_minutes(table: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """iglu starts an extended episode with its long run, we with its first; only their number is the same."""
    return table | {"extended": (table["extended"][0], 0)}


@pytest.mark.parametrize("minutes", CADENCES)
@pytest.mark.parametrize("seed", range(5))
def test_counts_as_iglu_does_on_a_grid(minutes: int, seed: int) -> None:
    """On its grid, with whole gaps, number and minutes are the same to the last one."""
    rng = np.random.default_rng(seed)
    rows = 14 * 24 * 60 // minutes
    walk = 120 + np.cumsum(rng.normal(0, 3 * minutes**0.5, rows))
    values = np.clip(120 + (walk - 120) % 400 - 90, 30, 420).round()
    at = START + np.arange(rows) * minutes * MINUTE_MS
    keep = np.ones(rows, dtype=np.bool_)
    for first in rng.integers(0, rows, 6):
        keep[first : first + 60 // minutes] = False
    at, values = at[keep], values[keep]
    series = glucose_series([Reading(int(one), float(v), "mg/dL") for one, v in zip(at, values, strict=True)])
    wanted = iglu_counts(at.tolist(), values.tolist(), minutes)
    assert counted(consensus_episodes(series)) == without_extended_minutes(wanted)
    assert min(wanted[level][0] for level in Level) > 0


def test_two_weeks_of_readings_are_vectorised() -> None:
    series = glucose_series(synthetic_nights(1, 90, 5, START))
    before = clock.cpu_seconds()
    assert consensus_episodes(series)
    assert clock.cpu_seconds() - before < 0.25


# Episodes over all subjects: level 1 and 2 low, level 1 and 2 high, extended lows; iglu counts the same but for one high
# of a single reading in the Libre export, which lies between two points of its grid.
RECORDED = {
    "cgm_shanghai_t1dm": ("Asia/Shanghai", [169, 78, 305, 192, 43], 0),
    "cgm_cgmanalyzer_zhang2018": ("UTC", [20, 3, 77, 17, 3], 0),
    "cgm_cgmanalysis_vigers": ("UTC", [35, 11, 10, 0, 1], 1),
}


@pytest.mark.parametrize("folder", RECORDED)
def test_recordings_against_iglu(folder: str) -> None:
    zone, wanted, highs_off_the_grid = RECORDED[folder]
    if not (RECORDINGS / folder).exists():
        pytest.skip("the recordings are not here")
    ours, theirs = np.zeros(5, dtype=int), np.zeros(5, dtype=int)
    names = (*map(str, Level), "extended")
    for series in recorded_subjects(RECORDINGS / folder, zone).values():
        merged = merge(series, (3.9, 3.0))
        interval = cadence(merged)
        assert interval is not None
        mg = np.where(merged.unit == Unit.MMOL_L, merged.value * 18, merged.value).round(6)
        ours += [counted(consensus_episodes(merged))[name][0] for name in names]
        theirs += [iglu_counts(merged.at.tolist(), mg.tolist(), interval // MINUTE_MS)[name][0] for name in names]
    assert ours.tolist() == wanted
    assert (ours - theirs).tolist() == [0, 0, highs_off_the_grid, 0, 0]
