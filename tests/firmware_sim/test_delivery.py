"""Flash, uplink and receipts without a wire: whatever is lost, repeated or rebooted, nothing unreceipted is freed."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devices.vocabulary import Topic
from firmware_sim.flash import Flash
from firmware_sim.uplink import Uplink


def filled(count: int, capacity: int = 100) -> Flash:
    flash = Flash(capacity)
    for number in range(count):
        flash.append(Topic.TELEMETRY, b"", readings=1, due_ms=number)
    return flash


def started(flash: Flash, window: int = 100) -> Uplink:
    uplink = Uplink(flash, window=window)
    uplink.connect()
    uplink.start()
    return uplink


def sent(uplink: Uplink) -> list[int]:
    seqs = []
    while (record := uplink.take()) is not None:
        seqs.append(record.seq)
    return seqs


def test_a_full_ring_overwrites_its_oldest_and_raises_oldest() -> None:
    flash = filled(5, capacity=3)
    assert [record.seq for record in flash] == [3, 4, 5]
    assert (flash.oldest, flash.next_seq, flash.overwritten) == (3, 6, 2)


def test_numbers_go_on_when_flash_is_empty() -> None:
    flash = filled(3)
    flash.free_through(3)
    assert (len(flash), flash.oldest, flash.next_seq) == (0, 4, 4)
    assert flash.append(Topic.EVENT, b"", readings=1, due_ms=0).seq == 4


def test_nothing_goes_out_before_the_receipt_is_known() -> None:
    uplink = Uplink(filled(3), window=8)
    uplink.connect()
    assert sent(uplink) == []
    uplink.receipt(2)
    uplink.start()
    assert sent(uplink) == [3]


def test_the_window_is_opened_by_pubacks_only() -> None:
    flash = filled(5)
    uplink = started(flash, window=2)
    assert sent(uplink) == [1, 2]
    uplink.puback(1)
    assert sent(uplink) == [3]
    assert flash.oldest == 1


def test_a_new_connection_starts_over_from_the_receipt() -> None:
    flash = filled(5)
    uplink = started(flash)
    assert sent(uplink) == [1, 2, 3, 4, 5]
    for seq in range(1, 6):
        uplink.puback(seq)
    uplink.receipt(2)
    uplink.connect()
    uplink.start()
    assert sent(uplink) == [3, 4, 5]


@pytest.mark.parametrize("stranger", [0, -4, 6, 10**9])
def test_a_receipt_for_numbers_never_given_frees_nothing(stranger: int) -> None:
    flash = filled(5)
    uplink = started(flash)
    assert not uplink.receipt(stranger)
    assert len(flash) == 5


def test_a_probe_finds_a_hole_and_then_everything_goes_again() -> None:
    flash = filled(4)
    uplink = started(flash)
    for seq in sent(uplink):
        uplink.puback(seq)
    probe = uplink.probe()
    assert probe is not None
    assert probe.seq == 1
    assert sent(uplink) == []
    uplink.puback(1)
    uplink.receipt(1)
    assert sent(uplink) == [2, 3, 4]


def test_nobody_probes_while_messages_are_on_their_way() -> None:
    uplink = started(filled(2))
    assert uplink.probe() is None
    sent(uplink)
    assert uplink.probe() is None


class Delivery(RuleBasedStateMachine):
    """A device, a broker that may forget, and a gateway that commits in any order and receipts what is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.flash = Flash(6)
        self.uplink = Uplink(self.flash, window=3)
        self.on_air: list[tuple[int, int]] = []
        self.at_broker: list[tuple[int, int]] = []
        self.committed: set[int] = set()
        self.receipt = 0
        self.connected = False
        self.oldest_said = 1

    @rule()
    def measure(self) -> None:
        self.flash.append(Topic.TELEMETRY, b"", readings=1, due_ms=0)

    @rule()
    def connect(self) -> None:
        self.uplink.connect()
        self.on_air.clear()
        self.connected = True
        self.uplink.receipt(self.receipt)
        self.uplink.start()

    @rule()
    def disconnect(self) -> None:
        self.on_air.clear()
        self.connected = False

    @rule()
    def reboot(self) -> None:
        self.uplink = Uplink(self.flash, window=3)
        self.on_air.clear()
        self.connected = False

    @precondition(lambda self: self.connected)
    @rule()
    def transmit(self) -> None:
        record = self.uplink.take()
        if record is not None:
            self.on_air.append((record.seq, self.flash.oldest))
        assert len(self.on_air) <= 3

    @precondition(lambda self: self.connected)
    @rule()
    def probe(self) -> None:
        record = self.uplink.probe()
        if record is not None:
            self.on_air.append((record.seq, self.flash.oldest))

    @precondition(lambda self: self.on_air)
    @rule(data=st.data(), twice=st.booleans())
    def broker_takes(self, data: st.DataObject, twice: bool) -> None:  # noqa: FBT001 - hypothesis names it
        message = self.on_air.pop(data.draw(st.integers(0, len(self.on_air) - 1)))
        self.at_broker += [message] * (2 if twice else 1)
        self.uplink.puback(message[0])

    @rule()
    def broker_dies(self) -> None:
        self.at_broker.clear()
        self.disconnect()

    @precondition(lambda self: self.at_broker)
    @rule(data=st.data())
    def gateway_commits(self, data: st.DataObject) -> None:
        seq, oldest = self.at_broker.pop(data.draw(st.integers(0, len(self.at_broker) - 1)))
        self.committed.add(seq)
        self.oldest_said = max(self.oldest_said, oldest)

    @rule(delivered=st.booleans())
    def gateway_receipts(self, delivered: bool) -> None:  # noqa: FBT001
        self.receipt = max(self.receipt, self.oldest_said - 1)
        while self.receipt + 1 in self.committed:
            self.receipt += 1
        if delivered and self.connected:
            self.uplink.receipt(self.receipt)

    @invariant()
    def what_is_not_in_flash_was_committed_or_overwritten(self) -> None:
        freed = set(range(1, self.flash.oldest))
        assert len(freed - self.committed) <= self.flash.overwritten
        assert [record.seq for record in self.flash] == list(range(self.flash.oldest, self.flash.next_seq))

    def teardown(self) -> None:
        """In quiet times everything arrives and flash is empty."""
        self.connect()
        for _ in range(40):
            while (record := self.uplink.take() or self.uplink.probe()) is not None:
                self.committed.add(record.seq)
                self.oldest_said = max(self.oldest_said, self.flash.oldest)
                self.uplink.puback(record.seq)
                self.gateway_receipts(delivered=True)
        assert len(self.flash) == 0


Delivery.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestDelivery = Delivery.TestCase
