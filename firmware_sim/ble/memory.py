"""The flash of a Bluetooth device: numbered records as they will be sent, in a ring that survives reboots."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """One record: its key, and a packet for each characteristic that it is sent by."""

    key: int
    """The key that record access filters by: a sequence number, or minutes since the session's start."""
    packets: tuple[bytes, ...]


class Memory:
    """At most `capacity` records with rising keys; a full one overwrites its oldest and counts that."""

    def __init__(self, capacity: int) -> None:
        """Begin empty."""
        if capacity < 1:
            raise ValueError("flash needs room for at least one record")
        self.capacity = capacity
        self.overwritten = 0
        self.newest = 0
        """The highest key ever stored; deleting does not lower it."""
        self._records: list[Stored] = []

    def __len__(self) -> int:
        """Return the number of records held."""
        return len(self._records)

    def append(self, key: int, *packets: bytes) -> None:
        """Store a record; its key must be above 0 and above every earlier one."""
        if key <= self.newest:
            raise ValueError(f"key {key} does not follow {self.newest}")
        self._records.append(Stored(key, packets))
        self.newest = key
        if len(self._records) > self.capacity:
            surplus = len(self._records) - self.capacity
            del self._records[:surplus]
            self.overwritten += surplus

    def between(self, low: int = 0, high: int | None = None) -> list[Stored]:
        """Return the records with `low` ≤ key ≤ `high`, the oldest first."""
        first = bisect.bisect_left(self._records, low, key=_key)
        last = None if high is None else bisect.bisect_right(self._records, high, key=_key)
        return self._records[first:last]

    def delete(self, records: Iterable[Stored]) -> None:
        """Delete these records."""
        gone = {record.key for record in records}
        self._records = [record for record in self._records if record.key not in gone]

    def clear(self) -> None:
        """Delete everything and number from the beginning, as a new session does."""
        self._records.clear()
        self.newest = 0


def _key(record: Stored) -> int:
    return record.key
