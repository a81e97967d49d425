"""Server processes: started as an unprivileged user, identified by pid and start time, and reliably stopped."""

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.stack.errors import StackError
from gateway.runtime import clock

# `nobody`: PostgreSQL refuses to run as root, and the broker need not.
UNPRIVILEGED = 65534
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be confused with a later one of the same pid: `started` is in clock ticks since boot."""

    pid: int
    started: int


def identify(pid: int) -> ProcessIdentity | None:
    """Return the process running under `pid`, None if there is none (a zombie does not run)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may contain anything
    return None if fields[0] in {"Z", "X"} else ProcessIdentity(pid, int(fields[19]))


def is_running(process: ProcessIdentity) -> bool:
    """Return whether this very process still runs."""
    return identify(process.pid) == process


def spawn(
    command: Sequence[str | Path], *, cwd: Path, log: Path, when_parent_dies: signal.Signals | None
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, its output appended to `log`, as `nobody` if we are root.

    With `when_parent_dies` the kernel sends it that signal when the starting thread ends, however that happens.
    """
    options: dict[str, object] = {}
    if os.geteuid() == 0:
        options = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
    with log.open("ab") as output:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command,
            cwd=cwd,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec(when_parent_dies),  # noqa: PLW1509 - two system calls, no locks, no allocation of note
            **options,
        )


def before_exec(when_parent_dies: signal.Signals | None) -> Callable[[], None]:
    """Return what a child does before exec: allow itself all descriptors, and arrange to end with us."""
    libc = ctypes.CDLL(None, use_errno=True)
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
        if when_parent_dies is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(when_parent_dies), 0, 0, 0)

    return prepare


def run_unprivileged(command: Sequence[str | Path], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as the servers' user and return what it said."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    return subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def send(process: ProcessIdentity, number: signal.Signals) -> None:
    """Send a signal to this very process; does nothing if it has ended."""
    if is_running(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def stop(process: ProcessIdentity, number: signal.Signals, *, within_seconds: float) -> bool:
    """Ask a process to end, then kill it. Return whether it ended by itself."""
    send(process, number)
    if wait_for_end(process, within_seconds=within_seconds):
        return True
    send(process, signal.SIGKILL)
    wait_for_end(process, within_seconds=within_seconds)
    return False


def wait_for_end(process: ProcessIdentity, *, within_seconds: float) -> bool:
    """Wait until a process has ended; return whether it did in time."""
    return wait_until(lambda: not is_running(process), within_seconds=within_seconds)


def children(pid: int) -> list[ProcessIdentity]:
    """Return the direct children of a process."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in map(identify, map(int, pids)) if child is not None]


def wait_until(condition: Callable[[], bool], *, within_seconds: float) -> bool:
    """Poll until the condition holds; return whether it did in time."""
    deadline = clock.monotonic() + within_seconds
    while not condition():
        if clock.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def free_port() -> int:
    """Return a port nobody listens on, and which the system gives to nobody else for the next minute.

    A connection that has just been closed waits there (TIME_WAIT): only who asks for this port by its number, and
    reuses addresses as servers do, gets it.
    """
    with socket.socket() as probe, socket.socket() as client:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        probe.listen(1)
        client.connect(probe.getsockname())
        accepted, _ = probe.accept()
        accepted.close()  # first: who closes first is the one that waits
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Return whether a server could take this port of this machine; who only bound it, or is frozen, has it too."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError as error:  # what may not be taken for another reason, its server says better
        return error.errno != errno.EADDRINUSE


def make_server_folder(folder: Path) -> None:
    """Make a folder owned by the servers' user alone; its parents must let that user through."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if os.geteuid() == 0:
        if not is_reachable(folder):
            raise StackError(f"{folder} lies in a folder closed to the unprivileged user the servers run as.")
        os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)


def give_to_server(path: Path) -> None:
    """Give a file to the servers' user, unreadable for others."""
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED)


def is_reachable(folder: Path) -> bool:
    """Return whether the servers' user may traverse all parents of the folder."""
    above = (place.stat() for place in folder.resolve().parents)
    return all(place.st_mode & 0o001 or place.st_uid == UNPRIVILEGED for place in above)


def log_end(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
