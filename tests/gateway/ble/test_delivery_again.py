"""Delivery after a probe was answered once, and who leaves first: what only shows the second time."""

from pathlib import Path

from gateway.ble.delivery import FIRST_PROBE_S, LONGEST_PROBE_S, STARTS_OVER_AT, WINDOW
from gateway.ble.spool import Spool
from gateway.ble.turns import SLICE_MS, Decision, decide
from tests.gateway.ble.test_delivery import Time, begun, fill, taken
from tests.gateway.ble.test_turns import NOW, linked, near


def test_each_time_that_a_receipt_stands_still_all_that_waits_is_sent_again(tmp_path: Path) -> None:
    time = Time()
    with Spool(tmp_path / "spool.db") as spool:
        fill(spool, 4)
        delivery = begun(spool, time)
        for seq in taken(delivery):
            delivery.puback(seq)
        for receipt in (1, 2):
            sent = []
            for _ in range(STARTS_OVER_AT):
                time.now += LONGEST_PROBE_S
                probe = delivery.probe()
                sent.append([probe.seq] if probe is not None else taken(delivery))
                for seq in sent[-1]:
                    delivery.puback(seq)
            assert sent == [[receipt]] * (STARTS_OVER_AT - 1) + [list(range(receipt, 5))]
            assert delivery.receipt(receipt)
            for seq in taken(delivery):
                delivery.puback(seq)


def test_of_those_who_had_their_slice_the_one_with_the_oldest_link_leaves_first() -> None:
    links = [linked("young", NOW - SLICE_MS), linked("old", NOW - 3 * SLICE_MS), linked("older", NOW - 4 * SLICE_MS)]
    assert decide([*links, near("x")], 3, NOW) == Decision(release=("older",))
    assert decide([*links, near("x"), near("y")], 3, NOW) == Decision(release=("older", "old"))


def test_room_in_the_window_is_used_although_no_receipt_comes(tmp_path: Path) -> None:
    time = Time()
    with Spool(tmp_path / "spool.db") as spool:
        fill(spool, 3 * WINDOW)
        delivery = begun(spool, time)
        sent = taken(delivery)
        for seq in sent[: WINDOW // 2 - 1]:
            delivery.puback(seq)
        assert (time.wakes, taken(delivery)) == (0, []), "too little room to ask the spool for"
        delivery.puback(sent[WINDOW // 2])
        assert time.wakes == 1
        assert len(taken(delivery)) == WINDOW // 2


def test_what_is_on_its_way_is_not_sent_beside_itself_when_a_probe_is_answered(tmp_path: Path) -> None:
    time = Time()
    with Spool(tmp_path / "spool.db") as spool:
        fill(spool, 3)
        delivery = begun(spool, time)
        for seq in taken(delivery):
            delivery.puback(seq)
        time.now += FIRST_PROBE_S
        assert delivery.probe() is not None
        fill(spool, 1)
        assert taken(delivery) == [4]
        assert delivery.receipt(1)
        assert taken(delivery) == [2, 3]


def test_a_message_after_a_long_silence_has_its_time_to_be_receipted(tmp_path: Path) -> None:
    time = Time()
    with Spool(tmp_path / "spool.db") as spool:
        delivery = begun(spool, time)
        time.now += 10 * LONGEST_PROBE_S
        fill(spool, 1)
        assert taken(delivery) == [1]
        assert delivery.probe_in() == FIRST_PROBE_S
