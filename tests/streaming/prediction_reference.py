"""The predicted low as slowly and plainly as it is described; of the model it takes only the coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp, log
from zoneinfo import ZoneInfo

from streaming.limits.prediction import DENSE, DENSE_MARGIN, SPARSE, SPARSE_MARGIN
from tests.streaming.nocturnal_reference import Reading, lowest_per_instant
from tests.streaming.rule_references import Found, below

MINUTE_MS = 60_000
LAGS = (5, 15, 30)


@dataclass(frozen=True)
class Foreseen:
    opened_at: int
    resolved_at: int | None
    outcome: str | None
    limit: float


class _Past:
    """The readings of an hour that take part in forecasts: numbers, of each half minute the first reading."""

    def __init__(self) -> None:
        self.known: list[tuple[int, float]] = []

    def take(self, at: int, mmol: float) -> None:
        self.known = [one for one in self.known if at - one[0] <= 60 * MINUTE_MS]
        self.known.append((at, mmol))

    def forecast(self, at: int) -> tuple[float, float] | None:
        """Return glucose in 20 min and the model's margin, for the newest reading; None if half an hour is not known."""
        changes = []
        level = log(self.known[-1][1])
        for lag in LAGS:
            then = self._log_at(at - lag * MINUTE_MS)
            if then is None:
                return None
            changes.append(level - then)
        dense = sum(at - known_at <= 30 * MINUTE_MS for known_at, _ in self.known) >= 5
        coefficients = (DENSE if dense else SPARSE).tolist()
        change = sum(one * term for one, term in zip(coefficients, [1.0, level, *changes], strict=True))
        return exp(level + change), DENSE_MARGIN if dense else SPARSE_MARGIN

    def _log_at(self, at: int) -> float | None:
        """Return log glucose at an instant: a straight line between readings at most 30 min apart."""
        before = [one for one in self.known if one[0] <= at]
        after = [one for one in self.known if one[0] >= at]
        if not before or not after or after[0][0] - before[-1][0] > 30 * MINUTE_MS:
            return None
        (start, low), (end, high) = before[-1], after[0]
        share = (at - start) / (end - start) if end > start else 0.0
        return log(low) + share * (log(high) - log(low))


def predicted_lows(
    readings: Sequence[Reading], zone: ZoneInfo, told: Sequence[Found], night_limit: float = 4.0, day_limit: float = 3.1
) -> list[Foreseen]:
    """Return the lows foreseen where none of the episodes already `told` speaks of a low."""

    def limit_at(at: int) -> float:
        return night_limit if datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).hour < 6 else day_limit

    past, found = _Past(), list[Foreseen]()
    opened_at: int | None = None
    predicted_at, limit_then = 0, 0.0
    low_at = half_minute = -(2**62)
    for reading in lowest_per_instant(readings):
        takes_part, half_minute = reading.at // 30_000 > half_minute, reading.at // 30_000
        has_number = reading.value is not None and not {"below_range", "above_range"} & set(reading.flags)
        if takes_part and has_number and reading.value is not None:
            past.take(reading.at, reading.value if reading.unit == "mmol/L" else reading.value / 18)
        low = below(reading, limit_at(reading.at))
        low_at = reading.at if low else low_at
        limit = max(limit_at(reading.at), limit_at(reading.at + 20 * MINUTE_MS))
        predicted = False
        if takes_part and has_number and below(reading, 10.0) and reading.at - low_at > 30 * MINUTE_MS:
            ahead = past.forecast(reading.at)
            predicted = ahead is not None and ahead[0] <= limit * exp(-ahead[1])
        if predicted:
            predicted_at = reading.at
            if opened_at is None and not any(episode.covers(reading.at) for episode in told):
                opened_at, limit_then = reading.at, limit
        elif opened_at is not None and (low or (takes_part and reading.at - predicted_at >= 15 * MINUTE_MS)):
            found.append(Foreseen(opened_at, reading.at, "low" if low else "withdrawn", limit_then))
            opened_at = None
    return found if opened_at is None else [*found, Foreseen(opened_at, None, None, limit_then)]
