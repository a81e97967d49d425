"""Keeps what was read from devices on disk until the gateway's receipt covers it. Durable when a call returns.

Messages have numbers without gaps; a receipt frees all messages up to one number. Records of a device are known by
their key within a stream, so a record is published once however often it is read. `committed` covers only what has been
read (`cover`) and receipted in full: only that may a device delete.

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

MAX_BYTES: Final = 256 * 1024 * 1024
# A device names its streams and keys as it likes, so memory for a device that invents them must be bounded. Forgetting
# one costs only a record published twice, which the gateway recognises.
MAX_STREAMS: Final = 8
MAX_REMEMBERED: Final = 65_536
MAX_COMMANDS: Final = 1_000
# A receipt near the end of 64 bits would leave no numbers after it.
HIGHEST_RECEIPT: Final = 2**62

_ROW_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Command:
    """A command for a device, as received; it expires at `expires_ms`, None for never."""

    id: str
    device: str
    type: str
    body: bytes
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Life:
    """The numbering: `next` is the next message's number; all up to `freed` are receipted, all up to `sent` may be."""

    shift: int
    next: int
    freed: int
    sent: int


class Spool:
    """The spool in one file; a second process on the same file is refused. Every method may raise SpoolBrokenError."""

    def __init__(self, path: Path | str, *, max_bytes: int = MAX_BYTES) -> None:
        """Open or create the file. Raises SpoolError, with the path in its message."""
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._db = open_spool(self._path)
        self._life = _Life(*self._all(SQL.life)[0])
        self._sending = False
        self.on_new: Callable[[], None] | None = None
        """Called after new messages are stored."""

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many messages wait for their receipt."""
        return self._life.next - 1 - self._life.freed

    # For the profiles

    def keep(self, device: str, findings: Sequence[Finding]) -> None:
        """Keep findings that the device does not store. Raises SpoolFullError."""
        bodies = pack(findings)
        if bodies:
            self._check_room(bodies, 0)
            with self._transaction():
                life = self._add(device, bodies)
            self._took(life)

    def keep_records(self, device: str, stream: str, records: Sequence[Record]) -> int:
        """Keep the records that are not known yet, all or none; return how many those are. Raises SpoolFullError."""
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
        """Record that everything of the stream up to `key` has been read, and kept."""
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
        """Return the streams of a device, the latest first."""
        return [name for (name,) in self._all(SQL.streams, (device,))]

    # For the uplink

    @property
    def next_seq(self) -> int:
        """The number of the next message."""
        return self._life.next + self._life.shift

    @property
    def oldest(self) -> int:
        """The lowest number in the spool; `next_seq` if it is empty."""
        return self._life.freed + 1 + self._life.shift

    def waiting(self, limit: int, after: int = 0) -> list[Outgoing]:
        """Return at most `limit` messages that wait for their receipt, with numbers above `after`, in order."""
        shift = self._life.shift
        rows = self._all(SQL.waiting, (after - shift, limit))
        return [Outgoing(number + shift, device, Body(Topic(name), items)) for number, device, name, items in rows]

    def begin_sending(self) -> None:
        """Record that all waiting messages, and all kept from now on, may go out: only such messages can be receipted.

        Once per connection, not with each message, because every such record is a write to the disk.
        """
        self._sending = True
        moved = replace(self._life, sent=self._life.next - 1)
        if moved != self._life:
            with self._transaction():
                self._write(moved)
            self._life = moved

    def end_sending(self) -> None:
        """Record that messages kept from now on do not go out."""
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
        """Take over the numbering of the receipt retained at log-in, if this spool cannot have earned it.

        So a fresh spool, or one restored from a backup, continues after its earlier life; otherwise the numbers of both
        would mix. Messages that were sent and not receipted go out again, under new numbers.
        """
        life = self._life
        if not life.sent + life.shift < receipt <= HIGHEST_RECEIPT:
            return False
        moved = replace(life, shift=receipt - life.freed, sent=life.freed)
        with self._transaction():
            self._write(moved)
        self._life = moved
        return True

    # Other state that must outlive the process

    def fact(self, device: str, name: str) -> str | None:
        """Return a stored fact about a device by its name."""
        rows = self._all(SQL.fact, (device, name))
        return rows[0][0] if rows else None

    def set_fact(self, device: str, name: str, value: str) -> None:
        """Store a fact about a device."""
        with self._transaction():
            self._db.execute(SQL.set_fact, (device, name, value))

    def roster(self) -> bytes | None:
        """Return the last roster as received."""
        rows = self._all(SQL.roster)
        return rows[0][0] if rows else None

    def set_roster(self, payload: bytes) -> None:
        """Replace the roster."""
        with self._transaction():
            self._db.execute(SQL.set_roster, (payload,))

    def add_command(self, command: Command) -> bool:
        """Keep a command until it is finished; False: its id is known, and it must not run twice."""
        row = (command.id, command.device, command.type, command.body, command.expires_ms)
        with self._transaction():
            added = self._db.execute(SQL.add_command, row).rowcount == 1
            self._db.execute(SQL.forget_commands, (MAX_COMMANDS,))
        return added

    def commands(self, device: str, now_ms: int) -> list[Command]:
        """Return a device's waiting commands, in the order they came, without expired ones."""
        return [Command(*row) for row in self._all(SQL.commands, (device, now_ms))]

    def finish_command(self, command_id: str) -> None:
        """Record that a command is done, or never will be; its id stays known."""
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
        if (pages - free) * size + needed > self._max_bytes:
            raise SpoolFullError(f"{self._path} has its {self._max_bytes} bytes: {len(self)} messages wait")

    def _add(self, device: str, bodies: Sequence[Body]) -> _Life:
        """Append messages; return the numbering to continue with once that is committed."""
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
        """Return the id of a stream, which is created if new; the oldest ones above the cap are dropped."""
        rows = self._all(SQL.stream, (device, name))
        if rows:
            found: int = rows[0][0]
            return found
        ((begun,),) = self._all(SQL.add_stream, (device, name))
        self._db.execute(SQL.forget_streams, {"device": device, "most": MAX_STREAMS, "freed": self._life.freed})
        return int(begun)

    def _advance(self, stream: int, freed: int) -> None:
        which = {"stream": stream, "freed": freed, "most": MAX_REMEMBERED}
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
        """Everything in the block is on disk when it ends, or nothing is."""
        with errors_of(self._path):
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            finally:
                if self._db.in_transaction:
                    self._db.execute("rollback")
