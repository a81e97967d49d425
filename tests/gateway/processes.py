"""The programs as real processes: started, killed, stopped, and read by their logs."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from deploy.stack.processes import before_exec
from gateway.runtime import clock

VIGIL = Path(sys.executable).parent / "vigil"
PATIENCE_S = 60.0
CONNECTED = "connected to the broker"


async def until(condition: Any, *, within_s: float = PATIENCE_S, every_s: float = 0.05, what: str = "") -> None:
    """Wait until the (possibly async) condition is true; AssertionError when it never is."""
    deadline = clock.monotonic() + within_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert clock.monotonic() < deadline, f"not within {within_s:.0f} s: {what or condition}"
        await asyncio.sleep(every_s)


class VigilProcess:
    """`vigil <command>`, one at a time; `start` after `kill` or `stop` starts another one, on the same log.

    `ready`: what it says once it works.
    """

    def __init__(self, folder: Path, command: str, ready: str, **settings: str) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
            **{f"VIGIL_{name.upper()}": value for name, value in settings.items()},
        }
        self._folder = folder
        self._command = command
        self._ready = ready
        self.log_file = folder / f"{command}-{len(list(folder.glob(f'{command}-*')))}.log"
        self.log_file.touch()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start and do not wait."""
        assert not self.running
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [VIGIL, self._command],
                env=self.environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=before_exec(signal.SIGKILL),  # noqa: PLW1509 - two system calls
            )

    async def start(self) -> Self:
        """Start and wait until it works."""
        seen = self.count(self._ready)
        self.launch()
        await self.until_said(self._ready, times=seen + 1)
        return self

    async def until_said(self, event: str, times: int = 1, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for a line of the log and return the last one of its kind; fails at once if the process has ended."""
        deadline = clock.monotonic() + within_s
        while self.count(event) < times:
            assert self.running, f"vigil {self._command} ended:\n{self.log_file.read_text()[-4000:]}"
            assert clock.monotonic() < deadline, f"never said {event!r}:\n{self.log_file.read_text()[-4000:]}"
            await asyncio.sleep(0.02)
        return next(line for line in reversed(self.log()) if line.get("event") == event)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, wait, and return its exit code."""
        return self._end(signal.SIGTERM)

    def log(self) -> list[dict[str, Any]]:
        """Return what it said; a line that is no JSON is an event of its own."""
        return [_line(text) for text in self.log_file.read_text(errors="replace").splitlines() if text.strip()]

    def count(self, event: str) -> int:
        return sum(line.get("event") == event for line in self.log())

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class GatewayProcess(VigilProcess):
    """`vigil gateway`, with receipts that do not keep a test waiting."""

    def __init__(self, folder: Path, database_url: str, mqtt_url: str, **settings: str) -> None:
        given = {"receipt_interval_seconds": "0.3", **settings}
        super().__init__(folder, "gateway", CONNECTED, database_url=database_url, mqtt_url=mqtt_url, **given)


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"event": text}
    return found if isinstance(found, dict) else {"event": text}
