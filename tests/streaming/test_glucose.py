"""The nocturnal rule: against a slow reference, in any split, by the clock of the patient's zone."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.vocabulary import CODES, UNIT_BY_UCUM, Code, Unit
from gateway.runtime import clock
from streaming.episodes import Episode, Severity, settled_before
from streaming.glucose.values import low_mask, merge
from streaming.limits.excursions import Excursion
from streaming.limits.lows import NocturnalHypoglycaemia
from streaming.readings import Float64, Int16, ReadingSeries
from streaming.rules.settings import NocturnalSettings
from streaming.zones import ZoneHistory
from tests.recordings import RECORDINGS
from tests.streaming.nocturnal_reference import Alert, Reading, lowest_per_instant, nocturnal_alerts
from tests.streaming.series import MINUTE_MS, ZONES, glucose_series, readings_of_one_patient, synthetic_nights

RULE = NocturnalHypoglycaemia()
UTC_ALWAYS = ZoneHistory.of("UTC")
MIDNIGHT = 1_790_812_800_000  # 2026-10-01T00:00Z


def fold(
    state: Excursion | None, series: ReadingSeries, zone: ZoneHistory, rule: NocturnalHypoglycaemia = RULE
) -> tuple[Excursion | None, list[Episode]]:
    return rule.fold(state, merge(series, rule.limits), zone, {})


def as_alerts(episodes: list[Episode]) -> list[Alert]:
    return [
        Alert(
            found.opened_at,
            found.resolved_at,
            found.severity is Severity.URGENT,
            int(str(found.evidence["lows"])),
            int(str(found.evidence["lowest_at"])),
        )
        for found in episodes
    ]


def final_episodes(parts: list[list[Episode]], state: Excursion | None) -> list[Episode]:
    """Return what stands at the end when each part's episodes replace earlier versions, as the store keeps them."""
    standing = {episode.opened_at: episode for part in parts for episode in part}
    if state is not None and state.episode is not None:
        standing[state.episode.opened_at] = state.episode
    return [standing[opened_at] for opened_at in sorted(standing)]


def night(*readings: tuple[int, float], unit: Unit = Unit.MMOL_L) -> ReadingSeries:
    """Return readings as (minutes after local midnight in UTC, value)."""
    return glucose_series([Reading(MIDNIGHT + minute * MINUTE_MS, value, unit.ucum) for minute, value in readings])


def minutes(episode: Episode) -> tuple[int, int | None]:
    end = None if episode.resolved_at is None else (episode.resolved_at - MIDNIGHT) // MINUTE_MS
    return (episode.opened_at - MIDNIGHT) // MINUTE_MS, end


@given(readings=readings_of_one_patient(), zone=st.sampled_from(ZONES))
def test_agrees_with_the_slow_reference(readings: list[Reading], zone: str) -> None:
    state, found = fold(None, glucose_series(readings), ZoneHistory.of(zone))
    assert as_alerts(final_episodes([found], state)) == nocturnal_alerts(readings, ZoneInfo(zone))
    assert (state is None) == (not found or found[-1].resolved_at is not None)


@given(readings=readings_of_one_patient(), zone=st.sampled_from(ZONES), data=st.data())
def test_any_split_gives_the_same(readings: list[Reading], zone: str, data: st.DataObject) -> None:
    series, history = merge(glucose_series(readings)), ZoneHistory.of(zone)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(series)), max_size=8)))
    state: Excursion | None = None
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(series)], strict=True):
        state, found = fold(state, series.take(slice(start, end)), history)
        parts.append(found)
    whole_state, whole = fold(None, series, history)
    assert state == whole_state
    assert final_episodes(parts, state) == final_episodes([whole], whole_state)


@given(readings=readings_of_one_patient(), order=st.randoms(use_true_random=False))
def test_merge_orders_and_keeps_the_lowest_of_each_instant(readings: list[Reading], order: object) -> None:
    merged = merge(glucose_series(readings))
    wanted = lowest_per_instant(readings)
    assert merged.at.tolist() == [reading.at for reading in wanted]
    shuffled = list(readings)
    getattr(order, "shuffle")(shuffled)  # noqa: B009 (hypothesis types it as object)
    again = merge(glucose_series(shuffled))
    for limit in (4.0, 3.1):
        lows = low_mask(merged.value, merged.unit, merged.flags, limit).tolist()
        assert lows == [reading.below(0 if limit == 4.0 else 1) for reading in wanted]
        assert lows == low_mask(again.value, again.unit, again.flags, limit).tolist()


