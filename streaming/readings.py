"""The struct of arrays in which rules get readings of one code, and the array types that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming.zones import Int64

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class ReadingSeries:
    """One patient's readings of one code: arrays of one length, in any order.

    `at` int64 ms, `value` float64 as the sensor sent it (NaN: no number), `unit` and `flags` int16 (`Unit`, `Flag`).
    """

    at: Int64
    value: Float64
    unit: Int16
    flags: Int16

    def __len__(self) -> int:
        """Return the number of readings."""
        return self.at.size

    def take(self, rows: Int64 | Bool | slice) -> ReadingSeries:
        """Return the chosen rows."""
        return ReadingSeries(self.at[rows], self.value[rows], self.unit[rows], self.flags[rows])
