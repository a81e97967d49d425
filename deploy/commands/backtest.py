"""`vigil backtest`: the streaming rules over recorded readings, without broker or database."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.recordings import RecordedSeries, Recording, RecordingError, read_recording
from devices.units import to_canonical
from devices.vocabulary import Code, Unit
from streaming.episodes import Episode, Rule
from streaming.glucose import GlucoseSeries
from streaming.hrv_drift import fold_nights
from streaming.hrv_nights import NIGHT_ENDS, NightValue, night_bounds, night_value
from streaming.hrv_windows import WINDOW_MS, windows_of
from streaming.patient_fold import fold_patient
from streaming.rr_cleaning import RRRun
from streaming.rules import PatientGroup, RulesHistory, preset
from streaming.zones import DAY_MS, MINUTE_MS, MINUTES_PER_DAY, ZoneHistory


class BacktestRule(StrEnum):
    """The rules that can be run over readings alone."""

    NOCTURNAL_HYPOGLYCAEMIA = Rule.NOCTURNAL_HYPOGLYCAEMIA.value
    HRV_DRIFT = Rule.HRV_DRIFT.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One episode as it is printed; times are RFC 3339 with the zone's offset."""

    patient: str
    rule: str
    severity: str
    opened_at: str
    resolved_at: str | None


@dataclass(frozen=True, slots=True)
class Burden:
    """What a rule costs those who answer it. Days and nights are local ones on which the patient has readings."""

    alarms: int
    patients: int
    patient_days: int
    patient_nights: int
    alarms_per_patient_day: float | None
    alarms_per_patient_night: float | None


def backtest(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False, help="The recording.")],
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="IANA zone the wearers live by.")],
    rule: Annotated[list[BacktestRule] | None, typer.Option(help="Repeatable; all rules if not given.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the streaming rules over recorded readings; print the episodes and how many alarms they make."""
    zone = ZoneHistory.of(known_zone(timezone))
    try:
        recording = read_recording(file, zone)
    except RecordingError as error:
        typer.echo(f"vigil: {error}", err=True)
        raise typer.Exit(1) from error
    for reason, rows in recording.skipped.items():
        typer.echo(f"skipped {rows} rows: {reason}", err=True)
    chosen = [Rule(one) for one in rule or BacktestRule if rule or _recorded(Rule(one), recording)]
    findings = [
        Finding(patient, name.value, episode.severity.value, rfc3339(episode.opened_at, zone), _end(episode, zone))
        for patient, name, episode in run_rules(recording, zone, chosen)
    ]
    burden = {name.value: burden_of(name, findings, recording, zone) for name in chosen}
    if as_json:
        told = {
            "episodes": [asdict(one) for one in findings],
            "burden": {name: asdict(one) for name, one in burden.items()},
        }
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _show(findings, burden)


def known_zone(name: str) -> ZoneInfo:
    """Return the zone of that name or refuse the usage."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise typer.BadParameter(f"{name!r} is not an IANA time zone", param_hint="--timezone") from error


def rfc3339(at_ms: int, zone: ZoneHistory) -> str:
    """Return an instant with the zone's offset, to the ms only where there are any."""
    return zone.local(at_ms).isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")


def _end(episode: Episode, zone: ZoneHistory) -> str | None:
    return None if episode.resolved_at is None else rfc3339(episode.resolved_at, zone)


def run_rules(recording: Recording, zone: ZoneHistory, rules: list[Rule]) -> Iterator[tuple[str, Rule, Episode]]:
    """Yield (patient, rule, episode) of the rules that the recording has readings for."""
    for series in recording.series:
        for rule, episode in fold_series(series, zone):
            if rule in rules:
                yield series.patient, rule, episode
        if series.code is Code.RR_INTERVAL and Rule.HRV_DRIFT in rules:
            for episode in fold_nights(recorded_nights(series, zone))[1]:
                yield series.patient, Rule.HRV_DRIFT, episode


def fold_series(series: RecordedSeries, zone: ZoneHistory) -> list[tuple[Rule, Episode]]:
    """Return every episode as it stands at the end of the recording."""
    readings = GlucoseSeries(series.at, series.value, series.unit, series.flags)
    rules = RulesHistory.of(preset(PatientGroup.STABLE))
    state, found = fold_patient(series.code, None, readings, zone, rules)
    standing = {(one.key, one.episode.opened_at): one for one in found}
    for one in state.open_episodes() if state is not None else ():
        standing[one.key, one.episode.opened_at] = one
    return [(one.detector.rule, one.episode) for one in standing.values()]


def recorded_nights(series: RecordedSeries, zone: ZoneHistory) -> list[NightValue]:
    """Return the nights of recorded RR intervals; each row is an interval at the beat that ends it."""
    in_ms = np.where(series.unit == Unit.S, to_canonical(Code.RR_INTERVAL, Unit.S, series.value), series.value)
    runs = [
        RRRun(float(at), interval, int(flags))
        for at, interval, flags in zip(series.at.tolist(), in_ms.reshape(-1, 1), series.flags, strict=True)
    ]
    windows = windows_of({0: runs}, int(series.at[0]) - WINDOW_MS, int(series.at[-1]) + 1)
    first, last = (zone.local(int(series.at[edge])).date() for edge in (0, -1))
    nights = []
    for day in range((last - first).days + 1):
        night = first + timedelta(days=day)
        bounds = night_bounds(zone, night)
        inside = [one for one in windows if bounds[0] <= one.start_ms < bounds[1]]
        if inside:
            nights.append(night_value(night, bounds, inside))
    return nights


def burden_of(rule: Rule, findings: list[Finding], recording: Recording, zone: ZoneHistory) -> Burden:
    """Return what a rule's alarms come to per patient-day and patient-night."""
    series = _recorded(rule, recording)
    days = nights = 0
    for one in series:
        local = zone.local_ms(one.at)
        at_night = local // MINUTE_MS % MINUTES_PER_DAY < NIGHT_ENDS.hour * 60
        days += np.unique(local // DAY_MS).size
        nights += np.unique(local[at_night] // DAY_MS).size
    alarms = sum(finding.rule == rule for finding in findings)
    return Burden(
        alarms=alarms,
        patients=len(series),
        patient_days=days,
        patient_nights=nights,
        alarms_per_patient_day=round(alarms / days, 4) if days else None,
        alarms_per_patient_night=round(alarms / nights, 4) if nights else None,
    )


def _recorded(rule: Rule, recording: Recording) -> list[RecordedSeries]:
    """Return the series that a rule is about."""
    code = Code.RR_INTERVAL if rule is Rule.HRV_DRIFT else Code.GLUCOSE
    return [one for one in recording.series if one.code is code]


def _show(findings: list[Finding], burden: Mapping[str, Burden]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    if findings:
        table = Table("patient", "rule", "severity", "opened", "resolved")
        for one in findings:
            cells = (one.patient, one.rule, one.severity, one.opened_at, one.resolved_at or "open")
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    else:
        console.print("no episodes")
    table = Table(
        "rule", "alarms", "patients", "patient-days", "per day", "patient-nights", "per night", title="burden"
    )
    for name, cost in burden.items():
        figures = (cost.alarms, cost.patients, cost.patient_days, cost.alarms_per_patient_day, cost.patient_nights,
                   cost.alarms_per_patient_night)  # fmt: skip
        table.add_row(name, *("–" if figure is None else str(figure) for figure in figures))
    console.print(table)
