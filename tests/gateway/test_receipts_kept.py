"""Receipts that meet odd numbers, a counter that was reset, or a store or broker that is away: none goes astray."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.instants import DISTANT_PAST_MS
from gateway.ingest.mqtt.connection import ConnectionLostError
from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.ingest.receipts import ABSENT, GAP_LOST_AFTER_MS, Contact, ReceiptBook
from gateway.runtime import clock
from gateway.runtime.metrics import GatewayMetrics
from tests.gateway.clinic import Clinic
from tests.gateway.harness import ListSource, messages_of
from tests.gateway.test_receipts import heads
from tests.gateway.wire import Outgoing, events, telemetry

NOW = clock.now_ms()
MINUTE = 60_000


def heart_rate(at: int) -> dict[str, Any]:
    return {"code": "heart_rate", "unit": "/min", "at": at, "value": 60}


def say(
    book: ReceiptBook, seq: int, *, oldest: int = ABSENT, stamp: int = ABSENT, news: bool = True, now: int = NOW
) -> None:
    book.add(heads([(1, seq, oldest)], [news], [stamp]), now)
    assert book.receipts


# Numbers and stamps --------------------------------------------------------------------------------------------------


def test_the_stamp_of_a_repeat_counts_only_without_a_gap() -> None:
    """The repeat was sent after the message that is missing: the device was heard, but not all it has to say."""
    book = ReceiptBook()
    say(book, 1, stamp=NOW)
    say(book, 3, stamp=NOW + 2)
    say(book, 1, stamp=NOW + 9, news=False)
    assert book.receipts[1].stamp_ms == NOW
    say(book, 2, stamp=NOW + 1)
    assert book.receipts[1].stamp_ms == NOW + 2
    say(book, 1, stamp=NOW + 9, news=False, oldest=1)
    assert book.receipts[1].stamp_ms == NOW + 9


@pytest.mark.parametrize("together", [True, False])
def test_an_older_stamp_under_a_later_number_moves_nothing_back(*, together: bool) -> None:
    book = ReceiptBook()
    say(book, 1, stamp=NOW + 5)
    if together:
        book.add(heads([(1, 2, ABSENT), (1, 3, ABSENT)], [True, True], [NOW, NOW + 1]), NOW)
    else:
        say(book, 2, stamp=NOW)
        say(book, 3, stamp=NOW + 1)
    assert (book.receipts[1].seq, book.receipts[1].stamp_ms) == (3, NOW + 5)


def test_a_counter_that_is_set_back_to_exactly_the_last_number_starts_anew() -> None:
    book = ReceiptBook()
    for seq in (5, 6, 7):
        say(book, seq)
    say(book, 7)
    assert (book.receipts[1].first_seq, book.receipts[1].seq) == (7, 7)
    say(book, 9)
    say(book, 7)
    receipt = book.receipts[1]
    assert (receipt.first_seq, receipt.seq, receipt.above, receipt.gap_since_ms) == (7, 7, [], None)


def test_stamps_that_wait_beyond_a_gap_are_forgotten_with_it_by_a_reset() -> None:
    """Number 3 of the counter before the reset was stamped by a clock that was ahead."""
    book = ReceiptBook()
    say(book, 1, stamp=NOW)
    say(book, 3, stamp=NOW + 900)
    for seq in (1, 2, 3):
        say(book, seq, stamp=NOW + seq, oldest=1)
    assert (book.receipts[1].seq, book.receipts[1].stamp_ms) == (3, NOW + 3)


def test_a_device_cannot_have_dropped_the_message_it_sends() -> None:
    """Whatever it calls its oldest: a receipt beyond its newest number would have it erase what comes next."""
    book = ReceiptBook()
    for seq in (1, 2):
        say(book, seq)
    say(book, 4, oldest=9)
    receipt = book.receipts[1]
    assert (receipt.seq, receipt.lost) == (4, 1)
    other = ReceiptBook()
    say(other, 4, oldest=9)
    assert (other.receipts[1].first_seq, other.receipts[1].seq, other.receipts[1].lost) == (4, 4, 0)


def test_oldest_that_is_next_in_turn_loses_nothing() -> None:
    book = ReceiptBook()
    say(book, 1)
    say(book, 3, oldest=2)
    receipt = book.receipts[1]
    assert (receipt.seq, receipt.above, receipt.lost) == (1, [(3, 4)], 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 40), st.booleans()), min_size=1, max_size=30))
def test_no_receipt_is_beyond_the_newest_number_that_came(sent: list[tuple[int, int, bool]]) -> None:
    book = ReceiptBook()
    for step, (seq, oldest, news) in enumerate(sent):
        say(book, seq, oldest=oldest, news=news, now=NOW + step)
        assert book.receipts[1].seq <= max(one for one, *_ in sent[: step + 1])
        book.declare_lost(NOW + step + GAP_LOST_AFTER_MS)
        assert book.receipts[1].seq <= max(one for one, *_ in sent[: step + 1])


def test_the_smallest_delay_tells_how_far_a_clock_is_off() -> None:
    book = ReceiptBook()
    for seq, delay in ((1, 900), (2, 100), (3, 500)):
        say(book, seq, stamp=NOW, now=NOW + delay)
    assert book.take_contacts() == {1: Contact(NOW + 900, -100)}
    say(book, 4)
    assert book.take_contacts() == {1: Contact(NOW, DISTANT_PAST_MS)}
    assert book.take_contacts() == {}


# With the store and the broker ---------------------------------------------------------------------------------------


class Broker:
    """What receipts are published to: hears everything while it is there."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.away_after: int | None = None

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        if self.away_after is not None and len(self.heard) >= self.away_after:
            raise ConnectionLostError("the broker closed the connection")
        self.heard.append((topic.split("/")[2], payload))

    def told(self) -> list[tuple[str, bytes]]:
        """Return what was heard since the last call."""
        heard, self.heard = self.heard, []
        return heard


