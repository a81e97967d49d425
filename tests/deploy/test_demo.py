"""`vigil demo`: three kinds of alerts, a second run, and nothing left behind however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

import deploy.commands.demo
from deploy.cli import main
from deploy.demo.board import EXPECTED, LIVE, Board
from deploy.demo.clinic import Wearer
from deploy.stack import processes
from deploy.stack.embedded import temporary_folder
from deploy.stack.local import LocalStack

pytestmark = pytest.mark.xdist_group("loads the machine")
SHANGHAI = ZoneInfo("Asia/Shanghai")
VIGIL = [sys.executable, "-c", "from deploy.cli import main; main()"]
WITHOUT_BUMBLE = [
    sys.executable,
    "-c",
    """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bumble":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from deploy.cli import main
main()
""",
]
OVER_BLUETOOTH = " (over Bluetooth), "
DAY_OF_GLUCOSE = 288


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run one after the other anyway")
def test_what_loads_the_machine_is_one_group(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@loads the machine")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder of one demo after another, with embedded servers, whatever else this machine could use."""
    with temporary_folder() as temporary:
        place = temporary / "demo"
        subprocess.run([*VIGIL, "stack", "up", "--kind", "embedded", "--dir", str(place)], check=True)
        LocalStack(place).down()
        yield place
        LocalStack(place).down()


