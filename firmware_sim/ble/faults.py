"""The faults of a simulated device, as switches for tests."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Corruption(StrEnum):
    """How a packet is corrupted."""

    TRUNCATED = "truncated"
    """Its last byte is missing."""
    WRONG_CRC = "wrong_crc"
    """A bit of its last byte is flipped, so that a CRC at the end no longer matches."""
    RANDOM = "random"
    """Random bytes of the same number."""
    LENGTHENED = "lengthened"
    """Extra bytes follow."""


@dataclass(slots=True)
class Faults:
    """The active faults of a device; with everything off it is healthy. Change the fields at any time."""

    silent: bool = False
    """Accepts connections and then answers nothing."""
    refuses_bonding: bool = False
    withholds_response: bool = False
    """Record access sends all the records, never the response that ends a procedure."""
    link_loss_at: int | None = None
    """The link is lost instead of this record (1 = the first) of a report; once, then this is None again."""
    link_loss_probability: float = 0.0
    """Chance of that for each record of a report."""
    corrupt_next: tuple[Corruption, ...] = ()
    """The next measurement packets are corrupted like this, one each."""
    corruption_probability: float = 0.0
    """Chance that any measurement packet is corrupted, in any of the ways."""
    pace_s: float = 0.0
    """Pause after each record of a report; on the air it is a connection interval."""

    def spoil(self, packet: bytes, rng: np.random.Generator) -> bytes:
        """Return the packet as it goes out."""
        if self.corrupt_next:
            how, self.corrupt_next = self.corrupt_next[0], self.corrupt_next[1:]
            return spoiled(packet, how, rng)
        if self.corruption_probability and rng.random() < self.corruption_probability:
            return spoiled(packet, tuple(Corruption)[rng.integers(len(Corruption))], rng)
        return packet

    def loses_link(self, record: int, rng: np.random.Generator) -> bool:
        """Return whether the link is lost before record number `record` of a report."""
        if self.link_loss_at == record:
            self.link_loss_at = None
            return True
        return bool(self.link_loss_probability) and rng.random() < self.link_loss_probability


def spoiled(packet: bytes, how: Corruption, rng: np.random.Generator) -> bytes:
    """Return the packet with one defect."""
    match how:
        case Corruption.TRUNCATED:
            return packet[:-1]
        case Corruption.WRONG_CRC:
            return packet[:-1] + bytes([packet[-1] ^ 1])
        case Corruption.RANDOM:
            return rng.bytes(len(packet))
        case Corruption.LENGTHENED:
            return packet + rng.bytes(3)
