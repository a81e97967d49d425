"""The distribution's name: one, ours, and the only one that anybody is told to install."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest

from api.app import create_app
from api.settings import ApiSettings
from deploy.extras import DISTRIBUTION, EXTRAS

ROOT = Path(__file__).parents[2]
STRANGER = "vigil"
# What installs by name, and on the same line the bare name or the name with an extra.
TOOL = r"\b(?:pip3?|pipx|uv|uvx|poetry|pdm)\b"
TOLD_TO_INSTALL = re.compile(
    rf"{TOOL}[^\n]*?\b(?:install|add|inject|run|with)\b[^\n]*?(?<![-\w/.]){STRANGER}(?=[\[\"'`\s=<>~!@,;]|$)",
    re.MULTILINE,
)
WITH_AN_EXTRA = re.compile(rf"(?<![-\w]){STRANGER}\[(?:{'|'.join(sorted({*EXTRAS.values(), 'dev', 'build'}))}|\{{)")


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for name in listed.stdout.splitlines():
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


def test_nobody_is_told_to_install_a_stranger_s_package() -> None:
    told = {
        (name, match[0])
        for name, text in tracked_texts().items()
        for pattern in (TOLD_TO_INSTALL, WITH_AN_EXTRA)
        for match in pattern.finditer(text)
        if name != "tests/deploy/test_distribution.py"
    }
    assert told == set()


@pytest.mark.parametrize(
    ("line", "is_told"),
    [
        ("pip install vigil", True),
        ('sudo /opt/vigil/bin/pip install "vigil[ble]"', True),
        ("python -m pip install --upgrade vigil==0.1.0", True),
        ("uv pip install vigil", True),
        ("uv tool install 'vigil[ble]'", True),
        ("pipx install vigil", True),
        ('sudo /opt/vigil/bin/pip install "vigil-gateway[ble]"', False),
        ("pip uninstall vigil", False),
        ("pip install --editable .  # in /opt/vigil", False),
    ],
)
def test_an_install_line_is_recognised(line: str, is_told: bool) -> None:  # noqa: FBT001 - a column of the table
    assert bool(TOLD_TO_INSTALL.search(line)) is is_told


def test_the_project_the_programs_and_the_metadata_say_the_same_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    assert project["scripts"] == {"vigil": "deploy.cli:main"}
    assert version(DISTRIBUTION) == project["version"]
    app = create_app(ApiSettings(database_url="postgresql://", secret_key="k" * 48))
    assert app.version == project["version"]


def test_the_former_name_is_not_installed_beside_it() -> None:
    with pytest.raises(PackageNotFoundError):
        distribution(STRANGER)


def test_the_command_tells_the_distribution_and_its_version() -> None:
    command = [str(Path(sys.executable).with_name("vigil")), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{DISTRIBUTION} {version(DISTRIBUTION)}\n"
