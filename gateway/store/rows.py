"""Rows of a batch in the form the store takes: readings, RR runs and events with their device and wearer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.batch import Event
from devices.runs import RRRun

NOBODY = 0


@dataclass(slots=True)
class Rows:
    """Readings to be stored, one row each, as columns of one length. `message` is the position in the batch."""

    message: NDArray[np.int32]
    device: NDArray[np.int32]
    patient: NDArray[np.int32]
    at: NDArray[np.int64]
    code: NDArray[np.int16]
    unit: NDArray[np.int16]
    flags: NDArray[np.int16]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.at)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Rows":
        """Return the chosen rows."""
        return Rows(
            self.message[rows],
            self.device[rows],
            self.patient[rows],
            self.at[rows],
            self.code[rows],
            self.unit[rows],
            self.flags[rows],
            self.value[rows],
        )

    @staticmethod
    def join(parts: Sequence["Rows"]) -> "Rows":
        """Return all rows of the parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__slots__))


@dataclass(frozen=True, slots=True)
class WornRun:
    """RR intervals with the device and the wearer they belong to."""

    run: RRRun
    device: int
    patient: int


@dataclass(frozen=True, slots=True)
class WornEvent:
    """An event with the device and the wearer it belongs to."""

    event: Event
    device: int
    patient: int
