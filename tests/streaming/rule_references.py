"""The limit rules as slowly and plainly as the clinic states them: one reading after the other, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from tests.streaming.nocturnal_reference import Reading, lowest_per_instant

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
GAP_MS = 45 * MINUTE_MS
PAIRED = {3.0: 54.0, 3.1: 55.0, 3.9: 70.0, 4.0: 72.0, 7.0: 126.0, 10.0: 180.0, 13.9: 250.0}
NEVER_COUNTS = {"warmup", "calibration", "artifact", "off_body"}


@dataclass(frozen=True)
class Found:
    """What a rule concludes, with its gravest reading and the number of readings beyond the limit."""

    opened_at: int
    resolved_at: int | None
    severity: str
    beyond: int
    worst_at: int
    worst_value: float | None
    taken_over: bool = False

    def covers(self, at_ms: int) -> bool:
        return self.opened_at <= at_ms and (self.resolved_at is None or at_ms <= self.resolved_at)


@dataclass(frozen=True)
class LowRules:
    """Settings of the rules for lows: limits in mmol/L, times in minutes."""

    night_limit: float = 4.0
    night_urgent_limit: float = 3.1
    night_hours: tuple[int, int] = (0, 6)
    urgent_limit: float = 3.1
    limit: float = 3.9
    duration: float = 15
    recovery: float = 15


@dataclass(frozen=True)
class HighRules:
    """Settings of the rules for highs: limits in mmol/L, times in minutes, hours of the patient's day."""

    limit: float = 13.9
    duration: float = 15
    recovery: float = 15
    high_limit: float = 16.7
    high_after: float = 120
    fasting_limit: float = 7.0
    fasting_rise: float = 1.0
    fasting_hours: tuple[int, int] = (5, 8)


@dataclass
class _Episode:
    """An open episode while it goes on."""

    opened_at: int
    severity: str
    worst: Reading
    beyond: int = 1
    well_since: int | None = None
    opposite: bool = field(default=False, kw_only=True)  # for highs the worst reading is the highest

    def take(self, reading: Reading) -> None:
        self.beyond += 1
        self.well_since = None
        better, worse = _mmol(self.worst), _mmol(reading)
        if (worse > better) if self.opposite else (worse < better):
            self.worst = reading

    def found(self, resolved_at: int | None, *, taken_over: bool = False) -> Found:
        numberless = {"below_range", "above_range"} & set(self.worst.flags)
        value = None if numberless else self.worst.value
        return Found(self.opened_at, resolved_at, self.severity, self.beyond, self.worst.at, value, taken_over)


def urgent_lows(readings: Sequence[Reading], nocturnal: Sequence[Found], rules: LowRules | None = None) -> list[Found]:
    """Say urgent lows that no nocturnal episode speaks for."""
    rules = rules or LowRules()

    def speaks(reading: Reading) -> bool:
        return any(episode.covers(reading.at) for episode in nocturnal)

    return _over_limit(
        lowest_per_instant(readings),
        lambda reading: below(reading, rules.urgent_limit),
        may_open=lambda reading: not speaks(reading),
        taken_over=speaks,
        recovery=rules.recovery,
        severity="urgent",
    )


def lasting_lows(
    readings: Sequence[Reading], nocturnal: Sequence[Found], urgent: Sequence[Found], rules: LowRules | None = None
) -> list[Found]:
    """Level 1 lows that last, where no graver episode is open."""
    rules = rules or LowRules()
    return _over_limit(
        lowest_per_instant(readings),
        lambda reading: below(reading, rules.limit),
        may_open=lambda reading: not any(episode.covers(reading.at) for episode in [*nocturnal, *urgent]),
        taken_over=lambda reading: any(episode.covers(reading.at) for episode in nocturnal),
        duration=rules.duration,
        recovery=rules.recovery,
        severity="medium",
    )


def nocturnal_lows(readings: Sequence[Reading], zone: ZoneInfo, rules: LowRules | None = None) -> list[Found]:
    """Say what `nocturnal_alerts` says, for any settings."""
    rules = rules or LowRules()
    merged = lowest_per_instant(readings)
    first, last = rules.night_hours
    episodes = _over_limit(
        merged,
        lambda reading: below(reading, rules.night_limit),
        may_open=lambda reading: first <= _local(reading.at, zone).hour < last,
        recovery=rules.recovery,
        severity="high",
    )
    urgent = [reading.at for reading in merged if below(reading, rules.night_urgent_limit)]
    return [
        replace(episode, severity="urgent") if any(episode.covers(at) for at in urgent) else episode
        for episode in episodes
    ]


def lasting_highs(readings: Sequence[Reading], rules: HighRules | None = None) -> list[Found]:
    """Level 2 highs that last."""
    rules = rules or HighRules()
    merged = lowest_per_instant(readings)
    episodes = _over_limit(
        merged,
        lambda reading: above(reading, rules.limit),
        duration=rules.duration,
        recovery=rules.recovery,
        severity="medium",
        highest=True,
    )
    grave = [reading.at for reading in merged if "above_range" in reading.flags] + _lasting_far(merged, rules)
    return [
        replace(episode, severity="high") if any(episode.covers(at) for at in grave) else episode
        for episode in episodes
    ]


def _lasting_far(merged: Sequence[Reading], rules: HighRules) -> list[int]:
    """When it had been above the second limit, and the first, long enough, reading by reading."""
    found: list[int] = []
    since: int | None = None
    for before, reading in zip([None, *merged], merged, strict=False):
        if not (above(reading, rules.high_limit) and above(reading, rules.limit)):
            since = None
            continue
        if before is not None and reading.at - before.at > GAP_MS:
            since = None
        since = reading.at if since is None else since
        if reading.at - since >= rules.high_after * MINUTE_MS:
            found.append(reading.at)
    return found


