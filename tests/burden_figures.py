"""How many alarms each rule makes on every recording: the tables of docs/alarm-burden.md, which `burden_study` writes."""

from __future__ import annotations

import csv
import gzip
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from deploy.backtest.cases import Case, recorded_cases
from deploy.backtest.run import Result, run_trial
from deploy.backtest.trials import trial_of
from deploy.recordings import read_recording
from streaming.doses.calendar import DoseSchedule, due_doses
from streaming.doses.matching import DoseOutcome, DoseState, Opening
from streaming.doses.missed import settle
from streaming.episodes import Episode, Rule
from streaming.hrv.drift import fold_nights
from streaming.limits.scoring import Observed, observed, opened_at_night
from streaming.rules.presets import PatientGroup
from streaming.zones import DAY_MS, HOUR_MS, ZoneHistory
from tests.recordings import RECORDINGS
from tests.streaming.hrv_recorded import as_nights, people
from tests.streaming.test_hrv_study import BASELINE, STATIONARY, false_alerts, hearts_of, ln_rmssd, page_hinkley


@dataclass(frozen=True, slots=True)
class Recorded:
    """A set of recordings and who is in it."""

    name: str
    folder: str
    zone: str
    who: str


SETS: Final = (
    Recorded("Shanghai", "cgm_shanghai_t1dm", "Asia/Shanghai", "type 1 diabetes, FreeStyle Libre, 15 min"),
    Recorded("Zhang", "cgm_cgmanalyzer_zhang2018", "UTC", "3 each: type 1, type 2, pre-diabetes, healthy; 3 min"),
    Recorded("Vigers", "cgm_cgmanalysis_vigers", "UTC", "exports of Dexcom, iPro and Libre; 5 and 15 min"),
)
TRIALS: Final = {
    "stable": trial_of(group=PatientGroup.STABLE),
    "new": trial_of(group=PatientGroup.NEW),
    "fluctuating": trial_of(group=PatientGroup.FLUCTUATING),
    "everything on": trial_of(on=[Rule.HYPOGLYCAEMIA, Rule.PREDICTED_LOW, Rule.HYPERGLYCAEMIA]),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A line of the tables: a rule, or one of the two findings of one; whether it is about nights."""

    rule: Rule
    subject: str | None = None
    nights: bool = False

    @property
    def name(self) -> str:
        return f"`{self.rule}`" + (f" ({self.subject or 'level 2'})" if self.subject is not None else "")

    def of(self, alarms: Iterable[tuple[Rule, Episode]]) -> list[Episode]:
        return [one for rule, one in alarms if rule is self.rule and self.subject in {None, one.subject}]


GLUCOSE_KINDS: Final = (
    Kind(Rule.NOCTURNAL_HYPOGLYCAEMIA, nights=True),
    Kind(Rule.URGENT_LOW),
    Kind(Rule.HYPOGLYCAEMIA),
    Kind(Rule.PREDICTED_LOW, nights=True),
    Kind(Rule.HYPERGLYCAEMIA, ""),
    Kind(Rule.HYPERGLYCAEMIA, "fasting"),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one line of a table says: alarms, spans, and the person with the most alarms a day."""

    alarms: int
    at_night: int
    seen: Observed
    busiest: int
    busiest_days: int
    busiest_name: str

    @property
    def per_day(self) -> float:
        return self.alarms / self.seen.days

    @property
    def per_night(self) -> float:
        return self.at_night / self.seen.nights


def person_of(case: Case) -> str:
    """Return who a period is of: several periods of one person carry its number first."""
    return case.patient.split("_")[0]


@cache
def cases_of(one: Recorded) -> tuple[Case, ...]:
    """Return the periods of a set, read as `vigil backtest` reads a file."""
    zone = ZoneHistory.of(one.zone)
    with (
        gzip.open(RECORDINGS / one.folder / "cgm_normalised.csv.gz", "rt", newline="") as lines,
        tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8") as copy,
    ):
        copy.write("time,code,value,unit,patient\n")
        copy.writelines(
            f"{row['timestamp_local']},glucose,{row['glucose_raw']},{row['unit']},{row['subject']}\n"
            for row in csv.DictReader(lines)
        )
        copy.flush()
        return tuple(recorded_cases(read_recording(Path(copy.name), zone), zone))


@cache
def result_of(one: Recorded, trial: str) -> Result:
    return run_trial(TRIALS[trial], cases_of(one))


def figures(kind: Kind, results: Sequence[Result]) -> Figures:
    """Return what a rule comes to over some sets of recordings."""
    seen, at_night = Observed(), 0
    alarms: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for one in (one for result in results for one in result.watched):
        found = kind.of((alarm.rule, alarm.episode) for alarm in one.alarms)
        spans = observed(one.case.instants(kind.rule), one.case.zone)
        seen += spans
        alarms[person_of(one.case)] += len(found)
        days[person_of(one.case)] += spans.days
        at_night += sum(opened_at_night(kind.rule, alarm, one.case.zone) for alarm in found)
    busiest = max(sorted(days), key=lambda person: alarms[person] / days[person])
    return Figures(alarms.total(), at_night, seen, alarms[busiest], days[busiest], busiest)


def is_on(kind: Kind, results: Sequence[Result]) -> bool:
    return any(kind.rule in result.rules for result in results)


def recordings_table() -> list[str]:
    lines = ["| set | people | periods | patient-days | patient-nights | who |", "|---|---|---|---|---|---|"]
    for one in SETS:
        cases = cases_of(one)
        spans = sum((observed(case.glucose.at, case.zone) for case in cases), Observed())
        who = len({person_of(case) for case in cases})
        lines.append(f"| {one.name} | {who} | {len(cases)} | {spans.days} | {spans.nights} | {one.who} |")
    return lines


def preset_table(trial: str, sets: Sequence[Recorded] = SETS) -> list[str]:
    """Return the table of one preset: alarms, rates by set and over all, the busiest person."""
    names = " | ".join(f"{one.name}, a day" for one in sets)
    lines = [
        f"| rule | alarms | {names} | all, a day | all, a night | busiest person |",
        "|---|---|" + "---|" * len(sets) + "---|---|---|",
    ]
    every = [result_of(one, trial) for one in sets]
    for kind in (kind for kind in GLUCOSE_KINDS if is_on(kind, every)):
        total = figures(kind, every)
        by_set = " | ".join(f"{figures(kind, [result]).per_day:.2f}" for result in every)
        busiest = f"{total.busiest} in {total.busiest_days} days ({total.busiest / total.busiest_days:.1f} a day)"
        lines.append(
            f"| {kind.name} | {total.alarms} | {by_set} | {total.per_day:.2f} | {total.per_night:.2f} | {busiest} |"
        )
    return [*lines, _sum_line(every)]


def _sum_line(results: Sequence[Result]) -> str:
    """Return the line of all alarms together: a person with several rules gets the alarms of each."""
    kinds = [kind for kind in GLUCOSE_KINDS if is_on(kind, results)]
    found = [figures(kind, results) for kind in kinds]
    by_set = [
        sum(figures(kind, [result]).alarms for kind in kinds) / figures(kinds[0], [result]).seen.days
        for result in results
    ]
    person, number, days = busiest_person(results)
    seen = found[0].seen
    rates = " | ".join(f"{rate:.2f}" for rate in by_set)
    return (
        f"| together | {sum(one.alarms for one in found)} | {rates} | {sum(one.alarms for one in found) / seen.days:.2f} "
        f"| {sum(one.at_night for one in found) / seen.nights:.2f} | {person}: {number} in {days} days "
        f"({number / days:.1f} a day) |"
    )


def busiest_person(results: Sequence[Result]) -> tuple[str, int, int]:
    """Return who gets the most alarms a day from all rules, how many, in how many days."""
    alarms: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for one in (one for result in results for one in result.watched):
        alarms[person_of(one.case)] += sum(alarm.rule in {kind.rule for kind in GLUCOSE_KINDS} for alarm in one.alarms)
        days[person_of(one.case)] += observed(one.case.glucose.at, one.case.zone).days
    busiest = max(sorted(days), key=lambda person: alarms[person] / days[person])
    return busiest, alarms[busiest], days[busiest]


def score_table(trial: str) -> list[str]:
    """Return how the rules do against the consensus over all sets."""
    lines = [
        "| rule | events | told of | by a graver rule | false alarms | a day | a night | lead, min | data unknown |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    results = [result_of(one, trial) for one in SETS]
    for rule in dict.fromkeys(kind.rule for kind in GLUCOSE_KINDS):
        scores = [result.score(rule).score for result in results]
        total = sum(scores[1:], scores[0])
        seen = sum((observed(one.case.glucose.at, one.case.zone) for result in results for one in result.watched),
                   Observed())  # fmt: skip
        lines.append(
            f"| `{rule}` | {total.events} | {total.sensitivity or 0:.0%} | {total.spoken_for} | {total.false_alarms} "
            f"| {total.false_alarms / seen.days:.2f} | {total.false_at_night / seen.nights:.2f} "
            f"| {total.lead_minutes or 0:.0f} | {total.data_unknown} |"
        )
    return lines


# Silence, hearts, doses ----------------------------------------------------------------------------------------------


def silence_table() -> list[str]:
    lines = ["| set | `glucose` | with the preset `new` | `glucose:night` | a night |", "|---|---|---|---|---|"]
    for one in SETS:
        usual, new = (
            run_trial(trial_of([Rule.DATA_SILENCE], group), cases_of(one))
            for group in (PatientGroup.STABLE, PatientGroup.NEW)
        )
        days, early = (figures(Kind(Rule.DATA_SILENCE, "glucose"), [result]).alarms for result in (usual, new))
        night = figures(Kind(Rule.DATA_SILENCE, "glucose:night"), [usual])
        lines.append(f"| {one.name} | {days} | {early} | {night.alarms} | {night.per_night:.2f} |")
    return lines


def drift_lines() -> list[str]:
    """Return the table of drift: people's days as nights, and nights drawn from recorded hearts."""
    days = alarms = watched = 0
    most = 0
    for person in people():
        assessments, episodes = fold_nights(as_nights(person.values[:, 0], person.days))
        days += len(person.days)
        watched += sum(one.drift or one.statistic is not None for one in assessments)
        alarms += len(episodes)
        most = max(most, len(episodes))
    lines = [
        "| | people | days or nights | watched | alarms | per 180 watched |",
        "|---|---|---|---|---|---|",
    ]
    told = f"{len(people())} | {days} | {watched} | {alarms} | {180 * alarms / watched:.2f} |"
    lines.append(f"| Welltory, each day with a recording as a night | {told}")
    for kind, name in (
        ("days", "Welltory's stationary days, resampled"),
        ("Holter nights", "Holter nights, resampled"),
    ):
        hearts = hearts_of(kind)
        each = 400 // len(hearts)
        rate = false_alerts(hearts, page_hinkley(), each, ln_rmssd)
        drawn = each * len(hearts)
        lines.append(
            f"| {name} | {len(hearts)} hearts, {drawn} times | {drawn * (BASELINE + STATIONARY)} "
            f"| {drawn * STATIONARY} | {rate * drawn:.0f} | {rate:.2f} |"
        )
    return [*lines, "", f"Nobody of Welltory's people got more than {most} alarms."]


@cache
def bottle(window_after_ms: int = HOUR_MS) -> tuple[DoseOutcome, ...]:
    """Return the doses of the recorded pill bottle; those without the maker's verdict are of a bottle not heard."""
    with (RECORDINGS / "med_oncmap_pillbottles" / "adheretech_first_half.csv").open() as file:
        rows = {_ms(row["due_utc"]): row for row in csv.DictReader(file)}
    first = min(rows)
    plan = DoseSchedule(1, (time(7, 30), time(19, 15)), date(2021, 11, 4), first, window_after_ms=window_after_ms)
    doses = [
        replace(one, contact_seen_at=None if rows[one.due_at]["Status"] == "PENDING" else one.window_end)
        for one in due_doses(plan, ZoneHistory.of("America/New_York"), first, max(rows) + 1)
    ]
    openings = [Opening(_ms(row["recorded_utc"])) for row in rows.values() if row["recorded_utc"]]
    return tuple(settle(doses, openings, None, max(rows) + DAY_MS))


def doses_result(doses: Sequence[DoseOutcome]) -> tuple[Case, Result]:
    case = Case("bottle", ZoneHistory.of("America/New_York"), {}, doses=doses)
    return case, run_trial(TRIALS["stable"], [case])


def dose_table() -> list[str]:
    """Return the table of the pill bottle; all presets have the same settings of these rules."""
    case, result = doses_result(bottle())
    days = observed(case.instants(Rule.MISSED_DOSE), case.zone).days
    lines = ["| rule | alarms | a day | a week | open for (median) |", "|---|---|---|---|---|"]
    for rule in (Rule.MISSED_DOSE, Rule.LOW_ADHERENCE):
        found = result.watched[0].of(rule)
        hours = [(one.resolved_at - one.opened_at) / HOUR_MS for one in found if one.resolved_at is not None]
        lasted = f"{np.median(hours):.1f} h of the {len(hours)} that ended" if hours else "–"
        lines.append(f"| `{rule}` | {len(found)} | {len(found) / days:.2f} | {7 * len(found) / days:.1f} | {lasted} |")
    states = Counter(one.state for one in bottle())
    late = sum(one.resolved_at is not None for one in result.watched[0].of(Rule.MISSED_DOSE))
    told = f"{states[DoseState.MISSED]} missed, {late} taken after the window had closed, {states[DoseState.UNKNOWN]} unknown."
    return [*lines, "", f"{days} days, {len(bottle())} doses: {told}"]


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text + "+00:00").timestamp() * 1000)