@given(readings=readings_of_one_patient(), late=st.integers(0, 59))
def test_a_late_reading_is_mended_from_the_settled_point(readings: list[Reading], late: int) -> None:
    """What the gateway does: fold without the late reading, then again from the settled point before it."""
    readings = lowest_per_instant(readings)
    if not readings:
        return
    missing = readings[late % len(readings)]
    state, found = fold(None, glucose_series([r for r in readings if r is not missing]), UTC_ALWAYS)
    before = final_episodes([found], state)
    settled = settled_before(before, missing.at)
    state, refolded = fold(None, glucose_series([r for r in readings if r.at >= settled]), UTC_ALWAYS)
    mended = [old for old in before if old.opened_at < settled] + final_episodes([refolded], state)
    assert as_alerts(mended) == nocturnal_alerts(readings, ZoneInfo("UTC"))


def test_opens_at_once_and_resolves_after_a_quarter_of_an_hour() -> None:
    state, found = fold(None, night((190, 4.2), (195, 3.8)), UTC_ALWAYS)
    assert [minutes(one) for one in found] == [(195, None)]
    assert found[0].severity is Severity.HIGH
    assert state is not None
    state, found = fold(state, night((200, 4.0), (205, 3.9), (210, 4.0), (220, 4.4)), UTC_ALWAYS)
    assert found == []
    state, found = fold(state, night((225, 4.3), (230, 3.7)), UTC_ALWAYS)
    assert [minutes(one) for one in found] == [(195, 225), (230, None)]
    assert found[0].evidence == {
        "lowest_value": 3.8, "lowest_unit": "mmol/L", "lowest_at": MIDNIGHT + 195 * MINUTE_MS, "lows": 2,
    }  # fmt: skip


def test_fifteen_minute_sampling_recovers_with_two_readings() -> None:
    _, found = fold(None, night((60, 3.5), (75, 4.5), (90, 4.5)), UTC_ALWAYS)
    assert [minutes(one) for one in found] == [(60, 90)]


@pytest.mark.parametrize(
    ("value", "unit", "severity"),
    [
        (72, Unit.MG_DL, None), (71.9, Unit.MG_DL, Severity.HIGH), (55, Unit.MG_DL, Severity.HIGH),
        (54, Unit.MG_DL, Severity.URGENT), (4.0, Unit.MMOL_L, None), (3.996, Unit.MMOL_L, Severity.HIGH),
        (3.1, Unit.MMOL_L, Severity.HIGH), (3.09, Unit.MMOL_L, Severity.URGENT),
    ],
)  # fmt: skip
def test_limits_compare_in_the_unit_of_the_sensor(value: float, unit: Unit, severity: Severity | None) -> None:
    _, found = fold(None, night((120, value), unit=unit), UTC_ALWAYS)
    assert [one.severity for one in found] == ([] if severity is None else [severity])


def test_the_night_is_half_open() -> None:
    for minute, opens in ((-1, False), (0, True), (359, True), (360, False)):
        _, found = fold(None, night((minute, 3.5)), UTC_ALWAYS)
        assert bool(found) is opens


def test_an_episode_goes_on_into_the_day() -> None:
    _, found = fold(None, night((355, 3.5), (370, 2.9), (400, 4.1), (415, 4.1)), UTC_ALWAYS)
    assert [(minutes(one), one.severity) for one in found] == [((355, 415), Severity.URGENT)]


def test_lo_is_urgent_and_hi_is_recovery_whatever_the_number_says() -> None:
    readings = [
        Reading(MIDNIGHT, 9.0, flags=("below_range",)),
        Reading(MIDNIGHT + 5 * MINUTE_MS, 2.0, flags=("above_range",)),
        Reading(MIDNIGHT + 20 * MINUTE_MS, None, flags=("above_range",)),
    ]
    _, found = fold(None, glucose_series(readings), UTC_ALWAYS)
    assert [(minutes(one), one.severity) for one in found] == [((0, 20), Severity.URGENT)]
    assert found[0].evidence["lowest_value"] is None


def test_silence_never_resolves() -> None:
    state, _ = fold(None, night((60, 3.5), (75, 4.5)), UTC_ALWAYS)
    assert state is not None
    assert state.episode is not None
    assert state.episode.resolved_at is None


def test_a_late_reading_is_refused_rather_than_folded_wrongly() -> None:
    state, _ = fold(None, night((60, 3.5)), UTC_ALWAYS)
    with pytest.raises(ValueError, match="late"):
        fold(state, night((55, 3.5)), UTC_ALWAYS)


