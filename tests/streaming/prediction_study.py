"""Study of the predicted low: each subject foreseen by a model of the others, beside two baselines, on the same data.

`python -m tests.streaming.prediction_study` writes the coefficients of `streaming.limits.prediction` and the tables. On average
the model is above both baselines, above AR2 by less than the noise (docs/clinical.md says what else it does not show).

A low begins with a reading below the limit after 15 min at or above it. An alarm opens and is withdrawn as in
`PredictedLow`. It is true if a low begins within 30 min of its opening (two samples at 15 min), else false; a low
is warned of if an alarm opened in the 30 min before it. Thresholds are those of the training subjects.
With `within_ms` of 60 min an alarm that comes early is true, too.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from devices.vocabulary import Unit
from streaming.limits import prediction
from streaming.limits.prediction import HORIZON_MS, MODEL_TOP_MMOL, WITHDRAWN_AFTER_MS
from streaming.readings import Bool, Float64, ReadingSeries
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, Int64, ZoneHistory
from tests.recordings import RECORDINGS

SHANGHAI, ZHANG, VIGERS = "cgm_shanghai_t1dm", "cgm_cgmanalyzer_zhang2018", "cgm_cgmanalysis_vigers"
ZONE = {SHANGHAI: "Asia/Shanghai", ZHANG: "UTC", VIGERS: "UTC"}
TRUE_WITHIN_MS = 30 * MINUTE_MS
RECOVERY_MS = 15 * MINUTE_MS
RIDGE = 0.001
OPERATING_RATE = 0.1  # false alarms per patient-night of the rule as shipped
THRESHOLDS = np.linspace(0.4, -0.5, 91)  # log(limit / forecast), strict to lax: few to many alarms
CURVE_RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)  # false alarms per patient-night or day
Forecast = Callable[[Int64, Float64], Float64]


@dataclass(frozen=True, eq=False)
class Period:
    """One recording of one person, with what does not depend on the method."""

    patient: str
    at: Int64
    mmol: Float64
    limit: Float64
    eligible: Bool
    onsets: Int64
    onset_at_night: Bool
    ahead_at_night: Bool
    nights: float
    days: float


@dataclass(frozen=True, eq=False)
class Figures:
    """What a method did on patients it did not know, one row per patient.

    `spans` are patient-nights or days; `false` and `leads` (min, one per low warned of) at the threshold of the others;
    `curves` the counts of false alarms and of lows warned of at each of `THRESHOLDS`.
    """

    lows: Float64
    spans: Float64
    false: Float64
    leads: tuple[tuple[float, ...], ...]
    curves: Float64

    def summary(self, rows: Sequence[int] | None = None) -> tuple[float, float, float, float]:
        """Return sensitivity, false alarms per night or day, median lead (min) and mean sensitivity of the curve."""
        chosen = list(range(self.lows.size)) if rows is None else list(rows)
        leads = [lead for row in chosen for lead in self.leads[row]]
        lows = float(self.lows[chosen].sum())
        if not lows:
            return (np.nan, np.nan, np.nan, np.nan)
        curve = self.curve(chosen)
        mean = float(np.mean([sensitivity_at(curve, rate) for rate in CURVE_RATES]))
        false = float(self.false[chosen].sum() / self.spans[chosen].sum())
        return len(leads) / lows, false, float(np.median(leads)) if leads else np.nan, mean

    def curve(self, rows: Sequence[int]) -> Float64:
        """Return false alarms per night or day and sensitivity at each of `THRESHOLDS`."""
        return np.asarray(self.curves[rows].sum(axis=0) / (self.spans[rows].sum(), self.lows[rows].sum()))


def sensitivity_at(curve: Float64, rate: float) -> float:
    """Return the best sensitivity of a curve at no more than a rate of false alarms."""
    within = curve[curve[:, 0] <= rate, 1]
    return float(within.max()) if within.size else 0.0


def period(patient: str, series: ReadingSeries, zone: ZoneHistory, mmol: Float64) -> Period:
    """Return a period from a series in order of time with numbers only."""
    at, low = series.at, prediction.low_now(series, zone)
    onsets = low_onsets(at, low)
    night, cadence = prediction.at_night(at, zone), float(np.median(np.diff(at)))
    eligible = ~prediction.after_low(at, low) & (mmol < MODEL_TOP_MMOL)
    ahead = night | prediction.at_night(at + HORIZON_MS, zone)
    return Period(
        patient, at, mmol, prediction.limit_ahead(at, zone), eligible, onsets, prediction.at_night(onsets, zone), ahead,
        night.sum() * cadence / (6 * HOUR_MS), at.size * cadence / DAY_MS,
    )  # fmt: skip


def low_onsets(at: Int64, low: Bool) -> Int64:
    """Return when lows begin: one lasts until a reading at least 15 min after the first of an unbroken run above."""
    found: list[int] = []
    inside, since = False, None
    for at_ms, is_low in zip(at.tolist(), low.tolist(), strict=True):
        if is_low:
            if not inside:
                found.append(at_ms)
            inside, since = True, None
        elif inside:
            since = at_ms if since is None else since
            inside = at_ms - since < RECOVERY_MS
    return np.array(found, dtype=np.int64)


@lru_cache
def recorded(folder: str) -> tuple[Period, ...]:
    """Return the periods of a recording; of repeated time stamps the first reading counts."""
    zone = ZoneInfo(ZONE[folder])
    rows: dict[str, dict[int, tuple[float, str]]] = defaultdict(dict)
    with gzip.open(RECORDINGS / folder / "cgm_normalised.csv.gz", "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["timestamp_local"]).replace(tzinfo=zone)
            if row["glucose_mmol_l"] and float(row["glucose_mmol_l"]) > 0.5:
                rows[row["subject"]].setdefault(
                    round(at.timestamp() * 1000), (float(row["glucose_mmol_l"]), row["unit"])
                )
    return tuple(
        from_mmol(subject.split("_")[0], np.array(sorted(found)), np.array([found[at][0] for at in sorted(found)]),
                  ZoneHistory.of(zone))
        for subject, found in sorted(rows.items())
    )  # fmt: skip


def from_mmol(patient: str, at: Int64, mmol: Float64, zone: ZoneHistory) -> Period:
    """Return a period from readings in mmol/L."""
    plain = np.zeros(at.size, dtype=np.int16)
    return period(patient, ReadingSeries(at, mmol, np.full_like(plain, Unit.MMOL_L), plain), zone, mmol)


def linear(at: Int64, mmol: Float64) -> Float64:
    """Return glucose in 20 min along the straight line through now and 15 min ago."""
    change_15 = mmol - np.exp(np.log(mmol) - prediction.terms(at, np.log(mmol))[:, 3])
    return mmol + change_15 * 20 / 15


def ar2(at: Int64, mmol: Float64) -> Float64:
    """Return glucose in 20 min by Nightscout's AR2: four steps of 5 min on log(BG / 140 mg/dL)."""
    now = np.log(mmol * 18 / 140)
    before = now - prediction.terms(at, np.log(mmol))[:, 2]
    for _ in range(4):
        before, now = now, -0.723 * before + 1.716 * now
    return np.exp(now) * 140 / 18


