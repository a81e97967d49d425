"""Which message goes out next: the window, the receipt and the probe, without a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.vocabulary import Code, Unit
from gateway.ble.delivery import FIRST_PROBE_S, LONGEST_PROBE_S, WINDOW, WINDOW_BYTES, Delivery
from gateway.ble.findings import RateRun, Reading
from gateway.ble.spool import Spool

START = 1_763_770_000_000


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wakes = 0

    def __call__(self) -> float:
        return self.now

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.db") as spool:
        yield spool


def fill(spool: Spool, messages: int) -> None:
    for number in range(messages):
        spool.keep("cgm", [Reading(Code.GLUCOSE, Unit.MMOL_L, START + number, 5.5)])


def begun(spool: Spool, time: Time) -> Delivery:
    delivery = Delivery(spool, time, time.wake)
    delivery.begin()
    return delivery


def taken(delivery: Delivery) -> list[int]:
    return [message.seq for message in delivery.take()]


def test_nothing_goes_out_before_the_receipt_is_known(spool: Spool) -> None:
    fill(spool, 3)
    time = Time()
    delivery = Delivery(spool, time, time.wake)
    assert taken(delivery) == []
    assert not delivery.idle
    assert not delivery.receipt(70)
    assert not delivery.receipt(100)
    delivery.begin()
    assert taken(delivery) == [101, 102, 103]


def test_a_puback_makes_room_and_frees_nothing(spool: Spool) -> None:
    fill(spool, 3 * WINDOW)
    delivery = begun(spool, Time())
    assert taken(delivery) == list(range(1, WINDOW + 1))
    assert taken(delivery) == []
    for seq in range(1, WINDOW // 2 + 1):
        delivery.puback(seq)
    assert taken(delivery) == list(range(WINDOW + 1, WINDOW + WINDOW // 2 + 1))
    assert len(spool) == 3 * WINDOW


def test_a_new_connection_starts_over_from_the_receipt(spool: Spool) -> None:
    fill(spool, 6)
    delivery = begun(spool, Time())
    for seq in taken(delivery):
        delivery.puback(seq)
    assert delivery.idle
    assert delivery.receipt(2)
    delivery = Delivery(spool, Time(), lambda: None)
    delivery.receipt(4)
    delivery.begin()
    assert taken(delivery) == [5, 6]


def test_large_messages_are_fewer_at_once_and_none_is_too_large(spool: Spool) -> None:
    for number in range(40):
        spool.keep("band", [RateRun(START + number, 1_000, (71.123456789,) * 2_500)])
    delivery = begun(spool, Time())
    seen: list[int] = []
    while len(seen) < 40:
        messages = delivery.take()
        assert messages
        assert sum(len(message.body.items) for message in messages) <= WINDOW_BYTES
        for message in messages:
            seen.append(message.seq)
            delivery.puback(message.seq)
    assert seen == list(range(1, 41))


def test_a_receipt_that_stands_still_is_probed_ever_more_seldom(spool: Spool) -> None:
    time = Time()
    delivery = begun(spool, time)
    assert delivery.probe_in() is None
    fill(spool, 2)
    taken(delivery)
    assert delivery.probe_in() == FIRST_PROBE_S
    time.now += FIRST_PROBE_S
    assert delivery.probe() is None, "the broker has not answered yet"
    delivery.puback(1)
    delivery.puback(2)
    waits, sent = [], []
    for _ in range(9):
        wait = delivery.probe_in()
        assert wait is not None
        time.now += wait
        waits.append(wait)
        probe = delivery.probe()
        sent.append([probe.seq] if probe is not None else taken(delivery))
        for seq in sent[-1]:
            delivery.puback(seq)
    assert sent == [[1], [1], [1, 2], *[[1]] * 6]
    assert waits == [min(FIRST_PROBE_S * 2**i, LONGEST_PROBE_S) for i in range(9)]


def test_a_probe_that_is_answered_resends_what_may_be_missing_too(spool: Spool) -> None:
    fill(spool, 4)
    time = Time()
    delivery = begun(spool, time)
    for seq in taken(delivery):
        delivery.puback(seq)
    time.now += FIRST_PROBE_S
    probe = delivery.probe()
    assert probe is not None
    assert delivery.receipt(1)
    assert time.wakes > 0
    assert taken(delivery) == [2, 3, 4]
    assert delivery.probe_in() == FIRST_PROBE_S
