"""HRV drift: a sequential test over a patient's nights decides; the chart's band is only for the eye.

With the default settings, simulated (30 baseline nights, lag-1 correlation 0.2): 0.97 false alerts per 180 stationary
nights; median delay 4 nights for a lasting fall of 2 SD, 8 for 1 SD. docs/hrv-study.md has them on recorded hearts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Final

from devices.vocabulary import Modality
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.hrv.nights import ROLLING_DAYS, Baseline, NightValue, baseline, rolling_mean
from streaming.hrv.page_hinkley import SequentialTest
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.settings import BASELINE_DAYS, DriftSettings

RULE: Final = Rule.HRV_DRIFT
VERSION: Final = 3
ALWAYS: Final = RulesHistory.of(PatientRules(((RULE, DriftSettings()),)))
"""The rule with its default settings, for all time."""


@dataclass(frozen=True, slots=True)
class NightAssessment:
    """One night against the patient's baseline. `z`: (lnRMSSD - centre) / spread; `statistic`: of the sequential test.

    `cusum`: a one-sided CUSUM of the same steps (k = delta), for comparison. `drift`: the night belongs to an episode.
    `teaches`: baselines may learn from the night.
    """

    night: NightValue
    baseline: Baseline | None
    rolling_mean: float | None
    z: float | None
    statistic: float | None
    cusum: float | None
    drift: bool
    teaches: bool


def fold_nights(
    nights: Sequence[NightValue], rules: RulesHistory = ALWAYS, now_ms: int | None = None
) -> tuple[list[NightAssessment], list[Episode]]:
    """Assess all nights of one patient, in any order; for a night that arrives late, call again with it among them.

    Each night is judged by the settings in force at its end. Optical and electrical sensors do not measure the same, so
    each modality has its own baseline, 7-day mean and test.

    A night's baseline consists of the nights of the 60 days before it that are not flagged as drift; while an episode
    is open, the baseline stays as it was when the episode opened. Nights without a value are assessed and change
    nothing. The test starts anew when the baseline has become too small to alarm on.

    An episode opens at the end of the night that fires, as `medium`. It becomes `high` once three consecutive calendar
    nights were each lower than the night before, where the last of them is the firing night or a later one of the
    episode. It resolves at the end of the third night in a row (nights with a value) that is not below the baseline by
    more than half a spread (the smallest worthwhile change), and the test starts anew. Until then all nights from the
    firing one on are flagged.

    Nights of a modality that had no baseline to alarm on when the episode opened cannot end it. The modality's baseline
    learns from them although they are flagged; once it is large enough to alarm on it stays as it is, and its nights
    can end the episode (`ended_by`: `new_baseline`).

    A rest (the rule is off, or the patient paused) ends the open episode where the rest begins, if that is not later
    than the last night or `now_ms` (`ended_by`: `rest`); then the test starts anew. Nights of a rest are assessed
    without a test, and baselines do not learn from nights of a pause.
    """
    fold = _Fold(sorted(nights, key=lambda night: night.night), rules)
    for index in range(len(fold.nights)):
        fold.step(index)
    if now_ms is not None:
        fold.reach(now_ms)
    return fold.assessments, [*fold.closed, *([fold.open] if fold.open else [])]


class _Fold:
    """The state of the fold: the nights assessed, the open episode, the tests, and the progress of recovery.

    `_kept`: while an episode is open, the baselines whose nights can end it; they learn nothing.
    """

    def __init__(self, nights: list[NightValue], rules: RulesHistory) -> None:
        self.nights = nights
        self.assessments: list[NightAssessment] = []
        self.closed: list[Episode] = []
        self.open: Episode | None = None
        self._rules = rules
        self._reached = min((night.starts_at for night in nights), default=0)
        self._tests: dict[Modality, SequentialTest] = {}
        self._kept: dict[Modality, Baseline] = {}
        self._learnt_meanwhile: set[Modality] = set()
        self._recovering = 0

    def reach(self, until_ms: int) -> None:
        """Advance to `until_ms`: the first rest that begins on the way ends the open episode."""
        for since, then in self._rules.spans:
            if self._reached < since <= until_ms and then.of(RULE) is None:
                self._close(since, "rest")
        self._reached = max(self._reached, until_ms)

    def step(self, index: int) -> None:
        """Assess the next night."""
        night = self.nights[index]
        self.reach(night.ends_at)
        then = self._rules.at(night.ends_at)
        settings: DriftSettings | None = then.of(RULE)
        was_open = self.open is not None
        usual = self._usual(index, settings or DriftSettings())
        z = None if usual is None or night.ln_rmssd is None else (night.ln_rmssd - usual.center) / usual.spread
        judged_by_kept = night.modality in self._kept
        test = None
        if usual is not None and z is not None and settings is not None:
            if was_open:
                self._follow(index, z, settings)
            elif (test := self._test(night.modality, usual, settings)) is not None and test.update(z):
                self._open(index, usual, z, test, settings)
        opened = not was_open and self.open is not None
        self.assessments.append(
            NightAssessment(
                night=night,
                baseline=usual,
                rolling_mean=rolling_mean(self._alike(max(0, index - ROLLING_DAYS + 1), index + 1), night.night),
                z=z,
                statistic=test.statistic if test else None,
                cusum=test.cusum if test else None,
                drift=was_open or opened,
                teaches=not (opened or judged_by_kept or then.resting),
            )
        )

    def _usual(self, index: int, settings: DriftSettings) -> Baseline | None:
        """Return the baseline that a night is compared with."""
        modality = self.nights[index].modality
        if modality in self._kept:
            return self._kept[modality]
        found = self._baseline(index, modality, settings)
        if self.open is not None and found is not None and found.nights >= settings.least_to_alarm:
            self._kept[modality] = found
            self._learnt_meanwhile.add(modality)
        return found

    def _baseline(self, index: int, modality: Modality, settings: DriftSettings) -> Baseline | None:
        first = self.nights[index].night - timedelta(days=BASELINE_DAYS)
        values = [
            assessed.night.ln_rmssd
            for assessed in self.assessments[max(0, index - BASELINE_DAYS) :]
            if assessed.teaches
            and assessed.night.modality == modality
            and assessed.night.night >= first
            and assessed.night.ln_rmssd is not None
        ]
        return baseline(values) if len(values) >= settings.least_to_show else None

    def _test(self, modality: Modality, usual: Baseline, settings: DriftSettings) -> SequentialTest | None:
        """Return a modality's test; None, and the test is dropped, while the baseline is too small to alarm on."""
        test = self._tests.pop(modality, None)
        if usual.nights < settings.least_to_alarm:
            return None
        self._tests[modality] = test.under(settings) if test else SequentialTest(settings)
        return self._tests[modality]

    def _open(self, index: int, usual: Baseline, z: float, test: SequentialTest, settings: DriftSettings) -> None:
        night = self.nights[index]
        severity = Severity.HIGH if self._falling(index, settings) else Severity.MEDIUM
        evidence: dict[str, JSON] = {
            "night": night.night.isoformat(),
            "modality": night.modality.value,
            "rmssd": night.rmssd,
            "ln_rmssd": night.ln_rmssd,
            "baseline": usual.center,
            "baseline_sd": usual.spread,
            "z": z,
            "lowest_z": z,
            "statistic": test.statistic,
        }
        self.open = Episode(night.ends_at, None, severity, evidence)
        self._recovering = 0
        known = {modality: self._baseline(index, modality, settings) for modality in Modality}
        self._kept = {
            modality: found for modality, found in known.items() if found and found.nights >= settings.least_to_alarm
        }

    def _follow(self, index: int, z: float, settings: DriftSettings) -> None:
        """Take one night of the open episode: it may make it worse, or end it."""
        night = self.nights[index]
        if self.open is None or night.modality not in self._kept:
            return
        if self._falling(index, settings):
            self.open = replace(self.open, severity=Severity.HIGH)
        lowest = self.open.evidence["lowest_z"]
        if isinstance(lowest, float) and z < lowest:
            self.open = replace(self.open, evidence={**self.open.evidence, "lowest_z": z})
        self._recovering = self._recovering + 1 if z >= -settings.recovery_band else 0
        if self._recovering >= settings.recovery_nights:
            self._close(night.ends_at, "new_baseline" if night.modality in self._learnt_meanwhile else None)

    def _close(self, at_ms: int, ended_by: str | None) -> None:
        """End the open episode, if there is one, and restart the tests."""
        if self.open is not None:
            evidence = {**self.open.evidence, "ended_by": ended_by} if ended_by else self.open.evidence
            self.closed.append(replace(self.open, resolved_at=at_ms, evidence=evidence))
        self.open = None
        self._tests.clear()
        self._kept.clear()
        self._learnt_meanwhile.clear()

    def _falling(self, index: int, settings: DriftSettings) -> bool:
        """Whether each of the last nights, without a gap in the calendar, was lower than the one before."""
        first = index - settings.falling_nights
        span = self._alike(max(0, first), index + 1)
        if first < 0 or len(span) <= settings.falling_nights:
            return False
        return all(
            night.ln_rmssd is not None
            and before.ln_rmssd is not None
            and night.ln_rmssd < before.ln_rmssd
            and night.night - before.night == timedelta(days=1)
            and self._rules.at(before.ends_at).of(RULE) is not None
            for before, night in pairwise(span)
        )

    def _alike(self, first: int, end: int) -> list[NightValue]:
        """Return the nights in [first, end) of the same modality as the last of them."""
        return [night for night in self.nights[first:end] if night.modality == self.nights[end - 1].modality]
