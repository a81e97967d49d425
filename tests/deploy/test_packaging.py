"""The locks: every requirement pinned with hashes, no address of any registry, the same in both."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.lock", "requirements-dev.lock"]


def pins(name: str) -> dict[str, list[str]]:
    """Name → versions; one name may have one version per Python."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^([A-Za-z0-9._-]+)==(\S+)", line):
            found.setdefault(match[1].lower(), []).append(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    for block in re.split(r"\n(?=[a-z])", text.strip()):
        assert "==" in block.split("\n")[0]
        assert "--hash=sha256:" in block


def test_the_tools_stand_on_the_versions_that_run() -> None:
    run, develop = map(pins, LOCKS)
    assert run.items() <= develop.items()


def test_the_locks_cover_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run, develop = map(pins, LOCKS)
    extras = project["optional-dependencies"]
    for wanted, lock in ((project["dependencies"] + extras["build"], run), (extras["dev"], develop)):
        for requirement in wanted:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert name is not None
            assert name[0].lower() in lock


def test_the_simulator_s_contract_names_every_codec() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (codecs,) = (contract for contract in contracts if contract["name"] == "The simulator shares no codec of devices")
    files = [*(ROOT / "devices").glob("*.py"), *(path.parent for path in (ROOT / "devices").glob("*/__init__.py"))]
    modules = {f"devices.{path.stem}" for path in files}
    assert set(codecs["forbidden_modules"]) == modules - {"devices.__init__", "devices.vocabulary"}
