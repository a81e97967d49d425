"""`vigil backtest`: the rules over recorded or stored readings, under one or several settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, NoReturn
from zoneinfo import ZoneInfo

import typer

from deploy.backtest.cases import Case, recorded_cases
from deploy.backtest.events import read_events
from deploy.backtest.picture import PictureError, format_of, write_picture
from deploy.backtest.report import as_json, show
from deploy.backtest.run import Result, run_trial
from deploy.backtest.stored import NoPatientError, stored_cases
from deploy.backtest.trials import TESTABLE, Trial, TrialError, parse_trial, trial_of
from deploy.moved_clock import refuse_moved_clock
from deploy.recordings import RecordingError, read_recording
from deploy.settings import DatabaseSettings, load_settings
from gateway.runtime import clock
from streaming.rules.changes import SettingError
from streaming.zones import ZoneHistory

_RULES = f"Repeatable: report this rule only, and switch it on. All that are on if not given. {', '.join(TESTABLE)}."
_AGAINST = "The same options (--rule --group --set --on --off) in one string: run these beside the others. Repeatable."
_FROM = "With --stored: from then on; without an offset each patient's local time."
Texts = list[str] | None


def backtest(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False, help="The recording.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(metavar="ZONE", help="IANA zone the wearers live by.")] = None,
    rule: Annotated[Texts, typer.Option(metavar="RULE", help=_RULES)] = None,
    group: Annotated[str | None, typer.Option(help="Begin with the settings of new, fluctuating or stable.")] = None,
    set_: Annotated[Texts, typer.Option("--set", metavar="RULE.FIELD=VALUE", help="A setting. Repeatable.")] = None,
    on: Annotated[Texts, typer.Option(metavar="RULE", help="Switch a rule on. Repeatable.")] = None,
    off: Annotated[Texts, typer.Option(metavar="RULE", help="Switch a rule off. Repeatable.")] = None,
    against: Annotated[Texts, typer.Option(metavar="'OPTIONS'", help=_AGAINST)] = None,
    events: Annotated[
        Path | None,
        typer.Option(metavar="EVENTS.csv", exists=True, dir_okay=False, help="What happened: patient,rule,start,end."),
    ] = None,
    patient: Annotated[Texts, typer.Option(metavar="ID", help="These patients only. Repeatable.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="TIME", help=_FROM)] = None,
    end: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to then; now if not given.")] = None,
    picture: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Draw a night: .svg, .png or .pdf.")
    ] = None,
    night: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The night to draw, by its morning; the first alarm's if not given."),
    ] = None,
    *,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Read --patient from the database, since --from, by the patients' own rules."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the rules over readings; print the alarms they make, what these cost, and how they do."""
    trials = _trials(rule, group, set_, on, off, against)
    _check_picture(picture, night)
    try:
        if stored:
            cases = _stored_cases(file, timezone, patient, begin, end, trials)
        else:
            if begin is not None or end is not None:
                raise typer.BadParameter("--from and --until are for --stored")
            cases = _file_cases(file, timezone, patient)
        known = None
        if events is not None:
            zones = {case.patient: case.zone for case in cases}
            known = read_events(events, zones.get)
    except (RecordingError, NoPatientError) as error:
        _fail(str(error), error)
    results = _results(trials, cases)
    if json_:
        typer.echo(json.dumps(as_json(results, known), ensure_ascii=False))
    else:
        show(results, known)
    if picture is not None:
        _draw(picture, results[0], night)


def known_zone(name: str) -> ZoneInfo:
    """Return the zone of that name, or refuse the usage."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise typer.BadParameter(f"{name!r} is not an IANA time zone", param_hint="--timezone") from error


def _trials(rule: Texts, group: str | None, set_: Texts, on: Texts, off: Texts, against: Texts) -> list[Trial]:
    try:
        first = trial_of(rule or (), group, set_ or (), on or (), off or ())
        return [first, *map(parse_trial, against or ())]
    except (TrialError, SettingError) as error:
        _refuse(error)


def _results(trials: Sequence[Trial], cases: Sequence[Case]) -> list[Result]:
    try:
        return [run_trial(trial, cases) for trial in trials]
    except (TrialError, SettingError) as error:
        _refuse(error)


def _file_cases(file: Path | None, timezone: str | None, patients: Texts) -> list[Case]:
    if file is None or timezone is None:
        raise typer.BadParameter("a recording and --timezone are needed")
    zone = ZoneHistory.of(known_zone(timezone))
    recording = read_recording(file, zone)
    for reason, rows in recording.skipped.items():
        typer.echo(f"skipped {rows} rows: {reason}", err=True)
    cases = recorded_cases(recording, zone)
    if unknown := set(patients or ()) - {case.patient for case in cases}:
        raise typer.BadParameter(f"{min(unknown)!r} is not in {file}", param_hint="--patient")
    return [case for case in cases if patients is None or case.patient in patients]


def _stored_cases(
    file: Path | None,
    timezone: str | None,
    patients: Texts,
    begin: str | None,
    end: str | None,
    trials: Sequence[Trial],
) -> list[Case]:
    if file is not None or timezone is not None:
        raise typer.BadParameter("--stored takes no recording and no --timezone: patients have zones of their own")
    if begin is None or not patients or not all(one.isascii() and one.isdecimal() for one in patients):
        raise typer.BadParameter("--stored needs --patient ID and --from TIME")
    url = load_settings(DatabaseSettings).database_url
    refuse_moved_clock(url)
    chosen = [int(one) for one in dict.fromkeys(patients)]
    try:
        return asyncio.run(stored_cases(url, chosen, begin, end, trials, clock.now()))
    except SettingError as error:
        _refuse(error)


def _check_picture(picture: Path | None, night: str | None) -> None:
    """Refuse wrong usage before the long work begins."""
    try:
        if picture is not None:
            format_of(picture)
        if night is not None:
            date.fromisoformat(night)
            if picture is None:
                raise typer.BadParameter("--night is for --picture")
    except PictureError as error:
        _refuse(error)
    except ValueError as error:
        raise typer.BadParameter(f"{night!r} is not a date such as 2026-11-22", param_hint="--night") from error


def _draw(picture: Path, result: Result, night: str | None) -> None:
    try:
        write_picture(picture, result, None if night is None else date.fromisoformat(night))
    except PictureError as error:
        _fail(str(error), error)
    except OSError as error:
        _fail(f"{picture}: {error.strerror or error}", error)


def _fail(reason: str, error: Exception) -> NoReturn:
    typer.echo(f"vigil: {reason}", err=True)
    raise typer.Exit(1) from error


def _refuse(error: ValueError) -> NoReturn:
    raise typer.BadParameter(str(error)) from error
