"""The settings of each rule: their meaning, their defaults, and the limits on their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devices.vocabulary import CODE_BY_WIRE, CODES, Code
from streaming.episodes import Severity
from streaming.zones import DAY_MS, MINUTE_MS, MINUTES_PER_DAY

MAX_LOW_LIMIT_MMOL: Final = 7.0
"""A limit for lows above this would alarm on normal glucose."""
MAX_GLUCOSE_MINUTES: Final = 240.0
"""A glucose rule that waits for more than four hours protects nobody; this also bounds what a rule remembers."""


def check_minutes(name: str, minutes: float) -> None:
    """Raise `ValueError` for a duration below 0 or above four hours."""
    if not 0 <= minutes <= MAX_GLUCOSE_MINUTES:
        raise ValueError(f"{name} must be 0 to {MAX_GLUCOSE_MINUTES:g} minutes")


@dataclass(frozen=True, slots=True)
class NocturnalSettings:
    """Limits of the nocturnal rule; the defaults are the clinic's (Vu 2020, PMC7153099; 4.0 mmol/L is the floor).

    `compression_lowers_severity`: an episode that is over and looks like a compression low becomes one step less
    severe, unless a reading is below 3.0 mmol/L (`streaming.glucose.compression`).
    """

    limit_mmol: float = 4.0
    urgent_limit_mmol: float = 3.1
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60
    recovery_minutes: float = 15.0
    compression_lowers_severity: bool = False

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 0 < self.urgent_limit_mmol <= self.limit_mmol <= MAX_LOW_LIMIT_MMOL:
            raise ValueError(
                f"the limits must lie above 0, the urgent one not above the other, none above {MAX_LOW_LIMIT_MMOL}"
            )
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")
        check_minutes("the recovery", self.recovery_minutes)


@dataclass(frozen=True, slots=True)
class UrgentLowSettings:
    """The urgent low: 3.1 mmol/L (55 mg/dL) is the limit of the Dexcom G5 and G6 manuals."""

    limit_mmol: float = 3.1
    recovery_minutes: float = 15.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 0 < self.limit_mmol <= MAX_LOW_LIMIT_MMOL:
            raise ValueError(f"the limit must lie above 0 and not above {MAX_LOW_LIMIT_MMOL}")
        check_minutes("the recovery", self.recovery_minutes)


@dataclass(frozen=True, slots=True)
class HypoglycaemiaSettings:
    """The level 1 low (Danne 2017, 10.2337/dc17-1600): below 3.9 mmol/L (70 mg/dL) for a duration, and the recovery."""

    limit_mmol: float = 3.9
    duration_minutes: float = 15.0
    recovery_minutes: float = 15.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 0 < self.limit_mmol <= MAX_LOW_LIMIT_MMOL:
            raise ValueError(f"the limit must lie above 0 and not above {MAX_LOW_LIMIT_MMOL}")
        check_minutes("the duration", self.duration_minutes)
        check_minutes("the recovery", self.recovery_minutes)


MIN_HIGH_LIMIT_MMOL: Final = 5.0
"""A limit for highs below this would alarm on normal glucose."""
MAX_HIGH_LIMIT_MMOL: Final = 33.3
"""The largest plausible glucose value (600 mg/dL, `devices.vocabulary`): no reading lies above it."""


@dataclass(frozen=True, slots=True)
class HyperglycaemiaSettings:
    """The level 2 high (Danne 2017, 10.2337/dc17-1600), above 13.9 mmol/L (250 mg/dL) for a duration; the fasting high.

    `high_limit_mmol`: above it for `high_minutes`, or at HI, a level 2 high becomes `high`. The fasting high:
    `fasting_limit_mmol` at `fasting_start_minute` to `fasting_end_minute` local, without a rise of more than
    `fasting_rise_mmol` in the hour before.
    """

    limit_mmol: float = 13.9
    duration_minutes: float = 15.0
    recovery_minutes: float = 15.0
    high_limit_mmol: float = 16.7
    high_minutes: float = 120.0
    fasting_limit_mmol: float = 7.0
    fasting_rise_mmol: float = 1.0
    fasting_start_minute: int = 5 * 60
    fasting_end_minute: int = 8 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        limits = (self.limit_mmol, self.high_limit_mmol, self.fasting_limit_mmol)
        if not all(MIN_HIGH_LIMIT_MMOL <= limit <= MAX_HIGH_LIMIT_MMOL for limit in limits):
            raise ValueError(f"the limits must lie in {MIN_HIGH_LIMIT_MMOL} to {MAX_HIGH_LIMIT_MMOL} mmol/L")
        if not 0 <= self.fasting_rise_mmol <= MAX_HIGH_LIMIT_MMOL:
            raise ValueError("the rise cannot be below 0")
        if not 0 <= self.fasting_start_minute < self.fasting_end_minute <= MINUTES_PER_DAY:
            raise ValueError("the fasting hours must begin before they end, within a day")
        check_minutes("the duration", self.duration_minutes)
        check_minutes("the recovery", self.recovery_minutes)
        check_minutes("the time until it is `high`", self.high_minutes)


@dataclass(frozen=True, slots=True)
class PredictedLowSettings:
    """The limits that glucose must not be predicted to fall below within 20 min, by night and by day; the night."""

    night_limit_mmol: float = 4.0
    day_limit_mmol: float = 3.1
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not all(0 < limit <= MAX_LOW_LIMIT_MMOL for limit in (self.night_limit_mmol, self.day_limit_mmol)):
            raise ValueError(f"the limits must lie above 0 and not above {MAX_LOW_LIMIT_MMOL}")
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")


NOT_WATCHED: Final = frozenset({Code.GLUCOSE, Code.RR_INTERVAL})
"""Codes without plain thresholds: they have rules of their own."""
MAX_VITAL_MINUTES: Final = 24 * 60.0
"""An alert that waits for more than a day comes too late to act on."""


@dataclass(frozen=True, slots=True)
class VitalLimit:
    """One limit of one vital sign, in its canonical unit: below `low` or above `high`, for `duration_minutes`.

    A duration of `None` is that of the code (`streaming.limits.thresholds.CONTINUOUS`), 0 for spot measurements.
    """

    code: str
    low: float | None = None
    high: float | None = None
    duration_minutes: float | None = None
    recovery_minutes: float | None = None
    severity: str = Severity.MEDIUM.value

    def __post_init__(self) -> None:
        """Raise `ValueError` for an impossible limit."""
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
            if minutes is not None and not 0 <= minutes <= MAX_VITAL_MINUTES:
                raise ValueError(f"{self.code}: durations must be 0 to {MAX_VITAL_MINUTES:g} minutes")
        if self.severity not in set(Severity):
            raise ValueError(f"{self.code}: the severity must be urgent, high, medium or low")
        if self.severity == Severity.URGENT and not self.duration_minutes:
            raise ValueError(f"{self.code}: an urgent threshold needs a duration, so that one odd sample wakes nobody")


MAX_VITAL_LIMITS: Final = 32
"""More than there are vital signs; caps the JSON that a client can have stored."""


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """All the limits of one patient, at most one for each vital sign."""

    limits: tuple[VitalLimit, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for too many limits or two for one vital sign."""
        codes = [limit.code for limit in self.limits]
        if len(codes) > MAX_VITAL_LIMITS or len(set(codes)) < len(codes):
            raise ValueError("one limit for each vital sign")

    def of(self, code: Code) -> VitalLimit | None:
        """Return the limit of a vital sign, if it has one."""
        return next((limit for limit in self.limits if limit.code == code.wire), None)


