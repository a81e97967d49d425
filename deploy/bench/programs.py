"""The other processes of a benchmark, and their processor time."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar

import msgspec

from deploy.bench.errors import BenchError
from deploy.stack import processes

STOP_WITHIN_S: Final = 20.0
_LOG_END_BYTES: Final = 2_000
_Answer = TypeVar("_Answer")
_VIGIL: Final = ("-c", "from deploy.cli import main; main()")


class Program:
    """A child process that reads and writes JSON lines; asked to stop when its `with` block ends."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self._child = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
        )

    @classmethod
    def module(cls, module: str) -> "Program":
        """Run a module of this package."""
        return cls(module.rpartition(".")[2], ["-m", module])

    @classmethod
    def vigil(cls, command: str, *arguments: str, environment: Mapping[str, str]) -> "Program":
        """Run a command of Vigil, as the shell would."""
        return cls(f"vigil {command}", [*_VIGIL, command, *arguments], environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.terminate()
        try:
            self._child.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._log):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def check(self) -> None:
        """Raise BenchError, with the end of its stderr, if it has ended."""
        if self._child.poll() is not None:
            raise BenchError(f"{self.name} ended with code {self._child.returncode}: {self.said()}")

    def tell(self, message: Any) -> None:
        """Send one line."""
        if self._child.stdin is None:
            return
        try:
            self._child.stdin.write(msgspec.json.encode(message) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            self._child.wait(STOP_WITHIN_S)
            self.check()

    def hear(self, kind: type[_Answer]) -> _Answer:
        """Wait for one line. Raises BenchError if the program ends instead."""
        line = b"" if self._child.stdout is None else self._child.stdout.readline()
        if not line:
            self._child.wait(STOP_WITHIN_S)
            self.check()
            raise BenchError(f"{self.name} ended without an answer: {self.said()}")
        return msgspec.json.decode(line, type=kind)

    def said(self) -> str:
        """Return the end of its stderr."""
        size = os.fstat(self._log.fileno()).st_size
        return (
            os.pread(self._log.fileno(), _LOG_END_BYTES, max(0, size - _LOG_END_BYTES)).decode(errors="replace").strip()
        )


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and all its descendants, living and ended, in seconds."""
    ticks = _ticks(pid) + sum(_ticks(child.pid) for child in processes.children(pid))
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    """Return utime + stime + cutime + cstime (proc(5)) in clock ticks; 0 if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, stat.rpartition(")")[2].split()[11:15]))
