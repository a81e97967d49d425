"""What really happened, as recorded by a clinic: a CSV of `patient,rule,start,end`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deploy.backtest.run import Events
from deploy.backtest.trials import TESTABLE
from deploy.recordings import RecordingError, csv_lines, instant
from streaming.episodes import Rule
from streaming.limits.scoring import Event
from streaming.zones import ZoneHistory

COLUMNS: Final = ("patient", "rule", "start", "end")


def read_events(path: Path, zone_of: Callable[[str], ZoneHistory | None]) -> Events:
    """Read events; times without offset are the patient's wall clock. An empty end equals the start.

    An event is certain from its start. `zone_of` returns where a patient lives. Raises `RecordingError` for a malformed
    line, or one about an unknown patient (`None`): a misspelt name would turn true alarms into false ones.
    """
    found: dict[tuple[str, Rule], list[Event]] = {}
    for row, where in csv_lines(path, COLUMNS):
        patient, rule, event = _event(row, where, zone_of)
        found.setdefault((patient, rule), []).append(event)
    return {key: sorted(events, key=lambda event: event.start) for key, events in found.items()}


def _event(
    row: Mapping[str, str | None], where: str, zone_of: Callable[[str], ZoneHistory | None]
) -> tuple[str, Rule, Event]:
    patient, name, start_text, end_text = ((row.get(column) or "").strip() for column in COLUMNS)
    zone = zone_of(patient)
    if zone is None:
        raise RecordingError(f"{where}: there is no patient {patient!r}")
    if name not in TESTABLE:
        raise RecordingError(f"{where}: {name!r} is not one of the rules {', '.join(TESTABLE)}")
    start = instant(start_text, zone, where)
    end = instant(end_text, zone, where) if end_text else start
    if end < start:
        raise RecordingError(f"{where}: it ends before it starts")
    return patient, Rule(name), Event(start, end, start)
