"""The nocturnal rule as slowly and plainly as the clinic states it: one reading after the other, nothing shared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

QUARTER_HOUR_MS = 15 * 60 * 1000
LIMIT = {"mmol/L": (4.0, 3.1), "mg/dL": (72.0, 55.0)}


@dataclass(frozen=True)
class Reading:
    at: int
    value: float | None
    unit: str = "mmol/L"
    flags: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        if {"warmup", "calibration", "artifact"} & set(self.flags):
            return False
        return self.value is not None or bool({"below_range", "above_range"} & set(self.flags))

    def below(self, which: int) -> bool:
        if "below_range" in self.flags:
            return True
        if "above_range" in self.flags or self.value is None:
            return False
        return self.value < LIMIT[self.unit][which]

    @property
    def order(self) -> tuple[bool, bool, float]:
        """Lower glucose sorts first."""
        if "below_range" in self.flags:
            return (False, False, float("-inf"))
        if "above_range" in self.flags or self.value is None:
            return (True, True, float("inf"))
        mmol = self.value if self.unit == "mmol/L" else self.value / 18
        return (not self.below(1), not self.below(0), mmol)


@dataclass(frozen=True)
class Alert:
    opened_at: int
    resolved_at: int | None
    urgent: bool
    lows: int
    lowest_at: int


def lowest_per_instant(readings: Iterable[Reading]) -> list[Reading]:
    by_time: dict[int, Reading] = {}
    for reading in readings:
        if reading.counts and (reading.at not in by_time or reading.order < by_time[reading.at].order):
            by_time[reading.at] = reading
    return [by_time[at] for at in sorted(by_time)]


def nocturnal_alerts(readings: Iterable[Reading], zone: ZoneInfo) -> list[Alert]:
    alerts: list[Alert] = []
    lows: list[Reading] = []
    opened_at: int | None = None
    well_since: int | None = None
    for reading in lowest_per_instant(readings):
        local = datetime.fromtimestamp(reading.at / 1000, UTC).astimezone(zone)
        if opened_at is None:
            if reading.below(0) and 0 <= local.hour < 6:
                opened_at, well_since, lows = reading.at, None, [reading]
        elif reading.below(0):
            well_since = None
            lows.append(reading)
        else:
            well_since = reading.at if well_since is None else well_since
            if reading.at - well_since >= QUARTER_HOUR_MS:
                alerts.append(_alert(opened_at, reading.at, lows))
                opened_at = None
    if opened_at is not None:
        alerts.append(_alert(opened_at, None, lows))
    return alerts


def _alert(opened_at: int, resolved_at: int | None, lows: list[Reading]) -> Alert:
    lowest = lows[0]
    for low in lows[1:]:
        if _mmol(low) < _mmol(lowest):
            lowest = low
    return Alert(opened_at, resolved_at, any(low.below(1) for low in lows), len(lows), lowest.at)


def _mmol(low: Reading) -> float:
    if "below_range" in low.flags or low.value is None:
        return float("-inf")
    return low.value if low.unit == "mmol/L" else low.value / 18
