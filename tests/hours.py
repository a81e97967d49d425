"""`python -m tests.hours [arguments of pytest]`: the tests that depend on the time of day, at every hour of it.

A test depends on it when its file reads the clock, by itself or through a helper of the tests that it imports, or
when it starts a gateway; `tests/conftest.py` marks those `hours`. One that starts another program which reads the clock
bears the mark itself. What chooses the time of everything it does is not among them.

The first run begins now, each further one an hour later by its clock than the one before, and the last one a minute
before midnight, so that it crosses it. They end with the first that is not green.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from gateway.runtime import clock

TESTS = Path(__file__).parent
BEFORE_MIDNIGHT = timedelta(hours=23, minutes=59)


@cache
def clock_readers() -> frozenset[Path]:
    """Return the files under tests/ that read the time of day, by themselves or through one another.

    Not counted is the stamp of the migration in conftest.py, which every test with a database would have.
    """
    files = {".".join(path.relative_to(TESTS.parent).with_suffix("").parts): path for path in TESTS.rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
    imports = {name: _imported(tree) for name, tree in trees.items()}
    found: set[str] = set()
    more = {name for name, tree in trees.items() if _reads(tree)} - {"tests.conftest", "tests.hours"}
    while more:
        found |= more
        more = {name for name in files if name not in found and imports[name] & found}
    return frozenset(files[name] for name in found)


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def _reads(tree: ast.Module) -> bool:
    names = {
        one.asname or one.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "gateway.runtime"
        for one in node.names
        if one.name == "clock"
    }
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in {"now", "now_ms"}
        and isinstance(node.value, ast.Name)
        and node.value.id in names
        for node in ast.walk(tree)
    )


def offset_of(run: int, real_now: datetime) -> timedelta:
    """Return how far ahead the clock of a run is, never back: nothing that was stored may lie in the future."""
    if run < 24:
        return timedelta(hours=run)
    midnight = real_now.replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight + BEFORE_MIDNIGHT - real_now) % timedelta(days=1)


def _files_of(arguments: Sequence[str]) -> list[str]:
    """Return the files of the tests that the arguments choose: to look through all of them takes a third of a run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", *arguments, "-n0"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line.partition(":")[0] for line in listed.splitlines() if line.startswith("tests/")]


def main(arguments: Sequence[str]) -> int:
    """Run pytest at every hour; return the exit code of the first run that was not green, else 0."""
    files = _files_of(arguments)
    for run in range(25):
        real_now = clock.now() - timedelta(milliseconds=clock.OFFSET_MS)
        began, offset = clock.monotonic(), offset_of(run, real_now)
        environment = {**os.environ, clock.OFFSET_VARIABLE: str(round(offset / timedelta(milliseconds=1)))}
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments, *files], env=environment, check=False)
        took = clock.monotonic() - began
        sys.stdout.write(f"begun at {real_now + offset:%H:%M} UTC: exit code {done.returncode}, {took:.0f} s\n")
        sys.stdout.flush()
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
