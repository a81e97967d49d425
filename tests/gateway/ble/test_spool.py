"""What the spool returned for is on disk, and nothing is forgotten that a receipt has not covered."""

import json
import logging
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from devices.vocabulary import Code, EventType, Unit
from gateway.ble import spool as spool_module
from gateway.ble.findings import Happening, Reading, Record
from gateway.ble.outgoing import Outgoing
from gateway.ble.spool import (
    Command,
    Spool,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
    SpoolInUseError,
)

START = 1_763_770_000_000
APART = 3_600_001  # no two readings are joined: a series is a record
CODES = {"a": Code.GLUCOSE, "b": Code.SPO2}
STREAMS = {code.wire: stream for stream, code in CODES.items()}
UNITS = {Code.GLUCOSE: Unit.MMOL_L, Code.SPO2: Unit.PERCENT}
Name = tuple[str, int]  # stream, key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path) as spool:
        yield spool


def record(key: int, stream: str = "a") -> Record:
    code = CODES[stream]
    return Record(key, (Reading(code, UNITS[code], START + key * APART, float(key)),))


def records(*keys: int, stream: str = "a") -> list[Record]:
    return [record(key, stream) for key in keys]


def names(messages: list[Outgoing]) -> list[Name]:
    """Which records are in messages."""
    found = (series for message in messages for series in json.loads(message.body.items))
    return [(STREAMS[series["code"]], int(series["value"])) for series in found]


def held(spool: Spool) -> list[Name]:
    return names(spool.waiting(1_000_000))


def send_all(spool: Spool) -> int:
    """Send everything that waits; return the last number."""
    spool.begin_sending()
    spool.end_sending()
    return spool.waiting(1_000_000)[-1].seq


# Records


def test_a_record_is_kept_once_and_committed_after_its_receipt(spool: Spool) -> None:
    assert spool.committed("cgm", "a") is None
    assert spool.keep_records("cgm", "a", records(1, 2, 3)) == 3
    assert spool.keep_records("cgm", "a", records(2, 3, 4)) == 1
    assert held(spool) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    spool.cover("cgm", "a", 4)
    assert spool.committed("cgm", "a") == 0
    assert spool.receipt(send_all(spool))
    assert spool.committed("cgm", "a") == 4
    assert len(spool) == 0
    assert spool.keep_records("cgm", "a", records(1, 2, 3, 4)) == 0


def test_a_receipt_commits_nothing_that_was_not_covered(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(5, 6, 9))
    spool.receipt(send_all(spool))
    assert spool.committed("cgm", "a") is None
    assert spool.keep_records("cgm", "a", records(5, 6, 9)) == 0
    spool.cover("cgm", "a", 6)
    assert spool.committed("cgm", "a") == 6


def test_a_lower_record_that_still_waits_holds_the_mark_back(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(7, 8))
    spool.receipt(send_all(spool))
    spool.keep_records("cgm", "a", records(3))
    spool.cover("cgm", "a", 8)
    assert spool.committed("cgm", "a") == 2
    spool.receipt(send_all(spool))
    assert spool.committed("cgm", "a") == 8


def test_a_record_that_says_nothing_waits_for_nothing(spool: Spool) -> None:
    assert spool.keep_records("cgm", "a", [Record(1, ()), record(2)]) == 2
    spool.cover("cgm", "a", 2)
    assert spool.committed("cgm", "a") == 1
    assert spool.keep_records("meter", "a", [Record(1, ())]) == 1
    spool.cover("meter", "a", 1)
    assert spool.committed("meter", "a") == 1


