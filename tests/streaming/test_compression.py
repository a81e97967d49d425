"""Compression lows: synthetic dips at every cadence, each property that is missing, and a plain reference."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.episodes import Episode, Severity
from streaming.glucose.compression import CompressionDip, annotated, compression_dip
from streaming.glucose.values import merge
from streaming.limits.lows import NocturnalHypoglycaemia
from streaming.readings import ReadingSeries
from streaming.zones import ZoneHistory
from tests.recordings import RECORDINGS
from tests.streaming.nocturnal_reference import Reading, lowest_per_instant
from tests.streaming.series import FLAGS, MINUTE_MS, glucose_series
from tests.streaming.test_glucose import final_episodes, recorded_subjects

UTC_ALWAYS = ZoneHistory.of("UTC")
MIDNIGHT = 1_790_812_800_000  # 2026-10-01T00:00Z
CADENCES = (1, 3, 5, 15)


def dip(cadence: int, *, depth: float = 24, minutes: int = 45, base: float = 84, edge: int = 5, start: int = 120,
        unit: str = "mg/dL", after: int = 90) -> list[Reading]:  # fmt: skip
    """A flat night with one dip whose edges take `edge` minutes each; the dip's first low minute is `start + 1`."""
    found = []
    for minute in range(start - 60, start + minutes + after, cadence):
        inside = min(minute - start, start + minutes + edge - minute)
        mg = base - depth * min(1.0, max(0.0, inside / edge))
        found.append(Reading(MIDNIGHT + minute * MINUTE_MS, mg if unit == "mg/dL" else mg / 18, unit))
    return found


def episodes(readings: list[Reading], zone: ZoneHistory = UTC_ALWAYS) -> tuple[ReadingSeries, list[Episode]]:
    series = glucose_series(readings)
    state, found = NocturnalHypoglycaemia().fold(None, merge(series), zone, {})
    return series, final_episodes([found], state)


def found_in(readings: list[Reading]) -> list[CompressionDip | None]:
    series, alerts = episodes(readings)
    return [compression_dip(series, UTC_ALWAYS, alert) for alert in alerts]


@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize("unit", ["mg/dL", "mmol/L"])
def test_the_typical_dip_is_found_at_every_cadence(cadence: int, unit: str) -> None:
    (found,) = found_in(dip(cadence, unit=unit))
    assert found is not None
    assert found.depth_mg_dl == pytest.approx(24)
    assert abs((found.ended_at - found.started_at) // MINUTE_MS - 45) <= max(cadence, 5)
    assert abs((found.started_at - MIDNIGHT) // MINUTE_MS - 120) <= cadence


@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize(
    "shape",
    [{"depth": 60, "base": 100}, {"minutes": 10}, {"minutes": 120}, {"edge": 60, "minutes": 70},
     {"after": 0}, {"depth": 9, "base": 80}],
    ids=["deep", "short", "long", "slow", "open", "shallow"],
)  # fmt: skip
def test_what_lacks_one_property_is_none(cadence: int, shape: dict[str, int]) -> None:
    found = found_in(dip(cadence, **shape))  # type: ignore[arg-type]
    assert not any(found)
    assert found or cadence == 15  # there is an alert, but where one step of 15 min misses 10
    if "after" in shape:
        assert any(found_in(dip(cadence, **{**shape, "after": 90})))  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "is_night"), [(-1, False), (0, True), (355, True), (360, False)])
def test_the_first_low_is_at_night(start: int, *, is_night: bool) -> None:
    """Also for episodes of rules that know no night."""
    readings = [
        Reading(MIDNIGHT + minute * MINUTE_MS, 60.0 if start <= minute < start + 45 else 84.0, "mg/dL")
        for minute in range(start - 60, start + 120, 5)
    ]
    episode = Episode(MIDNIGHT + start * MINUTE_MS, None, Severity.HIGH)
    assert (compression_dip(glucose_series(readings), UTC_ALWAYS, episode) is not None) is is_night


