"""Runs one trial over patients: the alarms it raises, the work they cause, and their score."""

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
"""No setting alerts on a shorter silence."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One episode of one rule, as it is at the end of the readings."""

    rule: Rule
    episode: Episode


@dataclass(frozen=True, slots=True)
class Watched:
    """A patient, the rules under trial, and every alarm they raised, in order of time."""

    case: Case
    history: RulesHistory
    alarms: Sequence[Alarm]

    def of(self, *rules: Rule) -> list[Episode]:
        """Return the episodes of these rules."""
        return [alarm.episode for alarm in self.alarms if alarm.rule in rules]

    def instants(self, rule: Rule) -> Int64:
        """Return when something was known about the subject of a rule while the rule watched, ascending (int64 ms)."""
        at = self.case.instants(rule)
        watching = [at[rows] for rows, rules in self.history.parts(at) if rules.of(rule) is not None]
        return np.concatenate(watching) if watching else NEVER

    def counts(self, rule: Rule, event: Event) -> bool:
        """Whether an event began in the time that counts, and while the rule watched."""
        watches = self.history.at(event.start).of(rule) is not None
        return watches and self.case.since <= event.start < self.case.until


@dataclass(frozen=True, slots=True)
class Burden:
    """The work that a rule causes. Days and nights are local ones with readings while the rule watched."""

    alarms: int
    patients: int
    patient_days: int
    patient_nights: int
    alarms_per_patient_day: float | None
    alarms_per_patient_night: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a trial; `rules` are those that are reported."""

    trial: Trial
    rules: Sequence[Rule]
    watched: Sequence[Watched]

    def burden(self, rule: Rule) -> Burden:
        """Return the burden of a rule's alarms; per patient-night those that opened at 00:00-06:00 local."""
        spans = [observed(watched.instants(rule), watched.case.zone) for watched in self.watched]
        spans = [span for span in spans if span.days]
        total = sum(spans, Observed())
        alarms = [(watched.case, episode) for watched in self.watched for episode in watched.of(rule)]
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
        """Return the score of a rule against `events`, if any are about it, otherwise against the consensus."""
        if events is not None and any(about is rule for _, about in events):
            given = [_scored(watched, rule, events.get((watched.case.patient, rule), ())) for watched in self.watched]
            return Scored("events", sum(given, Score()))
        reference = "consensus" if rule in REFERRED else None
        return Scored(reference, sum((_scored(watched, rule, None) for watched in self.watched), Score()))


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and its reference; `None`: nothing says which events there were."""

    reference: str | None
    score: Score


def run_trial(trial: Trial, cases: Sequence[Case]) -> Result:
    """Run a trial over patients. Raises `SettingError` for impossible settings, `TrialError` if they have no effect."""
    histories = [trial.history(case.rules) for case in cases]
    trial.check(histories)
    watched = [Watched(case, history, alarms_of(case, history)) for case, history in zip(cases, histories, strict=True)]
    return Result(trial, trial.rules or _on(watched), watched)


def alarms_of(case: Case, history: RulesHistory) -> list[Alarm]:
    """Return every alarm that opens in the time that counts, in order; equal times in the order of `Rule`."""
    found = list(_of_readings(case, history))
    found += [Alarm(Rule.HRV_DRIFT, episode) for episode in fold_nights(case.nights, history, case.until)[1]]
    found += _of_doses(case, history)
    found += [Alarm(Rule.DATA_SILENCE, episode) for episode in _silences(case, history)]
    counted = [alarm for alarm in found if case.since <= alarm.episode.opened_at < case.until]
    order = list(Rule)
    return sorted(counted, key=lambda alarm: (alarm.episode.opened_at, order.index(alarm.rule), alarm.episode.subject))


def _of_readings(case: Case, history: RulesHistory) -> Iterable[Alarm]:
    for code, series in case.readings.items():
        _, found = fold_patient(code, None, series, case.zone, history)
        for finding in {(finding.key, finding.episode.opened_at): finding for finding in found}.values():
            yield Alarm(finding.detector.rule, _rested(finding, int(series.at[-1]), case.until, history))


def _rested(finding: Finding, last_at: int, until: int, history: RulesHistory) -> Episode:
    """Return the episode; if it is open and its rule stopped watching after the last reading, it ends there."""
    if finding.episode.resolved_at is not None:
        return finding.episode
    off = rest_of(*finding.key, history, last_at, until)
    return finding.episode if off is None else replace(finding.episode, resolved_at=off)


def _of_doses(case: Case, history: RulesHistory) -> Iterable[Alarm]:
    """Yield low adherence and misses, including doses that were taken after the alarm was out."""
    grace_ms = DoseSettings().contact_grace_ms
    for outcome in case.doses:
        settings = history.at(outcome.dose.window_end).of(Rule.MISSED_DOSE)
        was_missed = outcome.taken_at is not None and outcome.taken_at >= outcome.dose.window_end + grace_ms
        episode = missed_episode(outcome, settings, was_missed=was_missed) if settings is not None else None
        if episode is not None:
            yield Alarm(Rule.MISSED_DOSE, episode)
    spans = [(start, then.of(Rule.LOW_ADHERENCE)) for start, then in history.spans]
    for episode in low_adherence_episodes(case.doses, spans, now_ms=case.until):
        yield Alarm(Rule.LOW_ADHERENCE, episode)


def _silences(case: Case, history: RulesHistory) -> Iterable[Episode]:
    """Yield the episodes of the gaps between a patient's readings.

    Before the first reading nobody waits for one; after the last one only if the time has an end (`until`), not in a
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
        silences = glucose_silences(gap, history, watched, end)
        yield from silences
        if case.night_watch:
            yield from night_silences(gap, history, watched, case.zone, end, silences)


def _on(watched: Sequence[Watched]) -> list[Rule]:
    """Return the rules that are on, at some time, for some patient with data about their subject.

    Not silence: a gap in a recording says more about its export than about the patient.
    """
    return [
        rule
        for rule in TESTABLE
        if rule is not Rule.DATA_SILENCE
        and any(
            person.case.instants(rule).size and any(rules.of(rule) is not None for _, rules in person.history.spans)
            for person in watched
        )
    ]


def _scored(watched: Watched, rule: Rule, known: Sequence[Event] | None) -> Score:
    case, alarms, events = watched.case, watched.of(rule), known
    if events is None:
        events = reference_events(rule, case.glucose, case.zone) or ()
        if rule is Rule.HYPERGLYCAEMIA:  # a high fasting glucose is not a level 2 high
            alarms = [alarm for alarm in alarms if not alarm.subject]
    counted = [event for event in events if watched.counts(rule, event)]
    beside = [event for event in events if not watched.counts(rule, event)]
    at = NEVER if rule in {*DOSE_RULES, Rule.HRV_DRIFT, Rule.DATA_SILENCE} else case.instants(rule)
    return score(rule, counted, alarms, at, case.zone, watched.of(*SPEAK_FOR.get(rule, ())), beside)


def _rate(number: int, spans: int) -> float | None:
    return round(number / spans, 4) if spans else None
