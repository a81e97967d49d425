"""What HRV drift finds, and cries wolf over, on nights of recorded hearts: the tables of docs/hrv-study.md.

`pytest -m soak -s tests/streaming/test_hrv_study.py` prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from streaming.hrv_drift import fold_nights
from streaming.hrv_nights import MAD_TO_SD, Baseline
from streaming.page_hinkley import DriftSettings
from streaming.zones import DAY_MS
from tests.streaming.hrv_recorded import (
    FIRST,
    LEAST_DAYS,
    Float64,
    Person,
    always,
    as_nights,
    here,
    holter_windows,
    people,
    resampled_days,
    resampled_nights,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not here(), reason="the recordings are not here")

BASELINE, STATIONARY, AFTER = 30, 180, 60
WEIGHTS = np.array([1.0, 0.5, -0.5])
"""Of lnRMSSD, lnSDNN and heart rate in the combined score: the vagal measure leads, what goes with it counts half."""
SHIPPED = DriftSettings()
QUIET = DriftSettings(threshold=1000)
VERSION_1 = DriftSettings(delta=0.5, threshold=5.0, most_z=100, anchor_nights=14)

Alarms = Callable[[Float64], list[int]]
Draw = Callable[[np.random.Generator, int], Float64]


@dataclass(frozen=True, slots=True)
class Heart:
    """Draws any number of nights (rows of lnRMSSD, lnSDNN, heart rate), with their spread."""

    draw: Draw
    spread: Float64


def mad_baseline(values: list[float]) -> Baseline:
    """Return what version 1 of the rule took for usual: median and scaled median absolute deviation."""
    center = float(np.median(values))
    spread = MAD_TO_SD * float(np.median(np.abs(np.array(values) - center)))
    return Baseline(center, max(spread, 0.05), len(values))


def page_hinkley(settings: DriftSettings = SHIPPED) -> Alarms:
    """Return the rule as it ships: the nights on which episodes open."""

    def alarms(values: Float64) -> list[int]:
        _, episodes = fold_nights(as_nights(values), always(settings))
        return [episode.opened_at // DAY_MS - FIRST.toordinal() for episode in episodes]

    return alarms


def cusum(k: float, h: float) -> Alarms:
    """Return a plain one-sided CUSUM on the same standardised nights, which begins anew where it alarms."""

    def alarms(values: Float64) -> list[int]:
        found, reached = [], 0.0
        for night, one in enumerate(fold_nights(as_nights(values), always(QUIET))[0]):
            if one.z is not None and one.statistic is not None:
                reached = max(0.0, reached - one.z - k)
                if reached > h:
                    found.append(night)
                    reached = 0.0
        return found

    return alarms


def combined(nights: Float64) -> Float64:
    """Return one score a night, standardised by the first nights: falls when the three fall (rise) together."""
    usual = nights[:BASELINE]
    return np.asarray(((nights - usual.mean(axis=0)) / usual.std(axis=0, ddof=1)) @ WEIGHTS, dtype=np.float64)


def ln_rmssd(nights: Float64) -> Float64:
    return nights[:, 0]


def heart(draw: Callable[[np.random.Generator, Float64, int], Float64], rows: Float64) -> Heart:
    """Return a heart that draws from these rows; its spread is that of what it draws."""
    spread = draw(np.random.default_rng(0), rows, 5000).std(axis=0, ddof=1)
    return Heart(lambda rng, nights: draw(rng, rows, nights), spread)


def hearts_of(kind: str) -> list[Heart]:
    if kind == "Holter nights":
        return [heart(resampled_nights, rows) for rows in holter_windows().values()]
    stationary = [person.stationary() for person in people()]
    return [heart(resampled_days, rows) for rows in stationary if len(rows) >= LEAST_DAYS]


def false_alerts(hearts: list[Heart], alarms: Alarms, each: int, feature: Callable[[Float64], Float64]) -> float:
    """Return alarms per 180 stationary nights after 30 of baseline."""
    rng = np.random.default_rng(20_261_122)
    found = [
        night
        for heart in hearts
        for _ in range(each)
        for night in alarms(feature(heart.draw(rng, BASELINE + STATIONARY)))
    ]
    return sum(night >= BASELINE for night in found) / (each * len(hearts))


def median_delay(
    hearts: list[Heart], alarms: Alarms, each: int, step: Float64, feature: Callable[[Float64], Float64]
) -> float:
    """Return the nights from a lasting step (in spreads) after the baseline to the end of the night that fires."""
    rng = np.random.default_rng(20_261_123)
    delays = []
    for heart in hearts:
        for _ in range(each):
            nights = heart.draw(rng, BASELINE + AFTER).copy()
            nights[BASELINE:] += step * heart.spread
            found = alarms(feature(nights))
            if not any(night < BASELINE for night in found):
                delays.append(min((night - BASELINE + 1 for night in found), default=AFTER))
    return float(np.median(delays))


def figures(
    hearts: list[Heart], alarms: Alarms, fall: Float64, feature: Callable[[Float64], Float64] = ln_rmssd
) -> tuple[float, float, float]:
    """Return false alerts, median delay for 2 SD and for 1 SD, of 400 patients."""
    each = 400 // len(hearts)
    two, one = (median_delay(hearts, alarms, each, step * fall, feature) for step in (2.0, 1.0))
    return false_alerts(hearts, alarms, each, feature), two, one


ONLY_RMSSD = np.array([-1.0, 0.0, 0.0])
AS_USUAL_TOGETHER = np.array([-1.0, -0.74, 0.55])
ALL_THREE = np.array([-1.0, -1.0, 1.0])


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["days", "Holter nights"])
def test_drift_on_recorded_hearts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hearts = hearts_of(kind)
    settings = {
        "shipped": page_hinkley(),
        "δ 0.75, threshold 3": page_hinkley(DriftSettings(delta=0.75, threshold=3.0)),
        "δ 0.4, threshold 5.5": page_hinkley(DriftSettings(delta=0.4, threshold=5.5)),
        "nights not drawn in, threshold 4.5": page_hinkley(DriftSettings(threshold=4.5, most_z=100)),
        "plain CUSUM k 0.5, h 5": cusum(0.5, 5.0),
    }
    rows = {name: figures(hearts, alarms, ONLY_RMSSD) for name, alarms in settings.items()}
    for name, fall in (("RMSSD alone", ONLY_RMSSD), ("usual ties", AS_USUAL_TOGETHER), ("all three", ALL_THREE)):
        rows[f"combined score, {name}"] = figures(hearts, page_hinkley(), fall, combined)
    monkeypatch.setattr("streaming.hrv_drift.baseline", mad_baseline)
    rows["version 1"] = figures(hearts, page_hinkley(VERSION_1), ONLY_RMSSD)
    for name, (false, two, one) in rows.items():
        print(f"| {kind} | {name} | {false:.2f} | {two:.0f} | {one:.0f} |")  # noqa: T201 - the table is the purpose
    false, two, one = rows["shipped"]
    assert false < 0.6 * rows["version 1"][0]
    assert two <= 4
    assert one <= 9


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the rule did with one person: days from onset of each episode, days on which it could alarm, and near it."""

    code: str
    opened: list[int]
    watched: int
    watched_near: int


def outcome(person: Person) -> Outcome:
    """Fold a person's days as nights; days are counted from the onset of symptoms."""
    assert person.onset is not None
    assessments, episodes = fold_nights(as_nights(person.values[:, 0], person.days))
    ready = [one.night.night for one in assessments if one.drift or one.statistic is not None]
    near = [day for day in ready if abs((day - person.onset).days) <= 7]
    opened = [episode.opened_at // DAY_MS - person.onset.toordinal() for episode in episodes]
    return Outcome(person.code, opened, len(ready), len(near))


def test_people_who_fell_ill() -> None:
    """Of four people watched when they fell ill two were flagged within a week; too few to claim anything."""
    outcomes = [outcome(person) for person in people() if person.onset]
    watched = [one for one in outcomes if one.watched]
    near = [one for one in outcomes if one.watched_near]
    assert (len(outcomes), len(watched), len(near)) == (79, 12, 4)
    assert (sum(one.watched for one in watched), sum(one.watched_near for one in near)) == (525, 41)
    assert {one.code: one.opened for one in watched if one.opened} == {
        "295ed96279": [1, 32],
        "6be5033971": [47],
        "fcf3ea75b0": [6],
    }
