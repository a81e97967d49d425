"""`vigil stack`: idempotent, private, found again, stopped for certain."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

from deploy.stack import packages, processes
from deploy.stack.apt_sources import Mirror, deb822_mirrors, deb822_source, host_mirrors, one_line_mirrors
from deploy.stack.embedded import temporary_folder
from deploy.stack.errors import PackagesUnavailable, StackError, StateInvalid
from deploy.stack.local import LocalStack
from deploy.stack.processes import ProcessIdentity
from deploy.stack.state import StackState, read_state, write_state

VIGIL = [sys.executable, "-c", "from deploy.cli import main; main()"]


def vigil(*arguments: str, expect: int = 0, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    done = subprocess.run(
        [*VIGIL, *arguments], env={**environment, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as temporary:
        place = temporary / "stack"
        yield place
        LocalStack(place).down()


def settings_of(folder: Path) -> dict[str, str]:
    lines = vigil("stack", "env", "--dir", str(folder)).splitlines()
    assignments = (shlex.split(line.removeprefix("export "))[0] for line in lines)
    return dict(assignment.split("=", 1) for assignment in assignments)


def test_up_twice_status_env_down_twice_and_up_again(folder: Path) -> None:
    place = ("--dir", str(folder))
    vigil("stack", "status", *place, expect=1)
    vigil("stack", "env", *place, expect=1)
    vigil("stack", "up", "--kind", "embedded", *place)
    first = LocalStack(folder).status()
    assert all(server.running for server in first)
    vigil("stack", "up", *place)
    assert LocalStack(folder).status() == first
    assert "running" in vigil("stack", "status", *place)

    settings = settings_of(folder)
    assert set(settings) == {"VIGIL_DATABASE_URL", "VIGIL_MQTT_URL", "VIGIL_SECRET_KEY"}
    assert len(settings["VIGIL_SECRET_KEY"]) >= 32
    assert "applied 0001_schema" in vigil("migrate", settings=settings)
    assert vigil("migrate", settings=settings) == "the schema is current\n"

    assert vigil("stack", "down", *place) == "stopped\n"
    assert not any(server.running for server in LocalStack(folder).status())
    assert vigil("stack", "down", *place) == "nothing was running\n"
    assert "refused" in vigil("migrate", expect=1, settings=settings)

    vigil("stack", "up", *place)
    assert settings_of(folder) == settings
    with psycopg.connect(settings["VIGIL_DATABASE_URL"]) as connection:
        assert connection.execute("select count(*) > 0 from schema_migration").fetchone() == (True,)


def test_ports_are_those_given(folder: Path) -> None:
    database, broker = processes.free_port(), processes.free_port()
    vigil(
        "stack",
        "up",
        "--dir",
        str(folder),
        "--kind",
        "embedded",
        f"--database-port={database}",
        f"--mqtt-port={broker}",
    )
    assert [server.port for server in LocalStack(folder).status()] == [database, broker]
    assert "already runs" in vigil("stack", "up", "--dir", str(folder), "--database-port=1", expect=1)
    assert "is taken" in vigil(
        "stack", "up", "--dir", str(folder / "other"), "--kind", "embedded", f"--mqtt-port={broker}", expect=1
    )


def test_secrets_are_readable_by_their_owner_only(folder: Path) -> None:
    vigil("stack", "up", "--dir", str(folder), "--kind", "embedded")
    assert (folder / "state.json").stat().st_mode & 0o777 == 0o600
    for server in ("postgres", "mosquitto"):
        assert (folder / server).stat().st_mode & 0o777 == 0o700


def test_servers_do_not_run_as_root(folder: Path) -> None:
    vigil("stack", "up", "--dir", str(folder), "--kind", "embedded")
    for server in LocalStack(folder).status():
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_down_leaves_a_process_alone_that_only_has_the_pid(folder: Path) -> None:
    folder.mkdir()
    state = StackState(kind="embedded", servers=str(folder))
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state.database.process = ProcessIdentity(stranger.pid, started=1)
        write_state(folder, state)
        assert not LocalStack(folder).down()
        assert stranger.poll() is None
        stranger.kill()


def test_a_damaged_state_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(StateInvalid, match=r"state\.json cannot be read"):
        read_state(tmp_path)


def test_another_kind_needs_another_folder(tmp_path: Path) -> None:
    write_state(tmp_path, StackState(kind="embedded", servers=str(tmp_path)))
    with pytest.raises(StackError, match="choose another --dir"):
        LocalStack(tmp_path).up(kind="compose")


def test_without_apt_the_error_says_what_else_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PackagesUnavailable, match="VIGIL_DATABASE_URL and VIGIL_MQTT_URL"):
        packages.ensure_server_files()


def test_a_mirror_that_fails_leaves_no_half_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_CACHE", str(tmp_path))
    monkeypatch.setenv("VIGIL_DEBIAN_MIRROR", (tmp_path / "debian").as_uri())
    with pytest.raises(PackagesUnavailable, match="apt-get update failed"):
        packages.ensure_server_files()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.soak
def test_two_that_fetch_at_once_share_one_cache(tmp_path: Path) -> None:
    program = "from deploy.stack.packages import ensure_server_files as ensure; print(ensure().root)"
    environment = {**os.environ, "VIGIL_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    roots = {process.communicate()[0] for process in both}
    assert len(roots) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {key}

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main

Types: deb
URIs: http://other.test/tool
Suites: stable
Components: main
"""


def test_deb822_sources_name_the_mirror_with_its_key(tmp_path: Path) -> None:
    key = tmp_path / "key.gpg"
    key.touch()
    assert list(deb822_mirrors(DEB822.format(key=key))) == [Mirror("http://mirror.test/debian", str(key))]


def test_a_key_block_in_the_source_is_handed_on_whole() -> None:
    block = "Types: deb\nURIs: http://m.test/debian/\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN PGP\n .\n x\n"
    (mirror,) = deb822_mirrors(block)
    assert deb822_source(mirror, "trixie").endswith("Signed-By: \n -----BEGIN PGP\n .\n x\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("deb http://mirror.test/debian trixie main", "http://mirror.test/debian"),
        (
            "deb [arch=amd64 signed-by=/nowhere.gpg] http://mirror.test/debian/ stable main contrib # note",
            "http://mirror.test/debian/",
        ),
        (
            "deb https://m.test/archive/debian/20250520T000000Z bookworm main",
            "https://m.test/archive/debian/20250520T000000Z",
        ),
        ("# deb http://mirror.test/debian trixie main", None),
        ("deb-src http://mirror.test/debian trixie main", None),
        ("deb cdrom:[disc]/debian trixie main", None),
        ("deb http://mirror.test/ubuntu noble main", None),
        ("deb http://other.test/apt stable main", None),
    ],
)
def test_one_line_sources(line: str, found: str | None) -> None:
    assert [mirror.uri for mirror in one_line_mirrors(line)] == ([found] if found else [])


def test_sources_are_read_in_order_and_each_once(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.test/debian trixie main\n", encoding="utf-8")
    (parts / "b.sources").write_text(
        "Types: deb\nURIs: http://b.test/debian http://a.test/debian\nSuites: sid\nComponents: main\n", encoding="utf-8"
    )
    (parts / "c.save").write_text("deb http://c.test/debian trixie main\n", encoding="utf-8")
    assert [mirror.uri for mirror in host_mirrors(tmp_path)] == ["http://a.test/debian", "http://b.test/debian"]
