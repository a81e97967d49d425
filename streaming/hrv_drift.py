"""Drift of heart-rate variability: a sequential test over a patient's nights decides, a chart's band only colours.

With the default settings, simulated (30 baseline nights, lag-1 correlation 0.2): 0.95 false alerts per 180 stationary
nights; median delay 4 nights for a lasting fall of 2 SD, 9 for 1 SD. docs/hrv-study.md has them on recorded hearts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

from river.drift import PageHinkley

from streaming.episodes import Episode, Rule, Severity
from streaming.hrv_nights import BASELINE_DAYS, Baseline, NightValue, baseline, rolling_mean

RULE: Final = Rule.HRV_DRIFT
VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How drift is decided. `delta` and `threshold` are Page and Hinkley's, in spreads of the patient's baseline.

    A night counts for at most `most_z` spreads: recorded nights have long tails, and drift is what lasts, so no single
    night may alarm (Lucas and Crosier 1982, robust CUSUM). `anchor_nights`: so many nights at the baseline's centre the
    test believes to have seen when it starts; its running mean follows a fall, and hides it, the slower the more there
    are. `least_to_show`, `least_to_alarm`: nights in the baseline. `falling_nights`: so many nights in a row, each lower
    than the one before, make it `high`. `recovery_nights` in a row not below the baseline by more than `recovery_band`
    spreads end it.
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


@dataclass(frozen=True, slots=True)
class NightAssessment:
    """One night against what is usual. `z`: (lnRMSSD - centre) / spread; `statistic`: of the sequential test.

    `cusum`: a one-sided CUSUM of the same steps (k = delta) beside it, for comparison. `drift`: the night belongs to an episode, and
    no baseline learns from it.
    """

    night: NightValue
    baseline: Baseline | None
    rolling_mean: float | None
    z: float | None
    statistic: float | None
    cusum: float | None
    drift: bool


class _SequentialTest:
    """Page and Hinkley's test for a fall of the standardised nights, and a CUSUM beside it.

    The test's running mean begins at the baseline's centre, as if it had seen `anchor_nights` nights at 0: a mean taken
    from the nights themselves would hide a fall that begins with them.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._test: Any = PageHinkley(  # river has no types
            min_instances=settings.anchor_nights,
            delta=settings.delta,
            threshold=settings.threshold,
            alpha=1.0,
            mode="down",
        )
        for _ in range(settings.anchor_nights):
            self._test.update(0.0)
        self.cusum = 0.0
        self.fresh = True

    def update(self, z: float) -> bool:
        """Take one night; whether it is drift."""
        self.fresh = False
        drawn_in = max(-self._settings.most_z, min(z, self._settings.most_z))
        self._test.update(drawn_in)
        self.cusum = max(0.0, self.cusum - drawn_in - self._settings.delta)
        return bool(self._test.drift_detected)

    @property
    def statistic(self) -> float:
        """How far the test has got: it fires above the threshold. river shows the verdict only."""
        return float(self._test._max_decrease - self._test._sum_decrease)  # noqa: SLF001


def fold_nights(
    nights: Sequence[NightValue], settings: DriftSettings | None = None
) -> tuple[list[NightAssessment], list[Episode]]:
    """Assess all nights of one patient, in any order; a night that comes late needs no more than to be among them.

    The baseline of a night are the nights of the 60 days before it that are not flagged as drift; while an episode is
    open it stays what it was when the episode opened. Nights without a value are assessed and change nothing. The test
    starts anew when the baseline has become too small to alarm.

    An episode opens at the end of the night that fires, `medium`; `high` once three nights in a row, by the calendar,
    were each lower than the night before, at the latest the firing one or any later one of the episode. It resolves at
    the end of the third night with a value in a row that is not below the baseline by more than half a spread (the
    smallest worthwhile change), and the test starts anew. Until then all nights from the firing one on are flagged.
    """
    fold = _Fold(sorted(nights, key=lambda one: one.night), settings or DriftSettings())
    for index in range(len(fold.nights)):
        fold.step(index)
    return fold.assessments, [*fold.closed, *([fold.open] if fold.open else [])]


