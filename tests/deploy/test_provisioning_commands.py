"""The provisioning commands as a shell sees them: exit codes, one JSON object, sentences for refusals."""

import io
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from deploy.cli import main

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
            main(line.split())
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


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        ("patient add --name Ana --timezone Mars/Olympus", 2, "IANA"),
        ("patient add --name Ana --timezone UTC --expected sugar=5", 2, "sugar=5"),
        ("patient timezone 99 UTC", 1, "no patient 99"),
        ("patient consent 99 --withdraw", 1, "no patient 99"),
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
    ],
)
def test_a_refusal_is_one_line(vigil: Vigil, line: str, code: int, word: str) -> None:
    got, out, err = vigil(line, "short\n")
    assert (got, out) == (code, "")
    assert word in err
    assert err.count("\n") == 1
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
                "insert into alert (patient_id, rule, severity, state, running, opened_at, raised_at, updated_at,"
                " retrospective, summary, evidence) values (%s, 'hrv_drift', 'medium', %s, true, '2026-11-02T03:00Z',"
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
