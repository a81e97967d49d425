"""The output of a back-test: one JSON object, or tables; one setting by itself or several side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from deploy.backtest.run import Alarm, Burden, Events, Result, Scored, Watched
from deploy.output import WIDTH
from streaming.episodes import Episode, Rule
from streaming.limits.scoring import paired
from streaming.rules.changes import settings_json
from streaming.rules.history import PatientRules
from streaming.zones import ZoneHistory

NOTHING_SAID = "–"


@dataclass(frozen=True, slots=True)
class PrintedAlarm:
    """One alarm as printed; times are RFC 3339 with the zone's offset."""

    patient: str
    rule: str
    severity: str
    opened_at: str
    resolved_at: str | None
    subject: str = ""

    def json(self) -> dict[str, str | None]:
        """Return the object of the JSON output; `subject` only if several alarms of a rule can be open at once."""
        fields = asdict(self)
        return fields if self.subject else {name: value for name, value in fields.items() if name != "subject"}


@dataclass(frozen=True, slots=True)
class Difference:
    """Alarms of a rule under two settings: those that overlap count as the same alarm."""

    only_first: Sequence[PrintedAlarm]
    only_second: Sequence[PrintedAlarm]
    both: int


def rfc3339(at_ms: int, zone: ZoneHistory) -> str:
    """Return an instant with the zone's offset, with ms only if they are not 0."""
    return zone.local(at_ms).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")


def printed_alarms(result: Result, rules: Sequence[Rule] | None = None) -> list[PrintedAlarm]:
    """Return the alarms of the reported rules, patient by patient."""
    shown = result.rules if rules is None else rules
    return [_printed(watched, alarm) for watched in result.watched for alarm in watched.alarms if alarm.rule in shown]


def as_json(results: Sequence[Result], events: Events | None) -> dict[str, Any]:
    """Return the output of `--json`: the first setting, with the others in `against`."""
    first, *others = results
    found = _result_json(first, events)
    if others:
        found["against"] = [
            {**_result_json(other, events), "differences": _differences_json(first, other)} for other in others
        ]
    return found


def differences(first: Result, second: Result, rule: Rule) -> Difference:
    """Return which alarms of a rule only one of two settings raises."""
    only_first: list[PrintedAlarm] = []
    only_second: list[PrintedAlarm] = []
    both = 0
    for watched, other in zip(first.watched, second.watched, strict=True):
        for ours, theirs in _pairs(watched.of(rule), other.of(rule)):
            if ours is None and theirs is not None:
                only_second.append(_printed(other, Alarm(rule, theirs)))
            elif theirs is None and ours is not None:
                only_first.append(_printed(watched, Alarm(rule, ours)))
            else:
                both += 1
    return Difference(only_first, only_second, both)


