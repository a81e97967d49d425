"""Room in the spool: what receipts free is there again."""

from contextlib import suppress
from pathlib import Path

import pytest

from gateway.ble import spool as spool_module
from gateway.ble.spool import Spool, SpoolFullError
from tests.gateway.ble.test_spool import records


def fill(spool: Spool, first: int) -> int:
    """Keep a record in a message of its own until there is no more room; return the key of the last one kept."""
    key = first
    with suppress(SpoolFullError):
        while spool.keep_records("cgm", "a", records(key)):
            key += 1
    return key - 1


def test_a_full_spool_whose_messages_were_receipted_takes_as_many_again(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.db", max_bytes=200_000) as spool:
        spool._db.execute("pragma synchronous = off")  # how durably is not the matter here
        spool.begin_sending()
        last = fill(spool, 1)
        assert last > 100
        spool.cover("cgm", "a", last)
        assert spool.receipt(last)
        assert spool.committed("cgm", "a") == last
        assert fill(spool, last + 1) > last * 1.5


def test_a_record_that_waits_is_remembered_however_many_others_were_receipted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten, it would no longer hold the mark back, and the device would be told to forget it too."""
    monkeypatch.setattr(spool_module, "MAX_REMEMBERED", 5)
    with Spool(tmp_path / "spool.db") as spool:
        spool.keep_records("cgm", "a", records(*range(10, 30)))
        others = spool.next_seq - 1
        spool.keep_records("cgm", "a", records(1))
        spool.begin_sending()
        assert spool.receipt(others)
        spool.cover("cgm", "a", 29)
        assert spool.committed("cgm", "a") == 0
        assert spool.keep_records("cgm", "a", records(1)) == 0
        assert spool.receipt(others + 1)
        assert spool.committed("cgm", "a") == 29