@dataclass(slots=True)
class Post:
    """A pipeline with its keeper of receipts; `now` in ms is the keeper's."""

    clinic: Clinic
    pipeline: Pipeline
    keeper: ReceiptKeeper
    broker: Broker
    now: int = NOW

    async def send(self, *messages: Outgoing) -> None:
        await self.pipeline.commit(messages_of(messages))

    async def flush(self) -> None:
        await self.keeper.flush(self.pipeline.journalled)

    async def cut(self) -> None:
        """End the keeper's connection to the database, as a restart of the database does."""
        await self.clinic.rows(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = 'vigil gateway receipts' and datname = current_database()"
        )

    async def written(self) -> dict[str, tuple[int, int | None]]:
        rows = await self.clinic.rows(
            "select d.id, seq, published_seq from receipt join device d on d.key = device_key"
        )
        return {device: (seq, published) for device, seq, published in rows}


@asynccontextmanager
async def open_post(clinic: Clinic, database_url: str) -> AsyncIterator[Post]:
    metrics, broker = GatewayMetrics(), Broker()
    times: list[Post] = []
    keeper = ReceiptKeeper(database_url, broker, metrics, 1, lambda: times[0].now)
    running = Pipeline(PipelineSettings(database_url), ListSource([]), await keeper.hydrate(), metrics)
    post = Post(clinic, running, keeper, broker)
    times.append(post)
    try:
        yield post
    finally:
        await running.run()
        await keeper.close()


async def test_receipts_that_could_not_be_written_are_written_the_next_time(clinic: Clinic, database_url: str) -> None:
    await clinic.wearers(["a", "b"])
    async with open_post(clinic, database_url) as post:
        await post.send(telemetry("a", [heart_rate(NOW)], seq=1))
        await post.flush()
        await post.send(
            telemetry("a", [heart_rate(NOW + 1)], seq=2),
            telemetry("b", [heart_rate(NOW)], seq=7),
            telemetry("b", [heart_rate(NOW)], seq=9),
        )
        await post.cut()
        await post.flush()
        assert await post.written() == {"a": (1, 1)}
        assert post.broker.told() == [("a", b'{"seq":1}')]
        await post.flush()
        assert await post.written() == {"a": (2, 2), "b": (7, 7)}
        assert post.broker.told() == [("a", b'{"seq":2}'), ("b", b'{"seq":7}')]
        await post.flush()
        assert post.broker.told() == [], "what was told is not told again"


@pytest.mark.parametrize("reached", [0, 1, 2])
async def test_receipts_that_the_broker_did_not_take_are_told_the_next_time(
    clinic: Clinic, database_url: str, reached: int
) -> None:
    await clinic.wearers(["a", "b", "c"])
    async with open_post(clinic, database_url) as post:
        await post.send(*(telemetry(device, [heart_rate(NOW)], seq=1) for device in "abc"))
        post.broker.away_after = reached
        await post.flush()
        assert await post.written() == dict.fromkeys("abc", (1, None))
        post.broker.away_after = None
        await post.flush()
        assert {device for device, _ in post.broker.told()} == set("abc")
        assert await post.written() == dict.fromkeys("abc", (1, 1))


async def test_what_was_written_and_never_told_is_told_after_a_restart(clinic: Clinic, database_url: str) -> None:
    """Even when the database is away at the first try; and nobody has to say anything new for it."""
    await clinic.wearer("a")
    async with open_post(clinic, database_url) as post:
        await post.send(telemetry("a", [heart_rate(NOW)], seq=1))
        post.broker.away_after = 0
        await post.flush()
    async with open_post(clinic, database_url) as post:
        await post.cut()
        await post.flush()
        assert post.broker.told() == []
        await post.flush()
        assert post.broker.told() == [("a", b'{"seq":1}')]
        assert await post.written() == {"a": (1, 1)}


