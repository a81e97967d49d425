"""Keeps on disk what was read from devices until the gateway's receipt covers it. Durable when a call returns.

Messages have numbers without gaps; a receipt frees everything up to one. Records of a device are known by their key
within a stream, so that a record is published once however often it is read. `committed` moves only over what has been
read (`cover`) and of which nothing waits for its receipt: only that may a device forget.

Synchronous on purpose: single statements on a local disk, a few milliseconds at most.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from devices.vocabulary import DEVICE_ID, Topic
from gateway.ble.findings import Finding, Record
from gateway.ble.outgoing import Body, Outgoing, pack, pack_records
from gateway.ble.spool_file import (
    SQL,
    SpoolBrokenError,
    SpoolError,
    SpoolFullError,
    SpoolInUseError,
    errors_of,
    open_spool,
)

__all__ = ["Command", "Spool", "SpoolBrokenError", "SpoolError", "SpoolFullError", "SpoolInUseError"]

MOST_BYTES: Final = 256 * 1024 * 1024
# A device names its streams and keys as it likes: what is remembered of one that makes them up stays bounded. All that
# forgetting costs is a record published twice, which the gateway recognises.
MOST_STREAMS: Final = 8
MOST_REMEMBERED: Final = 65_536
MOST_COMMANDS: Final = 1_000
# A receipt near the end of 64 bits leaves no numbers behind it.
HIGHEST_RECEIPT: Final = 2**62

_ROW_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Command:
    """A command for a device, as it came; `expires_ms` is when it is of no use any more, None for never."""

    id: str
    device: str
    type: str
    body: bytes
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Life:
    """The numbering: `next` is the number of the next message, up to `freed` all are receipted, up to `sent` may be."""

    shift: int
    next: int
    freed: int
    sent: int


class Spool:
    """The spool in one file; a second one on the same file is refused. Every method may raise SpoolBrokenError."""

    def __init__(self, path: Path | str, *, most_bytes: int = MOST_BYTES) -> None:
        """Open or make the file. Raises SpoolError, with the path in its sentence."""
        self._path = Path(path)
        self._most_bytes = most_bytes
        self._db = open_spool(self._path)
        self._life = _Life(*self._all(SQL.life)[0])
        self._sending = False
        self.on_new: Callable[[], None] | None = None
        """Called after new messages are kept."""

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many messages wait for their receipt."""
        return self._life.next - 1 - self._life.freed

    # What was read

    def keep(self, device: str, findings: Sequence[Finding]) -> None:
        """Keep findings that no record of the device stands behind. Raises SpoolFullError."""
        bodies = pack(findings)
        if bodies:
            self._check_room(bodies, 0)
            with self._transaction():
                life = self._add(device, bodies)
            self._took(life)

    def keep_records(self, device: str, stream: str, records: Sequence[Record]) -> int:
        """Keep those records that are not known yet, all or none; return how many that are. Raises SpoolFullError."""
        fresh = self._unknown(device, stream, records)
        if not fresh:
            return 0
        bodies, last = pack_records(fresh)
        self._check_room(bodies, len(fresh))
        first = self._life.next
        with self._transaction():
            life = self._add(device, bodies)
            identifier = self._stream(device, stream)
            numbers = (first + index if index >= 0 else 0 for index in last)
            rows = ((identifier, record.key, number) for record, number in zip(fresh, numbers, strict=True))
            self._db.executemany(SQL.add_record, rows)
        self._took(life)
        return len(fresh)

    def cover(self, device: str, stream: str, key: int) -> None:
        """Note that everything of the stream up to `key` has been read, and kept."""
        with self._transaction():
            identifier = self._stream(device, stream)
            self._db.execute(SQL.cover, {"stream": identifier, "key": key})
            self._advance(identifier, self._life.freed)

    def committed(self, device: str, stream: str) -> int | None:
        """Return the key up to which everything has been read and receipted; None: nothing yet."""
        rows = self._all(SQL.stream, (device, stream))
        committed: int | None = rows[0][1] if rows else None
        return None if committed is None or committed < 0 else committed

    def streams(self, device: str) -> list[str]:
        """Return the streams of a device, the latest begun first."""
        return [name for (name,) in self._all(SQL.streams, (device,))]

    # What the uplink does

    @property
    def next_seq(self) -> int:
        """The number the next message will go out under."""
        return self._life.next + self._life.shift

    @property
    def oldest(self) -> int:
        """The lowest number that is held; `next_seq` while nothing is."""
        return self._life.freed + 1 + self._life.shift

    def waiting(self, limit: int, after: int = 0) -> list[Outgoing]:
        """Return at most `limit` messages that wait for their receipt, those numbered above `after`, in order."""
        shift = self._life.shift
        rows = self._all(SQL.waiting, (after - shift, limit))
        return [Outgoing(number + shift, device, Body(Topic(name), items)) for number, device, name, items in rows]

    def begin_sending(self) -> None:
        """Note that all that waits is on its way, and what is kept from now on as well: only that can be receipted.

        Once a connection, not with each message: every note is a write to the disk.
        """
        self._sending = True
        moved = replace(self._life, sent=self._life.next - 1)
        if moved != self._life:
            with self._transaction():
                self._write(moved)
            self._life = moved

    def end_sending(self) -> None:
        """Note that what is kept from now on stays here."""
        self._sending = False

    def receipt(self, seq: int) -> bool:
        """Free what a receipt covers; return whether that was anything.

        A number that was never sent belongs to an earlier life of this edge box: believing it would lose messages.
        """
        life = self._life
        number = seq - life.shift
        if not life.freed < number <= life.sent:
            return False
        moved = replace(life, freed=number)
        with self._transaction():
            streams = self._all(SQL.streams_of, (life.freed, number))
            self._db.execute(SQL.free, (number,))
            self._write(moved)
            for (identifier,) in streams:
                self._advance(identifier, number)
        self._life = moved
        return True

    def rebase(self, receipt: int) -> bool:
        """Take the numbering from the receipt that stands at log-in, if it is one that this spool cannot have earned.

        So a fresh spool, and one brought back from a backup, begin behind their earlier life; without it the numbers
        of both would be mixed up. What was sent and not receipted goes out again, under new numbers.
        """
        life = self._life
        if not life.sent + life.shift < receipt <= HIGHEST_RECEIPT:
            return False
        moved = replace(life, shift=receipt - life.freed, sent=life.freed)
        with self._transaction():
            self._write(moved)
        self._life = moved
        return True

    # What else has to outlive the process

    def fact(self, device: str, name: str) -> str | None:
        """Return what was noted of a device under a name."""
        rows = self._all(SQL.fact, (device, name))
        return rows[0][0] if rows else None

    def set_fact(self, device: str, name: str, value: str) -> None:
        """Note something of a device."""
        with self._transaction():
            self._db.execute(SQL.set_fact, (device, name, value))

    def roster(self) -> bytes | None:
        """Return the last roster as it came."""
        rows = self._all(SQL.roster)
        return rows[0][0] if rows else None

    def set_roster(self, payload: bytes) -> None:
        """Replace the roster."""
        with self._transaction():
            self._db.execute(SQL.set_roster, (payload,))

    def add_command(self, command: Command) -> bool:
        """Keep a command until it is done; False: its id is known, and it is done once only."""
        row = (command.id, command.device, command.type, command.body, command.expires_ms)
        with self._transaction():
            added = self._db.execute(SQL.add_command, row).rowcount == 1
            self._db.execute(SQL.forget_commands, (MOST_COMMANDS,))
        return added

    def commands(self, device: str, now_ms: int) -> list[Command]:
        """Return what a device is still to be told, in the order it came; not what has run out."""
        return [Command(*row) for row in self._all(SQL.commands, (device, now_ms))]

    def finish_command(self, command_id: str) -> None:
        """Note that a command is done, or never will be; its id stays known."""
        with self._transaction():
            self._db.execute(SQL.finish_command, (command_id,))

    def _unknown(self, device: str, stream: str, records: Sequence[Record]) -> list[Record]:
        """Return the records that are not known, each key once."""
        if not records:
            return []
        rows = self._all(SQL.stream, (device, stream))
        known: set[int] = set()
        committed = -1
        if rows:
            identifier, mark = rows[0]
            committed = -1 if mark is None else mark
            keys = [record.key for record in records]
            known = {key for (key,) in self._all(SQL.known, (identifier, min(keys), max(keys)))}
        fresh = {record.key: record for record in reversed(records) if record.key > committed}
        return [record for key, record in reversed(fresh.items()) if key not in known]

    def _check_room(self, bodies: Sequence[Body], records: int) -> None:
        ((pages,),), ((free,),), ((size,),) = map(
            self._all, ("pragma page_count", "pragma freelist_count", "pragma page_size")
        )
        needed = sum(len(body.items) + _ROW_BYTES for body in bodies) + records * _ROW_BYTES
        if (pages - free) * size + needed > self._most_bytes:
            raise SpoolFullError(f"{self._path} has its {self._most_bytes} bytes: {len(self)} messages wait")

    def _add(self, device: str, bodies: Sequence[Body]) -> _Life:
        """Put messages behind all others; return the numbering to go on with once that is committed."""
        if not DEVICE_ID.match(device):
            raise ValueError(f"{device!r} is not a device id")
        first = self._life.next
        rows = ((number, device, body.topic, body.items) for number, body in enumerate(bodies, first))
        self._db.executemany(SQL.add_message, rows)
        following = first + len(bodies)
        moved = replace(self._life, next=following, sent=following - 1 if self._sending else self._life.sent)
        self._write(moved)
        return moved

    def _took(self, life: _Life) -> None:
        news = life.next > self._life.next
        self._life = life
        if news and self.on_new is not None:
            self.on_new()

    def _stream(self, device: str, name: str) -> int:
        """Return the id of a stream, which begins if it is new; what is too many is forgotten."""
        rows = self._all(SQL.stream, (device, name))
        if rows:
            found: int = rows[0][0]
            return found
        ((begun,),) = self._all(SQL.add_stream, (device, name))
        self._db.execute(SQL.forget_streams, {"device": device, "most": MOST_STREAMS, "freed": self._life.freed})
        return int(begun)

    def _advance(self, stream: int, freed: int) -> None:
        which = {"stream": stream, "freed": freed, "most": MOST_REMEMBERED}
        self._db.execute(SQL.advance, which)
        self._db.execute(SQL.forget_committed, which)
        self._db.execute(SQL.forget_excess, which)

    def _write(self, life: _Life) -> None:
        self._db.execute(SQL.live, (life.shift, life.next, life.freed, life.sent))

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with errors_of(self._path), closing(self._db.execute(statement, values)) as cursor:
            return cursor.fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it is on disk when the block ends, or nothing is."""
        with errors_of(self._path):
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            finally:
                if self._db.in_transaction:
                    self._db.execute("rollback")