def fasting_highs(readings: Sequence[Reading], zone: ZoneInfo, rules: HighRules | None = None) -> list[Found]:
    """High in the morning without a rise before: once a morning, until the fasting hours are over."""
    rules = rules or HighRules()
    merged = lowest_per_instant(readings)
    found: list[Found] = []
    episode: _Episode | None = None
    over_at = 0
    for number, reading in enumerate(merged):
        if episode is not None and reading.at >= over_at:
            found.append(episode.found(reading.at))
            episode = None
            continue
        high = at_or_above(reading, rules.fasting_limit)
        if episode is not None:
            if high:
                episode.take(reading)
            continue
        local = _local(reading.at, zone)
        in_hours = rules.fasting_hours[0] <= local.hour < rules.fasting_hours[1]
        if high and in_hours and _steady(merged[: number + 1], rules.fasting_rise):
            episode = _Episode(reading.at, "low", reading, opposite=True)
            over = datetime(local.year, local.month, local.day, tzinfo=zone) + timedelta(hours=rules.fasting_hours[1])
            over_at = round(over.timestamp() * 1000)
    if episode is not None:
        found.append(episode.found(None))
    return found


def _steady(until_now: Sequence[Reading], most: float) -> bool:
    """Whether the last reading is known to be no more than so much (mmol/L) above all of the hour before it."""
    now = until_now[-1]
    hour = [reading for reading in until_now[:-1] if now.at - HOUR_MS <= reading.at]
    if not hour:
        return False
    for earlier, later in zip(hour, [*hour[1:], now], strict=True):
        if later.at - earlier.at > GAP_MS:
            return False
    if any({"below_range", "above_range"} & set(reading.flags) for reading in [*hour, now]):
        return False
    return _mg_dl(now) - min(_mg_dl(reading) for reading in hour) <= Decimal(str(most)) * 18


def vital_excursions(
    readings: Sequence[Reading], canonical: Callable[[Reading], float], side: str, limit: float, **course: float
) -> list[Found]:
    """Readings of any vital sign but glucose beyond a limit in its canonical unit; `side` is `low` or `high`."""
    by_time: dict[int, list[Reading]] = {}
    for reading in readings:
        if reading.value is not None and not NEVER_COUNTS & set(reading.flags):
            by_time.setdefault(reading.at, []).append(replace(reading, value=canonical(reading), unit="mmol/L"))
    farthest = max if side == "high" else min
    merged = [farthest(by_time[at], key=_mmol) for at in sorted(by_time)]
    return _over_limit(
        merged,
        lambda reading: _mmol(reading) > limit if side == "high" else _mmol(reading) < limit,
        duration=course.get("duration", 0),
        recovery=course.get("recovery", 0),
        severity="medium",
        highest=side == "high",
    )


def _over_limit(
    merged: Sequence[Reading],
    beyond: Callable[[Reading], bool],
    *,
    may_open: Callable[[Reading], bool] = lambda _: True,
    taken_over: Callable[[Reading], bool] = lambda _: False,
    duration: float = 0,
    recovery: float,
    severity: str,
    highest: bool = False,
) -> list[Found]:
    found: list[Found] = []
    episode: _Episode | None = None
    run_since: int | None = None
    last_at = 0
    for reading in merged:
        if episode is not None and taken_over(reading):
            found.append(episode.found(reading.at, taken_over=True))
            episode, run_since = None, None
        elif episode is not None and beyond(reading):
            episode.take(reading)
        elif episode is not None:
            episode.well_since = reading.at if episode.well_since is None else episode.well_since
            if reading.at - episode.well_since >= recovery * MINUTE_MS:
                found.append(episode.found(reading.at))
                episode, run_since = None, None
        elif not beyond(reading):
            run_since = None
        else:
            if run_since is None or reading.at - last_at > GAP_MS:
                run_since = reading.at
            if reading.at - run_since >= duration * MINUTE_MS and may_open(reading):
                episode = _Episode(reading.at, severity, reading, opposite=highest)
        last_at = reading.at
    if episode is not None:
        found.append(episode.found(None))
    return found


def below(reading: Reading, limit: float) -> bool:
    """Whether a reading is below a limit (mmol/L), in the unit the sensor sent."""
    if "below_range" in reading.flags:
        return True
    if "above_range" in reading.flags or reading.value is None:
        return False
    return reading.value < _in_unit(limit, reading.unit)


def above(reading: Reading, limit: float) -> bool:
    """Whether a reading is above a limit (mmol/L), in the unit the sensor sent."""
    if "below_range" in reading.flags:
        return False
    if "above_range" in reading.flags:
        return True
    return reading.value is not None and reading.value > _in_unit(limit, reading.unit)


def at_or_above(reading: Reading, limit: float) -> bool:
    return not below(reading, limit)


def _in_unit(limit: float, unit: str) -> float:
    return limit if unit == "mmol/L" else PAIRED.get(limit, limit * 18)


def _mmol(reading: Reading) -> float:
    if "below_range" in reading.flags:
        return float("-inf")
    if "above_range" in reading.flags or reading.value is None:
        return float("inf")
    return reading.value if reading.unit == "mmol/L" else reading.value / 18


def _mg_dl(reading: Reading) -> Decimal:
    return Decimal(str(reading.value)) * (18 if reading.unit == "mmol/L" else 1)


def _local(at: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone(zone)
