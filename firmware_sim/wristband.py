"""The wristband: glucose from its paired CGM, heart rate, RR intervals at night, its battery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from devices.vocabulary import Code, CommandType, Flag, Topic, Unit
from firmware_sim.encoding import Wire
from firmware_sim.physiology.glucose import Dip, GlucoseProcess, GlucoseTraits
from firmware_sim.physiology.heart import (
    HeartRateProcess,
    HeartTraits,
    NightlyVariability,
    VariabilityStep,
    rr_intervals,
)
from firmware_sim.physiology.local_time import local_day, local_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from firmware_sim.sensors import Draft

GLUCOSE_EVERY_MS = 5 * MINUTE_MS
RR_EVERY_MS = 15 * MINUTE_MS
RR_LASTS_MS = 5 * MINUTE_MS
RR_MARGIN_MS = 3_000
"""A measurement starts this long before a 5-min mark and ends as long after the next: full windows for any reader."""
NIGHT_MINUTES = 6 * 60
WINDOW_SPREAD = 0.08
"""Spread of ln RMSSD between 5-min windows of a night."""

SENSOR_RANGE_MG_DL = (40, 400)
"""Outside it a CGM says LO or HI instead of a number."""

SAMPLES_A_MESSAGE = 3_000
"""Well below a message's cap, also in bytes."""


@dataclass(frozen=True, slots=True)
class WristbandTraits:
    """The body under the band and the settings of the band."""

    zone: ZoneInfo
    first_day: int
    """Local day (days since 1970-01-01) on which the band is put on."""
    glucose_unit: Unit = Unit.MMOL_L
    glucose: GlucoseTraits = field(default_factory=GlucoseTraits)
    heart: HeartTraits = field(default_factory=HeartTraits)
    dips: tuple[Dip, ...] = ()
    step: VariabilityStep | None = None
    phase_ms: int = 0
    """When within five minutes the CGM measures; the band sends every minute, in step with it."""
    dropout_probability: float = 0.003
    """Chance that a sample does not get from the CGM to the band."""


