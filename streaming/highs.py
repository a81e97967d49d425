"""High glucose: a lasting level 2 high, and a high fasting glucose in the morning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streaming.lows import check_minutes
from streaming.zones import MINUTES_PER_DAY

LEAST_HIGH_MMOL: Final = 5.0
MOST_HIGH_MMOL: Final = 33.3


@dataclass(frozen=True, slots=True)
class HyperglycaemiaSettings:
    """Level 2 high (Danne 2017, 10.2337/dc17-1600): so long above 13.9 mmol/L (250 mg/dL), so long back; fasting high.

    `fasting_limit_mmol` at `fasting_start_minute` to `fasting_end_minute` local, without a rise of more than
    `fasting_rise_mmol` in the hour before.
    """

    limit_mmol: float = 13.9
    duration_minutes: float = 15.0
    recovery_minutes: float = 15.0
    fasting_limit_mmol: float = 7.0
    fasting_rise_mmol: float = 1.0
    fasting_start_minute: int = 5 * 60
    fasting_end_minute: int = 8 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that mean nothing."""
        if not all(LEAST_HIGH_MMOL <= limit <= MOST_HIGH_MMOL for limit in (self.limit_mmol, self.fasting_limit_mmol)):
            raise ValueError(f"the limits must lie in {LEAST_HIGH_MMOL} to {MOST_HIGH_MMOL} mmol/L")
        if not 0 <= self.fasting_rise_mmol <= MOST_HIGH_MMOL:
            raise ValueError("the rise cannot be below 0")
        if not 0 <= self.fasting_start_minute < self.fasting_end_minute <= MINUTES_PER_DAY:
            raise ValueError("the fasting hours must begin before they end, within a day")
        check_minutes("the duration", self.duration_minutes)
        check_minutes("the recovery", self.recovery_minutes)
