"""The device's flash: a bounded ring of numbered messages that survives reboots."""

from collections.abc import Iterator
from dataclasses import dataclass

from devices.vocabulary import Topic


@dataclass(frozen=True, slots=True)
class Record:
    """One message as stored in flash, without the parts that are stamped when it is sent."""

    seq: int
    topic: Topic
    body: bytes
    """The encoded observations or events; see `firmware_sim.encoding`."""
    readings: int
    due_ms: int
    """When the device meant to send it, on the device's clock."""


class Flash:
    """Holds the messages `oldest … next_seq - 1`, at most `capacity`; a full ring overwrites its oldest."""

    def __init__(self, capacity: int) -> None:
        """Make an empty ring; the first message gets number 1."""
        if capacity < 1:
            raise ValueError("flash needs room for at least one message")
        self._capacity = capacity
        self._records: dict[int, Record] = {}
        self._next_seq = 1
        self._overwritten = 0

    def __len__(self) -> int:
        """Return the number of messages held."""
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """Walk the held messages, lowest number first."""
        return iter(self._records.values())

    @property
    def next_seq(self) -> int:
        """The number of the next message."""
        return self._next_seq

    @property
    def oldest(self) -> int:
        """The lowest number held; `next_seq` if it is empty."""
        return self._next_seq - len(self._records)

    @property
    def overwritten(self) -> int:
        """How many messages were overwritten before any receipt named them."""
        return self._overwritten

    def append(self, topic: Topic, body: bytes, *, readings: int, due_ms: int) -> Record:
        """Give a message its number and store it; a full ring loses its oldest one."""
        if len(self._records) == self._capacity:
            del self._records[self.oldest]
            self._overwritten += 1
        record = Record(self._next_seq, topic, body, readings, due_ms)
        self._records[record.seq] = record
        self._next_seq += 1
        return record

    def get(self, seq: int) -> Record:
        """Return a held message; KeyError if it is not held."""
        return self._records[seq]

    def free_through(self, seq: int) -> None:
        """Delete every message up to and including `seq`."""
        for held in range(self.oldest, min(seq, self._next_seq - 1) + 1):
            del self._records[held]