@pytest.mark.parametrize("slow_end", ["in", "out"])
def test_one_slow_edge_is_enough_to_be_none(slow_end: str) -> None:
    falling = [90.0, 88, 86, 84, 82, 80, 78, 76, 74, 71, 68, 65, 62, 60]
    flat, well = [60.0] * 7, [90.0] * 12
    values = [*well, *falling, *flat, *well] if slow_end == "in" else [*well, *flat, *falling[::-1], *well]
    readings = [Reading(MIDNIGHT + (60 + row * 5) * MINUTE_MS, one, "mg/dL") for row, one in enumerate(values)]
    assert found_in(readings) == [None]
    abrupt = [*well, *[60.0] * 9, *well]
    assert all(
        found_in([Reading(MIDNIGHT + (60 + row * 5) * MINUTE_MS, one, "mg/dL") for row, one in enumerate(abrupt)])
    )


def test_silence_lo_and_two_lows_prove_nothing() -> None:
    readings = dip(5)
    assert all(found_in(readings))
    assert found_in([one for one in readings if not 130 <= (one.at - MIDNIGHT) // MINUTE_MS < 145]) == [None]
    assert found_in([one for one in readings if not 80 <= (one.at - MIDNIGHT) // MINUTE_MS <= 120]) == [None]
    row = next(row for row, one in enumerate(readings) if one.at == MIDNIGHT + 140 * MINUTE_MS)
    lo = Reading(readings[row].at, None, "mg/dL", ("below_range",))
    assert found_in([*readings[:row], lo, *readings[row + 1 :]]) == [None]
    twice = Reading(readings[row].at, 80.0, "mg/dL")
    assert found_in([*readings[:row], twice, *readings[row + 1 :]]) == [None]


@pytest.mark.parametrize(
    ("lowest", "given_severity", "severity"),
    [(60, Severity.HIGH, Severity.MEDIUM), (54, Severity.URGENT, Severity.HIGH), (53, Severity.URGENT, Severity.URGENT),
     (50, Severity.URGENT, Severity.URGENT)],
)  # fmt: skip
def test_severity_falls_by_one_but_never_below_3_0(lowest: int, given_severity: Severity, severity: Severity) -> None:
    series, (alert,) = episodes(dip(5, base=90, depth=90 - lowest))
    assert alert.severity is given_severity
    told = annotated(series, UTC_ALWAYS, alert, lower_severity=True)
    assert told.severity is severity
    only_said = annotated(series, UTC_ALWAYS, alert, lower_severity=False)
    assert (only_said.severity, only_said.evidence) == (given_severity, told.evidence)
    assert told.evidence["compression_depth_mg_dl"] == 90 - lowest
    assert {key: told.evidence[key] for key in alert.evidence} == alert.evidence
    assert (told.opened_at, told.resolved_at) == (alert.opened_at, alert.resolved_at)


def test_the_least_severity_stays_and_what_is_no_dip_is_untouched() -> None:
    series, (alert,) = episodes(dip(5))
    low = Episode(alert.opened_at, alert.resolved_at, Severity.LOW)
    assert annotated(series, UTC_ALWAYS, low, lower_severity=True).severity is Severity.LOW
    series, (alert,) = episodes(dip(5, minutes=120))
    assert annotated(series, UTC_ALWAYS, alert, lower_severity=True) is alert


def plain_dip(readings: list[Reading], zone: ZoneInfo, episode: Episode) -> CompressionDip | None:
    """The definition once more, reading by reading."""
    merged = lowest_per_instant(readings)
    until = episode.resolved_at or merged[-1].at
    lows = [one for one in merged if episode.opened_at <= one.at <= until and one.below(0)]
    inside = [one for one in merged if lows[0].at <= one.at <= lows[-1].at]
    ahead = [one for one in merged if one.at < lows[0].at]
    near = [one for one in ahead if _whole_minutes(lows[0].at - one.at) <= 15]
    beyond = [one for one in merged if one.at - lows[-1].at > 0 and _whole_minutes(one.at - lows[-1].at) <= 15]
    if datetime.fromtimestamp(episode.opened_at / 1000, UTC).astimezone(zone).hour >= 6 or inside != lows:
        return None
    if not near or not beyond or ahead[-1].below(0):
        return None
    before = max(near, key=lambda one: (_mg(one), one.at))
    after = max(beyond, key=lambda one: (_mg(one), -one.at))
    whole = [one for one in merged if before.at <= one.at <= after.at]
    if any({"below_range", "above_range"} & set(one.flags) for one in whole):
        return None
    if any(_whole_minutes(new.at - old.at) > 15 for old, new in pairwise(whole)):
        return None
    depth = round(min(_mg(before), _mg(after)) - min(map(_mg, whole)), 6)
    lasted = _whole_minutes(after.at - whole[1].at)
    drop = _mg(before) - min(_mg(one) for one in whole if _whole_minutes(one.at - before.at) <= 15)
    rise = _mg(after) - min(_mg(one) for one in whole if _whole_minutes(after.at - one.at) <= 15)
    if 10 <= depth <= 48 and 30 <= lasted <= 70 and min(round(drop, 6), round(rise, 6)) >= max(10, depth / 2):
        return CompressionDip(whole[1].at, after.at, depth)
    return None


def _whole_minutes(duration_ms: int) -> float:
    return duration_ms / MINUTE_MS if duration_ms % MINUTE_MS == 30_000 else round(duration_ms / MINUTE_MS)


def _mg(reading: Reading) -> float:
    if "below_range" in reading.flags:
        return float("-inf")
    if "above_range" in reading.flags or reading.value is None:
        return float("inf")
    return reading.value if reading.unit == "mg/dL" else reading.value * 18


def random_night(seed: int) -> list[Reading]:
    """A dip of random shape with noise, a few flags, missing readings, a second sensor's unit."""
    rng = random.Random(seed)
    cadence = rng.choice(CADENCES)
    night = dip(cadence, depth=rng.randint(8, 52), minutes=rng.randint(20, 80), base=rng.randint(75, 100),
                edge=rng.choice([1, 5, 15, 40]), start=rng.randint(0, 380), after=rng.choice([5, 90]))  # fmt: skip
    found = []
    for one in night:
        if rng.random() < 0.01:
            continue
        mg = round((one.value or 0) + rng.choice([0, 0, 0, rng.randint(-3, 3)]))
        flags: tuple[str, ...] = (
            rng.choice([("below_range",), ("above_range",), ("artifact",)]) if rng.random() < 0.01 else ()
        )
        mmol = rng.random() < 0.1
        found.append(Reading(one.at + rng.choice([0, 0, 1000, -1000]), mg / 18 if mmol else mg,
                             "mmol/L" if mmol else "mg/dL", flags))  # fmt: skip
    return found


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_agrees_with_the_plain_reference(zone: str) -> None:
    dips, alerts_seen = 0, 0
    history = ZoneHistory.of(zone)
    for seed in range(1000):
        readings = random_night(seed)
        series, alerts = episodes(readings, history)
        for alert in alerts:
            found = compression_dip(series, history, alert)
            assert found == plain_dip(readings, ZoneInfo(zone), alert), seed
            dips, alerts_seen = dips + (found is not None), alerts_seen + 1
    assert dips > (100 if zone == "UTC" else 10)
    assert alerts_seen > 2 * dips


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), flags=FLAGS, row=st.integers(0, 300))
def test_order_and_batch_of_readings_change_nothing(seed: int, flags: tuple[str, ...], row: int) -> None:
    readings = random_night(seed)
    flagged = readings[row % len(readings)]
    readings[row % len(readings)] = Reading(flagged.at, flagged.value, flagged.unit, flags)
    series, alerts = episodes(readings)
    shuffled = readings + readings[::4]
    random.Random(seed).shuffle(shuffled)
    for alert in alerts:
        assert annotated(glucose_series(shuffled), UTC_ALWAYS, alert, lower_severity=True) == annotated(
            series, UTC_ALWAYS, alert, lower_severity=True
        )


# Alerts, those annotated, those of them that may become less severe. Nobody knows which were compression lows.
RECORDED = {
    "cgm_shanghai_t1dm": ("Asia/Shanghai", (37, 0, 0)),
    "cgm_cgmanalyzer_zhang2018": ("UTC", (12, 3, 3)),
    "cgm_cgmanalysis_vigers": ("UTC", (7, 1, 1)),
}


@pytest.mark.parametrize("folder", RECORDED)
def test_recordings(folder: str) -> None:
    zone, wanted = RECORDED[folder]
    if not (RECORDINGS / folder).exists():
        pytest.skip("the recordings are not here")
    history = ZoneHistory.of(zone)
    alerts = dips = lowered = 0
    for recorded in recorded_subjects(RECORDINGS / folder, zone).values():
        series = merge(recorded)
        state, found = NocturnalHypoglycaemia().fold(None, series, history, {})
        for alert in final_episodes([found], state):
            told = annotated(series, history, alert, lower_severity=True)
            alerts += 1
            dips += "compression_depth_mg_dl" in told.evidence
            lowered += told.severity is not alert.severity
    assert (alerts, dips, lowered) == wanted
