"""A patient's nights: the night's value, the baseline it is compared with, and the 7-day mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

import numpy as np

from devices.vocabulary import Modality
from streaming.hrv.windows import HrvWindow
from streaming.zones import ZoneHistory

NIGHT_STARTS: Final = time(0)
NIGHT_ENDS: Final = time(6)
MIN_WINDOWS: Final = 12
ROLLING_DAYS: Final = 7
MIN_ROLLING_NIGHTS: Final = 3
MAD_TO_SD: Final = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""
MIN_SPREAD: Final = 0.05
"""Floor of a baseline's spread in ln ms: a sensor cannot resolve differences between nights that agree to 5 %."""
WINSOR_SD: Final = 2.0
WINSORISED_TO_SD: Final = 1.042
"""The standard deviation of a normal distribution over that of its values clipped to 2 standard deviations."""


@dataclass(frozen=True, slots=True)
class NightValue:
    """One night of one patient: medians over its valid windows of one modality (`windows` is their number).

    `night` is the local date on which it ends. The measures are `None` with fewer than 12 valid windows (an hour).
    """

    night: date
    starts_at: int
    ends_at: int
    windows: int
    rmssd: float | None
    sdnn: float | None
    mean_heart_rate: float | None
    ln_rmssd: float | None
    modality: Modality = Modality.PPG


@dataclass(frozen=True, slots=True)
class Baseline:
    """The patient's own normal: robust centre and spread of lnRMSSD, and the number of nights behind them."""

    center: float
    spread: float
    nights: int


def night_bounds(zone: ZoneHistory, night: date) -> tuple[int, int]:
    """Return (start, end) in ms of the night that ends on local date `night`, 00:00 to 06:00; clock changes count."""
    start, end = (zone.instant(datetime.combine(night, clock)) for clock in (NIGHT_STARTS, NIGHT_ENDS))
    return start, end


def night_value(night: date, bounds: tuple[int, int], windows: Iterable[HrvWindow]) -> NightValue:
    """Return the night's value from the windows that lie wholly within its bounds.

    Optical and electrical sensors do not measure the same, so a night has one modality: that of most of its valid
    windows (electrodes on a tie). Windows of the other one do not count.
    """
    starts_at, ends_at = bounds
    inside = [window for window in windows if starts_at <= window.start_ms and window.end_ms <= ends_at]
    modality = max(Modality, key=lambda of: _evidence(inside, of)) if inside else Modality.PPG
    valid = [window for window in inside if window.valid and window.modality == modality]
    if len(valid) < MIN_WINDOWS:
        return NightValue(night, starts_at, ends_at, len(valid), None, None, None, None, modality)
    rmssd = np.array([window.rmssd for window in valid], dtype=np.float64)
    return NightValue(
        night=night,
        starts_at=starts_at,
        ends_at=ends_at,
        windows=len(valid),
        rmssd=float(np.median(rmssd)),
        sdnn=float(np.median([window.sdnn for window in valid if window.sdnn is not None])),
        mean_heart_rate=float(
            np.median([window.mean_heart_rate for window in valid if window.mean_heart_rate is not None])
        ),
        ln_rmssd=float(np.median(np.log(rmssd))),
        modality=modality,
    )


def _evidence(windows: Sequence[HrvWindow], modality: Modality) -> tuple[int, int, bool]:
    """Return the sort key of a modality: number of valid windows, then of all windows, then electrodes first."""
    of = [window for window in windows if window.modality == modality]
    return sum(window.valid for window in of), len(of), modality is Modality.ECG


def baseline(values: Sequence[float]) -> Baseline:
    """Return winsorised mean and standard deviation (at least `MIN_SPREAD`) of the lnRMSSD of some nights.

    One step of Huber's proposal 2: values further than 2 scaled median absolute deviations from the median count as if
    they lay there. Median and MAD alone are as robust, but are only 64 and 37 % efficient, and the error in the spread
    of a patient's few nights causes most of the false alerts.
    """
    nights = np.asarray(values, dtype=np.float64)
    median = float(np.median(nights))
    reach = WINSOR_SD * MAD_TO_SD * float(np.median(np.abs(nights - median)))
    clipped = np.clip(nights, median - reach, median + reach)
    spread = WINSORISED_TO_SD * float(np.std(clipped, ddof=1)) if nights.size > 1 else 0.0
    return Baseline(float(np.mean(clipped)), max(spread, MIN_SPREAD), len(values))


def rolling_mean(nights: Sequence[NightValue], last: date) -> float | None:
    """Return the mean lnRMSSD of the 7 days that end with `last`, `None` with fewer than 3 nights (Plews 2013)."""
    first = last - timedelta(days=ROLLING_DAYS - 1)
    values = [night.ln_rmssd for night in nights if first <= night.night <= last and night.ln_rmssd is not None]
    return float(np.mean(values)) if len(values) >= MIN_ROLLING_NIGHTS else None