def fitted(periods: Sequence[Period]) -> Float64:
    """Return the coefficients: ridge regression of the change of log glucose in 20 min, below 10 mmol/L."""
    terms, changes = [], []
    for one in periods:
        log_glucose = np.log(one.mmol)
        then = one.at + HORIZON_MS
        after = np.minimum(np.searchsorted(one.at, then), one.at.size - 1)
        before = np.searchsorted(one.at, then, side="right") - 1
        known = prediction.terms(one.at, log_glucose)
        usable = (then <= one.at[-1]) & (one.at[after] - one.at[before] <= prediction.MAX_GAP_MS)
        usable &= np.isfinite(known).all(axis=1) & (one.mmol < MODEL_TOP_MMOL)
        terms.append(known[usable])
        changes.append((np.interp(then, one.at, log_glucose) - log_glucose)[usable])
    x, y = np.concatenate(terms), np.concatenate(changes)
    penalty = RIDGE * len(y) * np.diag([0.0, *np.ones(x.shape[1] - 1)])
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y))


def model(coefficients: Float64) -> Forecast:
    """Return the forecast with given coefficients."""
    return lambda at, mmol: np.exp(np.log(mmol) + (prediction.terms(at, np.log(mmol)) * coefficients).sum(axis=1))


def score(one: Period, foreseen: Float64) -> Float64:
    """Return how far each forecast is below the limit, in log glucose; minus infinity where nothing may open."""
    below = np.log(one.limit / np.maximum(foreseen, 0.1))
    return np.where(one.eligible & np.isfinite(below), below, -np.inf)


