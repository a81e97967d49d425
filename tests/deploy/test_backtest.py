"""`vigil backtest`: recordings as they come, the episodes and the burden, what it refuses."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from deploy.cli import main
from deploy.recordings import SKIP_EMPTY, SKIP_IMPLAUSIBLE, SKIP_REPEATED, RecordingError, read_recording
from devices.vocabulary import Code, Flag
from streaming.zones import ZoneHistory
from tests.recordings import RECORDINGS

BERLIN = ZoneHistory.of("Europe/Berlin")
HEADER = "time,code,value,unit,flags,patient"


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str, header: str = HEADER) -> Path:
        path = tmp_path / "ward.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def backtest(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["backtest", *map(str, arguments)])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return run


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# Reading recordings --------------------------------------------------------------------------------------------------


def test_times_are_in_the_zone_unless_they_say_otherwise(recording: Callable[..., Path]) -> None:
    path = recording(
        "2026-06-01T03:10:00,glucose,5.1,mmol/L,,a",
        "2026-06-01 03:20,glucose,5.2,mmol/L,,a",
        "2026-06-01T03:00:00Z,glucose,92,mg/dL,,a",
        "2026-10-25T02:30,glucose,5.4,mmol/L,,a",
        "2026-10-25T02:30+01:00,glucose,5.5,mmol/L,,a",
        "2026-06-01T03:10:00.250,heart_rate,61,/min,,a",
    )
    glucose, heart = read_recording(path, BERLIN).series
    assert glucose.at.tolist() == [
        ms("2026-06-01T03:10+02:00"), ms("2026-06-01T03:20+02:00"), ms("2026-06-01T05:00+02:00"),
        ms("2026-10-25T02:30+02:00"), ms("2026-10-25T02:30+01:00"),
    ]  # fmt: skip
    assert glucose.value.tolist() == [5.1, 5.2, 92, 5.4, 5.5]
    assert (heart.code, heart.at.tolist()) == (Code.HEART_RATE, [ms("2026-06-01T03:10:00.250+02:00")])


def test_what_is_skipped_is_counted_and_the_first_of_equal_times_counts(recording: Callable[..., Path]) -> None:
    path = recording(
        "2026-06-01T03:20,glucose,5.2,mmol/L",
        "2026-06-01T03:10,glucose,,mmol/L",
        "2026-06-01T03:10,glucose,0,mmol/L",
        "2026-06-01T03:10,glucose,Low,mmol/L",
        "2026-06-01T03:10,glucose,nan,mmol/L",
        "2026-06-01T03:10,glucose,4.5,mmol/L",
        "2026-06-01T03:10,glucose,3.5,mmol/L",
        "2026-06-01T03:15,glucose,,mmol/L,below_range",
        "2026-06-01T03:16,glucose,0,mmol/L,below_range|off_body",
        "2026-06-01T03:17,glucose,,mmol/L,warmup",
    )
    read = read_recording(path, BERLIN)
    assert read.skipped == {SKIP_EMPTY: 2, SKIP_IMPLAUSIBLE: 3, SKIP_REPEATED: 1}
    (series,) = read.series
    np.testing.assert_array_equal(series.value, [4.5, np.nan, np.nan, 5.2])
    assert series.flags.tolist() == [0, Flag.BELOW_RANGE, Flag.BELOW_RANGE | Flag.OFF_BODY, 0]
    assert series.patient == "ward"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("yesterday,glucose,5,mmol/L", "line 2: 'yesterday' is not a time"),
        ("1066-10-14,glucose,5,mmol/L", "line 2: nothing was recorded in the year 1066"),
        ("2026-06-01,sugar,5,mmol/L", "line 2: unknown code 'sugar'"),
        ("2026-06-01,glucose,5,g", "line 2: glucose is not measured in 'g' but in mmol/L, mg/dL"),
        ("2026-06-01,heart_rate,5,ms", "line 2: heart_rate is not measured in 'ms' but in /min"),
        ("2026-06-01,glucose,5,mmol/L,odd", "line 2: unknown flag 'odd'"),
        ("2026-06-01", "line 2: unknown code ''"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(recording: Callable[..., Path], line: str, complaint: str) -> None:
    with pytest.raises(RecordingError, match=r"ward\.csv") as refused:
        read_recording(recording(line), BERLIN)
    assert complaint in str(refused.value)


def test_files_that_are_no_recordings(recording: Callable[..., Path], tmp_path: Path) -> None:
    good = "2026-06-01T03:10,glucose,5,mmol/L"
    with pytest.raises(RecordingError, match="the header lacks code, unit"):
        read_recording(recording(good, header="time,value"), BERLIN)
    with pytest.raises(RecordingError, match="more rows"):
        read_recording(recording(good, good, good), BERLIN, max_rows=2)
    path = tmp_path / "image.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecordingError, match="not UTF-8"):
        read_recording(path, BERLIN)
    path.write_text("time,code,value,unit\n" + "x" * 200_000, encoding="utf-8")
    with pytest.raises(RecordingError, match="not CSV"):
        read_recording(path, BERLIN)
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match="the header lacks time, code, value, unit"):
        read_recording(path, BERLIN)


# The command ---------------------------------------------------------------------------------------------------------


def test_prints_one_json_object(recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]) -> None:
    path = recording(
        "2026-10-25T02:50,glucose,3.8,mmol/L,,a",  # the first 02:50 of that night
        "2026-10-25T03:00,glucose,3.0,mmol/L,,a",
        "2026-10-25T03:05,glucose,4.0,mmol/L,,a",
        "2026-10-25T03:10,glucose,,mmol/L,,a",
        "2026-10-25T03:20,glucose,4.1,mmol/L,,a",
        "2026-10-25T12:00,glucose,3.5,mmol/L,,a",
        "2026-10-26T01:00,glucose,71.5,mg/dL,,b",
    )
    code, out, err = backtest(path, "--timezone", "Europe/Berlin", "--json")
    assert (code, err) == (0, "skipped 1 rows: empty\n")
    rule = "nocturnal_hypoglycaemia"
    told = json.loads(out)
    assert set(told) == {"episodes", "burden", "score", "settings"}
    assert {name: told[name] for name in ("episodes", "burden")} == {
        "episodes": [
            {"patient": "a", "rule": rule, "severity": "urgent",
             "opened_at": "2026-10-25T02:50:00+02:00", "resolved_at": "2026-10-25T03:20:00+01:00"},
            {"patient": "b", "rule": rule, "severity": "high",
             "opened_at": "2026-10-26T01:00:00+01:00", "resolved_at": None},
        ],
        "burden": {rule: {"alarms": 2, "patients": 2, "patient_days": 2, "patient_nights": 2,
                          "alarms_per_patient_day": 1.0, "alarms_per_patient_night": 1.0},
                   "urgent_low": {"alarms": 0, "patients": 2, "patient_days": 2, "patient_nights": 2,
                                  "alarms_per_patient_day": 0.0, "alarms_per_patient_night": 0.0}},
    }  # fmt: skip


def test_prints_tables(recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = backtest(recording("2026-06-01T03:10,glucose,3.5,mmol/L,,a"), "--timezone", "Asia/Shanghai")
    assert code == 0
    for words in ("nocturnal_hypoglycaemia", "2026-06-01T03:10:00+08:00", "high", "open", "burden"):
        assert words in out
    code, out, _ = backtest(recording("2026-06-01T03:10,glucose,5,mmol/L,,a"), "--timezone", "Asia/Shanghai")
    assert code == 0
    assert "no episodes" in out


def test_wrong_usage_is_two_and_a_bad_file_one(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording("2026-06-01T03:10,glucose,5,mmol/L")
    for wrong in (["--timezone", "Mars/Olympus"], ["--timezone", "UTC", "--rule", "weather"], []):
        assert backtest(path, *wrong)[0] == 2
    code, out, err = backtest(recording("2026-06-01T03:10,glucose,5,litres"), "--timezone", "UTC")
    assert (code, out) == (1, "")
    assert err.startswith("vigil: ")
    assert len(err.splitlines()) == 1


def test_runs_drift_over_recorded_rr_intervals(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    rng = np.random.default_rng(4)
    lines = []
    for night in range(19):
        at = datetime(2026, 6, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai")) + timedelta(days=night)
        spread = 40 * np.exp(rng.normal(0, 0.1)) if night < 16 else 12
        for interval in np.round(1400 + rng.normal(0, spread, 90 * 43)).tolist():
            at += timedelta(milliseconds=interval)
            lines.append(f"{at.isoformat()},rr_interval,{interval / 1000},s,,a")
    path = recording(*lines)
    code, out, _ = backtest(path, "--timezone", "Asia/Shanghai", "--json", "--rule", "hrv_drift")
    told = json.loads(out)
    assert code == 0
    assert [(one["rule"], one["opened_at"]) for one in told["episodes"]] == [("hrv_drift", "2026-06-19T06:00:00+08:00")]
    assert told["burden"]["hrv_drift"]["patient_nights"] == 19


@pytest.mark.parametrize(
    ("folder", "zone", "alerts"),
    [("cgm_shanghai_t1dm", "Asia/Shanghai", 37), ("cgm_cgmanalyzer_zhang2018", "UTC", 12),
     ("cgm_cgmanalysis_vigers", "UTC", 7)],
)  # fmt: skip
def test_recordings_from_file_to_episodes(
    folder: str,
    zone: str,
    alerts: int,
    recording: Callable[..., Path],
    backtest: Callable[..., tuple[int, str, str]],
) -> None:
    source = RECORDINGS / folder
    if not source.exists():
        pytest.skip("the recordings are not here")
    with gzip.open(source / "cgm_normalised.csv.gz", "rt") as file:
        path = recording(
            *(f"{row['timestamp_local']},glucose,{row['glucose_raw']},{row['unit']},,{row['subject']}"
              for row in csv.DictReader(file))
        )  # fmt: skip
    _, out, _ = backtest(path, "--timezone", zone, "--json", "--group", "fluctuating")
    told: dict[str, Any] = json.loads(out)
    with (source / "night_alerts_expected.csv").open() as file:
        wanted = sorted((row["subject"], row["opened_at"], row["resolved_at"]) for row in csv.DictReader(file))
    found = sorted(
        (one["patient"], one["opened_at"][:19], (one["resolved_at"] or "")[:19])
        for one in told["episodes"]
        if one["rule"] == "nocturnal_hypoglycaemia"
    )
    assert found == wanted
    assert told["burden"]["nocturnal_hypoglycaemia"]["alarms"] == alerts