BASELINE_DAYS: Final = 60
"""A night's baseline is taken from so many days before it, so none has more nights."""
# The caps of the drift test lie far above sensible settings: they refuse typing errors.
MAX_DELTA: Final = 5.0
MAX_CUSUM_THRESHOLD: Final = 1000.0
MAX_Z: Final = 100.0
MAX_ANCHOR_NIGHTS: Final = 1000
"""The test is fed so many nights whenever it starts, so the cap is one on work."""
MAX_NIGHTS_IN_ROW: Final = 30
MAX_RECOVERY_BAND: Final = 5.0


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Settings of HRV drift. `delta` and `threshold` are Page and Hinkley's, in spreads of the patient's baseline.

    A night counts for at most `most_z` spreads: recorded nights have long tails, and drift is what lasts, so no single
    night may alarm (Lucas and Crosier 1982, robust CUSUM). `anchor_nights`: the test starts as if it had seen this many
    nights at the baseline's centre; its running mean follows a fall, and so hides it, more slowly the more of them
    there are. `least_to_show`, `least_to_alarm`: nights in the baseline. `falling_nights` in a row, each lower than the
    one before, make it `high`. `recovery_nights` in a row not below the baseline by more than `recovery_band` spreads
    end it.
    """

    delta: float = 0.55
    threshold: float = 3.8
    most_z: float = 2.0
    anchor_nights: int = 180
    least_to_show: int = 7
    least_to_alarm: int = 14
    falling_nights: int = 3
    recovery_nights: int = 3
    recovery_band: float = 0.5

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings, and for settings that would never find a fall."""
        if not 0 <= self.delta <= MAX_DELTA:
            raise ValueError(f"delta must be 0 to {MAX_DELTA:g}")
        if not 0 < self.threshold <= MAX_CUSUM_THRESHOLD:
            raise ValueError(f"the threshold must be above 0, at most {MAX_CUSUM_THRESHOLD:g}")
        if not self.delta < self.most_z <= MAX_Z:
            raise ValueError(f"most_z must be above delta, at most {MAX_Z:g}")
        if not 1 <= self.anchor_nights <= MAX_ANCHOR_NIGHTS:
            raise ValueError(f"anchor_nights must be 1 to {MAX_ANCHOR_NIGHTS}")
        if not 2 <= self.least_to_show <= self.least_to_alarm <= BASELINE_DAYS:
            raise ValueError(f"least_to_show must be 2 to least_to_alarm, that at most {BASELINE_DAYS}")
        if not all(1 <= nights <= MAX_NIGHTS_IN_ROW for nights in (self.falling_nights, self.recovery_nights)):
            raise ValueError(f"falling_nights and recovery_nights must be 1 to {MAX_NIGHTS_IN_ROW}")
        if not 0 <= self.recovery_band <= MAX_RECOVERY_BAND:
            raise ValueError(f"recovery_band must be 0 to {MAX_RECOVERY_BAND:g}")


