"""Thins a curve that has more points than a picture can show, and keeps its extremes."""

import numpy as np

from streaming.readings import Bool, Float64


def lowest_and_highest(value: Float64, most: int) -> Bool:
    """Return which of the values in order of time to keep: at most `most` (even, ≥ 2).

    The values are cut into `most / 2` runs of nearly equal length; the lowest and highest of each are kept. NaN counts
    as the highest; minus infinity and infinity are ordinary values.
    """
    if value.size <= most:
        return np.ones(value.size, dtype=np.bool_)
    starts = np.arange(most // 2) * value.size // (most // 2)
    order = np.lexsort((value, np.searchsorted(starts, np.arange(value.size), side="right")))
    keep = np.zeros(value.size, dtype=np.bool_)
    keep[order[starts]] = True
    keep[order[np.append(starts[1:], value.size) - 1]] = True
    return keep