def openings(one: Period, scores: Float64, threshold: float) -> Int64:
    """Return the rows at which alarms open."""
    on = np.flatnonzero(scores >= threshold)
    previous, later = on[:-1], on[1:]
    withdrawn = (later - previous > 1) & (one.at[later - 1] - one.at[previous] >= WITHDRAWN_AFTER_MS)
    ended = np.searchsorted(one.onsets, one.at[later]) > np.searchsorted(one.onsets, one.at[previous])
    return np.asarray(on[np.concatenate((np.ones(min(on.size, 1), dtype=np.bool_), withdrawn | ended))])


def judged(one: Period, scores: Float64, threshold: float, *, nights: bool, within_ms: int) -> tuple[int, list[float]]:
    """Return the number of false alarms, and the lead (min) of each low warned of, of nights or of all hours."""
    rows = openings(one, scores, threshold)
    onsets = one.onsets[one.onset_at_night] if nights else one.onsets
    opened = one.at[rows[one.ahead_at_night[rows]]] if nights else one.at[rows]
    until = np.searchsorted(one.onsets, opened + within_ms, side="right")
    false = int((until == np.searchsorted(one.onsets, opened, side="right")).sum())
    first = np.searchsorted(opened, onsets - within_ms)
    warned = [(onset, opened[row]) for onset, row in zip(onsets, first, strict=True) if row < opened.size]
    return false, [float(onset - at) / MINUTE_MS for onset, at in warned if at < onset]


def counted(periods: Sequence[Period], foresee: Forecast, *, nights: bool, within_ms: int) -> Float64:
    """Return the counts of false alarms and of lows warned of at each of `THRESHOLDS`, over all periods."""
    total = np.zeros((THRESHOLDS.size, 2))
    for one in periods:
        scores = score(one, foresee(one.at, one.mmol))
        for row, threshold in enumerate(THRESHOLDS):
            false, leads = judged(one, scores, threshold, nights=nights, within_ms=within_ms)
            total[row] += (false, len(leads))
    return total


def span(periods: Sequence[Period], *, nights: bool) -> float:
    """Return the patient-nights, or patient-days."""
    return sum(one.nights if nights else one.days for one in periods)


def threshold_for(counts: Float64, spans: float, target: float) -> float:
    """Return the laxest threshold before the false alarms first exceed the target."""
    over = np.flatnonzero(counts[:, 0] / spans > target)
    return float(THRESHOLDS[max(int(over[0]) - 1, 0) if over.size else -1])


def held_out(
    periods: Sequence[Period],
    learn: Callable[[Sequence[Period]], Forecast],
    target: float,
    *,
    nights: bool,
    within_ms: int = TRUE_WITHIN_MS,
) -> Figures:
    """Return each patient's figures, foreseen by a model and a threshold of all others."""
    lows, spans, wrong, leads, curves = [], [], [], [], []
    for patient in sorted({one.patient for one in periods}):
        others = [one for one in periods if one.patient != patient]
        own = [one for one in periods if one.patient == patient]
        foresee = learn(others)
        training = counted(others, foresee, nights=nights, within_ms=within_ms)
        threshold = threshold_for(training, span(others, nights=nights), target)
        found = [
            judged(one, score(one, foresee(one.at, one.mmol)), threshold, nights=nights, within_ms=within_ms)
            for one in own
        ]
        lows.append(sum(float(one.onset_at_night.sum() if nights else one.onsets.size) for one in own))
        spans.append(span(own, nights=nights))
        wrong.append(sum(float(false) for false, _ in found))
        leads.append(tuple(lead for _, each in found for lead in each))
        curves.append(counted(own, foresee, nights=nights, within_ms=within_ms))
    return Figures(np.array(lows), np.array(spans), np.array(wrong), tuple(leads), np.array(curves))


