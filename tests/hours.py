"""Which tests depend on the time of day, and the moments at which `make hours` runs each of them.

A test depends on it when its file reads the clock, by itself or through a helper of the tests that it imports, or
when it starts a gateway; `tests/conftest.py` marks those `hours`. One that starts another program which reads the clock
bears the mark itself. What chooses the time of everything it does is not among them.

With `--every-hour` each of them begins at every hour of the day (at the minute that it is), and once more some seconds
before midnight, which it then crosses. The clock of the test and of all programs that it starts is moved for that.
"""

import ast
from collections.abc import Container
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
BEFORE_MIDNIGHT = 24
MOMENTS = (*range(24), BEFORE_MIDNIGHT)
CROSSED_AFTER_S = 3
MOVES_IT_ITSELF = frozenset({TESTS / "deploy" / "test_one_clock.py"})


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


def depends_on_the_hour(path: Path, fixtures: Container[str]) -> bool:
    """Return whether the tests of a file that ask for these fixtures do: it reads the clock, or they start a gateway."""
    return path not in MOVES_IT_ITSELF and (path in clock_readers() or "gateway_process" in fixtures)


def offset_to(moment: int, real_now: datetime) -> timedelta:
    """Return how far ahead a clock is at which it is that hour now, or, for BEFORE_MIDNIGHT, nearly midnight.

    Never back: nothing that is stored may lie in the future.
    """
    if moment == BEFORE_MIDNIGHT:
        midnight = real_now.replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight + timedelta(days=1, seconds=-CROSSED_AFTER_S) - real_now) % timedelta(days=1)
    return timedelta(hours=(moment - real_now.hour) % 24)
