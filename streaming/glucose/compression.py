"""Compression lows: a sensor reads too low while its wearer lies on it. The alert says so and is never suppressed.

The shape is that of Facchinetti 2016 (10.1089/dia.2015.0250) and Baysal 2014 (10.1177/1932296814553267): at night, 45
(30–70) min long, 24 (10–48) mg/dL deep, abrupt in and out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from devices.vocabulary import Unit
from streaming.episodes import Episode, Severity
from streaming.glucose.values import HI, LO, MG_DL_PER_MMOL_L, low_mask, merge
from streaming.readings import Float64, ReadingSeries
from streaming.zones import MINUTE_MS, ZoneHistory

SHORTEST_MINUTES: Final = 30
LONGEST_MINUTES: Final = 70
SHALLOWEST_MG_DL: Final = 10.0
DEEPEST_MG_DL: Final = 48.0
ABRUPT_MS: Final = 15 * MINUTE_MS + MINUTE_MS // 2
"""An edge is abrupt when it takes 15 min, to the nearest minute: one step of the slowest glucose sensor."""
NIGHT_END_MINUTE: Final = 6 * 60
NEVER_LOWERED_BELOW_MMOL: Final = 3.0


@dataclass(frozen=True, slots=True)
class CompressionDip:
    """A dip that looks like a compression low, from its first reading to the first one after it (ms)."""

    started_at: int
    ended_at: int
    depth_mg_dl: float


def compression_dip(
    series: ReadingSeries, zone: ZoneHistory, episode: Episode, limit_mmol: float = 4.0
) -> CompressionDip | None:
    """Return the dip behind an episode of readings below `limit_mmol`, if all of it looks like a compression low.

    `before` is the highest reading (the latest, if several) of the 15 min before the first low, `after` the highest
    (the earliest, if several) of the 15 min after the last. The dip lies between them. Its depth is measured from the
    lower of the two, and it lasts from its first reading to `after`. It is abrupt if, within the 15 min after `before`
    and within the 15 min before `after`, glucose was lower by half the depth, and by at least 10 mg/dL. All lows must
    form one unbroken run whose onset is at 00:00–06:00 local. Readings without a number (LO, HI) and gaps of more than
    15 min prove nothing: then there is no dip. Nor is there one before the way out has been seen.
    """
    if zone.local(episode.opened_at).hour * 60 >= NIGHT_END_MINUTE:
        return None
    series = merge(series, (limit_mmol, NEVER_LOWERED_BELOW_MMOL))
    edges = _edges(series, episode, limit_mmol)
    if edges is None:
        return None
    before, after = edges
    whole = series.take(slice(before, after + 1))
    if (whole.flags & (LO | HI)).any() or (np.diff(whole.at) > ABRUPT_MS).any():
        return None
    mg = _mg_per_dl(whole)
    depth = round(float(min(mg[0], mg[-1]) - mg.min()), 6)  # so that 94.0 − 84.0 is not 9.999…
    minutes = (int(whole.at[-1] - whole.at[1]) + MINUTE_MS // 2) // MINUTE_MS
    if not SHALLOWEST_MG_DL <= depth <= DEEPEST_MG_DL or not SHORTEST_MINUTES <= minutes <= LONGEST_MINUTES:
        return None
    step = max(SHALLOWEST_MG_DL, depth / 2)
    into = mg[whole.at <= whole.at[0] + ABRUPT_MS]
    out = mg[whole.at >= whole.at[-1] - ABRUPT_MS]
    if round(float(mg[0] - into.min()), 6) < step or round(float(mg[-1] - out.min()), 6) < step:
        return None
    return CompressionDip(int(whole.at[1]), int(whole.at[-1]), depth)


def annotated(
    series: ReadingSeries, zone: ZoneHistory, episode: Episode, limit_mmol: float = 4.0, *, lower_severity: bool
) -> Episode:
    """Return the episode with the dip as evidence; unchanged if it does not look like a compression low.

    With `lower_severity` it also becomes one step less severe, unless a reading is below 3.0 mmol/L (54 mg/dL). The
    clinic decides this, because a true low can have the same shape. Annotate an episode once, as the detector returned
    it.
    """
    dip = compression_dip(series, zone, episode, limit_mmol)
    if dip is None:
        return episode
    evidence = {
        **episode.evidence,
        "compression_started_at": dip.started_at,
        "compression_ended_at": dip.ended_at,
        "compression_depth_mg_dl": dip.depth_mg_dl,
    }
    here = series.take((dip.started_at <= series.at) & (series.at <= dip.ended_at))
    too_low = bool(low_mask(here.value, here.unit, here.flags, NEVER_LOWERED_BELOW_MMOL).any())
    severity = _one_less(episode.severity) if lower_severity and not too_low else episode.severity
    return replace(episode, evidence=evidence, severity=severity)


def _edges(series: ReadingSeries, episode: Episode, limit_mmol: float) -> tuple[int, int] | None:
    """Return the rows `before` and `after` of an episode whose lows are one unbroken run with readings on each side."""
    low = low_mask(series.value, series.unit, series.flags, limit_mmol)
    first = int(np.searchsorted(series.at, episode.opened_at))
    if first in {0, len(series)} or series.at[first] != episode.opened_at or not low[first] or low[first - 1]:
        return None
    resolved = series.at.size if episode.resolved_at is None else int(np.searchsorted(series.at, episode.resolved_at))
    well = np.flatnonzero(~low[first:])
    if well.size == 0 or low[first + well[0] : resolved].any():
        return None
    last = first + int(well[0]) - 1
    mg = _mg_per_dl(series)
    start = int(np.searchsorted(series.at, series.at[first] - ABRUPT_MS, side="left"))
    stop = int(np.searchsorted(series.at, series.at[last] + ABRUPT_MS, side="right"))
    if start == first or stop == last + 1:
        return None
    before = first - 1 - int(np.argmax(mg[start:first][::-1]))  # the latest, if several are highest
    return before, last + 1 + int(np.argmax(mg[last + 1 : stop]))


def _mg_per_dl(series: ReadingSeries) -> Float64:
    """Return values in mg/dL by the sensor's own arithmetic, for differences only; infinite for LO and HI."""
    mg = np.where(series.unit == Unit.MMOL_L, series.value * MG_DL_PER_MMOL_L, series.value)
    mg = np.where((series.flags & HI).astype(np.bool_), np.inf, mg)
    return np.where((series.flags & LO).astype(np.bool_), -np.inf, mg)


def _one_less(severity: Severity) -> Severity:
    return next((less for less in Severity if less.rank == severity.rank - 1), severity)
