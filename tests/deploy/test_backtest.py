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


# Settings, scores, side by side --------------------------------------------------------------------------------------


def night_of(patient: str, *values: float, start: str = "2026-06-02T02:00", minutes: int = 5) -> list[str]:
    """Lines of readings every few minutes."""
    since = datetime.fromisoformat(start)
    return [
        f"{(since + timedelta(minutes=minutes * row)).isoformat()},glucose,{value},mmol/L,,{patient}"
        for row, value in enumerate(values)
    ]


LOW_NIGHT = [*[6.0] * 6, *[3.95] * 3, *[6.0] * 6, *[3.5] * 6, *[6.0] * 12]
"""Two alarms of the nocturnal rule: at 02:30, which the consensus calls no low, and at 03:15."""


def test_settings_are_those_of_options(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(*night_of("a", *LOW_NIGHT), *night_of("b", 20, 20, 20, 20, 20, start="2026-06-02T12:00"))
    zone = ("--timezone", "Asia/Shanghai", "--json")
    rule = "nocturnal_hypoglycaemia"
    plain = json.loads(backtest(path, *zone)[1])
    assert [one["opened_at"][11:16] for one in plain["episodes"]] == ["02:30", "03:15"]
    assert plain["settings"]["rules"][rule]["limit_mmol"] == 4.0
    assert set(plain["burden"]) == {rule, "urgent_low"}
    lower = json.loads(backtest(path, *zone, "--set", f"{rule}.limit_mmol=3.9", "--rule", rule)[1])
    assert [one["opened_at"][11:16] for one in lower["episodes"]] == ["03:15"]
    assert lower["settings"]["rules"][rule]["limit_mmol"] == 3.9
    assert set(lower["burden"]) == {rule}
    high = json.loads(backtest(path, *zone, "--rule", "hyperglycaemia")[1])
    assert [(one["patient"], one["rule"], one["opened_at"][11:16]) for one in high["episodes"]] == [
        ("b", "hyperglycaemia", "12:15")
    ]
    assert json.loads(backtest(path, *zone, "--group", "fluctuating", "--patient", "a")[1])["burden"].keys() == {
        rule, "urgent_low", "hypoglycaemia", "predicted_low", "hyperglycaemia"
    }  # fmt: skip
    silent = json.loads(backtest(path, *zone, "--off", rule, "--off", "urgent_low")[1])
    assert (silent["episodes"], silent["burden"]) == ([], {})


def test_limits_of_other_vital_signs(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(
        "2026-06-02T08:00,systolic_pressure,150,mm[Hg],,a",
        "2026-06-03T08:00,systolic_pressure,165,mm[Hg],,a",
        "2026-06-04T08:00,systolic_pressure,18.0,kPa,,a",
    )
    limits = 'threshold.limits=[{"code": "systolic_pressure", "high": 160}]'
    code, out, _ = backtest(path, "--timezone", "UTC", "--json", "--rule", "threshold", "--set", limits)
    told = json.loads(out)
    assert code == 0
    assert told["episodes"] == [
        {"patient": "a", "rule": "threshold", "severity": "medium", "opened_at": "2026-06-03T08:00:00+00:00",
         "resolved_at": "2026-06-04T08:00:00+00:00", "subject": "systolic_pressure:high"}
    ]  # fmt: skip
    assert told["burden"]["threshold"]["patient_days"] == 3
    assert told["score"]["threshold"] == {"reference": None, "alarms": 1, "data_unknown": 1}


def test_scores_against_the_consensus(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(*night_of("a", *LOW_NIGHT), *night_of("b", 6, 6, 6))
    told = json.loads(backtest(path, "--timezone", "Asia/Shanghai", "--json")[1])
    assert told["score"]["nocturnal_hypoglycaemia"] == {
        "reference": "consensus", "alarms": 2, "data_unknown": 0, "events": 1, "detected": 1, "spoken_for": 0,
        "sensitivity": 1.0, "false_alarms": 1, "false_alarms_per_patient_day": 0.5,
        "false_alarms_per_patient_night": 0.5, "lead_minutes": 15.0,
    }  # fmt: skip


def test_scores_against_what_the_clinic_says(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path, events = recording(*night_of("a", *LOW_NIGHT)), tmp_path / "events.csv"
    run = (path, "--timezone", "Asia/Shanghai", "--json", "--events", events)
    events.write_text(
        "patient,rule,start,end\n"
        "a,nocturnal_hypoglycaemia,2026-06-02T02:20,2026-06-02T02:40\n"
        "a,nocturnal_hypoglycaemia,2026-06-02T05:00+08:00,\n"
    )
    score = json.loads(backtest(*run)[1])["score"]
    assert (score["urgent_low"]["reference"], score["nocturnal_hypoglycaemia"]["reference"]) == ("consensus", "events")
    wanted = {"events": 2, "detected": 1, "sensitivity": 0.5, "false_alarms": 1, "lead_minutes": -10.0}
    assert score["nocturnal_hypoglycaemia"].items() >= wanted.items()
    for line, complaint in (
        ("b,nocturnal_hypoglycaemia,2026-06-02T02:20,", "there is no patient 'b'"),
        ("a,weather,2026-06-02T02:20,", "'weather' is not one of the rules"),
        ("a,urgent_low,soon,", "'soon' is not a time"),
        ("a,urgent_low,2026-06-02T02:20,2026-06-02T02:10", "it ends before it starts"),
    ):
        events.write_text(f"patient,rule,start,end\n{line}\n")
        code, out, err = backtest(*run)
        assert (code, out) == (1, "")
        assert f"line 2: {complaint}" in err


def test_several_settings_side_by_side(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(*night_of("a", *LOW_NIGHT), *night_of("b", *[3.5] * 6))
    rule = "nocturnal_hypoglycaemia"
    run = (path, "--timezone", "Asia/Shanghai", "--rule", rule)
    against = (f"--rule {rule} --set {rule}.limit_mmol=3.9", f"--off={rule} --rule hypoglycaemia")
    options = [word for text in against for word in ("--against", text)]
    told = json.loads(backtest(*run, "--json", *options)[1])
    assert set(told) == {"episodes", "burden", "score", "settings", "against"}
    lower, other = told["against"]
    assert [one["settings"]["options"] for one in (lower, other)] == list(against)
    found = lower["differences"][rule]
    assert (found["both"], [one["opened_at"][11:16] for one in found["only_first"]], found["only_second"]) == (
        2, ["02:30"], [],
    )  # fmt: skip
    assert {name: one["both"] for name, one in other["differences"].items()} == {rule: 0, "hypoglycaemia": 0}
    assert len(other["differences"]["hypoglycaemia"]["only_second"]) == 2
    out = backtest(*run, *options)[1]
    assert "2 in both, 1 only with" in " ".join(out.split())
    assert out.count("--rule hypoglycaemia") >= 1


def test_beside_each_other_all_alarms_are_counted_and_only_rules_that_run(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    """An hour of 7.5 before 06:00: a high fasting glucose, which the consensus is not about, is an alarm all the same."""
    path = recording(*night_of("a", *[7.5] * 24, start="2026-06-02T04:00"))
    out = backtest(path, "--timezone", "UTC", "--against", "--rule hyperglycaemia", "--against", "--off urgent_low")[1]
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "hyperglycaemia alarms – 1 –" in lines
    assert lines[lines.index("hyperglycaemia alarms – 1 –") + 1] == "per day – 1.0 –"
    assert [line.partition(":")[0] for line in lines if " in both, " in line].count("hyperglycaemia") == 1


def test_settings_that_mean_nothing_are_wrong_usage(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(*night_of("a", 6))
    for wrong, complaint in (
        (["--set", "urgent_low.limit"], "RULE.FIELD=VALUE"),
        (["--set", "urgent_low.limit=3"], "no setting 'limit'"),
        (["--set", "urgent_low.limit_mmol=low"], "must be a number"),
        (["--set", "urgent_low.enabled=false"], "--on and --off"),
        (["--set", "hypoglycaemia.limit_mmol=3.8"], "hypoglycaemia is off"),
        (["--on", "urgent_low", "--off", "urgent_low"], "on and off at once"),
        (["--off", "device_offline"], "is not one of the rules"),
        (["--group", "old"], "--group must be one of"),
        (["--patient", "b"], "'b' is not in"),
        (["--from", "2026-06-02"], "are for --stored"),
        (["--against", "--verbose"], "'--verbose' is not one of"),
        (["--against", "--set"], "--set needs a value"),
        (["--against", "--set '"], "cannot be split"),
    ):
        code, out, err = backtest(path, "--timezone", "UTC", *wrong)
        assert (code, out) == (2, "")
        assert complaint in " ".join(err.replace("│", " ").split()), wrong


def test_silence_is_told_when_asked_for(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]]
) -> None:
    path = recording(
        *night_of("a", 6, 6, 6, start="2026-06-02T01:50"),
        *night_of("a", 6, start="2026-06-02T02:30"),
        *night_of("a", 6, start="2026-06-06T12:00"),
    )
    told = json.loads(backtest(path, "--timezone", "Asia/Shanghai", "--json", "--rule", "data_silence")[1])
    found = [(one["subject"], one["opened_at"][5:16], one["resolved_at"][5:16]) for one in told["episodes"]]
    assert ("glucose:night", "06-02T02:20", "06-02T02:30") in found
    assert ("glucose", "06-05T02:30", "06-06T12:00") in found
    assert "data_silence" not in json.loads(backtest(path, "--timezone", "UTC", "--json")[1])["burden"]


# Pictures ------------------------------------------------------------------------------------------------------------


def test_draws_the_night_of_the_first_alarm(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = recording(*night_of("a", *[6.0] * 30), *night_of("b", *LOW_NIGHT, start="2026-06-05T22:30"))
    run = (path, "--timezone", "Asia/Shanghai", "--rule", "nocturnal_hypoglycaemia", "--picture")
    svg, png = tmp_path / "night.svg", tmp_path / "night.PNG"
    assert backtest(*run, svg, "--set", "nocturnal_hypoglycaemia.night_start_minute=1320")[0] == 0
    drawn = svg.read_text()
    for words in ("<svg", "5–6 Jun 2026", "nocturnal hypoglycaemia", "Glucose low at night since 23:00"):
        assert words in drawn
    assert backtest(*run, png, "--night", "2026-06-02", "--patient", "a")[0] == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_pictures_that_cannot_be_drawn(
    recording: Callable[..., Path], backtest: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = recording("2026-06-02T08:00,systolic_pressure,150,mm[Hg],,a")
    run = (path, "--timezone", "UTC", "--picture")
    assert backtest(*run, tmp_path / "night.gif")[0] == 2
    assert backtest(*run, tmp_path / "night.svg", "--night", "tonight")[0] == 2
    assert backtest(path, "--timezone", "UTC", "--night", "2026-06-02")[0] == 2
    code, out, err = backtest(*run, tmp_path / "night.svg")
    assert (code, err) == (1, "vigil: there is no glucose to draw\n")
    assert "no episodes" in out
    path = recording(*night_of("a", 6, 6))
    code, out, err = backtest(path, "--timezone", "UTC", "--picture", tmp_path / "away" / "night.svg")
    assert (code, "no episodes" in out) == (1, True)
    assert err.startswith("vigil: ")
