"""Comparing glucose values: lows and highs in the sensor's own unit, and several sensors merged into one series."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np

from devices.units import glucose_limit
from devices.vocabulary import Flag, Unit
from streaming.readings import Bool, Float64, Int16, ReadingSeries

GLUCOSE_UNITS: Final = (Unit.MMOL_L, Unit.MG_DL)
MG_DL_PER_MMOL_L: Final = 18.0
NEVER_ALARMED: Final = np.int16(Flag.WARMUP | Flag.CALIBRATION | Flag.ARTIFACT)
LO: Final = np.int16(Flag.BELOW_RANGE)
HI: Final = np.int16(Flag.ABOVE_RANGE)


@lru_cache(maxsize=256)
def _limits(limit_mmol: float) -> Float64:
    """Return the limit on each unit's own scale, indexed by unit; NaN, which nothing is below, for other units."""
    table = np.full(max(Unit) + 1, np.nan)
    for unit in GLUCOSE_UNITS:
        table[unit] = glucose_limit(limit_mmol, unit)
    table.flags.writeable = False
    return table


def _has(flags: Int16, bits: np.int16) -> Bool:
    return (flags & bits).astype(np.bool_)


def counts(value: Float64, flags: Int16) -> Bool:
    """Which readings say something about glucose: a number, LO or HI, and not warm-up, calibration or artifact."""
    number = ~np.isnan(value)
    if not flags.any():  # as nearly always
        return number
    return (number | _has(flags, LO | HI)) & ~_has(flags, NEVER_ALARMED)


def low_mask(value: Float64, unit: Int16, flags: Int16, limit_mmol: float) -> Bool:
    """Which readings are below a limit, compared in the unit the sensor sent; rows of different patients may be mixed.

    LO is below every limit and HI below none, whatever the number field holds. Readings that do not count are not low.
    """
    below = value < _limits(limit_mmol)[unit]
    if not flags.any():  # as nearly always
        return below
    return ((below & ~_has(flags, HI)) | _has(flags, LO)) & ~_has(flags, NEVER_ALARMED)


def high_mask(value: Float64, unit: Int16, flags: Int16, limit_mmol: float) -> Bool:
    """Which readings are above a limit, compared in the unit the sensor sent; rows of different patients may be mixed.

    HI is above every limit and LO above none, whatever the number field holds. Readings that do not count are not high.
    """
    above = value > _limits(limit_mmol)[unit]
    if not flags.any():  # as nearly always
        return above
    by_number = above & ~_has(flags, LO)
    return (by_number | (_has(flags, HI) & ~_has(flags, LO))) & ~_has(flags, NEVER_ALARMED)


def merge(series: ReadingSeries, limits_mmol: Iterable[float] = (4.0, 3.1)) -> ReadingSeries:
    """Return one patient's readings that count, in order of time, one per instant.

    Of several at one instant the lowest is kept; of equal ones the first given. Readings in different units are
    compared by how many of `limits_mmol` they are below (each in its own unit: 55 mg/dL is not below 3.1 mmol/L, though
    55 / 18 is), then in mmol/L. LO is the lowest, HI the highest. Arrays that need no change are not copied.
    """
    keep = counts(series.value, series.flags)
    if not keep.all():
        series = series.take(keep)
    if len(series) < 2 or bool((series.at[1:] > series.at[:-1]).all()):
        return series
    below = sum(
        (low_mask(series.value, series.unit, series.flags, limit).astype(np.int64) for limit in limits_mmol),
        start=np.zeros(len(series), dtype=np.int64),
    )
    order = np.lexsort((mmol_per_l(series), -below, series.at))
    series = series.take(order)
    first = np.concatenate(([True], series.at[1:] > series.at[:-1]))
    return series.take(first)


def mmol_per_l(series: ReadingSeries) -> Float64:
    """Return values for ordering only: mmol/L, minus infinity for LO, infinity for HI."""
    mmol = np.where(series.unit == Unit.MG_DL, series.value / MG_DL_PER_MMOL_L, series.value)
    if not series.flags.any():  # as nearly always
        return mmol
    mmol = np.where(_has(series.flags, HI), np.inf, mmol)
    return np.where(_has(series.flags, LO), -np.inf, mmol)
