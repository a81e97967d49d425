"""The glucose of a picture in the unit it is drawn in: points, lines, arrows for LO and HI, and gaps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from api.pictures.contents import NightPicture
from api.pictures.thinning import lowest_and_highest
from devices.units import glucose_limit
from devices.vocabulary import Unit
from streaming.glucose.values import HI, LO, MG_DL_PER_MMOL_L, counts
from streaming.readings import Bool, Float64
from streaming.zones import MINUTE_MS, Int64

GlucoseUnit = Literal["mmol/L", "mg/dL"]
MAX_READINGS: Final = 5000
NO_DATA_MS: Final = 30 * MINUTE_MS
"""As for alerts whose data stop: readings further apart say nothing about the time between."""
_LOWEST_TOP_MMOL: Final = 12.0
_HIGHEST_FLOOR_MMOL: Final = 2.0
_HIGHEST_TOP_MMOL: Final = 34.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The unit of the picture and the range of its axis in that unit."""

    unit: GlucoseUnit
    floor: float
    top: float

    def limit(self, mmol: float) -> float:
        """Return a limit as it is named in the picture's unit: 4.0 mmol/L is 72 mg/dL."""
        return glucose_limit(mmol, Unit(Unit.MG_DL if self.unit == "mg/dL" else Unit.MMOL_L))

    def number(self, value: float) -> str:
        """Format a value of that unit: 3.8, 68."""
        return f"{value:.0f}" if self.unit == "mg/dL" else f"{value:.1f}"


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Readings that count, ascending: `at` ms, `value` in the picture's unit, and which of them are LO and HI.

    In addition, `unused` (`at`, `value`): warm-up, calibration and artifacts that have a number. `every` has the times
    of all readings before thinning; `part` numbers the stretches between gaps of those.
    """

    scale: Scale
    at: Int64
    value: Float64
    is_lo: Bool
    is_hi: Bool
    part: Int64
    unused: tuple[Int64, Float64]
    every: Int64

    @property
    def drawn(self) -> Float64:
        """The height of each reading: LO lies on the floor of the axis, HI at its top."""
        return np.where(self.is_lo, self.scale.floor, np.where(self.is_hi, self.scale.top, self.value))

    def segments(self) -> list[slice]:
        """Return the rows of each stretch without a gap."""
        return stretches(self.part)

    def silences(self, start_ms: int, until_ms: int) -> list[tuple[int, int]]:
        """Return the stretches of [start, until) about which nothing is known."""
        edges = [start_ms, *self.every[self.every < until_ms].tolist(), until_ms]
        return [(one, other) for one, other in pairwise(edges) if other - one > NO_DATA_MS]


def parts(at: Int64, gap_ms: int) -> Int64:
    """Return the stretch number of each of ascending instants; a distance longer than the gap begins a new stretch."""
    return np.cumsum(np.diff(at, prepend=at[:1]) > gap_ms)


def stretches(part: Int64) -> list[slice]:
    """Return the rows of each stretch, by their ascending numbers."""
    breaks = (np.flatnonzero(np.diff(part)) + 1).tolist()
    return [slice(first, last) for first, last in pairwise([0, *breaks, part.size]) if last > first]


def curve_of(night: NightPicture, unit: GlucoseUnit) -> Curve:
    """Return the curve to draw; at most `MAX_READINGS` readings, keeping the lowest and highest of each stretch."""
    at, mmol, flags = night.at[night.shown], night.mmol[night.shown], night.flags[night.shown]
    says = counts(mmol, flags)
    unused = _thinned(at[~says & ~np.isnan(mmol)], mmol[~says & ~np.isnan(mmol)])
    at, mmol, flags = at[says], mmol[says], flags[says]
    every, part = at, parts(at, NO_DATA_MS)
    is_lo = (flags & LO).astype(np.bool_)
    is_hi = (flags & HI).astype(np.bool_) & ~is_lo
    keep = lowest_and_highest(np.where(is_lo, -np.inf, np.where(is_hi, np.inf, mmol)), MAX_READINGS)
    at, mmol, is_lo, is_hi, part = at[keep], mmol[keep], is_lo[keep], is_hi[keep], part[keep]
    factor = MG_DL_PER_MMOL_L if unit == "mg/dL" else 1.0
    floor, top = _reach(np.concatenate((mmol[~is_lo & ~is_hi], unused[1])))
    scale = Scale(unit, floor * factor, top * factor)
    return Curve(scale, at, mmol * factor, is_lo, is_hi, part, (unused[0], unused[1] * factor), every)


def _thinned(at: Int64, mmol: Float64) -> tuple[Int64, Float64]:
    keep = lowest_and_highest(mmol, MAX_READINGS)
    return at[keep], mmol[keep]


def _reach(mmol: Float64) -> tuple[float, float]:
    """Return floor and top of the axis in mmol/L: the same for most nights, so that they can be compared."""
    if mmol.size == 0:
        return _HIGHEST_FLOOR_MMOL, _LOWEST_TOP_MMOL
    floor = min(_HIGHEST_FLOOR_MMOL, np.floor(float(mmol.min()) * 2 - 0.5) / 2)
    top = max(_LOWEST_TOP_MMOL, np.ceil(float(mmol.max()) + 0.5))
    return max(0.0, float(floor)), min(float(top), _HIGHEST_TOP_MMOL)
