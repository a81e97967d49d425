"""Room in the spool: what receipts free is there again."""

from contextlib import suppress
from pathlib import Path

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
    with Spool(tmp_path / "spool.db", most_bytes=200_000) as spool:
        spool._db.execute("pragma synchronous = off")  # how durably is not the matter here
        spool.begin_sending()
        last = fill(spool, 1)
        assert last > 100
        spool.cover("cgm", "a", last)
        assert spool.receipt(last)
        assert spool.committed("cgm", "a") == last
        assert fill(spool, last + 1) > last * 1.5