class Wristband:
    """Measures on a grid of minutes of its own clock; every fifth grid point has a glucose sample.

    Live, it sends each minute. In flash it keeps heart rate in five-minute steps only, as bands do.
    """

    backlog_step_ms = 2 * HOUR_MS

    def __init__(self, seed: Sequence[int], traits: WristbandTraits) -> None:
        """Everything measured follows from `seed`."""
        self._traits = traits
        self._glucose = GlucoseProcess([*seed, 10], traits.glucose, traits.zone, traits.dips)
        self._heart = HeartRateProcess([*seed, 11], traits.heart, traits.zone)
        self._nights = NightlyVariability([*seed, 12], traits.heart, traits.first_day, traits.step)
        self._dropouts = np.random.default_rng([*seed, 13])
        self._rr_seed = [*seed, 14]
        self._worn_since: int | None = None

    def next_due(self, after_ms: int) -> int:
        """Return the next minute of the band's grid."""
        phase = self._traits.phase_ms % MINUTE_MS
        return ((after_ms - phase) // MINUTE_MS + 1) * MINUTE_MS + phase

    def measure(self, start_ms: int, end_ms: int, *, live: bool) -> list[Draft]:
        """Return telemetry: one message a call, more if it would grow too large."""
        if self._worn_since is None:
            self._worn_since = start_ms
        minutes = np.arange(self.next_due(start_ms), end_ms + 1, MINUTE_MS, dtype=np.int64)
        fives = minutes[(minutes - self._traits.phase_ms) % GLUCOSE_EVERY_MS == 0]
        hours = fives[(fives - self._traits.phase_ms) % HOUR_MS == 0]
        series = self._glucose_series(fives)
        beats = minutes if live else fives
        rates = np.rint(self._heart.at(beats)).astype(int).tolist()
        series += _regular(Code.HEART_RATE, Unit.PER_MIN, beats, rates, MINUTE_MS if live else GLUCOSE_EVERY_MS)
        series += _regular(Code.BATTERY, Unit.PERCENT, hours, [self.battery(at) for at in hours.tolist()], HOUR_MS)
        series += self._rr_series(max(start_ms, self._worn_since + RR_LASTS_MS + 2 * RR_MARGIN_MS), end_ms)
        return _pack(series, end_ms)

    def battery(self, at_ms: int) -> int:
        """Return the charge in %: down to 16 over six days, then a night on the charger."""
        return 100 - at_ms % (6 * DAY_MS) * 84 // (6 * DAY_MS)

    def command(self, command: Mapping[str, Wire], now_ms: int) -> bool:  # noqa: ARG002 - the protocol of all sensors
        """Vibrate on `remind`; a band can do nothing else."""
        return command.get("type") == CommandType.REMIND

    def _glucose_series(self, times: NDArray[np.int64]) -> list[dict[str, Wire]]:
        """Return the CGM's samples as sent: nulls for lost ones, LO and HI as flagged samples of their own."""
        unit = self._traits.glucose_unit
        low, high = SENSOR_RANGE_MG_DL
        mg_dl = self._glucose.at(times) * 18.0
        lost = self._dropouts.random(len(times)) < self._traits.dropout_probability
        numbers: list[Wire] = [int(v) for v in np.rint(mg_dl)]
        if unit is Unit.MMOL_L:
            numbers = [round(float(v) / 18.0, 1) for v in mg_dl]
        shown: list[Wire] = [
            None if gone or not low <= value <= high else number
            for number, value, gone in zip(numbers, mg_dl, lost, strict=True)
        ]
        series = _regular(Code.GLUCOSE, unit, times, shown, GLUCOSE_EVERY_MS)
        for at, value, gone in zip(times.tolist(), mg_dl, lost, strict=True):
            if not gone and not low <= value <= high:
                flag = Flag.BELOW_RANGE if value < low else Flag.ABOVE_RANGE
                series.append(_series(Code.GLUCOSE, unit, at) | {"value": None, "flags": list(flag.wire)})
        return series

    def _rr_series(self, start_ms: int, end_ms: int) -> list[dict[str, Wire]]:
        """Return the five-minute RR measurements that ended in the stretch; only at local night."""
        lasts = RR_LASTS_MS + RR_MARGIN_MS
        first = -(-(start_ms + 1 - lasts) // RR_EVERY_MS) * RR_EVERY_MS
        marks = np.arange(first, end_ms - lasts + 1, RR_EVERY_MS, dtype=np.int64)
        if not len(marks):
            return []
        night = local_ms(marks, self._traits.zone) % DAY_MS < NIGHT_MINUTES * MINUTE_MS
        return [self._rr_measurement(mark) for mark in marks[night].tolist()]

    def _rr_measurement(self, mark: int) -> dict[str, Wire]:
        rng = np.random.default_rng([*self._rr_seed, mark // MINUTE_MS])
        night = self._nights.rmssd(local_day(mark, self._traits.zone))
        intervals = rr_intervals(
            rng,
            mean_ms=60_000 / float(self._heart.rhythm(np.array([mark]))[0]),
            rmssd_ms=night * float(np.exp(rng.normal(0.0, WINDOW_SPREAD))),
            duration_ms=RR_LASTS_MS + 2 * RR_MARGIN_MS,
        )
        first_beat = mark - RR_MARGIN_MS + int(intervals[0])
        return _series(Code.RR_INTERVAL, Unit.MS, first_beat) | {"values": intervals.tolist()}


def _series(code: Code, unit: Unit, at_ms: int) -> dict[str, Wire]:
    return {"code": code.wire, "unit": unit.ucum, "at": at_ms}


def _regular(
    code: Code, unit: Unit, times: NDArray[np.int64], values: Sequence[Wire], period_ms: int
) -> list[dict[str, Wire]]:
    """Return evenly spaced samples as one series; nothing for none, `value` for one."""
    if not len(times):
        return []
    head = _series(code, unit, int(times[0]))
    if len(times) == 1:
        return [head | {"value": values[0]}]
    return [head | {"period_ms": period_ms, "values": values}]


def _pack(series: Sequence[Mapping[str, Wire]], due_ms: int) -> list[Draft]:
    """Return the series in as few messages as the cap on samples allows."""
    drafts: list[Draft] = []
    batch: list[Mapping[str, Wire]] = []
    filled = 0
    for one in series:
        values = one.get("values")
        size = len(values) if isinstance(values, list) else 1
        if batch and filled + size > SAMPLES_A_MESSAGE:
            drafts.append(Draft(Topic.TELEMETRY, batch, filled, due_ms))
            batch, filled = [], 0
        batch.append(one)
        filled += size
    if batch:
        drafts.append(Draft(Topic.TELEMETRY, batch, filled, due_ms))
    return drafts
