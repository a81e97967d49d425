"""A receipt names the last message before the first hole, whatever came when and how often."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.receipt_keeper import format_ranges, parse_ranges
from gateway.ingest.receipts import ABSENT, GAP_LOST_AFTER_MS, RANGES_CAP, NumberedMessages, Receipt, ReceiptBook

NOW = 1_763_770_000_000
Sent = tuple[int, int, int]  # device, seq, oldest


def heads(messages: Sequence[Sent], news: Sequence[bool], stamps: Sequence[int] = ()) -> NumberedMessages:
    device, seq, oldest = zip(*messages, strict=True) if messages else ((), (), ())
    return NumberedMessages(
        np.array(device, np.int32),
        np.array(seq, np.int64),
        np.array(oldest, np.int64),
        np.array(stamps or [ABSENT] * len(messages), np.int64),
        np.array(news, np.bool_),
    )


def add(book: ReceiptBook, *seqs: int, oldest: int = ABSENT, now: int = NOW, news: bool = True) -> Receipt:
    for seq in seqs:
        book.add(heads([(1, seq, oldest)], [news]), now)
    return book.receipts[1]


def in_batches(data: st.DataObject, messages: list[Sent]) -> ReceiptBook:
    """Give the messages to a book in batches of any size; only the first of a number brings news."""
    book = ReceiptBook()
    seen: set[tuple[int, int]] = set()
    while messages:
        size = data.draw(st.integers(1, 8))
        batch, messages = messages[:size], messages[size:]
        news = []
        for device, seq, _ in batch:
            news.append((device, seq) not in seen)
            seen.add((device, seq))
        book.add(heads(batch, news), NOW)
    return book


@given(st.data(), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 25)), max_size=60))
def test_a_receipt_is_the_end_of_what_came_without_a_hole(data: st.DataObject, sent: list[tuple[int, int]]) -> None:
    """Every device says it still holds everything from 1 on."""
    book = in_batches(data, [(device, seq, 1) for device, seq in sent])
    for device in {device for device, _ in sent}:
        seqs = {seq for sender, seq in sent if sender == device}
        wanted = next(n for n in range(27) if n + 1 not in seqs)
        receipt = book.receipts[device]
        assert (receipt.first_seq, receipt.seq, receipt.lost) == (1, wanted, 0)
        assert {n for start, end in receipt.above for n in range(start, end)} == {n for n in seqs if n > wanted}


@given(st.data(), st.lists(st.integers(1, 25), max_size=60), st.integers(0, 10))
def test_without_oldest_the_first_number_seen_begins(data: st.DataObject, later: list[int], first: int) -> None:
    sent = [first] + [first + seq for seq in later]
    book = in_batches(data, [(1, seq, ABSENT) for seq in sent])
    receipt = book.receipts[1]
    assert receipt.first_seq == first
    assert receipt.seq == next(n for n in range(first, first + 27) if n + 1 not in sent)


@given(st.data(), st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), min_size=1, max_size=40))
def test_what_a_device_no_longer_holds_is_lost_and_counted_once(
    data: st.DataObject, sent: list[tuple[int, int]]
) -> None:
    """The model: a floor that only rises, the committed numbers, and what the floor passed without having seen it."""
    committed: set[int] = set()
    messages: list[Sent] = []
    floor, lost, first = 0, 0, 0
    for seq, held in sent:
        oldest = max(seq - held, 1)
        if not messages:
            first = floor = oldest
        if seq < floor and seq not in committed:
            continue  # from below what was given up: a counter that was set back, not this model's matter
        messages.append((1, seq, oldest))
        if oldest > floor:
            lost += sum(n not in committed for n in range(floor, oldest))
            floor = oldest
        committed.add(seq)
    receipt = in_batches(data, messages).receipts[1]
    wanted = next(n for n in range(floor - 1, 32) if n + 1 not in committed)
    assert (receipt.first_seq, receipt.seq, receipt.lost) == (first, wanted, lost)


def test_a_repeat_changes_nothing() -> None:
    book = ReceiptBook()
    add(book, 1, 2, 3)
    receipt = add(book, 2, 1, 3, news=False)
    assert (receipt.first_seq, receipt.seq, receipt.above, receipt.lost) == (1, 3, [], 0)


def test_a_factory_reset_starts_anew() -> None:
    book = ReceiptBook()
    add(book, 500, 501, 502)
    receipt = add(book, 1, 2)
    assert (receipt.first_seq, receipt.seq, receipt.above, receipt.lost) == (1, 2, [], 0)


def test_a_reset_forgets_what_waited_beyond_a_gap() -> None:
    book = ReceiptBook()
    add(book, 500, 502)
    receipt = add(book, 1)
    assert (receipt.seq, receipt.above, receipt.gap_since_ms) == (1, [], None)


def test_a_gap_is_lost_after_ten_minutes_and_not_before() -> None:
    book = ReceiptBook()
    receipt = add(book, 1, 3, 4, 6)
    assert book.declare_lost(NOW + GAP_LOST_AFTER_MS - 1) == 0
    assert receipt.seq == 1
    assert book.declare_lost(NOW + GAP_LOST_AFTER_MS) == 1
    assert (receipt.seq, receipt.lost) == (4, 1)
    assert book.declare_lost(NOW + GAP_LOST_AFTER_MS + 1) == 0, "the next gap has its own ten minutes"
    assert book.declare_lost(NOW + 2 * GAP_LOST_AFTER_MS) == 1
    assert (receipt.seq, receipt.above) == (6, [])


def test_a_gap_that_fills_is_no_gap() -> None:
    book = ReceiptBook()
    add(book, 1, 3)
    assert book.has_gap(1)
    receipt = add(book, 2)
    assert (receipt.seq, receipt.gap_since_ms, book.has_gap(1)) == (3, None, False)


def test_what_a_device_says_it_holds_is_never_declared_lost() -> None:
    """Its flash has the message still: a receipt beyond it would have it erased."""
    book = ReceiptBook()
    receipt = add(book, 1, 3, oldest=1)
    assert book.declare_lost(NOW + 10 * GAP_LOST_AFTER_MS) == 0
    assert receipt.seq == 1
    receipt = add(book, 4, oldest=3)
    assert (receipt.seq, receipt.lost) == (4, 1)


def test_the_stamp_is_the_newest_without_a_gap_before_it() -> None:
    book = ReceiptBook()
    book.add(heads([(1, 1, ABSENT), (1, 3, ABSENT)], [True, True], [NOW, NOW + 2]), NOW)
    assert book.receipts[1].stamp_ms == NOW
    book.add(heads([(1, 2, ABSENT)], [True], [NOW + 1]), NOW)
    assert book.receipts[1].stamp_ms == NOW + 2


def test_numbers_at_random_cannot_fill_the_memory() -> None:
    book = ReceiptBook()
    receipt = add(book, *range(0, 20 * RANGES_CAP, 2))
    assert len(receipt.above) <= RANGES_CAP
    assert receipt.lost > 0


@pytest.mark.parametrize("seq", [0, 1, 2**31, 2**53, 2**62, 2**63 - 1])
def test_numbers_of_any_size_can_be_written_down(seq: int) -> None:
    """As an int8multirange, whose ends are 64-bit numbers."""
    book = ReceiptBook()
    add(book, 5)
    receipt = add(book, seq)
    assert all(end < 2**63 for _, end in receipt.above)
    assert parse_ranges(format_ranges(receipt.above)) == receipt.above


@given(st.lists(st.tuples(st.integers(0, 2**63 - 2), st.booleans(), st.integers(-1, 2**63 - 1)), max_size=12))
def test_hostile_numbers_keep_every_figure_within_64_bits(sent: list[tuple[int, bool, int]]) -> None:
    book = ReceiptBook()
    for step, (seq, news, oldest) in enumerate(sent):
        book.add(heads([(1, seq, oldest)], [news]), NOW + step * GAP_LOST_AFTER_MS)
        book.declare_lost(NOW + (step + 1) * GAP_LOST_AFTER_MS)
        receipt = book.receipts[1]
        assert -1 <= receipt.seq < 2**63
        assert 0 <= receipt.lost < 2**63
        assert all(receipt.seq < start < end < 2**63 for start, end in receipt.above)


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 100)), max_size=20))
def test_ranges_survive_their_text(pairs: list[tuple[int, int]]) -> None:
    ranges = [(start, start + size) for start, size in pairs]
    assert parse_ranges(format_ranges(ranges)) == ranges
