"""The demo's programs: `vigil gateway`, `worker`, `api` and `ble` as children that cannot outlive it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deploy.demo.errors import ProgramEnded
from deploy.stack.processes import before_exec

_VIGIL = (sys.executable, "-P", "-c", "from deploy.cli import main; main()")
_LOOK_EVERY_S = 0.2
_STOP_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class _Program:
    command: str
    child: subprocess.Popen[bytes]
    log: Path


class Programs:
    """Children in their own process groups, so that Ctrl-C reaches them only through us; the kernel ends them with us.

    Each sees only the VIGIL_ settings that it is given. Its output goes to `<folder>/<name>.log`, truncated at each
    start. Start them from the main thread: the kernel ends them when the thread that started them ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inherited = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
        self._running: list[_Program] = []

    def start(self, command: str, settings: Mapping[str, str]) -> None:
        """Start `vigil <command>` with these settings."""
        log = self._folder / f"{command}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [*_VIGIL, command],
                cwd=self._folder,
                env={**self._inherited, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=before_exec(signal.SIGKILL),  # noqa: PLW1509 - two system calls, no locks
            )
        self._running.append(_Program(command, child, log))

    async def watch(self) -> NoReturn:
        """Wait until a program ends by itself. Raises ProgramEnded."""
        while True:
            self.check()
            await asyncio.sleep(_LOOK_EVERY_S)

    def check(self) -> None:
        """Raise ProgramEnded if a program has ended by itself."""
        for program in self._running:
            code = program.child.poll()
            if code is not None:
                raise ProgramEnded(f"vigil {program.command}", code, program.log)

    def stop(self, command: str | None = None) -> None:
        """Ask `vigil <command>`, or all, to end, the last started first; kill those that take too long."""
        ending = [program for program in reversed(self._running) if command in {None, program.command}]
        self._running = [program for program in self._running if program not in ending]
        for program in ending:
            if program.child.poll() is None:
                program.child.terminate()
        for program in ending:
            try:
                program.child.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                program.child.kill()
                program.child.wait()
