"""Runs one trial over patients: the alarms it makes, what they cost those who answer them, and how they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from deploy.backtest.cases import DOSE_RULES, NEVER, Case
from deploy.backtest.trials import TESTABLE, Trial
from devices.instants import DISTANT_FUTURE_MS
from streaming.doses.low_adherence import low_adherence_episodes
from streaming.doses.matching import DoseSettings
from streaming.doses.missed import missed_episode
from streaming.episodes import Episode, Rule
from streaming.glucose.values import merge
from streaming.hrv.drift import fold_nights
from streaming.limits.patient_fold import Finding, fold_patient
from streaming.limits.scoring import (
    REFERRED,
    SPEAK_FOR,
    Event,
    Observed,
    Score,
    observed,
    opened_at_night,
    reference_events,
    score,
)
from streaming.rules.history import RulesHistory
from streaming.silence.gaps import Gap, glucose_silences, night_silences
from streaming.silence.rest import rest_of
from streaming.zones import MINUTE_MS, Int64

Events = Mapping[tuple[str, Rule], Sequence[Event]]
"""What really happened, by patient and rule."""

SHORTEST_SILENCE_MS: Final = 5 * MINUTE_MS
"""No setting tells of less."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One episode of one rule, as it stands at the end of the readings."""

    rule: Rule
    episode: Episode


@dataclass(frozen=True, slots=True)
class Watched:
    """A patient, the rules under trial, and every alarm they made, in order of time."""

    case: Case
    history: RulesHistory
    alarms: Sequence[Alarm]

    def of(self, *rules: Rule) -> list[Episode]:
        """Return the episodes of some rules."""
        return [alarm.episode for alarm in self.alarms if alarm.rule in rules]

    def instants(self, rule: Rule) -> Int64:
        """Return when something was known of what a rule is about while the rule watched, ascending (int64 ms)."""
        at = self.case.instants(rule)
        watching = [at[rows] for rows, rules in self.history.parts(at) if rules.of(rule) is not None]
        return np.concatenate(watching) if watching else NEVER

    def counts(self, rule: Rule, event: Event) -> bool:
        """Whether an event began in the time that counts, and while the rule watched."""
        watches = self.history.at(event.start).of(rule) is not None
        return watches and self.case.since <= event.start < self.case.until