def test_streams_and_devices_do_not_know_each_other(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    assert spool.keep_records("cgm", "b", records(1, stream="b")) == 1
    assert spool.keep_records("other", "a", records(1)) == 1
    assert spool.streams("cgm") == ["b", "a"]
    assert [message.device for message in spool.waiting(10)] == ["cgm", "cgm", "other"]


def test_live_findings_and_records_share_one_numbering(spool: Spool) -> None:
    news: list[int] = []
    spool.on_new = lambda: news.append(spool.next_seq)
    spool.keep("box", [Happening(EventType.TAMPER, START)])
    spool.keep("box", [])
    spool.keep_records("cgm", "a", records(1))
    spool.keep_records("cgm", "a", records(1))
    assert [message.seq for message in spool.waiting(10)] == [1, 2]
    assert [message.seq for message in spool.waiting(10, after=1)] == [2]
    assert [message.seq for message in spool.waiting(1)] == [1]
    assert news == [2, 3]


def test_a_device_that_begins_streams_without_end_is_remembered_within_bounds(spool: Spool) -> None:
    spool.keep_records("cgm", "waits", records(1))
    for number in range(3 * spool_module.MAX_STREAMS):
        spool.cover("cgm", f"s{number}", number)
    assert len(spool.streams("cgm")) == spool_module.MAX_STREAMS + 1
    assert "waits" in spool.streams("cgm")
    spool.receipt(send_all(spool))
    spool.cover("cgm", "one more", 1)
    assert "waits" not in spool.streams("cgm")


def test_keys_without_end_are_remembered_within_bounds(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_REMEMBERED", 100)
    for start in range(0, 1_000, 50):
        spool.keep_records("cgm", "a", records(*range(start, start + 50)))
        spool.receipt(send_all(spool))
    assert spool.keep_records("cgm", "a", records(*range(900, 1_000))) == 0
    assert spool.keep_records("cgm", "a", records(*range(900))) == 900


# Receipts


def test_receipts_out_of_order_and_repeated_free_each_message_once(spool: Spool) -> None:
    for key in range(5):
        spool.keep_records("cgm", "a", records(key))
    send_all(spool)
    assert [spool.receipt(seq) for seq in (3, 3, 1, 2, 0, 5)] == [True, False, False, False, False, True]
    assert len(spool) == 0
    assert spool.oldest == spool.next_seq == 6


def test_a_receipt_for_what_was_never_sent_is_not_believed(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    assert not spool.receipt(1)
    spool.begin_sending()
    spool.keep_records("cgm", "a", records(2))
    spool.end_sending()
    spool.keep_records("cgm", "a", records(3))
    assert not spool.receipt(3)
    assert not spool.receipt(2**63 - 1)
    assert spool.receipt(2)
    assert len(spool) == 1


def test_a_fresh_spool_begins_behind_its_earlier_life(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    spool.keep_records("cgm", "a", records(2))
    assert spool.rebase(1_000)
    assert [message.seq for message in spool.waiting(10)] == [1_001, 1_002]
    assert (spool.oldest, spool.next_seq) == (1_001, 1_003)
    assert not spool.receipt(1_000)
    assert spool.receipt(send_all(spool))
    assert not spool.rebase(1_002)
    spool.keep_records("cgm", "a", records(3))
    assert [message.seq for message in spool.waiting(10)] == [1_003]


def test_a_spool_from_a_backup_begins_behind_what_came_after_it(path: Path) -> None:
    with Spool(path) as spool:
        spool.keep_records("cgm", "a", records(1, 2))
        spool.receipt(send_all(spool))
        spool.keep_records("cgm", "a", records(3))
        send_all(spool)
    with Spool(path) as spool:
        spool.keep_records("cgm", "a", records(4))
        assert spool.rebase(50)
        assert not spool.receipt(50)
        assert not spool.receipt(51)
        assert held(spool) == [("a", 3), ("a", 4)]
        assert spool.oldest == 51


def test_a_receipt_of_this_life_moves_no_numbers(spool: Spool) -> None:
    for key in range(3):
        spool.keep_records("cgm", "a", records(key))
    send_all(spool)
    assert not spool.rebase(2)
    assert spool.receipt(2)
    assert held(spool) == [("a", 2)]


def test_a_receipt_without_room_behind_it_does_not_move_the_numbers(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    assert not spool.rebase(2**63 - 1)
    assert spool.oldest == 1


# Room


def test_a_full_spool_refuses_everything_and_loses_nothing(path: Path) -> None:
    with Spool(path, max_bytes=300_000) as spool:
        kept = 0
        with pytest.raises(SpoolFullError, match="messages wait"):  # noqa: PT012 (how many fit is not the point)
            for key in range(0, 100_000, 10):
                spool.keep_records("cgm", "a", records(*range(key, key + 10)))
                kept += 10
        with pytest.raises(SpoolFullError):
            spool.keep("cgm", [reading for record in records(*range(100)) for reading in record.findings])
        assert kept > 500
        assert held(spool) == [("a", key) for key in range(kept)]
        assert path.stat().st_size < 400_000
        spool.cover("cgm", "a", kept - 1)
        spool.receipt(send_all(spool))
        assert spool.committed("cgm", "a") == kept - 1
        assert spool.keep_records("cgm", "a", records(kept)) == 1


def test_a_full_disk_is_a_full_spool(spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    ((pages,),) = spool._all("pragma page_count")
    spool._all(f"pragma max_page_count = {pages}")
    with pytest.raises(SpoolFullError, match="disk is full"):
        spool.keep_records("cgm", "a", [Record(key, record(key).findings) for key in range(2, 2_000)])
    assert held(spool) == [("a", 1)]
    spool._all("pragma max_page_count = 1000000")
    assert spool.keep_records("cgm", "a", records(2)) == 1
    assert held(spool) == [("a", 1), ("a", 2)]


# Everything else that has to last


def test_facts_roster_and_commands_survive(path: Path) -> None:
    remind = Command("12", "box", "remind", b"{}", START + 1_000)
    forever = Command("13", "box", "set_schedule", b'{"revision":1}')
    with Spool(path) as spool:
        assert spool.fact("cgm", "start") is None
        assert spool.roster() is None
        spool.set_fact("cgm", "start", "1")
        spool.set_fact("cgm", "start", "2")
        spool.set_roster(b"[1]")
        spool.set_roster(b"[2]")
        assert spool.add_command(remind)
        assert spool.add_command(forever)
        assert not spool.add_command(remind)
    with Spool(path) as spool:
        assert spool.fact("cgm", "start") == "2"
        assert spool.roster() == b"[2]"
        assert spool.commands("box", START) == [remind, forever]
        assert spool.commands("box", START + 1_000) == [forever]
        assert spool.commands("cgm", START) == []
        spool.finish_command("13")
        assert spool.commands("box", START) == [remind]
        assert not spool.add_command(forever)


def test_commands_without_end_are_remembered_within_bounds(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_COMMANDS", 10)
    for number in range(20):
        spool.add_command(Command(str(number), "box", "remind", b"{}"))
        if number % 2:
            spool.finish_command(str(number))
    assert [command.id for command in spool.commands("box", START)] == [str(number) for number in range(2, 20, 2)]


# The file


def test_the_file_is_ours_alone_and_durable(path: Path, spool: Spool) -> None:
    spool.keep_records("cgm", "a", records(1))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert spool._all("pragma synchronous") == [(2,)]
    assert spool._all("pragma journal_mode") == [("wal",)]


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    script = f"from gateway.ble.spool import Spool\nSpool({str(path)!r})\nprint('open', flush=True)\ninput()"
    first = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"open\n"
    with pytest.raises(SpoolInUseError, match="in use by another process"):
        Spool(path)
    first.kill()
    first.communicate()
    with Spool(path), pytest.raises(SpoolInUseError):
        Spool(path)


def _overwrite(path: Path) -> None:
    path.write_bytes(b"This was a spool once. " * 1_000)


def _punch(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * 8_192)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_overwrite, _punch, _cut])
def test_a_damaged_file_is_kept_aside_and_a_fresh_one_begun(
    path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        with Spool(path) as spool:
            for key in range(500):
                spool.keep_records("cgm", "a", records(key))
        damage(path)
        ruin = path.read_bytes()
        with caplog.at_level(logging.ERROR), Spool(path) as spool:
            assert len(spool) == 0
            assert spool.keep_records("cgm", "a", records(0)) == 1
        aside = path.with_name(f"spool.db.damaged-{number}")
        assert aside.read_bytes() == ruin
        assert getattr(caplog.records[-1], "moved_to", None) == str(aside)
        path.unlink()


def test_a_log_of_a_damaged_file_is_not_read_into_the_fresh_one(path: Path) -> None:
    with Spool(path) as spool:
        for key in range(200):
            spool.keep_records("cgm", "a", records(key))
    with Spool(path) as spool:
        spool.keep_records("cgm", "a", records(200))
        shutil.copy(f"{path}-wal", f"{path}-copy")
    _overwrite(path)
    Path(f"{path}-copy").rename(f"{path}-wal")
    with Spool(path) as spool:
        assert held(spool) == []
        assert spool.keep_records("cgm", "a", records(1)) == 1
    assert path.with_name("spool.db.damaged-1").exists()


def test_what_is_no_spool_is_refused_and_untouched(path: Path, tmp_path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("create table precious (thing)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(SpoolError, match="not a spool"):
        Spool(path)
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from precious").fetchone() == (0,)
    db.close()
    assert len(before) == path.stat().st_size
    for nowhere in (tmp_path, tmp_path / "no" / "such" / "folder"):
        with pytest.raises(SpoolBrokenError, match=str(nowhere)):
            Spool(nowhere)


def test_a_spool_of_a_later_version_is_left_alone(path: Path) -> None:
    with Spool(path) as spool:
        spool.keep_records("cgm", "a", records(1))
        spool._all("pragma user_version = 2")
    with pytest.raises(SpoolError, match="another version"):
        Spool(path)
    assert list(path.parent.glob("*damaged*")) == []


WRITER = """
import sys
from gateway.ble.spool import Spool
from tests.gateway.ble.test_spool import records
spool, key = Spool(sys.argv[1]), int(sys.argv[2])
print(key, flush=True)
while True:
    assert spool.keep_records("cgm", "a", records(*range(key, key + 20))) == 20
    key += 20
    print(key, flush=True)
"""


def test_a_killed_writer_has_kept_what_it_was_told_it_had(path: Path) -> None:
    """And at most the one call it was killed in, whole."""
    chance = random.Random(7)
    told = 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(told)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            writer.stdout.readline()
        writer.kill()
        rest, _ = writer.communicate()
        lines = rest.split(b"\n")[:-1]
        with Spool(path) as spool:
            found = [key for _, key in held(spool)]
        assert found == list(range(len(found)))
        assert len(found) % 20 == 0
        if lines:
            assert int(lines[-1]) <= len(found) <= int(lines[-1]) + 20
        assert len(found) >= told
        told = len(found)


class SpoolMachine(RuleBasedStateMachine):
    """A device with two streams, a broker that loses what it likes, and a process that is killed, against plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = 0
        self.spool = Spool(self.folder / "0")
        self.device: dict[str, set[int]] = {"a": {0, 1, 2, 4}, "b": {7, 8}}
        self.kept: dict[str, set[int]] = {"a": set(), "b": set()}
        self.covered = {"a": -1, "b": -1}
        self.marks = {"a": -1, "b": -1}
        self.receipted: set[Name] = set()
        self.messages: list[list[Name]] = []
        """Those that wait, in order."""
        self.first = 1
        self.sent = 0
        self.sending = False
        self.standing = 0
        """The receipt that the broker retains."""

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)

    streams = st.sampled_from(["a", "b"])

    @rule(stream=streams, gaps=st.lists(st.integers(1, 3), min_size=1, max_size=5))
    def measure(self, stream: str, gaps: list[int]) -> None:
        for gap in gaps:
            self.device[stream].add(max(self.device[stream], default=-1) + gap)

    @rule(stream=streams, size=st.integers(1, 8), ends=st.booleans())
    def read_from_the_mark(self, stream: str, size: int, *, ends: bool) -> None:
        """A procedure from the mark on, which ends well or breaks off: all that was read is covered."""
        mark = self.spool.committed("cgm", stream)
        keys = sorted(key for key in self.device[stream] if mark is None or key > mark)
        if not ends:
            keys = keys[:size]
        self.keep(stream, keys)
        if keys:
            self.spool.cover("cgm", stream, keys[-1])
            self.covered[stream] = max(self.covered[stream], keys[-1])
            self.reckon()

    @rule(stream=streams, data=st.data())
    def read_any(self, stream: str, data: st.DataObject) -> None:
        """Single records in any order, some of them twice: nothing is known of those between."""
        if self.device[stream]:
            self.keep(stream, data.draw(st.lists(st.sampled_from(sorted(self.device[stream])), max_size=6)))

    def keep(self, stream: str, keys: list[int]) -> None:
        fresh = set(keys) - self.kept[stream] - set(range(self.marks[stream] + 1))
        assert self.spool.keep_records("cgm", stream, records(*keys, stream=stream)) == len(fresh)
        self.kept[stream] |= fresh
        added = [names([message]) for message in self.spool.waiting(1_000)[len(self.messages) :]]
        assert sorted(name for message in added for name in message) == sorted((stream, key) for key in fresh)
        self.messages += added
        if self.sending and added:
            self.sent = self.last

    @property
    def last(self) -> int:
        return self.first + len(self.messages) - 1

    @rule()
    def lose_the_connection(self) -> None:
        self.spool.end_sending()
        self.sending = False

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """The gateway commits some of what was sent; nobody has told the edge box yet."""
        self.standing = data.draw(st.integers(self.standing, max(self.standing, self.sent)))

    @rule(data=st.data())
    def hear_receipt(self, data: st.DataObject) -> None:
        """Any number: old ones, the right one, ones that were never sent."""
        seq = data.draw(st.integers(max(self.first - 2, 0), self.first + len(self.messages) + 2))
        self.hear(seq)
        if seq <= self.sent:
            self.standing = max(self.standing, seq)

    def hear(self, seq: int) -> None:
        news = self.first <= seq <= self.sent
        assert self.spool.receipt(seq) == news
        if news:
            for _ in range(self.first, seq + 1):
                self.receipted.update(self.messages.pop(0))
            self.first = seq + 1
            self.reckon()

    @rule(another_life=st.sampled_from([0, 0, 2, 40]))
    def log_in(self, another_life: int) -> None:
        """What stands at the broker is ours, or that of an earlier life; then everything goes out."""
        self.standing += another_life
        moved = self.spool.rebase(self.standing)
        assert moved == (self.standing > self.sent)
        if moved:
            self.first, self.sent = self.standing + 1, self.standing
        else:
            self.hear(self.standing)
        self.spool.begin_sending()
        self.sending, self.sent = True, self.last

    @rule(killed=st.booleans())
    def restart(self, *, killed: bool) -> None:
        """After a kill the files are what they are at this moment."""
        self.files += 1
        old, new = self.folder / str(self.files - 1), self.folder / str(self.files)
        if not killed:
            self.spool.close()
        for suffix in ("", "-wal"):
            if Path(f"{old}{suffix}").exists():
                shutil.copy(f"{old}{suffix}", f"{new}{suffix}")
        self.spool.close()
        self.spool = Spool(new)
        self.sending = False

    def reckon(self) -> None:
        for stream, covered in self.covered.items():
            waits = [key for key in self.kept[stream] if (stream, key) not in self.receipted]
            self.marks[stream] = max(self.marks[stream], min([covered, *(key - 1 for key in waits)]))

    @invariant()
    def a_mark_covers_only_what_was_receipted(self) -> None:
        for stream, mark in self.marks.items():
            assert self.spool.committed("cgm", stream) == (None if mark < 0 else mark)
            assert {(stream, key) for key in self.device[stream] if key <= mark} <= self.receipted

    @invariant()
    def everything_kept_waits_once_until_its_receipt(self) -> None:
        waiting = self.spool.waiting(1_000)
        assert [message.seq for message in waiting] == list(range(self.first, self.first + len(waiting)))
        assert [names([message]) for message in waiting] == self.messages
        everything = [(stream, key) for stream, keys in self.kept.items() for key in keys]
        assert sorted(name for message in self.messages for name in message) == sorted(set(everything) - self.receipted)
        assert self.spool.oldest == self.first


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
