"""The provisioning commands as a shell sees them: exit codes, one JSON object, sentences for refusals."""

import io
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from deploy.cli import main
from gateway.runtime import clock

Vigil = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vigil(
    database_url: str, mqtt_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Vigil:
    """Run a command line; return exit code, stdout and stderr."""
    monkeypatch.setenv("VIGIL_DATABASE_URL", database_url)
    monkeypatch.setenv("VIGIL_MQTT_URL", mqtt_url)

    def run(line: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def done(vigil: Vigil, line: str, stdin: str = "") -> Any:
    code, out, err = vigil(f"{line} --json", stdin)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_clinic_is_set_up_from_the_shell(vigil: Vigil) -> None:
    line = "patient add --name Ana --timezone Asia/Shanghai --hypoglycaemia-risk --expected glucose=5"
    ana = done(vigil, line)["id"]
    bob = done(vigil, "patient add --name Bob --timezone UTC --no-consent")["id"]
    assert isinstance(ana, str)
    assert done(vigil, "device add --id edge-1 --model edge")["id"] == "edge-1"
    place = "--address aa:bb:cc:dd:ee:0f --via edge-1"
    added = done(vigil, f"device add --id cgm-1 --model cgm --patient {ana} --from 2010-01-01 {place}")
    assert len(added["secret"]) == 32
    assert done(vigil, "device rotate cgm-1")["secret"] != added["secret"]
    assigned = done(vigil, f"device assign cgm-1 --patient {bob} --from 2026-01-01T00:00Z --until 2026-01-02T00:00Z")
    assert assigned["patient_id"] == bob
    done(vigil, f"device assign cgm-1 --patient {bob}")
    done(vigil, f"dose add --patient {ana} --medication Metformin --at 20:00 --at 08:00 --days mon,Fri --critical")
    done(vigil, f"patient timezone {ana} Europe/Berlin")
    done(vigil, f"patient consent {bob} --give")
    done(
        vigil,
        f"user add --email Doc@clinic.example --role doctor --patient {ana} --password-stdin",
        "long enough it is\n",
    )

    patients = done(vigil, "patient list")["items"]
    assert [(p["id"], p["timezone"], p["consent"]) for p in patients] == [
        (ana, "Europe/Berlin", True),
        (bob, "UTC", True),
    ]
    (device, edge) = done(vigil, "device list")["items"]
    assert (device["patient_id"], device["via"], device["account"], edge["patient_id"]) == (
        bob,
        "edge-1",
        "enabled",
        None,
    )
    (schedule,) = done(vigil, "dose list")["items"]
    assert (schedule["local_times"], schedule["weekdays"]) == (["08:00:00", "20:00:00"], ["mon", "fri"])
    assert (schedule["window_before"], schedule["patient_id"]) == (60, ana)
    (user,) = done(vigil, "user list")["items"]
    assert (user["email"], user["patient_ids"]) == ("doc@clinic.example", [ana])


def test_a_date_without_offset_is_the_patients_local_time(vigil: Vigil, database_url: str) -> None:
    ana = done(vigil, "patient add --name Ana --timezone Asia/Shanghai")["id"]
    done(vigil, f"device add --id wb-1 --model wristband --patient {ana} --from 2010-01-02")
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select lower(valid) at time zone 'UTC' from assignment").fetchone()
    assert str(row) == "(datetime.datetime(2010, 1, 1, 16, 0),)"


def test_rules_are_set_shown_and_reset(vigil: Vigil) -> None:
    ana = done(vigil, "patient add --name Ana --timezone UTC --group new")["id"]
    before = done(vigil, f"patient rules {ana}")
    assert (before["id"], before["group"], before["rules"]["hypoglycaemia"]["layer"]) == (ana, "new", "group")
    limits = "--limit 'heart_rate>120 for 10 high' --limit 'heart_rate < 40' --limit 'spo2<90.5 for 5 recovery 2'"
    line = f"patient rules {ana} --set urgent_low.limit_mmol=3.5 --off hypoglycaemia {limits} --note 'falls fast'"
    after = done(vigil, line)
    assert after == done(vigil, f"patient rules {ana}")
    assert after["rules"]["urgent_low"]["settings"] == {"limit_mmol": 3.5, "recovery_minutes": 15.0}
    assert not after["rules"]["hypoglycaemia"]["enabled"]
    heart, oxygen = after["rules"]["threshold"]["settings"]["limits"]
    assert heart.items() >= {"low": 40.0, "high": 120.0, "duration_minutes": 10.0, "severity": "high"}.items()
    assert oxygen.items() >= {"low": 90.5, "high": None, "duration_minutes": 5.0, "recovery_minutes": 2.0}.items()
    assert {(row["layer"], row["note"], row["changed_by"]) for row in after["history"]} == {
        ("patient", "falls fast", None)
    }
    done(vigil, "patient rules --clinic --set missed_dose.severity=low --on hyperglycaemia")
    reset = done(
        vigil, f"patient rules {ana} --reset urgent_low --set urgent_low.recovery_minutes=20 --reset threshold"
    )
    assert reset["rules"]["urgent_low"]["settings"] == {"limit_mmol": 3.1, "recovery_minutes": 20.0}
    assert not reset["rules"]["threshold"]["enabled"]
    assert (reset["rules"]["missed_dose"]["settings"]["severity"], reset["rules"]["hyperglycaemia"]["layer"]) == (
        "low",
        "clinic",
    )
    clinic = done(vigil, "patient rules --clinic")
    assert (clinic["id"], clinic["group"], len(clinic["history"])) == (None, None, 2)
    assert vigil(f"patient rules {ana} --on predicted_low --set urgent_low.limit_mmol=99")[0] == 2
    assert not done(vigil, f"patient rules {ana}")["rules"]["predicted_low"]["enabled"]
    assert "falls" in vigil(f"patient rules {ana}")[1]


def test_groups_pauses_and_what_is_expected(vigil: Vigil) -> None:
    ana = done(vigil, "patient add --name Ana --timezone Asia/Shanghai --expected glucose=5")["id"]
    assert done(vigil, f"patient group {ana} fluctuating --note 'new insulin'") == {"id": ana, "group": "fluctuating"}
    assert done(vigil, "patient list")["items"][0]["group"] == "fluctuating"
    start = (clock.now() + timedelta(days=2)).astimezone(ZoneInfo("Asia/Shanghai")).date()
    line = f"patient pause {ana} --from {start} --until {start + timedelta(days=3)} --reason 'in hospital'"
    pause = done(vigil, line)
    assert pause["from"] == datetime.combine(start, time(), ZoneInfo("Asia/Shanghai")).astimezone(UTC).isoformat()
    assert (pause["reason"], pause["ended"]) == ("in hospital", False)
    code, _, err = vigil(line)
    assert (code, "already" in err) == (1, True)
    assert done(vigil, f"patient pause {ana} --end")["ended"]
    code, _, err = vigil(f"patient pause {ana} --end")
    assert (code, err) == (1, f"vigil: patient {ana} is not paused\n")
    assert "paused from" in vigil(f"patient pause {ana} --until {start} --reason holiday")[1]
    assert "paused until" in vigil(f"patient rules {ana}")[1]
    expected = {"glucose": 15, "heart_rate": 1}
    assert done(vigil, f"patient expect {ana} glucose=15 heart_rate=1") == {"id": ana, "expected": expected}
    assert done(vigil, f"patient expect {ana} --none")["expected"] == {}


def test_a_device_says_what_it_measures_with(vigil: Vigil) -> None:
    done(vigil, "device add --id strap --model wristband --modality ecg --expected-interval 10")
    (device,) = done(vigil, "device list")["items"]
    assert (device["modality"], device["expected_interval"]) == ("ecg", 10.0)


def test_devices_are_disabled_enabled_and_taken_off(vigil: Vigil) -> None:
    ana = done(vigil, "patient add --name Ana --timezone UTC")["id"]
    done(vigil, f"device add --id wb-1 --model wristband --patient {ana} --from 2020-01-01")
    assert done(vigil, "device disable wb-1") == {"id": "wb-1", "disabled": True}
    assert done(vigil, "device list")["items"][0]["account"] == "disabled"
    done(vigil, "device enable wb-1")
    done(vigil, "device unassign wb-1")
    assert done(vigil, "device list")["items"][0]["patient_id"] is None


def test_a_device_changes_its_edge_box(vigil: Vigil) -> None:
    for edge in ("edge-1", "edge-2"):
        done(vigil, f"device add --id {edge} --model edge")
    done(vigil, "device add --id cgm-1 --model cgm --via edge-1")
    bound = {"id": "cgm-1", "via": "edge-2", "address": "AA:BB:CC:DD:EE:0F"}
    assert done(vigil, "device bind cgm-1 --via edge-2 --address aa:bb:cc:dd:ee:0f") == bound
    assert done(vigil, "device list")["items"][0].items() >= bound.items()
    assert done(vigil, "device unbind cgm-1") == {"id": "cgm-1", "via": None}
    assert done(vigil, "device list")["items"][0].items() >= {**bound, "via": None}.items()


REFUSED = [
    ("patient add --name Ana --timezone Mars/Olympus", 2, "IANA"),
    ("patient add --name Ana --timezone UTC --expected sugar=5", 2, "sugar=5"),
    ("patient timezone 99 UTC", 1, "no patient 99"),
    ("patient consent 99 --withdraw", 1, "no patient 99"),
    ("patient rules", 2, "--clinic"),
    ("patient rules 1 --clinic", 2, "--clinic"),
    ("patient rules 99", 1, "no patient 99"),
    ("patient rules --clinic --on sleepiness", 2, "sleepiness"),
    ("patient rules --clinic --set urgent_low", 2, "RULE.FIELD=VALUE"),
    ("patient rules --clinic --set urgent_low.limit=3", 2, "no setting 'limit'"),
    ("patient rules --clinic --set urgent_low.limit_mmol=low", 2, "a number"),
    ("patient rules --clinic --limit heart_rate=120", 2, "heart_rate=120"),
    ("patient rules --clinic --limit glucose>10", 2, "glucose"),
    ("patient rules --clinic --limit spo2<90 --limit spo2<80", 2, "contradicts"),
    ("patient rules --clinic --on threshold --off threshold", 2, "at once"),
    ("patient rules --clinic --note x", 2, "note"),
    ("patient group 99 new", 1, "no patient 99"),
    ("patient group 99 odd", 2, "odd"),
    ("patient pause 1 --until 2020-01-01", 2, "--reason"),
    ("patient pause 99 --until 2020-01-01T00:00Z --reason x", 2, "after its beginning"),
    ("patient pause 99 --from 2020-01-01T00:00Z --until 2020-01-02T00:00Z --reason x", 2, "in the past"),
    ("patient pause 99 --end", 1, "no patient 99"),
    ("patient expect 99 --none", 1, "no patient 99"),
    ("patient expect 99", 2, "--none"),
    ("patient expect 99 sugar=5", 2, "sugar=5"),
    ("device add --id x --model cgm --modality sonar", 2, "sonar"),
    ("device add --id x --model cgm --expected-interval 0", 2, "interval"),
    ("device add --id a/b --model cgm", 2, "device id"),
    ("device add --id x --model cgm --patient 1 --from soon", 2, "soon"),
    ("device assign x --patient 1 --from 2026-01-01T00:00Z", 1, "no device x"),
    ("device disable x", 1, "no device x"),
    ("device add --id x --model cgm --address AA:BB", 2, "AA:BB:CC:DD:EE:FF"),
    ("device bind x --via y --address AA:BB", 2, "AA:BB:CC:DD:EE:FF"),
    ("device bind x --via y --address AA:BB:CC:DD:EE:FF", 1, "no device x"),
    ("device unbind x", 1, "no device x"),
    ("dose add --patient 1 --medication x --at 25:00", 2, "25:00"),
    ("dose add --patient 1 --medication x --at 08:00 --days noday", 2, "noday"),
    ("user add --email a@b --role doctor --password-stdin", 2, "at least 12"),
    ("user add --email a@b --role king --password-stdin", 2, "king"),
    ("user disable a@b", 1, "no user a@b"),
]


def test_a_refusal_is_one_line(vigil: Vigil) -> None:
    for line, code, word in REFUSED:
        got, out, err = vigil(line, "short\n")
        assert (got, out) == (code, ""), line
        assert word in err, line
        assert err.count("\n") == 1, line
        assert err.startswith("vigil: ")


def test_wrong_usage_is_code_2(vigil: Vigil) -> None:
    assert vigil("device add --id x --model toaster")[0] == 2
    assert vigil("patient consent 1")[0] == 2
    assert vigil("user add --email a@b --role doctor")[0] == 2


def test_people_get_sentences_and_tables(vigil: Vigil) -> None:
    assert vigil("patient list")[1] == "none\n"
    assert "Ana" in vigil("patient add --name Ana --timezone UTC")[1]
    assert "secret" in vigil("device add --id wb-1 --model wristband --patient 1")[1]
    for line in ("patient list", "device list", "dose list", "user list", "alerts"):
        code, out, _ = vigil(line)
        assert (code, bool(out)) == (0, True)


def test_alerts_are_one_a_line(vigil: Vigil, database_url: str) -> None:
    ana = done(vigil, "patient add --name Ana --timezone UTC")["id"]
    assert vigil("alerts --json") == (0, "", "")
    with psycopg.connect(database_url) as connection:
        for state in ("open", "withdrawn"):
            connection.execute(
                "insert into alert (patient_id, rule, severity, grade, state, running, opened_at, raised_at, updated_at,"
                " retrospective, summary, evidence) values (%s, 'hrv_drift', 'medium', 2, %s, true, '2026-11-02T03:00Z',"
                " '2026-11-02T03:00Z', '2026-11-02T03:00Z', false, 'a [b] c', '{}')",
                [ana, state],
            )
    for line in ("alerts --json", "alerts --json --state open --severity medium", f"alerts --json --patient {ana}"):
        (alert,) = map(json.loads, vigil(line)[1].splitlines())
        assert (alert["patient_id"], alert["state"], alert["opened_at"]) == (ana, "open", "2026-11-02T03:00:00Z")
    assert vigil("alerts --json --severity high")[1] == ""
    assert len(vigil("alerts --json --state open --state withdrawn")[1].splitlines()) == 2
    assert "[b]" in "".join(vigil("alerts")[1].split("\n"))
    assert vigil("alerts --state odd")[0] == 2
