"""Decides which message goes out next: the delivery rules of a device as a state machine without any I/O.

Flash is freed by a receipt and by nothing else. A PUBACK only makes room in the window: a broker that dies can lose
what it acknowledged. So every new connection starts over from the receipt, and if the receipt stands still although the
broker took everything, a message is sent again as a probe.
"""

from firmware_sim.flash import Flash, Record


class Uplink:
    """The volatile part of delivery; a reboot discards it and makes a new one on the same flash."""

    def __init__(self, flash: Flash, *, window: int) -> None:
        """Send from `flash`, at most `window` messages without a PUBACK at a time."""
        if window < 1:
            raise ValueError("the window must let at least one message through")
        self._flash = flash
        self._window = window
        self._open = False
        self._next = flash.oldest
        self._in_flight: set[int] = set()
        self._probing = False

    @property
    def idle(self) -> bool:
        """Whether the broker has acknowledged everything held (the gateway may not have received it yet)."""
        return self._open and not self._in_flight and self._next >= self._flash.next_seq

    def connect(self) -> None:
        """Begin a new connection: nothing is in flight and nothing goes out before `start`."""
        self._open = False
        self._probing = False
        self._in_flight.clear()

    def start(self) -> None:
        """Start to send, from the lowest number held, once the retained receipt is known, or known to be missing."""
        self._open = True
        self._next = self._flash.oldest

    def receipt(self, seq: int) -> bool:
        """Free flash up to `seq`; return whether that freed anything.

        A number this device never gave belongs to an earlier life of its id; believing it would lose messages.
        """
        if not self._flash.oldest <= seq < self._flash.next_seq:
            return False
        self._flash.free_through(seq)
        if self._probing:
            # The gateway answered a probe, so there was a hole, and it may not be the only one.
            self._probing = False
            self._next = self._flash.oldest
        return True

    def take(self) -> Record | None:
        """Return the next message to publish, which is in flight from now on; None if there is none or no room."""
        if not self._open or len(self._in_flight) >= self._window:
            return None
        self._next = max(self._next, self._flash.oldest)
        while self._next in self._in_flight:
            self._next += 1
        if self._next >= self._flash.next_seq:
            return None
        record = self._flash.get(self._next)
        self._in_flight.add(record.seq)
        self._next += 1
        return record

    def puback(self, seq: int) -> None:
        """Make room: the broker has it."""
        self._in_flight.discard(seq)

    def probe(self) -> Record | None:
        """Return the lowest message, to be sent again, if the broker took everything but the receipt stands still.

        One message only: while the gateway is down, the broker's queue must not fill with repeats.
        """
        if not self.idle or not len(self._flash):
            return None
        self._probing = True
        record = self._flash.get(self._flash.oldest)
        self._in_flight.add(record.seq)
        return record
