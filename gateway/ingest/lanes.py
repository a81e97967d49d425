"""Which rows of a batch are new by construction, which must ask the store, which repeat another: pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.ingest.high_water import CODES
from gateway.store.rows import Rows

Positions = NDArray[np.int64]

# Beats closer than this are the same beat: two series join only where their times meet within 50 ms (the contract),
# and no heart beats twice within 200 ms.
SAME_BEAT_MS = 50.0


@dataclass(frozen=True, slots=True)
class Lanes:
    """Positions of rows: `fast` are later than all stored, `slow` are not, `repeats` share a key with one before."""

    fast: Positions
    slow: Positions
    repeats: Positions


def split(rows: Rows, newest: NDArray[np.int64]) -> Lanes:
    """Split rows by lane; `newest` is the newest stored time of each row's device and code. Order within is by key."""
    key = rows.device.astype(np.int64) * CODES + rows.code
    order = np.lexsort((rows.at, key))
    sorted_key, sorted_at = key[order], rows.at[order]
    repeat = np.zeros(len(order), np.bool_)
    repeat[1:] = (sorted_key[1:] == sorted_key[:-1]) & (sorted_at[1:] == sorted_at[:-1])
    late = sorted_at <= newest[order]
    return Lanes(fast=order[~repeat & ~late], slow=order[~repeat & late], repeats=order[repeat])


def uncovered(beats: NDArray[np.float64], stored: list[tuple[float, float]]) -> list[tuple[int, int]]:
    """Return the half-open index ranges of `beats` (ms, ascending) that lie in none of the stored runs (first, last)."""
    covered = np.zeros(len(beats), np.bool_)
    for first, last in stored:
        covered |= (beats >= first - SAME_BEAT_MS) & (beats <= last + SAME_BEAT_MS)
    edges = np.flatnonzero(np.diff(np.concatenate(([True], covered, [True])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