class _Fold:
    """The fold's state: what was assessed, the open episode, the test, and how far recovery has got."""

    def __init__(self, nights: list[NightValue], settings: DriftSettings) -> None:
        self.nights = nights
        self.assessments: list[NightAssessment] = []
        self.closed: list[Episode] = []
        self.open: Episode | None = None
        self._settings = settings
        self._test = _SequentialTest(settings)
        self._usual: Baseline | None = None
        self._recovering = 0

    def step(self, index: int) -> None:
        """Assess the next night."""
        night = self.nights[index]
        if self.open is None:
            self._usual = self._baseline(index)
        usual = self._usual
        z = None if usual is None or night.ln_rmssd is None else (night.ln_rmssd - usual.center) / usual.spread
        was_open, statistic, cusum = self.open is not None, None, None
        if z is not None and self.open is not None:
            self._follow(index, z)
        elif z is not None and self._alarm_ready():
            if self._test.update(z):
                self._open(index, z)
            statistic, cusum = self._test.statistic, self._test.cusum
        self.assessments.append(
            NightAssessment(
                night=night,
                baseline=usual,
                rolling_mean=rolling_mean(self.nights[max(0, index - 6) : index + 1], night.night),
                z=z,
                statistic=statistic,
                cusum=cusum,
                drift=was_open or self.open is not None,
            )
        )

    def _baseline(self, index: int) -> Baseline | None:
        first = self.nights[index].night - timedelta(days=BASELINE_DAYS)
        values = [
            one.night.ln_rmssd
            for one in self.assessments[max(0, index - BASELINE_DAYS) :]
            if one.night.night >= first and one.night.ln_rmssd is not None and not one.drift
        ]
        return baseline(values) if len(values) >= self._settings.least_to_show else None

    def _alarm_ready(self) -> bool:
        """Whether the baseline is large enough to alarm on; if not, the test forgets."""
        if self._usual is not None and self._usual.nights >= self._settings.least_to_alarm:
            return True
        if not self._test.fresh:
            self._test = _SequentialTest(self._settings)
        return False

    def _open(self, index: int, z: float) -> None:
        night = self.nights[index]
        severity = Severity.HIGH if self._falling(index) else Severity.MEDIUM
        self.open = Episode(night.ends_at, None, severity, self._evidence(index, z))
        self._recovering = 0

    def _follow(self, index: int, z: float) -> None:
        """Take one night of the open episode: it may become worse, or be the one that ends it."""
        if self.open is None:
            return
        if self._falling(index):
            self.open = replace(self.open, severity=Severity.HIGH)
        lowest = self.open.evidence["lowest_z"]
        if isinstance(lowest, float) and z < lowest:
            self.open = replace(self.open, evidence={**self.open.evidence, "lowest_z": z})
        self._recovering = self._recovering + 1 if z >= -self._settings.recovery_band else 0
        if self._recovering >= self._settings.recovery_nights:
            self.closed.append(replace(self.open, resolved_at=self.nights[index].ends_at))
            self.open = None
            self._test = _SequentialTest(self._settings)

    def _falling(self, index: int) -> bool:
        """Whether each of the last nights, without a gap in the calendar, was lower than the one before."""
        span = self.nights[max(0, index - self._settings.falling_nights) : index + 1]
        if len(span) <= self._settings.falling_nights:
            return False
        return all(
            one.ln_rmssd is not None
            and before.ln_rmssd is not None
            and one.ln_rmssd < before.ln_rmssd
            and one.night - before.night == timedelta(days=1)
            for before, one in pairwise(span)
        )

    def _evidence(self, index: int, z: float) -> dict[str, float | str | None]:
        night, usual, test = self.nights[index], self._usual, self._test
        if usual is None:
            raise AssertionError("nothing fires without a baseline")
        return {
            "night": night.night.isoformat(),
            "rmssd": night.rmssd,
            "ln_rmssd": night.ln_rmssd,
            "baseline": usual.center,
            "baseline_sd": usual.spread,
            "z": z,
            "lowest_z": z,
            "statistic": test.statistic,
        }