@dataclass(frozen=True, slots=True)
class Burden:
    """What a rule costs those who answer it. Days and nights are local ones with readings while the rule watched."""

    alarms: int
    patients: int
    patient_days: int
    patient_nights: int
    alarms_per_patient_day: float | None
    alarms_per_patient_night: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trial; `rules` are those that are reported."""

    trial: Trial
    rules: Sequence[Rule]
    watched: Sequence[Watched]

    def burden(self, rule: Rule) -> Burden:
        """Return what a rule's alarms come to; per patient-night those that opened at 00:00-06:00 local."""
        spans = [observed(one.instants(rule), one.case.zone) for one in self.watched]
        spans = [one for one in spans if one.days]
        total = sum(spans, Observed())
        alarms = [(one.case, episode) for one in self.watched for episode in one.of(rule)]
        at_night = sum(opened_at_night(rule, episode, case.zone) for case, episode in alarms)
        return Burden(
            alarms=len(alarms),
            patients=len(spans),
            patient_days=total.days,
            patient_nights=total.nights,
            alarms_per_patient_day=_rate(len(alarms), total.days),
            alarms_per_patient_night=_rate(at_night, total.nights),
        )

    def score(self, rule: Rule, events: Events | None = None) -> Scored:
        """Return how a rule did against `events`, if they are about it, else against the consensus."""
        if events is not None and any(about is rule for _, about in events):
            given = [_scored(one, rule, events.get((one.case.patient, rule), ())) for one in self.watched]
            return Scored("events", sum(given, Score()))
        reference = "consensus" if rule in REFERRED else None
        return Scored(reference, sum((_scored(one, rule, None) for one in self.watched), Score()))


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and what it is against; with `None` nothing says what should have been told."""

    reference: str | None
    score: Score


def run_trial(trial: Trial, cases: Sequence[Case]) -> Result:
    """Run a trial over patients. Raises `SettingError` for settings that mean nothing, `TrialError` without effect."""
    histories = [trial.history(case.rules) for case in cases]
    trial.check(histories)
    watched = [Watched(case, history, alarms_of(case, history)) for case, history in zip(cases, histories, strict=True)]
    return Result(trial, trial.rules or _on(watched), watched)


def alarms_of(case: Case, history: RulesHistory) -> list[Alarm]:
    """Return every alarm that opens in the time that counts, in order; equal times in the order of `Rule`."""
    found = list(_of_readings(case, history))
    found += [Alarm(Rule.HRV_DRIFT, one) for one in fold_nights(case.nights, history, case.until)[1]]
    found += _of_doses(case, history)
    found += [Alarm(Rule.DATA_SILENCE, one) for one in _silences(case, history)]
    counted = [one for one in found if case.since <= one.episode.opened_at < case.until]
    order = list(Rule)
    return sorted(counted, key=lambda one: (one.episode.opened_at, order.index(one.rule), one.episode.subject))


def _of_readings(case: Case, history: RulesHistory) -> Iterable[Alarm]:
    for code, series in case.readings.items():
        _, found = fold_patient(code, None, series, case.zone, history)
        for one in {(one.key, one.episode.opened_at): one for one in found}.values():
            yield Alarm(one.detector.rule, _rested(one, int(series.at[-1]), case.until, history))


def _rested(one: Finding, last_at: int, until: int, history: RulesHistory) -> Episode:
    """Return the episode; one that is open ends where its rule went off, or the patient to rest, after the last reading."""
    if one.episode.resolved_at is not None:
        return one.episode
    off = rest_of(*one.key, history, last_at, until)
    return one.episode if off is None else replace(one.episode, resolved_at=off)


def _of_doses(case: Case, history: RulesHistory) -> Iterable[Alarm]:
    """Yield misses, also of doses that were taken after all once the alarm was out, and low adherence."""
    grace_ms = DoseSettings().contact_grace_ms
    for one in case.doses:
        settings = history.at(one.dose.window_end).of(Rule.MISSED_DOSE)
        was_missed = one.taken_at is not None and one.taken_at >= one.dose.window_end + grace_ms
        episode = missed_episode(one, settings, was_missed=was_missed) if settings is not None else None
        if episode is not None:
            yield Alarm(Rule.MISSED_DOSE, episode)
    spans = [(start, then.of(Rule.LOW_ADHERENCE)) for start, then in history.spans]
    for episode in low_adherence_episodes(case.doses, spans, now_ms=case.until):
        yield Alarm(Rule.LOW_ADHERENCE, episode)


def _silences(case: Case, history: RulesHistory) -> Iterable[Episode]:
    """Yield what the gaps between a patient's readings come to.

    Before the first reading nobody waits for one; after the last only where the time has an end (`until`), not in a
    recording.
    """
    glucose = merge(case.glucose)
    at = glucose.at[glucose.at < case.until]
    if at.size == 0:
        return
    recorded = case.until == DISTANT_FUTURE_MS
    end = int(at[-1]) if recorded else case.until
    long = np.flatnonzero(np.diff(at) > SHORTEST_SILENCE_MS)
    gaps = [Gap(start, start, until) for start, until in zip(at[long].tolist(), at[long + 1].tolist(), strict=True)]
    if not recorded:
        gaps.append(Gap(int(at[-1]), int(at[-1]), None))
    watched = ((int(at[0]), DISTANT_FUTURE_MS),)
    for gap in gaps:
        told = glucose_silences(gap, history, watched, end)
        yield from told
        if case.night_watch:
            yield from night_silences(gap, history, watched, case.zone, end, told)


def _on(watched: Sequence[Watched]) -> list[Rule]:
    """Return the rules that are on for some patient at some time who has something that they are about.

    Not silence: a gap in a recording says more of how it was exported than of the patient.
    """
    return [
        rule
        for rule in TESTABLE
        if rule is not Rule.DATA_SILENCE
        and any(
            one.case.instants(rule).size and any(rules.of(rule) is not None for _, rules in one.history.spans)
            for one in watched
        )
    ]


def _scored(one: Watched, rule: Rule, known: Sequence[Event] | None) -> Score:
    case, alarms, events = one.case, one.of(rule), known
    if events is None:
        events = reference_events(rule, case.glucose, case.zone) or ()
        if rule is Rule.HYPERGLYCAEMIA:  # a high fasting glucose is no level 2 high
            alarms = [alarm for alarm in alarms if not alarm.subject]
    counted = [event for event in events if one.counts(rule, event)]
    beside = [event for event in events if not one.counts(rule, event)]
    at = NEVER if rule in {*DOSE_RULES, Rule.HRV_DRIFT, Rule.DATA_SILENCE} else case.instants(rule)
    return score(rule, counted, alarms, at, case.zone, one.of(*SPEAK_FOR.get(rule, ())), beside)


def _rate(number: int, spans: int) -> float | None:
    return round(number / spans, 4) if spans else None