def test_a_night_across_midnight_and_other_limits() -> None:
    rule = NocturnalHypoglycaemia(NocturnalSettings(limit_mmol=3.5, night_start_minute=22 * 60))
    opens = []
    for minute in (-121, -120, -1, 359, 360):
        _, found = fold(None, night((minute, 62.9), unit=Unit.MG_DL), UTC_ALWAYS, rule)
        opens.append(bool(found))
    assert opens == [False, True, True, True, False]
    assert not rule.candidates(*arrays(night((0, 63), unit=Unit.MG_DL))).any()


@pytest.mark.parametrize("wrong", [{"limit_mmol": 3.0}, {"urgent_limit_mmol": 0.0}, {"night_end_minute": 1441},
                                   {"recovery_minutes": -1.0}])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|cannot"):
        NocturnalSettings(**wrong)  # type: ignore[arg-type]


def arrays(series: ReadingSeries) -> tuple[Float64, Int16, Int16]:
    return series.value, series.unit, series.flags


@given(readings=readings_of_one_patient())
def test_only_candidates_can_open(readings: list[Reading]) -> None:
    series = glucose_series(readings)
    state, found = fold(None, series.take(~RULE.candidates(*arrays(series))), UTC_ALWAYS)
    assert (state, found) == (None, [])


@pytest.mark.parametrize("cadence", [1, 3, 5, 15])
@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Europe/Berlin", "America/New_York"])
def test_synthetic_months(cadence: int, zone: str) -> None:
    """The recordings' twin: a seeded month around both clock changes."""
    for start in (1_773_000_000_000, 1_791_500_000_000):
        readings = synthetic_nights(cadence, 30, cadence, start)
        state, found = fold(None, glucose_series(readings), ZoneHistory.of(zone))
        wanted = nocturnal_alerts(readings, ZoneInfo(zone))
        assert len(wanted) > 10
        assert as_alerts(final_episodes([found], state)) == wanted


def test_folding_many_quiet_readings_is_vectorised() -> None:
    rows = 100_000
    series = ReadingSeries(
        at=MIDNIGHT + np.arange(rows, dtype=np.int64) * 5 * MINUTE_MS,
        value=np.full(rows, 6.0),
        unit=np.full(rows, Unit.MMOL_L, dtype=np.int16),
        flags=np.zeros(rows, dtype=np.int16),
    )
    before = clock.cpu_seconds()
    assert fold(None, series, ZoneHistory.of("Europe/Berlin")) == (None, [])
    assert clock.cpu_seconds() - before < 0.25  # a loop over the rows takes ten times as long


@pytest.mark.parametrize(
    ("folder", "zone", "alerts"),
    [("cgm_shanghai_t1dm", "Asia/Shanghai", 37), ("cgm_cgmanalyzer_zhang2018", "UTC", 12),
     ("cgm_cgmanalysis_vigers", "UTC", 7)],
)  # fmt: skip
def test_recordings_alert_exactly_when_expected(folder: str, zone: str, alerts: int) -> None:
    path = RECORDINGS / folder
    if not path.exists():
        pytest.skip("the recordings are not here")
    found = sorted(
        (subject, local(episode.opened_at, zone), local(episode.resolved_at, zone))
        for subject, series in recorded_subjects(path, zone).items()
        for state, episodes in [fold(None, series, ZoneHistory.of(zone))]
        for episode in final_episodes([episodes], state)
    )
    with (path / "night_alerts_expected.csv").open() as file:
        wanted = sorted((row["subject"], row["opened_at"], row["resolved_at"]) for row in csv.DictReader(file))
    assert found == wanted
    assert len(found) == alerts


def local(at_ms: int | None, zone: str) -> str:
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M:%S")


def recorded_subjects(path: Path, zone: str) -> dict[str, ReadingSeries]:
    """Return the plausible readings of each subject; of repeated time stamps the first."""
    readings: dict[str, dict[int, Reading]] = defaultdict(dict)
    with gzip.open(path / "cgm_normalised.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            limits = CODES[Code.GLUCOSE].units[UNIT_BY_UCUM[row["unit"]]]
            value = float(row["glucose_raw"])
            if limits.minimum <= value <= limits.maximum:
                at = datetime.fromisoformat(row["timestamp_local"]).replace(tzinfo=ZoneInfo(zone))
                at_ms = round(at.timestamp() * 1000)
                readings[row["subject"]].setdefault(at_ms, Reading(at_ms, value, row["unit"]))
    return {subject: glucose_series(list(series.values())) for subject, series in readings.items()}
