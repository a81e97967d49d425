"""TimescaleDB and Mosquitto as child processes in a folder: for `vigil stack`, tests, demo and bench."""

import secrets
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from deploy.stack import mosquitto_config, postgres_config, processes
from deploy.stack.errors import ServerFailed
from deploy.stack.packages import Report, ServerFiles, ensure_server_files
from deploy.stack.processes import ProcessIdentity

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


class EmbeddedServer(ABC):
    """One server in one folder. Its port stays the same from start to start.

    With `die_with_parent` the kernel stops it when the starting thread ends (tests, demo); without, it outlives us.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(
        self,
        programs: ServerFiles,
        folder: Path,
        *,
        password: str,
        port: int | None = None,
        die_with_parent: bool = True,
    ) -> None:
        self.programs = programs
        self.folder = folder.absolute()
        self.password = password
        self.port = port or processes.free_port()
        self.log = self.folder / "log"
        self._die_with_parent = die_with_parent
        self._child: subprocess.Popen[bytes] | None = None
        self.process: ProcessIdentity | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        if self.process is None:
            raise ServerFailed(self.name, "is not running")
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process that was started still runs."""
        return self.process is not None and processes.is_running(self.process)

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL with user and password, as in Vigil's settings."""

    def start(self) -> None:
        """Start and wait until it answers; does nothing if it runs. Raises ServerFailed with the end of its log."""
        if self.is_running:
            return
        processes.make_server_folder(self.folder)
        self._prepare()
        self._launch()

    def stop(self) -> None:
        """Stop in order and wait for the end; does nothing if it does not run."""
        if self.process is not None:
            processes.stop(self.process, self.stop_signal, within_seconds=_STOP_SECONDS)
        self._forget()

    def kill(self) -> None:
        """Kill it with SIGKILL, as in a crash; `start` recovers."""
        if self.process is not None:
            helpers = processes.children(self.process.pid)
            for process in [self.process, *helpers]:
                processes.send(process, signal.SIGKILL)
            for process in [self.process, *helpers]:
                processes.wait_for_end(process, within_seconds=_STOP_SECONDS)
        self._forget()

    def restart(self) -> None:
        """Stop in order, then start."""
        self.stop()
        self.start()

    def adopt(self, process: ProcessIdentity | None) -> None:
        """Take over a process that an earlier program started in this folder."""
        self.process = process

    def _launch(self) -> None:
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._child = processes.spawn(
            self._command(),
            cwd=self._working_folder(),
            log=self.log,
            when_parent_dies=self.stop_signal if self._die_with_parent else None,
        )
        self.process = processes.identify(self._child.pid)
        processes.wait_until(lambda: self._has_ended() or self._answers(), within_seconds=_START_SECONDS)
        if self._has_ended() or not self._answers():
            self.kill()
            raise ServerFailed(self.name, "did not start", processes.log_end(self.log))

    def _has_ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _forget(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._child = None
        self.process = None

    @abstractmethod
    def _prepare(self) -> None:
        """Write the files it needs before it starts."""

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _working_folder(self) -> Path: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class PostgresServer(EmbeddedServer):
    """TimescaleDB on PostgreSQL. `password` is that of the role `vigil`, which owns the database `vigil`."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # fast shutdown: sessions end, data are written

    def __init__(
        self,
        programs: ServerFiles,
        folder: Path,
        *,
        password: str,
        superuser_password: str,
        port: int | None = None,
        die_with_parent: bool = True,
    ) -> None:
        super().__init__(programs, folder, password=password, port=port, die_with_parent=die_with_parent)
        self.superuser_password = superuser_password
        self.data = self.folder / "data"

    @property
    def url(self) -> str:
        """The database `vigil` as the role `vigil`."""
        return self.database_url(postgres_config.DATABASE)

    def database_url(self, database: str) -> str:
        """Return the address of a database as the role `vigil`, which is no superuser."""
        return f"postgresql://{postgres_config.ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"

    def superuser_url(self, database: str = "postgres") -> str:
        """Return the address of a database as the superuser."""
        return f"postgresql://{postgres_config.SUPERUSER}:{self.superuser_password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start and wait until it answers; the first time, create the cluster, the role and the database."""
        super().start()
        if not self._bootstrapped.exists():
            self._bootstrap()

    @property
    def _bootstrapped(self) -> Path:
        return self.folder / "bootstrapped"

    def _prepare(self) -> None:
        if not self._bootstrapped.exists():
            shutil.rmtree(self.data, ignore_errors=True)  # left by a first start that was interrupted
            self._initialise()
        settings = {**postgres_config.SETTINGS, **postgres_config.EMBEDDED_ONLY, "port": str(self.port)}
        self._write("vigil.conf", postgres_config.render(settings))

    def _initialise(self) -> None:
        processes.make_server_folder(self.data)
        zones = self.folder / "zoneinfo"  # for initdb, which insists on an empty data folder
        zones.unlink(missing_ok=True)
        zones.symlink_to(self.programs.zoneinfo)
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as password_file:
            password_file.write(self.superuser_password)
            password_file.flush()
            processes.give_to_server(Path(password_file.name))
            done = processes.run_unprivileged(
                [
                    *(self.programs.postgres_bin / "initdb", "-D", self.data, "-U", postgres_config.SUPERUSER),
                    *("--auth=scram-sha-256", f"--pwfile={password_file.name}", "--no-locale", "--encoding=UTF8"),
                ],
                cwd=self.folder,
            )
        if done.returncode != 0:
            raise ServerFailed(self.name, "could not create its data folder", done.stderr.strip())
        (self.data / "zoneinfo").symlink_to(self.programs.zoneinfo)
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as config:
            config.write("include 'vigil.conf'\n")

    def _write(self, name: str, text: str) -> None:
        path = self.data / name
        path.write_text(text, encoding="utf-8")
        processes.give_to_server(path)

    def _command(self) -> list[str | Path]:
        return [self.programs.postgres_bin / "postgres", "-D", self.data]

    def _working_folder(self) -> Path:
        return self.data  # the time zones are found relative to it

    def _answers(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _bootstrap(self) -> None:
        with psycopg.connect(self.superuser_url(), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(postgres_config.DATABASE)))
        script = files("deploy").joinpath("postgres/bootstrap.sql").read_text(encoding="utf-8")
        with psycopg.connect(self.superuser_url(postgres_config.DATABASE), autocommit=True) as connection:
            connection.execute(
                script.replace(":'vigil_password'", sql.Literal(self.password).as_string(connection)).encode()
            )
        self._bootstrapped.touch()


class MosquittoServer(EmbeddedServer):
    """Mosquitto with the dynamic-security plugin. `password` is that of the account `vigil`."""

    name = "Mosquitto"
    stop_signal = signal.SIGTERM  # writes its sessions, then ends

    @property
    def url(self) -> str:
        """The broker with the account that may use any topic."""
        return f"mqtt://{mosquitto_config.ACCOUNT}:{self.password}@127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        contents = mosquitto_config.config_files(
            port=self.port, bind="127.0.0.1", folder=self.folder, plugin=self.programs.dynamic_security
        )
        if not (self.folder / mosquitto_config.DYNAMIC_SECURITY_FILE).exists():
            contents[mosquitto_config.DYNAMIC_SECURITY_FILE] = mosquitto_config.first_dynamic_security(self.password)
        for name, text in contents.items():
            path = self.folder / name
            path.write_text(text, encoding="utf-8")
            processes.give_to_server(path)

    def _command(self) -> list[str | Path]:
        return [self.programs.mosquitto, "-c", self.folder / mosquitto_config.CONFIG_FILE]

    def _working_folder(self) -> Path:
        return self.folder

    def _answers(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return b" running\n" in log.read()


@dataclass(frozen=True, slots=True)
class EmbeddedStack:
    """Both servers, running."""

    postgres: PostgresServer
    mosquitto: MosquittoServer


def new_password() -> str:
    """Return 256 random bits that need no quoting in a URL."""
    return secrets.token_urlsafe(32)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that the servers' user can reach, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="vigil-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@contextmanager
def temporary_postgres(folder: Path, report: Report = lambda _: None) -> Iterator[PostgresServer]:
    """Run a fresh TimescaleDB in a folder until the block ends."""
    server = PostgresServer(
        ensure_server_files(report), folder / "postgres", password=new_password(), superuser_password=new_password()
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_mosquitto(folder: Path, report: Report = lambda _: None) -> Iterator[MosquittoServer]:
    """Run a fresh broker in a folder until the block ends."""
    server = MosquittoServer(ensure_server_files(report), folder / "mosquitto", password=new_password())
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_stack(report: Report = lambda _: None) -> Iterator[EmbeddedStack]:
    """Run both servers in a temporary folder until the block ends: for benchmarks and the demo."""
    with (
        temporary_folder() as folder,
        temporary_postgres(folder, report) as postgres,
        temporary_mosquitto(folder, report) as mosquitto,
    ):
        yield EmbeddedStack(postgres, mosquitto)
