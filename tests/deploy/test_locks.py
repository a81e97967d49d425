"""Advisory locks: one register, and no number that two purposes share."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.store.locks import LOCKS, RULES_SPACE

ROOT = Path(__file__).resolve().parents[2]
CALL = re.compile(r"pg_(?:try_)?advisory_\w+\((?P<space>\d+), (?P<key>\d+|%\(\w+\)s)\)")
IN_PG_LOCKS = re.compile(r"classid = (?P<space>\d+) and \w+\.objid = (?P<key>\d+)")


def named_locks() -> dict[tuple[str, str], set[str]]:
    """Return, by what stands in the call, the files that take or look for a lock."""
    tracked = subprocess.run(["git", "ls-files", "*.sql", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for name in tracked.stdout.split():
        if name.startswith("tests/"):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        matches = [*CALL.finditer(text), *IN_PG_LOCKS.finditer(text)]
        assert len(matches) == len(re.findall(r"advisory\w*_\w*lock\w*\(|\bclassid = ", text)), name
        for match in matches:
            found[match["space"], match["key"]].add(name)
    return found


def test_every_number_of_a_lock_is_in_the_register_and_belongs_to_one_file() -> None:
    named = named_locks()
    patient = (str(RULES_SPACE), "%(patient)s")
    assert named.keys() == {(str(space), str(key)) for space, key in LOCKS} | {patient}
    assert {call: files for call, files in named.items() if len(files) > 1} == {}


def test_no_two_locks_share_a_number() -> None:
    assert len(set(LOCKS)) == len(LOCKS)


@pytest.mark.parametrize(
    "call", ["select pg_advisory_lock(7316, 9)", "perform pg_try_advisory_xact_lock_shared(7316, 9)"]
)
def test_a_call_is_recognised_whatever_its_kind(call: str) -> None:
    match = CALL.search(call)
    assert match is not None
    assert match.group("space", "key") == ("7316", "9")