def left_behind(folder: Path) -> list[str]:
    """Every process that works in the folder or was told of it, except ourselves and the command that was started."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in told or place.startswith(str(folder)):
            found.append(f"{entry.name} {told}")
    return found


@contextmanager
def running_demo(folder: Path, program: Sequence[str] = VIGIL) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*program, "demo", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def until_said(demo: subprocess.Popen[str], word: str) -> list[str]:
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if line.startswith(word):
            return lines
    assert demo.stderr is not None
    pytest.fail("".join(lines) + demo.stderr.read())


def until_up(demo: subprocess.Popen[str]) -> list[str]:
    return until_said(demo, "logs")


@pytest.mark.hours
@pytest.mark.timeout(300)
def test_all_three_kinds_of_alerts_within_a_minute(folder: Path) -> None:
    done = subprocess.run(
        [*VIGIL, "demo", "--dir", str(folder), "--seconds", "60"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in EXPECTED:
        lines = [
            line for line in done.stdout.splitlines() if re.match(rf"ALERT {rule} (urgent|high|medium|low): ", line)
        ]
        live = [line for line in lines if "from the history" not in line]
        assert live if rule in LIVE else lines
        assert any(OVER_BLUETOOTH in line for line in live) == (rule in LIVE)
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("bluetooth"))
    (records,) = re.findall(r"5 devices read, (\d+) records caught up", told)
    assert int(records) >= DAY_OF_GLUCOSE
    assert "doctor@vigil.example   password " in done.stdout
    assert not left_behind(folder)


@pytest.mark.timeout(240)
def test_a_signal_stops_all_of_it_and_another_run_has_the_same_log_ins_and_a_ward_of_its_own(folder: Path) -> None:
    log_ins = set()
    devices: list[tuple[int, str, bool, bool]] = []
    for number, moment in ((signal.SIGINT, "logs"), (signal.SIGTERM, "bluetooth")):
        with running_demo(folder) as demo:
            lines = until_said(demo, moment)
            (address,) = (line.split()[1] for line in lines if line.startswith("API"))
            port = int(address.split(":")[2].split("/")[0])
            assert not processes.is_free(port)
            assert len(left_behind(folder)) > 5
            devices = provisioned(LocalStack(folder).environment()["VIGIL_DATABASE_URL"])
            demo.send_signal(number)
            assert demo.wait(60) == 0
        assert not left_behind(folder)
        assert processes.is_free(port)
        log_ins.add(tuple(line for line in lines if line.startswith(("admin", "doctor"))))
    assert len(log_ins) == 1
    assert "edge box stopped" in (folder / "ble.log").read_text()
    last = max(run for run, *_ in devices)
    models = {model for run, model, *_ in devices if run == last}
    assert models == {"edge", "cgm", "wristband", "pillbox", "glucose_meter", "blood_pressure"}
    for run, model, worn, disabled in devices:
        assert worn == (run == last and model != "edge")
        assert disabled == (run < last)


def provisioned(database_url: str) -> list[tuple[int, str, bool, bool]]:
    """Return run, model, whether somebody wears it and whether it is disabled, of every device of the demo."""
    query = """
        select substring(d.id from 'demo([0-9]+)-')::int, d.model, a.device_key is not null, d.disabled_at is not null
        from device d left join assignment a on a.device_key = d.key and upper_inf(a.valid)
    """
    with psycopg.connect(database_url) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("begun", [1, 2, 4, 10])
def test_a_signal_during_the_set_up_stops_all_of_it(folder: Path, begun: int) -> None:
    with running_demo(folder) as demo:
        assert processes.wait_until(lambda: len(left_behind(folder)) > begun, within_seconds=60)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert not left_behind(folder)


@pytest.mark.timeout(240)
def test_a_killed_demo_leaves_nothing_and_the_next_one_starts(folder: Path) -> None:
    with running_demo(folder) as demo:
        until_said(demo, "bluetooth")
        demo.kill()
        demo.wait(10)
        assert processes.wait_until(lambda: not left_behind(folder), within_seconds=30)
    with running_demo(folder) as again:
        until_up(again)
        again.send_signal(signal.SIGINT)
        assert again.wait(60) == 0
    assert not left_behind(folder)


@pytest.mark.timeout(240)
def test_a_program_that_dies_ends_the_demo_with_its_log_and_a_second_demo_is_refused(folder: Path) -> None:
    with running_demo(folder) as demo:
        until_up(demo)
        other = subprocess.run(
            [*VIGIL, "demo", "--dir", str(folder)], capture_output=True, text=True, check=False, timeout=60
        )
        assert other.returncode == 1
        assert "runs in" in other.stderr
        (gateway,) = (entry for entry in left_behind(folder) if entry.rstrip().endswith("main() gateway"))
        os.kill(int(gateway.split()[0]), signal.SIGKILL)
        _, said = demo.communicate(timeout=60)
        assert demo.returncode == 1
        assert "vigil: vigil gateway ended with code -9; its log" in said
        assert "gateway active" in said
    assert not left_behind(folder)


def test_without_the_simulated_radio_the_demo_says_so_and_goes_on(folder: Path) -> None:
    with running_demo(folder, WITHOUT_BUMBLE) as demo:
        *_, told = until_said(demo, "bluetooth")
        assert (
            told == 'bluetooth  left out: for it this command needs the extra "sim": pip install "vigil-gateway[sim]"\n'
        )
        time.sleep(1)
        assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert not left_behind(folder)


def alert(rule: str, *, alert_id: str = "1", retrospective: bool = False) -> dict[str, object]:
    return {
        "id": alert_id,
        "patient_id": "7",
        "rule": rule,
        "severity": "high",
        "retrospective": retrospective,
        "opened_at": "2026-11-22T03:10:00+00:00",
        "summary": "what happened",
    }


def test_what_counts_is_a_new_alert_of_this_ward_and_a_live_one_where_that_is_promised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = Board()
    board.admit({"7": Wearer("Wei Chen", SHANGHAI)})
    board.show_alert(alert("nocturnal_hypoglycaemia", retrospective=True))
    board.show_alert({**alert("missed_dose", alert_id="2"), "patient_id": "8"})
    board.show_alert(alert("hrv_drift", alert_id="3", retrospective=True))
    board.show_alert(alert("hrv_drift", alert_id="3", retrospective=True))
    assert board.missing == ["nocturnal_hypoglycaemia", "missed_dose"]
    assert capsys.readouterr().out.splitlines() == [
        "ALERT nocturnal_hypoglycaemia high: Wei Chen, what happened (since 22 Nov 11:10, from the history)",
        "ALERT hrv_drift high: Wei Chen, what happened (since 22 Nov 11:10, from the history)",
    ]


def test_what_comes_over_bluetooth_is_shown_and_counts_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    board.admit({"7": Wearer("Wei Chen", SHANGHAI, over_bluetooth=True)})
    board.show_alert(alert("missed_dose"))
    assert board.missing == list(EXPECTED)
    assert capsys.readouterr().out == (
        "ALERT missed_dose high: Wei Chen (over Bluetooth), what happened (since 11:10)\n"
    )


def test_missing_alerts_are_a_sentence_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deploy.commands.demo, "run_demo", lambda _folder, _seconds: ["missed_dose", "hrv_drift"])
    with pytest.raises(SystemExit) as end:
        main(["demo", "--seconds", "60"])
    assert end.value.code == 1
    assert capsys.readouterr().err == "vigil: no alert of missed_dose and hrv_drift came within 60 s of being up\n"
    with pytest.raises(SystemExit) as without_limit:
        main(["demo"])
    assert without_limit.value.code == 0
