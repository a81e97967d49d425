"""How far each device's messages are committed: the cumulative receipt behind which it may free its flash. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from devices.instants import DISTANT_PAST_MS
from devices.vocabulary import MAX_INT64

ABSENT = -1
GAP_LOST_AFTER_MS = 10 * 60_000
# Ranges beyond a gap that are remembered for one device; past it the oldest gap counts as lost, so that a device that
# numbers at random cannot fill our memory.
RANGES_CAP = 256
# Stamps that are remembered beyond a gap; a device with more waiting is told by its next stamp.
STAMPS_CAP = 4_096


@dataclass(slots=True)
class Receipt:
    """What is committed of one device's messages.

    `seq`: everything from `first_seq` (or the device's `oldest`) to here. `above`: disjoint, ascending, half-open
    ranges that are committed beyond a gap. `stamp`: newest `sent_at` among the messages up to `seq`, ms, ABSENT if none.
    """

    first_seq: int
    seq: int
    above: list[tuple[int, int]] = field(default_factory=list)
    gap_since_ms: int | None = None
    lost: int = 0
    stamp_ms: int = ABSENT
    waiting_stamps: list[tuple[int, int]] = field(default_factory=list)  # (seq, sent_at) beyond the gap

    def add(self, seq: int, oldest: int, stamp_ms: int, *, news: bool, now_ms: int) -> None:
        """Take in one committed message; `oldest` and `stamp_ms` are ABSENT where it did not say.

        A message that brings something new under a number that is committed already comes from a counter that was set
        back (factory reset): the receipt starts anew from it. While the device says what it holds, a gap is never old:
        a receipt beyond it would have the device erase what never came.
        """
        if seq == MAX_INT64:
            return  # no number follows it, and no range of the store can hold it
        if seq <= self.seq and news:
            self._start_anew(seq)
        if oldest != ABSENT:
            self._forget_below(min(oldest, seq))
        if seq > self.seq:
            self._insert(seq, seq + 1)
            if stamp_ms != ABSENT and len(self.waiting_stamps) < STAMPS_CAP:
                self.waiting_stamps.append((seq, stamp_ms))
        elif stamp_ms > self.stamp_ms and not self.above:
            self.stamp_ms = stamp_ms
        self._advance()
        if not self.above or oldest != ABSENT:
            self.gap_since_ms = None
        elif self.gap_since_ms is None:
            self.gap_since_ms = now_ms
        if len(self.above) > RANGES_CAP:
            self._lose_gap(now_ms)

    def declare_lost(self, now_ms: int) -> int:
        """Give up gaps older than 10 min; return how many messages that loses."""
        before = self.lost
        if self.above and self.gap_since_ms is not None and now_ms - self.gap_since_ms >= GAP_LOST_AFTER_MS:
            self._lose_gap(now_ms)
        return self.lost - before

    def _start_anew(self, seq: int) -> None:
        self.first_seq, self.seq = seq, seq - 1
        self.above.clear()
        self.waiting_stamps.clear()
        self.gap_since_ms = None

    def _forget_below(self, oldest: int) -> None:
        """Count as lost what never came from below `oldest`: the device does not hold it any more."""
        if oldest - 1 > self.seq:
            missing = oldest - 1 - self.seq
            missing -= sum(min(end, oldest) - start for start, end in self.above if start < oldest)
            self._count_lost(missing)
            self._advance(oldest - 1)

    def _insert(self, start: int, end: int) -> None:
        ranges = self.above
        place = bisect_right(ranges, (start, 2**63))
        if place and ranges[place - 1][1] >= start:
            place -= 1
            start, end = ranges[place][0], max(end, ranges[place][1])
            ranges.pop(place)
        while place < len(ranges) and ranges[place][0] <= end:
            end = max(end, ranges.pop(place)[1])
        ranges.insert(place, (start, end))

    def _advance(self, given_up: int = ABSENT) -> None:
        """Move over what is committed, or given up to and with a number; the stamps passed count from then on."""
        before = self.seq
        self.seq = max(self.seq, given_up)
        while self.above and self.above[0][0] <= self.seq + 1:
            self.seq = max(self.seq, self.above.pop(0)[1] - 1)
        if self.seq == before:
            return
        reached = [stamp for seq, stamp in self.waiting_stamps if seq <= self.seq]
        if reached:
            self.stamp_ms = max(self.stamp_ms, *reached)
            self.waiting_stamps = [entry for entry in self.waiting_stamps if entry[0] > self.seq]

    def _lose_gap(self, now_ms: int) -> None:
        self._count_lost(self.above[0][0] - self.seq - 1)
        self._advance(self.above[0][0] - 1)
        self.gap_since_ms = now_ms if self.above else None

    def _count_lost(self, missing: int) -> None:
        self.lost = min(self.lost + missing, MAX_INT64)


@dataclass(frozen=True, slots=True)
class Contact:
    """When a device was last heard, and what its clock seems to be off by (ahead is positive, DISTANT_PAST_MS: unknown); ms."""

    heard_ms: int
    offset_ms: int

    def join(self, other: "Contact") -> "Contact":
        """Return both as one. The smallest delay counts: a message may have waited, but none arrives before it was sent."""
        return Contact(max(self.heard_ms, other.heard_ms), max(self.offset_ms, other.offset_ms))


@dataclass(frozen=True, slots=True)
class NumberedMessages:
    """The numbered messages of one committed batch as columns of one length; ABSENT where a message did not say."""

    device: NDArray[np.int32]
    seq: NDArray[np.int64]
    oldest: NDArray[np.int64]
    stamp: NDArray[np.int64]
    news: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.seq)

    @staticmethod
    def join(parts: Sequence["NumberedMessages"]) -> "NumberedMessages":
        """Return the messages of all parts, in order."""
        return NumberedMessages(
            np.concatenate([part.device for part in parts]),
            np.concatenate([part.seq for part in parts]),
            np.concatenate([part.oldest for part in parts]),
            np.concatenate([part.stamp for part in parts]),
            np.concatenate([part.news for part in parts]),
        )


class ReceiptBook:
    """The receipts of all devices seen, and which of them moved since they were last written down.

    Committed batches are only put aside; they are folded when somebody asks, so that a batch costs next to nothing.
    """

    def __init__(self, receipts: dict[int, Receipt] | None = None) -> None:
        """Begin with what the store knows."""
        self._receipts = receipts if receipts is not None else {}
        self._moved: set[int] = set()
        self._contacts: dict[int, Contact] = {}
        self._aside: list[tuple[NumberedMessages, int]] = []

    def add(self, numbered: NumberedMessages, now_ms: int) -> None:
        """Take in a batch that was committed; `now_ms` is when it arrived."""
        if len(numbered):
            self._aside.append((numbered, now_ms))

    @property
    def receipts(self) -> dict[int, Receipt]:
        """The receipts by device key, with everything that was added."""
        self._fold()
        return self._receipts

    def mark_moved(self, devices: Iterable[int], contacts: Mapping[int, Contact]) -> None:
        """Have receipts and contacts written again: the last time failed."""
        self._moved.update(devices)
        for key, contact in contacts.items():
            self._note_contact(key, contact)

    def _fold(self) -> None:
        """Fold what was put aside; devices whose numbers simply went on are done column-wise."""
        if not self._aside:
            return
        aside, self._aside = self._aside, []
        numbered = NumberedMessages.join([numbered for numbered, _ in aside])
        arrival = np.repeat([now_ms for _, now_ms in aside], [len(numbered) for numbered, _ in aside])
        order = np.lexsort((numbered.seq, numbered.device))
        device, seq, stamp = numbered.device[order], numbered.seq[order], numbered.stamp[order]
        starts = np.flatnonzero(np.concatenate(([True], device[1:] != device[:-1])))
        ends = np.append(starts[1:], len(device))
        keys = device[starts].tolist()
        known = [self._receipts.get(key) for key in keys]
        base = np.array([receipt.seq if receipt and not receipt.above else -2 for receipt in known], np.int64)
        later = seq > np.repeat(base, ends - starts)
        distinct = later.copy()
        distinct[1:] &= (seq[1:] != seq[:-1]) | (device[1:] != device[:-1])
        newest = seq[ends - 1]
        follows = np.add.reduceat(distinct.astype(np.int64), starts) == np.maximum(newest - base, 0)
        set_back = np.logical_or.reduceat(~later & numbered.news[order], starts)
        says_oldest = np.maximum.reduceat(numbered.oldest[order], starts) != ABSENT
        plain = (base != -2) & follows & ~set_back & ~says_oldest
        newest_stamp = np.maximum.reduceat(stamp, starts)
        lead = np.maximum.reduceat(np.where(stamp == ABSENT, DISTANT_PAST_MS, stamp - arrival[order]), starts)
        heard = np.maximum.reduceat(arrival[order], starts)
        for group, (key, receipt) in enumerate(zip(keys, known, strict=True)):
            self._note_contact(key, Contact(int(heard[group]), int(lead[group])))
            if receipt is not None and plain[group]:
                receipt.seq = max(receipt.seq, int(newest[group]))
                receipt.stamp_ms = max(receipt.stamp_ms, int(newest_stamp[group]))
            else:
                rows = np.sort(order[starts[group] : ends[group]]).tolist()
                self._one_by_one(key, numbered, rows, arrival)
        self._moved.update(keys)

    def declare_lost(self, now_ms: int) -> int:
        """Give up gaps older than 10 min; return how many messages that loses in all."""
        lost = 0
        for key, receipt in self.receipts.items():
            if receipt.above and (missing := receipt.declare_lost(now_ms)):
                lost += missing
                self._moved.add(key)
        return lost

    def take_moved(self) -> list[tuple[int, Receipt]]:
        """Return the receipts that changed since the last call."""
        receipts = self.receipts
        moved = [(key, receipts[key]) for key in sorted(self._moved)]
        self._moved.clear()
        return moved

    def take_contacts(self) -> dict[int, Contact]:
        """Return the contacts since the last call; a receipt may also move without one, when a gap is given up."""
        self._fold()
        contacts, self._contacts = self._contacts, {}
        return contacts

    def has_gap(self, device_key: int) -> bool:
        """Whether messages of the device are known to be missing."""
        receipt = self.receipts.get(device_key)
        return receipt is not None and bool(receipt.above)

    def _note_contact(self, key: int, contact: Contact) -> None:
        known = self._contacts.get(key)
        self._contacts[key] = known.join(contact) if known else contact

    def _one_by_one(
        self, key: int, numbered: NumberedMessages, rows: Iterable[int], arrival: NDArray[np.int64]
    ) -> None:
        for row in rows:
            seq, oldest, now_ms = int(numbered.seq[row]), int(numbered.oldest[row]), int(arrival[row])
            receipt = self._receipts.get(key)
            if receipt is None:
                first = min(oldest, seq) if oldest != ABSENT else seq
                receipt = self._receipts[key] = Receipt(first, first - 1)
            receipt.add(seq, oldest, int(numbered.stamp[row]), news=bool(numbered.news[row]), now_ms=now_ms)
