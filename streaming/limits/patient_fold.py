"""Folds one patient's readings of one code through all rules that watch the patient, with the settings of the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from devices.vocabulary import Code
from streaming.episodes import JSON, Episode, Key, Rule
from streaming.glucose.values import merge
from streaming.limits.detectors import AnyDetector, detectors_ever, detectors_of
from streaming.limits.thresholds import judged_readings
from streaming.readings import ReadingSeries
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory


@dataclass(frozen=True, slots=True)
class Finding:
    """An episode, and the detector with its settings that found it."""

    detector: AnyDetector
    episode: Episode

    @property
    def key(self) -> Key:
        """Identifies the detector among those of the patient."""
        return (self.detector.rule, self.detector.subject)


@dataclass(frozen=True, slots=True)
class PatientState:
    """The states of a patient's detectors between two folds, and the last reading folded (ms). `None` without any."""

    last_at_ms: int
    of: Mapping[Key, Any] = field(default_factory=dict)
    detectors: Mapping[Key, AnyDetector] = field(default_factory=dict)

    def open_episodes(self) -> list[Finding]:
        """Return the episodes that are open."""
        return [
            Finding(self.detectors[key], state.episode) for key, state in self.of.items() if state.episode is not None
        ]


def fold_patient(
    code: Code,
    state: PatientState | None,
    series: ReadingSeries,
    zone: ZoneHistory,
    rules: RulesHistory,
    settled_ms: int | None = None,
) -> tuple[PatientState | None, list[Finding]]:
    """Fold one patient's readings, later than all folded before, into the state; any batching gives the same result.

    Readings are folded by the rules in force at their time. If a rule is switched off, or the patient begins to rest,
    while its episode is open, the episode ends at that instant (`ended_by`: `rest`).

    `settled_ms`: the settled point, for a fold that starts `quiet_ms` before it. Readings before the point only build
    up memory: nothing was open there, and a rule that knows only part of its hour might conclude otherwise.

    Returns the last version of each episode that opened, changed or ended. Raises `ValueError` for readings not later
    than the state's.
    """
    if series.at.size > 1 and not bool((series.at[1:] >= series.at[:-1]).all()):
        series = series.take(series.at.argsort(kind="stable"))
    if settled_ms is not None and series.at.size and series.at[0] < settled_ms:
        remembered = series.at < settled_ms
        state, _ = _fold_in_order(code, state, series.take(remembered), zone, rules)
        state, series = _closed(state), series.take(~remembered)
    return _fold_in_order(code, state, series, zone, rules)


def quiet_ms(code: Code, rules: RulesHistory) -> int:
    """Return for how long before an instant nothing may have been open for a fold to start there without state."""
    return max((detector.memory_ms for detector in detectors_ever(code, rules)), default=0)


def _fold_in_order(
    code: Code, state: PatientState | None, series: ReadingSeries, zone: ZoneHistory, rules: RulesHistory
) -> tuple[PatientState | None, list[Finding]]:
    found: dict[tuple[Key, int], Finding] = {}
    for rows, then in rules.parts(series.at):
        detectors = detectors_of(code, then)
        if state is None and not detectors:
            continue
        part = _merged(code, series.take(rows), detectors)
        if len(part) == 0:
            continue
        if state is not None:
            state, ended = _rested(code, state, int(part.at[0]), rules)
            found.update(((finding.key, finding.episode.opened_at), finding) for finding in ended)
        state, news = _fold_part(detectors, state, part, zone)
        found.update(((finding.key, finding.episode.opened_at), finding) for finding in news)
    return state, list(found.values())


def _closed(state: PatientState | None) -> PatientState | None:
    """Return the state as if no episode were open."""
    if state is None:
        return None
    of = {key: closed for key, remembered in state.of.items() if (closed := remembered.closed()) is not None}
    return replace(state, of=of) if of else None


def _merged(code: Code, series: ReadingSeries, detectors: tuple[AnyDetector, ...]) -> ReadingSeries:
    """Return the readings that count: one per instant for glucose; all for other codes, as each limit picks its own."""
    if code is Code.GLUCOSE:
        return merge(series, sorted({limit for detector in detectors for limit in detector.limits}))
    return judged_readings(series)


def _fold_part(
    detectors: tuple[AnyDetector, ...], state: PatientState | None, part: ReadingSeries, zone: ZoneHistory
) -> tuple[PatientState | None, list[Finding]]:
    states: dict[Key, Any] = {}
    folded: dict[Key, AnyDetector] = {}
    graver: dict[Rule, list[Episode]] = {}
    found: list[Finding] = []
    for detector in detectors:
        key = (detector.rule, detector.subject)
        before = state.of.get(key) if state is not None else None
        after, episodes = detector.fold(before, part, zone, graver)
        found += [Finding(detector, episode) for episode in episodes]
        if (
            before is not None
            and before.episode is not None
            and not any(episode.opened_at == before.episode.opened_at for episode in episodes)
        ):
            episodes = [before.episode, *episodes]
        graver.setdefault(detector.rule, []).extend(episodes)
        if after is not None:
            states[key], folded[key] = after, detector
    return (PatientState(int(part.at[-1]), states, folded) if states else None), found


def _rested(
    code: Code, state: PatientState, until_ms: int, rules: RulesHistory
) -> tuple[PatientState | None, list[Finding]]:
    """Drop the states of rules that were off at some time since; end their open episodes at that time."""
    since = [(start, then) for start, then in rules.spans if state.last_at_ms < start <= until_ms]
    kept = dict(state.of)
    ended: list[Finding] = []
    for start, then in since:
        on = {(detector.rule, detector.subject) for detector in detectors_of(code, then)}
        for key in [key for key in kept if key not in on]:
            remembered = kept.pop(key)
            if remembered.episode is not None:
                evidence: dict[str, JSON] = {**remembered.episode.evidence, "ended_by": "rest"}
                episode = replace(remembered.episode, resolved_at=start, evidence=evidence)
                ended.append(Finding(state.detectors[key], episode))
    return (replace(state, of=kept) if kept else None), ended
