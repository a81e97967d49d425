"""The input of a back-test: each patient's readings, nights and doses, from a recording or from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np

from deploy.recordings import RecordedSeries, Recording
from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from devices.units import to_canonical
from devices.vocabulary import Code, Unit
from streaming.doses.matching import DoseOutcome, DoseState
from streaming.episodes import Rule
from streaming.hrv.nights import NightValue, night_bounds, night_value
from streaming.hrv.rr_cleaning import RRRun
from streaming.hrv.windows import WINDOW_MS, windows_of
from streaming.readings import ReadingSeries
from streaming.rules.history import RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.zones import Int64, ZoneHistory

STABLE: Final = RulesHistory.of(preset(PatientGroup.STABLE))
NEVER: Final[Int64] = np.empty(0, np.int64)
NOTHING: Final = ReadingSeries(NEVER, np.empty(0), np.empty(0, np.int16), np.empty(0, np.int16))
DOSE_RULES: Final = frozenset({Rule.MISSED_DOSE, Rule.LOW_ADHERENCE})


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One patient: readings by code in order of time, nights, doses, and the patient's own rules.

    Data outside [`since`, `until`) (ms) are only there for their effect inside it. `heard`: instants (ms) at which
    there were RR intervals. `night_watch`: a signal lost at night matters (hypoglycaemia risk, and a sensor that
    measures often).
    """

    patient: str
    zone: ZoneHistory
    readings: Mapping[Code, ReadingSeries]
    rules: RulesHistory = STABLE
    nights: Sequence[NightValue] = ()
    heard: Int64 = field(default_factory=lambda: NEVER)
    doses: Sequence[DoseOutcome] = ()
    since: int = DISTANT_PAST_MS
    until: int = DISTANT_FUTURE_MS
    night_watch: bool = True

    def instants(self, rule: Rule) -> Int64:
        """Return when something was known about the subject of a rule, ascending (int64 ms)."""
        if rule is Rule.HRV_DRIFT:
            at = self.heard
        elif rule in DOSE_RULES:
            judged = (
                outcome.dose.due_at for outcome in self.doses if outcome.state not in {DoseState.DUE, DoseState.UNKNOWN}
            )
            at = np.sort(np.fromiter(judged, np.int64))
        elif rule is Rule.THRESHOLD:
            others = [series.at for code, series in self.readings.items() if code is not Code.GLUCOSE]
            at = np.unique(np.concatenate(others)) if others else NEVER
        else:
            at = self.glucose.at
        return at[(at >= self.since) & (at < self.until)]

    @property
    def glucose(self) -> ReadingSeries:
        """The patient's glucose, possibly empty."""
        return self.readings.get(Code.GLUCOSE, NOTHING)


def recorded_cases(recording: Recording, zone: ZoneHistory) -> list[Case]:
    """Return the patients of a recording, in the order in which they appear in it; all live in one zone."""
    of_patient: dict[str, list[RecordedSeries]] = {}
    for series in recording.series:
        of_patient.setdefault(series.patient, []).append(series)
    return [_recorded_case(patient, found, zone) for patient, found in of_patient.items()]


def recorded_nights(series: RecordedSeries, zone: ZoneHistory) -> list[NightValue]:
    """Return the nights of recorded RR intervals; each row is an interval at the beat that ends it."""
    in_ms = np.where(series.unit == Unit.S, to_canonical(Code.RR_INTERVAL, Unit.S, series.value), series.value)
    runs = [
        RRRun(float(at), interval, int(flags))
        for at, interval, flags in zip(series.at.tolist(), in_ms.reshape(-1, 1), series.flags, strict=True)
    ]
    windows = windows_of({0: runs}, int(series.at[0]) - WINDOW_MS, int(series.at[-1]) + 1)
    first, last = (zone.local(int(series.at[edge])).date() for edge in (0, -1))
    nights = []
    for day in range((last - first).days + 1):
        night = first + timedelta(days=day)
        bounds = night_bounds(zone, night)
        inside = [window for window in windows if bounds[0] <= window.start_ms < bounds[1]]
        if inside:
            nights.append(night_value(night, bounds, inside))
    return nights


def _recorded_case(patient: str, found: Sequence[RecordedSeries], zone: ZoneHistory) -> Case:
    beats = next((series for series in found if series.code is Code.RR_INTERVAL), None)
    return Case(
        patient,
        zone,
        {
            series.code: ReadingSeries(series.at, series.value, series.unit, series.flags)
            for series in found
            if series.code is not Code.RR_INTERVAL
        },
        nights=recorded_nights(beats, zone) if beats is not None else (),
        heard=beats.at if beats is not None else NEVER,
    )
