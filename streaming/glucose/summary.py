"""The CGM summary of a period: active time, time in ranges, mean, GMI, CV, daily profile (AGP) and consensus episodes.

After Battelino 2019 (10.2337/dci19-0028); GMI after Bergenstal 2018 (10.2337/dc18-1581).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from devices.vocabulary import Unit
from streaming.glucose.episodes import (
    LOW_LIMITS_MMOL,
    EpisodeCount,
    Level,
    beyond_mask,
    cadence,
    consensus_episodes,
    count_episodes,
    held_until,
)
from streaming.glucose.values import HI, LO, MG_DL_PER_MMOL_L, merge
from streaming.readings import Bool, Float64, ReadingSeries
from streaming.zones import DAY_MS, MINUTES_PER_DAY, Int64, ZoneHistory

ENOUGH_DAYS: Final = 14
ENOUGH_ACTIVE_PERCENT: Final = 70.0
LO_MG_DL: Final = 40.0
HI_MG_DL: Final = 400.0
PERCENTILES: Final = (5, 25, 50, 75, 95)
PROFILE_MINUTES: Final = 15


class Target(StrEnum):
    """The targets that the consensus sets for adults with type 1 or type 2 diabetes."""

    TIME_IN_RANGE = "time_in_range"
    TIME_LOW_1 = "time_low_1"
    TIME_LOW_2 = "time_low_2"
    TIME_HIGH_1 = "time_high_1"
    TIME_HIGH_2 = "time_high_2"
    CV = "cv"


BELOW_PERCENT: Final[Mapping[Level, float]] = MappingProxyType(
    {Level.LOW_1: 4.0, Level.LOW_2: 1.0, Level.HIGH_1: 25.0, Level.HIGH_2: 5.0}
)
IN_RANGE_ABOVE_PERCENT: Final = 70.0
CV_AT_MOST_PERCENT: Final = 36.0


@dataclass(frozen=True, slots=True, eq=False)
class DailyProfile:
    """The ambulatory glucose profile: percentiles by local time of day, in mmol/L, not smoothed.

    Row `i` covers the `PROFILE_MINUTES` from local minute `i × PROFILE_MINUTES` on, over all days; the columns are the
    `PERCENTILES`. `readings` is the number in each row; a row without any is NaN.
    """

    percentiles: Float64
    readings: Int64


@dataclass(frozen=True, slots=True, eq=False)
class GlucoseSummary:
    """Glucose of one patient in [`start_ms`, `end_ms`).

    Shares of time are in percent of the active time and cumulative: `beyond_percent[LOW_1]` includes that of `LOW_2`.
    `cv_percent` is `None` for a single reading.
    """

    start_ms: int
    end_ms: int
    cadence_ms: int
    readings: int
    active_percent: float
    in_range_percent: float
    beyond_percent: Mapping[Level, float]
    mean_mmol: float
    cv_percent: float | None
    profile: DailyProfile
    episodes: Mapping[Level, EpisodeCount]

    @property
    def gmi_percent(self) -> float:
        """The glucose management indicator: the HbA1c in percent that corresponds to the mean."""
        return 3.31 + 0.02392 * self.mean_mmol * MG_DL_PER_MMOL_L

    @property
    def sufficient(self) -> bool:
        """Whether the data suffice for a judgement: at least 14 days, at least 70 % of them active."""
        return self.end_ms - self.start_ms >= ENOUGH_DAYS * DAY_MS and self.active_percent >= ENOUGH_ACTIVE_PERCENT

    @property
    def targets_met(self) -> dict[Target, bool]:
        """Which targets were met; an unknown CV does not meet its target."""
        met = {Target(f"time_{level}"): self.beyond_percent[level] < most for level, most in BELOW_PERCENT.items()}
        met[Target.TIME_IN_RANGE] = self.in_range_percent > IN_RANGE_ABOVE_PERCENT
        met[Target.CV] = self.cv_percent is not None and self.cv_percent <= CV_AT_MOST_PERCENT
        return met


def summarise(
    series: ReadingSeries, zone: ZoneHistory, start_ms: int, end_ms: int, cadence_ms: int | None = None
) -> GlucoseSummary | None:
    """Return the summary of the readings with `start_ms` ≤ time < `end_ms`; `None` if they are not those of a sensor.

    Every reading holds until the next one, but for at most one cadence (`held_until`). The time held is the active
    time, and weights the reading in the shares of time, the mean and the CV, so that neither gaps nor a second sensor
    distort them. On a regular grid these are the plain shares, mean and sample standard deviation of the readings.
    Limits are compared in the unit the sensor sent. For mean, CV and profile LO is 40 mg/dL and HI 400, whatever the
    number field holds. `cadence_ms` is the sensor's interval, by default the readings' own.

    Raises `ValueError` for a period without length and for a cadence that is not above 0 and at most 15 min.
    """
    if end_ms <= start_ms:
        raise ValueError("the period must end after it begins")
    series = merge(series, LOW_LIMITS_MMOL.values())
    series = series.take((start_ms <= series.at) & (series.at < end_ms))
    cadence_ms = cadence(series) if cadence_ms is None else cadence_ms
    if cadence_ms is None or len(series) == 0:
        return None
    episodes = count_episodes(consensus_episodes(series, cadence_ms))
    held = np.minimum(held_until(series.at, cadence_ms), end_ms) - series.at
    active = int(held.sum())
    share = held / active
    mmol = _mmol_per_l(series)
    mean = float(share @ mmol)
    beyond = {level: beyond_mask(series, level) for level in Level}
    return GlucoseSummary(
        start_ms=start_ms,
        end_ms=end_ms,
        cadence_ms=cadence_ms,
        readings=len(series),
        active_percent=100 * active / (end_ms - start_ms),
        in_range_percent=_percent(held, ~(beyond[Level.LOW_1] | beyond[Level.HIGH_1])),
        beyond_percent={level: _percent(held, mask) for level, mask in beyond.items()},
        mean_mmol=mean,
        cv_percent=_cv_percent(mmol, share, mean),
        profile=_daily_profile(mmol, zone.minute_of_day(series.at)),
        episodes=episodes,
    )


def _percent(held: Int64, chosen: Bool) -> float:
    """Return the share of time, from whole milliseconds, so that exactly 70 % does not come out as slightly more."""
    return 100 * int(held[chosen].sum()) / int(held.sum())


def _mmol_per_l(series: ReadingSeries) -> Float64:
    """Return merged readings in mmol/L by the sensor's own arithmetic (÷ 18), with numbers for LO and HI."""
    mmol = np.where(series.unit == Unit.MG_DL, series.value / MG_DL_PER_MMOL_L, series.value)
    mmol = np.where((series.flags & HI).astype(np.bool_), HI_MG_DL / MG_DL_PER_MMOL_L, mmol)
    return np.where((series.flags & LO).astype(np.bool_), LO_MG_DL / MG_DL_PER_MMOL_L, mmol)


def _cv_percent(mmol: Float64, share: Float64, mean: float) -> float | None:
    """Return the coefficient of variation, with the sample standard deviation (n − 1) of the weighted readings."""
    if mmol.size < 2:
        return None
    variance = float(share @ (mmol - mean) ** 2) * mmol.size / (mmol.size - 1)
    return 100 * math.sqrt(variance) / mean


def _daily_profile(mmol: Float64, minute_of_day: Int64) -> DailyProfile:
    row = minute_of_day // PROFILE_MINUTES
    rows = MINUTES_PER_DAY // PROFILE_MINUTES
    percentiles = np.full((rows, len(PERCENTILES)), np.nan)
    for each in np.unique(row):
        percentiles[each] = np.percentile(mmol[row == each], PERCENTILES)
    return DailyProfile(percentiles, np.bincount(row, minlength=rows))
