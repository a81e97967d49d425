"""Decides which message of the spool goes out next on one connection: the delivery rules, no I/O but the spool's."""

from collections.abc import Callable
from typing import Final

from gateway.ble.outgoing import Outgoing
from gateway.ble.spool import Spool

WINDOW: Final = 64
"""Messages in flight without a PUBACK."""
WINDOW_BYTES: Final = 256 * 1024
"""Bytes in flight without a PUBACK: bounds memory, and the wait for the first PUBACK over a slow network."""
FIRST_PROBE_S: Final = 15.0
"""Several times what passes between two receipts of a working gateway."""
LONGEST_PROBE_S: Final = 600.0
STARTS_OVER_AT: Final = 3
"""The probe in a row at which everything that waits is sent again: a gateway that has the lowest message but missed a
later one does not answer to the lowest."""


class Delivery:
    """The volatile part of delivery; every connection makes a new one on the same spool."""

    def __init__(self, spool: Spool, monotonic: Callable[[], float], wake: Callable[[], None]) -> None:
        """Nothing goes out before `begin`. `monotonic` is in seconds; `wake` is called when there is room or news."""
        self._spool = spool
        self._monotonic = monotonic
        self._wake = wake
        self._begun = False
        self._standing: int | None = None
        self._cursor = 0
        self._in_flight: dict[int, int] = {}  # bytes by seq
        self._probing = False
        self._probes = 0
        self._probe_s = FIRST_PROBE_S
        self._probe_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether the broker has acknowledged everything in the spool (the gateway may not have received it yet)."""
        return self._begun and not self._in_flight and self._cursor >= self._spool.next_seq - 1

    def begin(self) -> None:
        """Start to send, from the receipt on, now that the retained receipt is known, or known to be missing."""
        if self._standing is not None and not self._spool.rebase(self._standing):
            self._spool.receipt(self._standing)
        self._spool.begin_sending()
        self._begun = True
        self._cursor = self._spool.oldest - 1
        self._count_from_now(FIRST_PROBE_S)

    def receipt(self, seq: int) -> bool:
        """Free the spool; return whether that freed anything. Before `begin`, the last one heard counts as retained."""
        if not self._begun:
            self._standing = seq
            return False
        if not self._spool.receipt(seq):
            return False
        if self._probing:
            # The gateway answered a probe, so there was a hole, and it may not be the only one.
            self._probing = False
            self._probes = 0
            self._cursor = seq
        self._count_from_now(FIRST_PROBE_S)
        self._wake()
        return True

    def take(self) -> list[Outgoing]:
        """Return the next messages to publish, which are in flight from now on."""
        room = WINDOW - len(self._in_flight)
        size = sum(self._in_flight.values())
        if not self._begun or room < WINDOW // 2 or size > WINDOW_BYTES // 2:
            return []  # the spool is read for many at a time
        self._cursor = max(self._cursor, self._spool.oldest - 1)
        messages: list[Outgoing] = []
        for message in self._spool.waiting(room, self._cursor):
            size += len(message.body.items)
            if messages and size > WINDOW_BYTES:
                break
            self._cursor = message.seq
            if message.seq not in self._in_flight:
                messages.append(message)
                self._in_flight[message.seq] = len(message.body.items)
                if message.seq == self._spool.oldest and not self._probing:
                    self._count_from_now(FIRST_PROBE_S)
        return messages

    def puback(self, seq: int) -> None:
        """Make room: the broker has it."""
        self._in_flight.pop(seq, None)
        if len(self._in_flight) <= WINDOW // 2:
            self._wake()

    def probe_in(self) -> float | None:
        """Return the seconds until the receipt is to be probed; None while nothing waits."""
        return max(self._probe_at - self._monotonic(), 0.0) if len(self._spool) else None

    def probe(self) -> Outgoing | None:
        """Return the lowest message, to be sent again, if the broker took everything but the receipt stands still.

        A single message, and all of them only once: while the gateway is down, the broker's queue must not fill with
        repeats.
        """
        if not self.idle or not len(self._spool):
            self._count_from_now(self._probe_s)
            return None
        self._count_from_now(min(2 * self._probe_s, LONGEST_PROBE_S))
        self._probing = True
        self._probes += 1
        if self._probes == STARTS_OVER_AT:
            self._cursor = self._spool.oldest - 1
            self._wake()
            return None
        (lowest,) = self._spool.waiting(1)
        self._in_flight[lowest.seq] = len(lowest.body.items)
        return lowest

    def _count_from_now(self, seconds: float) -> None:
        """Probe if no receipt frees anything within `seconds` from now."""
        self._probe_s = seconds
        self._probe_at = self._monotonic() + seconds
