"""Nights of recorded hearts for the study of drift: days of Welltory's people, nights drawn from Holter windows."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming.hrv.drift import RULE
from streaming.hrv.nights import NightValue
from streaming.hrv.rr_cleaning import RRRun, beats_of, correct
from streaming.hrv.windows import MAX_CORRECTED, hrv_statistics, windows_of
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.settings import DriftSettings
from streaming.zones import DAY_MS, HOUR_MS
from tests.recordings import RECORDINGS

Float64 = npt.NDArray[np.float64]

HOLTER_NIGHTS_H = {"000": 10.75, "003": 14.25, "005": 10.25}
"""Where the six quietest hours of a Holter record begin, hours from its start (`stats_per_record.csv`)."""
ILL_DAYS = range(-7, 22)
"""Days from the onset of symptoms that no stationary night is drawn from."""
MIN_DAYS = 20
MIN_BEATS = 80
FIRST = date(2026, 1, 1)


@dataclass(frozen=True, slots=True)
class Person:
    """One of Welltory's people: a row of lnRMSSD, lnSDNN and heart rate for each day with a recording."""

    code: str
    onset: date | None
    days: list[date]
    values: Float64

    def stationary(self) -> Float64:
        """Return the rows of the days that are not around the onset of symptoms."""
        well = [self.onset is None or (day - self.onset).days not in ILL_DAYS for day in self.days]
        return self.values[well]


def read(path: str) -> Iterator[str]:
    with gzip.open(RECORDINGS / path, "rt") as file:
        yield from file


def people() -> list[Person]:
    """Return everyone with a usable recording; of several a day the median counts."""
    folder = "rr_welltory_covid19"
    onsets: dict[str, date] = {}
    for row in csv.DictReader((RECORDINGS / folder / "symptoms_onset.csv").read_text().splitlines()):
        if row["symptoms_onset"]:
            month, day, year = map(int, row["symptoms_onset"].split("/"))
            onsets[row["user_code"]] = date(year, month, day)
    found: dict[str, dict[date, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(read(f"{folder}/hrv_measurements_min.csv.gz")):
        beats = correct(beats_of([RRRun(0.0, np.array(row["rr_data"].split(","), dtype=np.float64))]))
        of = hrv_statistics(beats)
        if len(beats) >= MIN_BEATS and beats.corrected.mean() <= MAX_CORRECTED and of.rmssd and of.sdnn:
            measures = (float(np.log(of.rmssd)), float(np.log(of.sdnn)), of.mean_heart_rate or 0.0)
            found[row["user_code"]][datetime.fromisoformat(row["measurement_datetime"]).date()].append(measures)
    return [
        Person(code, onsets.get(code), sorted(days), np.array([np.median(days[day], axis=0) for day in sorted(days)]))
        for code, days in sorted(found.items())
    ]


def holter_windows() -> dict[str, Float64]:
    """Return the rows of the valid windows of one night of each Holter record."""
    runs: dict[str, tuple[RRRun, float]] = {}
    for record, start_h in HOLTER_NIGHTS_H.items():
        rr = np.array([float(line) for line in read(f"rr_healthy_irurzun2021/{record}.txt.gz") if line.strip()])
        runs[record] = RRRun(rr[0], rr), start_h
    beats = 1000 * np.array([float(line) for line in read("rr_apnea_a01/beats_s.txt.gz") if line.strip()])
    runs["a01"] = RRRun(float(beats[1]), np.diff(beats)), 0.0
    rows = {}
    for record, (run, start_h) in runs.items():
        start = int(start_h * HOUR_MS)
        valid = [one for one in windows_of({1: [run]}, start, start + 6 * HOUR_MS) if one.valid]
        values = [(one.rmssd or 0.0, one.sdnn or 0.0, one.mean_heart_rate or 0.0) for one in valid]
        table = np.array(values)
        rows[record] = np.column_stack([np.log(table[:, :2]), table[:, 2]])
    return rows


def resampled_days(rng: np.random.Generator, rows: Float64, nights: int, mean_block: int = 5) -> Float64:
    """Return days by the stationary bootstrap (Politis and Romano 1994): blocks keep how days hang together."""
    index = rng.integers(len(rows), size=nights)
    for night in range(1, nights):
        if rng.random() >= 1 / mean_block:
            index[night] = (index[night - 1] + 1) % len(rows)
    return rows[index]


def resampled_nights(rng: np.random.Generator, rows: Float64, nights: int) -> Float64:
    """Return nights as medians of an hour of windows, in four pieces of a quarter of an hour from anywhere in it."""
    starts = rng.integers(len(rows) - 2, size=(nights, 4, 1))
    drawn = (starts + np.arange(3)).reshape(nights, 12)
    return np.asarray(np.median(rows[drawn], axis=1), dtype=np.float64)


def as_nights(ln_rmssd: Float64, days: list[date] | None = None) -> list[NightValue]:
    """Return one night of UTC for each value, on consecutive days if none are given."""
    on = days or [FIRST + timedelta(days=night) for night in range(len(ln_rmssd))]
    return [
        NightValue(day, starts := day.toordinal() * DAY_MS, starts + 6 * HOUR_MS, 12, 1.0, 1.0, 60.0, float(value))
        for day, value in zip(on, ln_rmssd, strict=True)
    ]


def always(settings: DriftSettings) -> RulesHistory:
    """Return rules that are drift alone, for all time."""
    return RulesHistory.of(PatientRules(((RULE, settings),)))


def here() -> bool:
    return Path(RECORDINGS / "rr_welltory_covid19").exists()
