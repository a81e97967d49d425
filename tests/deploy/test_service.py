"""The edge box's systemd unit: systemd understands it, it starts what exists, and it may do little."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from deploy.cli import COMMANDS

UNIT = Path(__file__).parents[2] / "deploy" / "vigil-ble.service"
SYSTEMD = shutil.which("systemd-analyze")


@pytest.fixture
def service() -> dict[str, str]:
    parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")  # strict: a setting that stands twice is an error
    return dict(parser["Service"])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/opt/vigil/bin/vigil", sys.executable)
    unit.write_text(text, encoding="utf-8")
    return unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert SYSTEMD is not None
    return subprocess.run([SYSTEMD, *arguments], capture_output=True, text=True, check=False)


def test_it_starts_the_command(service: dict[str, str]) -> None:
    program, command = service["ExecStart"].split()
    assert (program, command) == ("/opt/vigil/bin/vigil", "ble")
    assert command in COMMANDS


def test_it_comes_back_but_not_with_wrong_settings(service: dict[str, str]) -> None:
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "2")


def test_its_state_outlives_it_and_nobody_else_reads_it(service: dict[str, str]) -> None:
    assert (service["StateDirectory"], service["StateDirectoryMode"], service["UMask"]) == ("vigil", "0700", "0077")


def test_it_reaches_bluetoothd_and_the_broker_and_nothing_more(service: dict[str, str]) -> None:
    assert service["SupplementaryGroups"] == "bluetooth"
    assert service["RestrictAddressFamilies"].split() == ["AF_UNIX", "AF_INET", "AF_INET6"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
    wanted = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
    assert service.items() >= wanted.items()


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not here")
def test_systemd_understands_it(installed: Path) -> None:
    done = analyze("verify", "--recursive-errors=no", "--man=no", str(installed))
    assert [line for line in done.stderr.splitlines() if installed.name in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not here")
def test_systemd_finds_little_exposed(installed: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(installed))
    assert done.returncode == 0, done.stdout