METHODS: dict[str, Callable[[Sequence[Period]], Forecast]] = {
    "linear": lambda _: linear,
    "AR2": lambda _: ar2,
    "model": lambda others: model(fitted(others)),
}


def resampled(figures: Figures, draws: int = 1000, seed: int = 1) -> Float64:
    """Return summaries of bootstrap samples of the patients; equal seeds draw equal patients for every method."""
    rng, size = np.random.default_rng(seed), figures.lows.size
    return np.array([figures.summary(rng.integers(0, size, size).tolist()) for _ in range(draws)])


def interval(values: Float64, digits: int = 2) -> str:
    """Return the 95 % interval as text."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def table(folder: str, target: float, *, nights: bool, within_ms: int = TRUE_WITHIN_MS) -> list[str]:
    """Return the lines of one table: every method, with intervals, and how far the model is ahead."""
    lines, boots = [], {}
    for name, learn in METHODS.items():
        figures = held_out(recorded(folder), learn, target, nights=nights, within_ms=within_ms)
        boot = boots[name] = resampled(figures)
        sensitivity, false, lead, mean = figures.summary()
        warned, everyone = sum(map(len, figures.leads)), list(range(figures.lows.size))
        curve = " ".join(f"{sensitivity_at(figures.curve(everyone), rate):.2f}" for rate in CURVE_RATES)
        lines.append(
            f"| {name} | {warned} of {figures.lows.sum():.0f} | {sensitivity:.2f} ({interval(boot[:, 0])}) | {false:.2f} "
            f"({interval(boot[:, 1])}) | {lead:.0f} ({interval(boot[:, 2], 0)}) | {mean:.3f} ({interval(boot[:, 3])}) "
            f"| {curve} |"
        )
    for name in ("linear", "AR2"):
        ahead = boots["model"] - boots[name]
        lines.append(f"model - {name}: sensitivity {interval(ahead[:, 0])}, mean of the curve {interval(ahead[:, 3])}")
    return lines


def margin_of(periods: Sequence[Period], foresee: Forecast, target: float) -> float:
    """Return the threshold with a rate of false alarms per patient-night on all of the periods."""
    counts = counted(periods, foresee, nights=True, within_ms=TRUE_WITHIN_MS)
    return threshold_for(counts, span(periods, nights=True), target)


def strangers(target: float) -> list[str]:
    """Return how each method, with model and threshold of the two recordings, does on a third, untouched until then."""
    lines = []
    for one in recorded(VIGERS):
        taught = recorded(SHANGHAI if np.median(np.diff(one.at)) > 10 * MINUTE_MS else ZHANG)
        for name, learn in METHODS.items():
            foresee = learn(taught)
            threshold = margin_of(taught, foresee, target)
            for nights in (True, False):
                false, leads = judged(
                    one, score(one, foresee(one.at, one.mmol)), threshold, nights=nights, within_ms=TRUE_WITHIN_MS
                )
                lows = one.onset_at_night.sum() if nights else one.onsets.size
                lines.append(
                    f"{one.patient} {name} {'nights' if nights else 'all hours'}: {len(leads)} of {lows}, "
                    f"false {false} in {span([one], nights=nights):.1f}, leads {sorted(leads)}"
                )
    return lines


def report() -> list[str]:
    """Return the coefficients, their margins and all tables."""
    lines = []
    for name, folder in (("SPARSE", SHANGHAI), ("DENSE", ZHANG)):
        coefficients = fitted(recorded(folder))
        margin = margin_of(recorded(folder), model(coefficients), OPERATING_RATE)
        lines.append(f"{name} {', '.join(f'{one:.4f}' for one in coefficients)}; margin {margin:.2f}")
    for folder in (SHANGHAI, ZHANG):
        for minutes in (30, 60):
            for nights, target in ((True, 0.1), (True, 0.2), (False, 0.3), (False, 0.5)):
                lines.append(
                    f"\n{folder}, {'nights' if nights else 'all hours'}, target {target}, within {minutes} min"
                )
                lines += table(folder, target, nights=nights, within_ms=minutes * MINUTE_MS)
    return [*lines, "", *strangers(OPERATING_RATE)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(report()) + "\n")
