"""How far each device's messages are committed: the cumulative receipt behind which it may free its flash. Pure."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
GAP_LOST_AFTER_MS = 10 * 60_000
# Ranges beyond a gap that are remembered for one device; past it the oldest gap counts as lost, so that a device that
# numbers at random cannot fill our memory.
RANGES_CAP = 256


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
        back (factory reset): the receipt starts anew from it.
        """
        if seq <= self.seq and news:
            self._start_anew(seq)
        if oldest != ABSENT:
            self._forget_below(min(oldest, seq))
        if seq > self.seq:
            self._insert(seq, seq + 1)
            if stamp_ms != ABSENT:
                self.waiting_stamps.append((seq, stamp_ms))
        elif stamp_ms > self.stamp_ms and not self.above:
            self.stamp_ms = stamp_ms
        self._advance()
        if not self.above:
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
            self.lost += missing
            self.seq = oldest - 1
            self._advance()

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

    def _advance(self) -> None:
        while self.above and self.above[0][0] <= self.seq + 1:
            self.seq = max(self.seq, self.above.pop(0)[1] - 1)
        reached = [stamp for seq, stamp in self.waiting_stamps if seq <= self.seq]
        if reached:
            self.stamp_ms = max(self.stamp_ms, *reached)
            self.waiting_stamps = [entry for entry in self.waiting_stamps if entry[0] > self.seq]

    def _lose_gap(self, now_ms: int) -> None:
        self.lost += self.above[0][0] - self.seq - 1
        self.seq = self.above[0][0] - 1
        self._advance()
        self.gap_since_ms = now_ms if self.above else None


@dataclass(frozen=True, slots=True)
class Heads:
    """The numbered messages of one committed batch as columns of one length; ABSENT where a message did not say."""

    device: NDArray[np.int32]
    seq: NDArray[np.int64]
    oldest: NDArray[np.int64]
    stamp: NDArray[np.int64]
    news: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.seq)


class ReceiptBook:
    """The receipts of all devices seen, and which of them moved since they were last written down."""

    def __init__(self, receipts: dict[int, Receipt] | None = None) -> None:
        """Begin with what the store knows."""
        self.receipts = receipts if receipts is not None else {}
        self.moved: set[int] = set()
        self._offsets: dict[int, int] = {}

    def add(self, heads: Heads, now_ms: int) -> None:
        """Take in a committed batch, in the order of its messages; devices without gaps are done column-wise."""
        if not len(heads):
            return
        order = np.argsort(heads.device, kind="stable")
        device = heads.device[order]
        starts = np.flatnonzero(np.concatenate(([True], device[1:] != device[:-1])))
        ends = np.append(starts[1:], len(device))
        seq, stamp = heads.seq[order], heads.stamp[order]
        steps = np.concatenate(([1], np.diff(seq)))
        # A device's messages follow one another when every step inside its group is one.
        breaks = np.add.reduceat((steps != 1).astype(np.int64), starts) - (steps[starts] != 1)
        newest_stamp = np.maximum.reduceat(stamp, starts)
        plain = (breaks == 0) & (np.maximum.reduceat(heads.oldest[order], starts) == ABSENT)
        for group, key in enumerate(device[starts].tolist()):
            if newest_stamp[group] != ABSENT:
                offset = int(newest_stamp[group]) - now_ms
                self._offsets[key] = max(offset, self._offsets.get(key, offset))
            start, end = int(starts[group]), int(ends[group])
            receipt = self.receipts.get(key)
            if receipt is not None and plain[group] and not receipt.above and int(seq[start]) == receipt.seq + 1:
                receipt.seq = int(seq[end - 1])
                receipt.stamp_ms = max(receipt.stamp_ms, int(newest_stamp[group]))
                self.moved.add(key)
            else:
                self._one_by_one(key, heads, order[start:end].tolist(), now_ms)

    def declare_lost(self, now_ms: int) -> int:
        """Give up gaps older than 10 min; return how many messages that loses in all."""
        lost = 0
        for key, receipt in self.receipts.items():
            if receipt.above and (missing := receipt.declare_lost(now_ms)):
                lost += missing
                self.moved.add(key)
        return lost

    def take_moved(self) -> list[tuple[int, Receipt]]:
        """Return the receipts that changed since the last call."""
        moved = [(key, self.receipts[key]) for key in sorted(self.moved)]
        self.moved.clear()
        return moved

    def take_offsets(self) -> dict[int, int]:
        """Return what devices' clocks seem to be off by since the last call, ms (ahead is positive).

        The smallest delay counts: a message may have waited, but none arrives before it was sent.
        """
        offsets, self._offsets = self._offsets, {}
        return offsets

    def has_gap(self, device_key: int) -> bool:
        """Whether messages of the device are known to be missing."""
        receipt = self.receipts.get(device_key)
        return receipt is not None and bool(receipt.above)

    def _one_by_one(self, key: int, heads: Heads, rows: Iterable[int], now_ms: int) -> None:
        for row in rows:
            seq, oldest = int(heads.seq[row]), int(heads.oldest[row])
            receipt = self.receipts.get(key)
            if receipt is None:
                first = min(oldest, seq) if oldest != ABSENT else seq
                receipt = self.receipts[key] = Receipt(first, first - 1)
            receipt.add(seq, oldest, int(heads.stamp[row]), news=bool(heads.news[row]), now_ms=now_ms)
        self.moved.add(key)