@dataclass(frozen=True, slots=True)
class MissedDoseSettings:
    """The severity of a missed dose, and of one whose schedule is marked critical."""

    severity: str = Severity.MEDIUM.value
    critical_severity: str = Severity.HIGH.value

    def __post_init__(self) -> None:
        """Raise `ValueError` for a severity that this rule cannot have."""
        if not {self.severity, self.critical_severity} <= {Severity.HIGH, Severity.MEDIUM, Severity.LOW}:
            raise ValueError("the severities must be high, medium or low")

    def severity_of(self, *, critical: bool) -> Severity:
        """Return the severity of a miss."""
        return Severity(self.critical_severity if critical else self.severity)


@dataclass(frozen=True, slots=True)
class LowAdherenceSettings:
    """When adherence is low.

    `misses_in_row`: this many misses without a taken dose between them, all due within `row_days`. `least_taking`: the
    share of the doses of `period_days` that has to be taken, and `recovered_taking` the share once it was not. With one
    limit for both, a late dose opens an episode and, once taken, ends it (22 episodes instead of 10 in 227 days of a
    recorded pill bottle). `least_doses`: the fewest doses that make a share; with 5, a single miss is never below 80 %.
    A day is 24 h.
    """

    misses_in_row: int = 2
    row_days: int = 28
    least_taking: float = 0.8
    recovered_taking: float = 0.9
    period_days: int = 7
    least_doses: int = 5

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 1 <= self.misses_in_row <= 20:
            raise ValueError("the misses in a row must be 1 to 20")
        if not all(1 <= days <= 92 for days in (self.row_days, self.period_days)):
            raise ValueError("row and period must be 1 to 92 days")
        if not 0 <= self.least_taking <= self.recovered_taking <= 1:
            raise ValueError("the shares must be 0 to 1, and the one that recovers not the smaller one")
        if not 1 <= self.least_doses <= 500:
            raise ValueError("the doses that make a share must be 1 to 500")

    @property
    def memory_ms(self) -> int:
        """How long before the newest dose of a schedule another one may be due and still count."""
        return max(self.row_days, self.period_days) * DAY_MS


@dataclass(frozen=True, slots=True)
class DataSilenceSettings:
    """No glucose for `days` (to the nurse); for `night_minutes` at night, with hypoglycaemia risk (technical)."""

    days: float = 3.0
    night_minutes: float = 20.0
    night_start_minute: int = 0
    night_end_minute: int = 6 * 60

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 0.25 <= self.days <= 90:
            raise ValueError("days must be 0.25 to 90")
        if not 5 <= self.night_minutes <= 360:
            raise ValueError("the minutes at night must be 5 to 360")
        if not all(0 <= minute <= MINUTES_PER_DAY for minute in (self.night_start_minute, self.night_end_minute)):
            raise ValueError("the night must begin and end within a day")

    @property
    def day_ms(self) -> int:
        """How long without a reading until the nurse is alerted, ms."""
        return round(self.days * DAY_MS)

    @property
    def night_ms(self) -> int:
        """How long without a reading at night until the signal counts as lost, ms."""
        return round(self.night_minutes * MINUTE_MS)


@dataclass(frozen=True, slots=True)
class DeviceOfflineSettings:
    """A device is offline after `intervals` expected intervals without contact, or this long after its last will."""

    intervals: float = 3.0
    last_will_minutes: float = 1.0

    def __post_init__(self) -> None:
        """Raise `ValueError` for impossible settings."""
        if not 1 <= self.intervals <= 100:
            raise ValueError("the intervals must be 1 to 100")
        if not 0 <= self.last_will_minutes <= MINUTES_PER_DAY:
            raise ValueError("the minutes after a last will must be 0 to a day's")
