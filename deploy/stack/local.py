"""`vigil stack`: the TimescaleDB and Mosquitto of one folder, brought up, down and described. Idempotent."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.stack import compose, processes
from deploy.stack.embedded import EmbeddedServer, MosquittoServer, PostgresServer
from deploy.stack.errors import StackError
from deploy.stack.packages import Report, ServerFiles, ensure_server_files
from deploy.stack.state import ServerState, StackState, read_state, write_state

Kind = Literal["embedded", "compose"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One line of `vigil stack status`; `pid` is None under Docker."""

    name: str
    running: bool
    port: int | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class LocalStack:
    """The stack whose state is in `folder`."""

    folder: Path

    def up(
        self,
        *,
        kind: Kind | None = None,
        database_port: int | None = None,
        mqtt_port: int | None = None,
        report: Report = lambda _: None,
        die_with_parent: bool = False,
    ) -> StackState:
        """Start what does not run; without `kind` in Docker if an engine answers, else embedded. Raises StackError.

        With `die_with_parent` embedded servers that are started here end with the calling thread, however it ends.
        """
        with self._one_at_a_time():
            state = read_state(self.folder) or self._new(kind)
            if kind is not None and kind != state.kind:
                raise StackError(f"The stack in {self.folder} is {state.kind}; choose another --dir.")
            statuses = self._statuses(state)
            for server, status, wanted in (
                (state.database, statuses[0], database_port),
                (state.broker, statuses[1], mqtt_port),
            ):
                _choose_port(server, status, wanted)
            write_state(self.folder, state)  # the passwords must survive an interrupted start
            if state.kind == "compose":
                compose.up(self.folder, state, report)
            else:
                self._start_embedded(state, report, die_with_parent=die_with_parent)
            return state

    def down(self) -> bool:
        """Stop the running servers; the data stay. Returns whether any ran."""
        with self._one_at_a_time():
            state = read_state(self.folder)
            if state is None:
                return False
            ran = any(status.running for status in self._statuses(state))
            if state.kind == "compose":
                compose.down(self.folder, state)
            else:
                for server, kind in ((state.broker, MosquittoServer), (state.database, PostgresServer)):
                    if server.process is not None:
                        processes.stop(server.process, kind.stop_signal, within_seconds=30)
                        server.process = None
                write_state(self.folder, state)
            return ran

    def status(self) -> list[ServerStatus]:
        """Return the state of both servers; nothing if this folder never had a stack."""
        state = read_state(self.folder)
        return [] if state is None else self._statuses(state)

    def environment(self) -> dict[str, str]:
        """Return the settings for this stack. Raises StackError if the folder never had one."""
        state = read_state(self.folder)
        if state is None or state.database.port is None or state.broker.port is None:
            raise StackError(f"There is no stack in {self.folder}; start one with: vigil stack up")
        return state.environment()

    def _new(self, kind: Kind | None) -> StackState:
        chosen: Kind = kind or ("compose" if compose.engine_answers() else "embedded")
        return StackState(kind=chosen, servers=str(_servers_folder(self.folder)))

    def _statuses(self, state: StackState) -> list[ServerStatus]:
        named = (("TimescaleDB", state.database), ("Mosquitto", state.broker))
        if state.kind == "compose":
            running = compose.running_services(self.folder, state)
            services = (compose.DATABASE_SERVICE, compose.BROKER_SERVICE)
            return [
                ServerStatus(name, running=service in running, port=server.port, pid=None)
                for (name, server), service in zip(named, services, strict=True)
            ]
        return [_embedded_status(name, server) for name, server in named]

    def _start_embedded(self, state: StackState, report: Report, *, die_with_parent: bool) -> None:
        programs = ensure_server_files(report)
        for server, running in self._embedded(state, programs, die_with_parent=die_with_parent):
            running.adopt(server.process)
            report(f"Starting {running.name}")
            running.start()
            server.process = running.process
            write_state(self.folder, state)

    def _embedded(
        self, state: StackState, programs: ServerFiles, *, die_with_parent: bool
    ) -> list[tuple[ServerState, EmbeddedServer]]:
        servers = Path(state.servers)
        postgres = PostgresServer(
            programs,
            servers / "postgres",
            password=state.database.password,
            superuser_password=state.superuser_password,
            port=state.database.port,
            die_with_parent=die_with_parent,
        )
        mosquitto = MosquittoServer(
            programs,
            servers / "mosquitto",
            password=state.broker.password,
            port=state.broker.port,
            die_with_parent=die_with_parent,
        )
        return [(state.database, postgres), (state.broker, mosquitto)]

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _embedded_status(name: str, server: ServerState) -> ServerStatus:
    process = server.process
    if process is None or not processes.is_running(process):
        return ServerStatus(name, running=False, port=server.port, pid=None)
    return ServerStatus(name, running=True, port=server.port, pid=process.pid)


def _choose_port(server: ServerState, status: ServerStatus, wanted: int | None) -> None:
    """Choose the port before a start: the wanted one, otherwise the last one if still free, otherwise a free one."""
    if status.running:
        if wanted not in {None, server.port}:
            raise StackError(f"{status.name} already runs on port {server.port}; stop it first with: vigil stack down")
        return
    if wanted is not None and not processes.is_free(wanted):
        raise StackError(f"Port {wanted} is taken by another program.")
    if wanted is not None:
        server.port = wanted
    elif server.port is None or not processes.is_free(server.port):
        server.port = processes.free_port()


def _servers_folder(folder: Path) -> Path:
    """Return the folder for the servers' data: the stack's folder, unless root keeps that out of the servers' reach."""
    if os.geteuid() == 0 and not processes.is_reachable(folder / "postgres"):
        return Path("/var/lib/vigil") / secrets.token_hex(8)
    return folder.absolute()