def show(results: Sequence[Result], events: Events | None) -> None:
    """Print tables; with several settings a column for each, and the alarms that only one of two raises."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if len(results) == 1:
        console.print(_alarm_table(printed_alarms(results[0])) or "no episodes")
        console.print(_burden_table(results[0]))
        console.print(_score_table(results[0], events))
        return
    first = results[0]
    rules = _rules_of(results)
    console.print(_beside_table(results, rules, events))
    for other in results[1:]:
        for rule in _rules_of((first, other)):
            found = differences(first, other, rule)
            console.print(
                f"{rule}: {found.both} in both, {len(found.only_first)} only with {first.trial.label}, "
                f"{len(found.only_second)} only with {other.trial.label}",
                markup=False,
            )
            for label, alarms in ((first.trial.label, found.only_first), (other.trial.label, found.only_second)):
                if (table := _alarm_table(alarms, f"only with {label}")) is not None:
                    console.print(table)


def score_json(scored: Scored, burden: Burden) -> dict[str, Any]:
    """Return the score of a rule; without a reference only the figures that need none."""
    score = scored.score
    found: dict[str, Any] = {
        "reference": scored.reference, "alarms": score.alarms, "data_unknown": score.data_unknown,
    }  # fmt: skip
    if scored.reference is not None:
        found |= {
            "events": score.events,
            "detected": score.detected,
            "spoken_for": score.spoken_for,
            "sensitivity": _rounded(score.sensitivity),
            "false_alarms": score.false_alarms,
            "false_alarms_per_patient_day": _per(score.false_alarms, burden.patient_days),
            "false_alarms_per_patient_night": _per(score.false_at_night, burden.patient_nights),
            "lead_minutes": _rounded(score.lead_minutes),
        }
    return found


def _result_json(result: Result, events: Events | None) -> dict[str, Any]:
    burdens = {rule: result.burden(rule) for rule in result.rules}
    return {
        "episodes": [alarm.json() for alarm in printed_alarms(result)],
        "burden": {rule.value: asdict(burden) for rule, burden in burdens.items()},
        "score": {rule.value: score_json(result.score(rule, events), burden) for rule, burden in burdens.items()},
        "settings": _settings(result),
    }


def _settings(result: Result) -> dict[str, Any]:
    """Return the rules at the end of the readings: once if all patients have the same, else for each."""
    last = {watched.case.patient: watched.history.spans[-1][1] for watched in result.watched}
    found: dict[str, Any] = {"options": result.trial.label}
    if len(set(last.values())) <= 1:
        return found | {"rules": next((_rules_json(rules) for rules in last.values()), {})}
    return found | {"patients": {patient: _rules_json(rules) for patient, rules in last.items()}}


def _rules_json(rules: PatientRules) -> dict[str, Any]:
    return {rule.value: settings_json(settings) for rule, settings in rules.settings}


def _differences_json(first: Result, second: Result) -> dict[str, Any]:
    found = {rule: differences(first, second, rule) for rule in _rules_of((first, second))}
    return {
        rule.value: {
            "both": difference.both,
            "only_first": [alarm.json() for alarm in difference.only_first],
            "only_second": [alarm.json() for alarm in difference.only_second],
        }
        for rule, difference in found.items()
    }


def _rules_of(results: Iterable[Result]) -> list[Rule]:
    shown = {rule for result in results for rule in result.rules}
    return [rule for rule in Rule if rule in shown]


def _pairs(first: Sequence[Episode], second: Sequence[Episode]) -> list[tuple[Episode | None, Episode | None]]:
    subjects = sorted({alarm.subject for alarm in (*first, *second)})
    return [
        pair
        for subject in subjects
        for pair in paired(
            [alarm for alarm in first if alarm.subject == subject],
            [alarm for alarm in second if alarm.subject == subject],
        )
    ]


def _printed(watched: Watched, alarm: Alarm) -> PrintedAlarm:
    episode, zone = alarm.episode, watched.case.zone
    resolved = None if episode.resolved_at is None else rfc3339(episode.resolved_at, zone)
    return PrintedAlarm(
        watched.case.patient,
        alarm.rule.value,
        episode.severity.value,
        rfc3339(episode.opened_at, zone),
        resolved,
        episode.subject,
    )


def _alarm_table(alarms: Sequence[PrintedAlarm], title: str | None = None) -> Table | None:
    if not alarms:
        return None
    table = _table("patient", "rule", "severity", "opened", "resolved", title=title)
    for alarm in alarms:
        name = f"{alarm.rule} {alarm.subject}".strip()
        cells = (alarm.patient, name, alarm.severity, alarm.opened_at, alarm.resolved_at or "open")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _burden_table(result: Result) -> Table:
    table = _table(
        "rule", "alarms", "patients", "patient-days", "per day", "patient-nights", "per night", title="burden"
    )
    for rule in result.rules:
        cost = result.burden(rule)
        figures = (cost.alarms, cost.patients, cost.patient_days, cost.alarms_per_patient_day, cost.patient_nights,
                   cost.alarms_per_patient_night)  # fmt: skip
        table.add_row(rule.value, *map(_cell, figures))
    return table


_SCORES = {
    "events": "events", "told of": "sensitivity", "by graver rule": "spoken_for", "false alarms": "false_alarms",
    "false per day": "false_alarms_per_patient_day", "false per night": "false_alarms_per_patient_night",
    "lead, min": "lead_minutes", "data unknown": "data_unknown",
}  # fmt: skip


def _score_table(result: Result, events: Events | None) -> Table:
    table = _table("rule", "against", *_SCORES, title="score")
    for rule in result.rules:
        found = score_json(result.score(rule, events), result.burden(rule))
        table.add_row(rule.value, _cell(found["reference"]), *(_cell(found.get(name)) for name in _SCORES.values()))
    return table


def _beside_table(results: Sequence[Result], rules: Sequence[Rule], events: Events | None) -> Table:
    table = _table("rule", "", *(result.trial.label for result in results))
    for rule, lines in groupby(_beside(results, rules, events), key=lambda line: line[0]):
        for number, (_, name, figures) in enumerate(lines):
            table.add_row("" if number else rule.value, name, *map(_cell, figures))
        table.add_section()
    return table


def _beside(
    results: Sequence[Result], rules: Sequence[Rule], events: Events | None
) -> Iterable[tuple[Rule, str, list[Any]]]:
    for rule in rules:
        columns: list[Mapping[str, Any]] = []
        for result in results:
            if rule not in result.rules:  # off, or not requested
                columns.append({})
                continue
            burden = result.burden(rule)
            # The score leaves out alarms that its events do not cover; somebody has to answer them all the same.
            columns.append({**score_json(result.score(rule, events), burden), **asdict(burden)})
        names = {"alarms": "alarms", "per day": "alarms_per_patient_day", **_SCORES}
        for name, key in names.items():
            figures = [column.get(key) for column in columns]
            if any(figure is not None for figure in figures):
                yield rule, name, figures


def _table(*names: str, title: str | None = None) -> Table:
    """Return a table that wraps what does not fit, and cuts nothing off."""
    columns = (Column(Text(name), overflow="fold") for name in names)
    return Table(*columns, title=None if title is None else Text(title))


def _per(number: int, spans: int) -> float | None:
    return round(number / spans, 4) if spans else None


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)


def _cell(figure: object) -> str:
    return NOTHING_SAID if figure is None else str(figure)
