"""Plain thresholds: a patient's own limits for any vital sign but glucose, high or low, with a duration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devices.vocabulary import CODE_BY_WIRE, CODES, Code
from streaming.episodes import Severity

# Sampled all the time, so one sample says little: limits without durations of their own get these (minutes).
CONTINUOUS: Final = {Code.HEART_RATE: 10.0, Code.SPO2: 5.0}
NOT_WATCHED: Final = frozenset({Code.GLUCOSE, Code.RR_INTERVAL})
MOST_LIMITS: Final = 32
MOST_MINUTES: Final = 24 * 60.0


@dataclass(frozen=True, slots=True)
class VitalLimit:
    """One limit of one vital sign, in its canonical unit: below `low` or above `high`, for `duration_minutes`.

    `None` for a duration: that of the code (`CONTINUOUS`), 0 for what is measured now and then.
    """

    code: str
    low: float | None = None
    high: float | None = None
    duration_minutes: float | None = None
    recovery_minutes: float | None = None
    severity: str = Severity.MEDIUM.value

    def __post_init__(self) -> None:
        """Raise `ValueError` for a limit that means nothing."""
        code = CODE_BY_WIRE.get(self.code)
        if code is None or code in NOT_WATCHED:
            raise ValueError(f"no threshold can be set for {self.code!r}")
        limits = CODES[code].units[CODES[code].canonical]
        given = [limit for limit in (self.low, self.high) if limit is not None]
        if not given:
            raise ValueError(f"{self.code}: a threshold needs a low or a high limit")
        if not all(limits.minimum <= limit <= limits.maximum for limit in given) or given != sorted(set(given)):
            raise ValueError(
                f"{self.code}: limits must lie in {limits.minimum:g} to {limits.maximum:g}, low below high"
            )
        for minutes in (self.duration_minutes, self.recovery_minutes):
            if minutes is not None and not 0 <= minutes <= MOST_MINUTES:
                raise ValueError(f"{self.code}: durations must be 0 to {MOST_MINUTES:g} minutes")
        if self.severity not in {Severity.HIGH, Severity.MEDIUM, Severity.LOW}:
            raise ValueError(f"{self.code}: the severity must be high, medium or low")


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """All the limits of one patient; at most one for each vital sign."""

    limits: tuple[VitalLimit, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for too many limits or two for one vital sign."""
        codes = [limit.code for limit in self.limits]
        if len(codes) > MOST_LIMITS or len(set(codes)) < len(codes):
            raise ValueError("one limit for each vital sign")

    def of(self, code: Code) -> VitalLimit | None:
        """Return the limit of a vital sign."""
        return next((limit for limit in self.limits if limit.code == code.wire), None)