async def test_more_receipts_than_are_told_at_once_are_all_told(clinic: Clinic, database_url: str) -> None:
    """The broker goes in the second part; what was told by then is not told again."""
    devices = [f"d{number:03}" for number in range(230)]
    await clinic.wearers(devices)
    async with open_post(clinic, database_url) as post:
        await post.send(*(telemetry(device, [heart_rate(NOW)], seq=1) for device in devices))
        post.broker.away_after = 200
        await post.flush()
        first = post.broker.told()
        post.broker.away_after = None
        await post.flush()
        assert sorted(first + post.broker.told()) == [(device, b'{"seq":1}') for device in devices]
        assert set((await post.written()).values()) == {(1, 1)}


async def test_a_gap_keeps_its_age_over_a_restart_and_its_end_is_written(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("a")
    async with open_post(clinic, database_url) as post:
        await post.send(*(telemetry("a", [heart_rate(NOW + seq)], seq=seq) for seq in (1, 3)))
        await post.flush()
        assert post.broker.told() == [("a", b'{"seq":1}')]
    async with open_post(clinic, database_url) as post:
        post.now = clock.now_ms() + GAP_LOST_AFTER_MS - 5 * MINUTE
        await post.flush()
        assert post.broker.told() == []
        post.now = clock.now_ms() + GAP_LOST_AFTER_MS
        await post.flush()
        assert post.broker.told() == [("a", b'{"seq":3}')]
        assert await clinic.rows("select seq, lost, isempty(above), gap_since from receipt") == [(3, 1, True, None)]


async def test_a_device_that_says_no_time_has_no_clock_that_is_off(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("a")
    query = "select clock_offset_ms, to_ms(contact_stamp) from device_status"
    async with open_post(clinic, database_url) as post:
        await post.send(telemetry("a", [heart_rate(NOW)], seq=1))
        await post.flush()
        assert await clinic.rows(query) == [(None, None)]
        await post.send(telemetry("a", [heart_rate(NOW + 1)], seq=2, sent_at=NOW + 4 * MINUTE))
        await post.flush()
        ((offset, stamp),) = await clinic.rows(query)
        assert stamp == NOW, "a stamp ahead of us counts as now"
        await post.send(telemetry("a", [heart_rate(NOW + 2)], seq=3))
        await post.flush()
        assert await clinic.rows(query) == [(offset, NOW)]


async def test_the_clock_of_a_status_is_a_contact_only_without_a_gap(clinic: Clinic, database_url: str) -> None:
    """What is missing may be the opening that a dose waits for."""
    await clinic.wearer("a")
    query = "select to_ms(contact_stamp) from device_status"
    said = Outgoing("vigil/v1/a/status", b'{"online": true, "clock": %d}' % (NOW - 5))
    async with open_post(clinic, database_url) as post:
        for seq, wanted in ((1, None), (3, None), (2, NOW - 5)):
            await post.send(telemetry("a", [heart_rate(NOW + seq)], seq=seq))
            if seq > 1:
                await post.send(said)
                assert await clinic.rows(query) == [(wanted,)]


async def contact_at(post: Post) -> int | None:
    found: int | None = await post.clinic.value("select to_ms(contact_at) from device_status")
    return found


async def test_only_what_arrived_is_a_contact(clinic: Clinic, database_url: str) -> None:
    """Neither a gap that is given up, nor a restart, nor a second try: a dead device must not seem alive by them."""
    await clinic.wearer("a")
    async with open_post(clinic, database_url) as post:
        await post.send(*(telemetry("a", [heart_rate(NOW + seq)], seq=seq) for seq in (1, 3)))
        arrived = clock.now_ms()
        post.now = arrived + MINUTE
        await post.flush()
        heard = await contact_at(post)
        assert heard is not None
        assert NOW <= heard <= arrived
        post.now = arrived + GAP_LOST_AFTER_MS + MINUTE
        await post.flush()
        assert (await post.written(), await contact_at(post)) == ({"a": (3, 3)}, heard)
        await post.send(telemetry("a", [heart_rate(NOW + 4)], seq=4))
    arrived = clock.now_ms()
    async with open_post(clinic, database_url) as post:
        post.now = arrived + 60 * MINUTE
        post.broker.away_after = 0
        for _ in range(2):
            await post.flush()
            again = await contact_at(post)
            assert again is not None
            assert heard <= again <= arrived
            post.now += MINUTE


async def test_a_contact_that_could_not_be_written_is_written_the_next_time(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("a")
    async with open_post(clinic, database_url) as post:
        await post.cut()
        await post.send(telemetry("a", [heart_rate(NOW)], seq=1, sent_at=NOW - MINUTE))
        await post.flush()
        assert await contact_at(post) is None
        post.now += 60 * MINUTE
        await post.flush()
        assert await contact_at(post) is not None
        ((heard, offset),) = await clinic.rows("select to_ms(contact_at), clock_offset_ms from device_status")
        assert heard < NOW + 60 * MINUTE
        assert offset == NOW - MINUTE - heard


# A counter that was reset --------------------------------------------------------------------------------------------

AFTER_A_RESET = {
    "a reading": telemetry("a", [heart_rate(NOW + 1)], seq=1),
    "an event": events("a", [{"type": "tamper", "at": NOW + 1}], seq=1),
    "RR intervals": telemetry(
        "a", [{"code": "rr_interval", "unit": "ms", "at": NOW + MINUTE, "values": [800, 800]}], seq=1
    ),
}


@pytest.mark.parametrize("what", AFTER_A_RESET)
async def test_whatever_is_new_under_an_old_number_tells_of_a_reset(
    clinic: Clinic, database_url: str, what: str
) -> None:
    """A receipt of the counter before the reset would have the device erase what it has not sent yet."""
    await clinic.wearers(["a", "b"])
    before = [
        telemetry("b", [heart_rate(NOW - 1)], seq=1),
        telemetry("a", [heart_rate(NOW)], seq=500),
        events("a", [{"type": "low_battery", "at": NOW}], seq=501),
        telemetry("a", [{"code": "rr_interval", "unit": "ms", "at": NOW, "values": [800, 800]}], seq=502),
    ]
    async with open_post(clinic, database_url) as post:
        await post.send(*before)
        await post.send(*before)
        await post.flush()
        assert sorted(post.broker.told()) == [("a", b'{"seq":502}'), ("b", b'{"seq":1}')]
        await post.send(*before[:1], AFTER_A_RESET[what], *before[1:])
        await post.flush()
        assert post.broker.told() == [("a", b'{"seq":1}')]
        assert await clinic.rows("select above::text from receipt order by device_key") == [("{[500,503)}",), ("{}",)]


async def test_what_is_known_under_an_old_number_is_no_reset(clinic: Clinic, database_url: str) -> None:
    """The device did not hear our receipt, and says it all again; part of it in other words."""
    await clinic.wearer("a")
    beats = {"code": "rr_interval", "unit": "ms", "at": NOW, "values": [800] * 10}
    happened = events("a", [{"type": "tamper", "at": NOW}], seq=2)
    async with open_post(clinic, database_url) as post:
        await post.send(telemetry("a", [beats, heart_rate(NOW)], seq=1), happened)
        await post.send(telemetry("a", [heart_rate(NOW + 1)], seq=3))
        await post.send(
            telemetry("a", [beats | {"values": [800] * 5}, heart_rate(NOW) | {"value": 70}], seq=1), happened
        )
        await post.flush()
        assert post.broker.told() == [("a", b'{"seq":3}')]


async def test_messages_without_a_number_between_others_leave_those_what_they_say(
    clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("a")
    key = await clinic.value("select key from device")
    async with open_post(clinic, database_url) as post:
        await post.send(
            telemetry("a", [heart_rate(NOW)], oldest=1, sent_at=NOW - 9),
            telemetry("stranger", [heart_rate(NOW)], seq=9, oldest=2, sent_at=NOW - 8),
            telemetry("a", [heart_rate(NOW + 1)], seq=4, oldest=3, sent_at=NOW - 2),
            Outgoing("vigil/v1/a/telemetry", b"no message"),
        )
        receipt = post.keeper.book.receipts[key]
        assert (receipt.first_seq, receipt.seq, receipt.above, receipt.stamp_ms) == (3, 2, [(4, 5)], ABSENT)
        await post.send(telemetry("a", [heart_rate(NOW + 2)], seq=3, sent_at=NOW - 3), telemetry("a", [], sent_at=NOW))
        receipt = post.keeper.book.receipts[key]
        assert (receipt.seq, receipt.above, receipt.stamp_ms) == (4, [], NOW - 2)
        assert list(post.keeper.book.receipts) == [key]


async def test_the_journal_is_emptied_though_the_last_batch_had_no_number(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("a")
    async with open_post(clinic, database_url) as post:
        await post.send(telemetry("a", [heart_rate(NOW)], seq=0))
        await post.send(telemetry("a", [heart_rate(NOW + 1)]))
        await post.flush()
        assert await clinic.value("select count(*) from receipt_journal") == 0
        assert await post.written() == {"a": (0, 0)}
