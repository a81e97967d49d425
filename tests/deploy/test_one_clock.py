"""One clock: nothing but gateway/runtime/clock.py reads it, it can be moved for tests, and never on a clinic's store."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from gateway.runtime import clock
from tests.api.clinic import SECRET
from tests.gateway.processes import VIGIL, GatewayProcess, VigilProcess

ROOT = Path(__file__).parents[2]
THE_CLOCK = ROOT / "gateway" / "runtime" / "clock.py"
PACKAGES = ("alerts", "api", "deploy", "devices", "firmware_sim", "gateway", "streaming", "tests")
EXAMPLES = Path(__file__)
HOUR_MS = 3_600_000

# Beyond ruff's banned-api, which does not see through getattr, a module's other names, or a string.
READERS = {
    "time": {
        "asctime",
        "clock_gettime",
        "clock_gettime_ns",
        "ctime",
        "gmtime",
        "localtime",
        "monotonic",
        "monotonic_ns",
    }
    | {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "strftime", "time", "time_ns"},
    "datetime": {"now", "today", "utcnow"},
    "date": {"today"},
    "utils": {"formatdate", "localtime"},
}
OF_SQL = re.compile(
    r"(?<![\w.])(now\(\)|(clock|statement|transaction)_timestamp\(\)|timeofday\(\)"
    r"|current_(date|timestamp)\b|localtimestamp\b)",
    re.IGNORECASE,
)


def readers_in(source: str) -> Iterator[str]:
    """Every way in which Python code reads a clock, by itself or in the SQL of its strings."""
    tree = ast.parse(source)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                banned = READERS["time"] if module == "time" else READERS["utils"] if module == "email.utils" else set()
                yield from (f"from {module} import {name.name}" for name in names if name.name in banned)
            case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                if name in READERS.get(owner, ()):
                    yield f"{owner}.{name}"
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=owner), *_]) if owner in READERS:
                yield f"getattr({owner}, …)"
            case ast.Constant(value=str(text)) if id(node) not in prose and (found := OF_SQL.search(text)):
                yield f"{found[0]} in a string"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time\ntime.time()", ["time.time"]),
        ("import time\ntime.sleep(1)", []),
        ("from time import time_ns as f", ["from time import time_ns"]),
        ("import time\ngetattr(time, 'ti' + 'me')()", ["getattr(time, …)"]),
        ("from datetime import datetime\ndatetime.now(UTC)", ["datetime.now"]),
        ("import datetime\ndatetime.date.today()", ["date.today"]),
        ("import datetime\nf = datetime.datetime.utcnow", ["datetime.utcnow"]),
        ("from gateway.runtime import clock\nclock.now()", []),
        ("query = 'select now() - interval'", ["now() in a string"]),
        ("query = f'values ({x}, CURRENT_TIMESTAMP)'", ["CURRENT_TIMESTAMP in a string"]),
        ("message = 'use clock.now() or known()'", []),
        ('def f():\n    """What now() is for."""', []),
    ],
)
def test_what_reads_a_clock_is_seen(source: str, expected: list[str]) -> None:
    assert list(readers_in(source)) == expected


def test_nothing_else_reads_a_clock() -> None:
    found = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if path not in {THE_CLOCK, EXAMPLES}:
            source = path.read_text(encoding="utf-8")
            found[str(path)] = [*readers_in(source), *re.findall(r"noqa:.*TID251", source)]
    assert len(found) > 400
    assert {path: readers for path, readers in found.items() if readers} == {}


def test_no_query_reads_a_clock() -> None:
    for path in (found for package in PACKAGES for found in (ROOT / package).rglob("*.sql")):
        statements = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        assert not OF_SQL.search(statements), path


# Moving it


def moved_by(offset_ms: int) -> str:
    return str(clock.OFFSET_MS + offset_ms)


def read_elsewhere(offset: str) -> tuple[int, str]:
    """What a program whose clock is moved so says: the exit code, and its clock or its complaint."""
    done = subprocess.run(
        [sys.executable, "-c", "from gateway.runtime import clock; print(clock.now_ms(), clock.now().timestamp())"],
        env={**os.environ, clock.OFFSET_VARIABLE: offset},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout or done.stderr


@pytest.mark.parametrize("hours", [-30, 0, 13])
def test_a_program_is_moved_by_the_variable(hours: int) -> None:
    before = clock.now_ms()
    code, said = read_elsewhere(moved_by(hours * HOUR_MS))
    after = clock.now_ms()
    assert code == 0
    ms, seconds = said.split()
    assert before <= int(ms) - hours * HOUR_MS <= after
    assert before <= float(seconds) * 1000 - hours * HOUR_MS <= after + 1


def test_what_is_no_number_of_ms_is_said() -> None:
    code, said = read_elsewhere("noon")
    assert code == 1
    assert said.endswith(f"{clock.OFFSET_VARIABLE} is no whole number of ms: 'noon'\n")


# Never on a clinic's store


def grow_old(database_url: str, age: timedelta) -> None:
    """Make the store one that has been in use for so long, by the real time."""
    real_now = clock.now() - timedelta(milliseconds=clock.OFFSET_MS)
    with psycopg.connect(database_url) as connection:
        connection.execute("update schema_migration set applied_at = %s", (real_now - age,))


def first_day(database_url: str) -> datetime:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select min(applied_at) from schema_migration").fetchone()
    assert row is not None
    assert isinstance(row[0], datetime)
    return row[0]


@pytest.fixture
def settings(database_url: str, mqtt_url: str) -> dict[str, str]:
    return {"database_url": database_url, "mqtt_url": mqtt_url, "secret_key": SECRET, "api_port": "0"}


@pytest.mark.parametrize(
    "command",
    [
        "gateway",
        "worker",
        "api",
        "migrate",
        "patient list",
        "alerts",
        "simulate --patients 1 --days 0 --seconds 1",
        "bench ingest --runs 1",
        "backtest --stored --patient 1 --from 2026-11-01T00:00",
    ],
)
def test_with_a_moved_clock_nothing_works_on_a_store_of_more_than_a_day(
    command: str, settings: dict[str, str], tmp_path: Path
) -> None:
    grow_old(settings["database_url"], timedelta(days=1, minutes=1))
    environment = VigilProcess(tmp_path, command, "", **settings).environment
    done = subprocess.run(
        [VIGIL, *command.split()],
        env={**environment, clock.OFFSET_VARIABLE: str(HOUR_MS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == (  # a bar of progress leaves an empty line
        f"vigil: {clock.OFFSET_VARIABLE} moves the clock by {HOUR_MS} ms, which is for tests; this store is in use since"
        f" {first_day(settings['database_url']):%Y-%m-%d}, so nothing works on it with that"
    )


@pytest.mark.parametrize(
    ("command", "ready"),
    [("gateway", "connected to the broker"), ("worker", "worker active"), ("api", "Application startup complete.")],
)
async def test_on_a_younger_one_they_do(command: str, ready: str, settings: dict[str, str], tmp_path: Path) -> None:
    grow_old(settings["database_url"], timedelta(hours=23))
    program = VigilProcess(tmp_path, command, ready, **settings)
    program.environment[clock.OFFSET_VARIABLE] = str(HOUR_MS)
    try:
        await program.start()
        assert program.stop() == 0
    finally:
        if program.running:
            program.kill()


async def test_with_the_real_clock_they_do_on_any(settings: dict[str, str], tmp_path: Path) -> None:
    grow_old(settings["database_url"], timedelta(days=400))
    gateway = GatewayProcess(tmp_path, settings["database_url"], settings["mqtt_url"])
    gateway.environment.pop(clock.OFFSET_VARIABLE, None)
    try:
        await gateway.start()
        assert gateway.stop() == 0
    finally:
        if gateway.running:
            gateway.kill()


def test_every_command_that_opens_the_store_asks_whether_the_clock_is_moved() -> None:
    commands = {path: path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "commands").glob("*.py")}
    opening = {path.name: "refuse_moved_clock(" in text for path, text in commands.items() if "database_url" in text}
    assert len(opening) >= 10
    assert [name for name, asks in opening.items() if not asks] == []
