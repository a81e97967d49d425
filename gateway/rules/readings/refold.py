"""Folds one patient's readings of one code again out of the store.

A late reading, or a change of rules or zone for a time of which readings are stored, may move, split, merge or undo
episodes. A *settled point* is an instant before which no episode was open for as long as any of the rules remembers
(`quiet_ms`): what was concluded before it cannot change. So the fold

1. begins without state at the newest settled point before the first reading that is new (`_settled`),
2. reads pages of whole instants from there on, over all devices of the patient (`page_of`),
3. ends at the patient's newest reading, or `quiet_ms` after the last reading that is new, once no episode, old or
   new, touches that time: from there on the old conclusions hold.

What comes back replaces the alerts that opened between the two ends; nobody else's and none outside. The alerts are
locked while that is found out, so a worker or a doctor who acts on one waits, and acts on what it has become.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from alerts.reconcile import StandingAlert
from devices.vocabulary import Code
from gateway.clinic.directory import Directory
from gateway.store.alerts import AlertWriter
from gateway.store.queries import load_queries
from streaming.episodes import Key, Spanning, settled_before
from streaming.glucose.compression import ABRUPT_MS
from streaming.limits.detectors import is_about, rules_about
from streaming.limits.patient_fold import Finding, PatientState, fold_patient, quiet_ms
from streaming.readings import ReadingSeries
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "readings.sql")

Connection = psycopg.AsyncConnection[Any]
PAGE = 2_000


@dataclass(frozen=True, slots=True)
class WatchedPatient:
    """One patient as the rules about one code see them. `worn_from`: since when (ms) the patient had each of the devices."""

    code: Code
    patient: int
    devices: Sequence[int]
    worn_from: Sequence[int]
    zone: ZoneHistory
    rules: RulesHistory

    @classmethod
    def of(cls, code: Code, patient: int, directory: Directory) -> "WatchedPatient":
        """Return the patient as the directory has them."""
        devices = directory.devices_of[patient]
        worn_from = [directory.worn_from(device, patient) for device in devices]
        return cls(code, patient, devices, worn_from, directory.zone(patient), directory.rules_of(patient))

    def fold(
        self, state: PatientState | None, series: ReadingSeries, settled_ms: int | None = None
    ) -> tuple[PatientState | None, list[Finding]]:
        """Fold readings, later than all before, by the patient's rules and zone; see `fold_patient`."""
        return fold_patient(self.code, state, series, self.zone, self.rules, settled_ms)


@dataclass(frozen=True, slots=True)
class RefoldResult:
    """What a fold out of the store came to.

    `complete`: the state is that after the patient's newest reading. `standing`: the alerts that the findings replace.
    """

    state: PatientState | None
    complete: bool
    findings: list[Finding]
    standing: list[tuple[Key, StandingAlert]]


def shape_before_ms(code: Code) -> int:
    """Return how long before an episode readings say something of what it looks like (`with_compression`)."""
    return ABRUPT_MS if code is Code.GLUCOSE else 0


async def fold_again(watched: WatchedPatient, first: int, last: int, writer: AlertWriter) -> RefoldResult:
    """Fold from the newest settled point before `first` past `last`, until nothing later can have changed."""
    quiet = quiet_ms(watched.code, watched.rules)
    standing, settled = await _settled(watched, first, quiet, writer)
    alerts = [alert for _, alert in standing]
    state: PatientState | None = None
    found: dict[tuple[Key, int], Finding] = {}
    cursor = settled - quiet
    while True:
        page, complete = await page_of(writer.connection, watched, cursor)
        if len(page):
            state, news = watched.fold(state, page, settled)
            found.update(((one.key, one.episode.opened_at), one) for one in news)
            cursor = int(page.at[-1]) + 1
        reached = cursor - 1
        spans: list[Spanning] = [*alerts, *(one.episode for one in found.values())]
        if complete or (reached >= last + quiet and not _touched(spans, reached - quiet, reached)):
            break
    until = None if complete else reached
    touched = [
        (key, alert)
        for key, alert in standing
        if alert.opened_at >= settled and (until is None or alert.opened_at <= until)
    ]
    findings = sorted(found.values(), key=lambda one: one.episode.opened_at)
    return RefoldResult(state, complete, [one for one in findings if one.episode.opened_at >= settled], touched)


async def _settled(
    watched: WatchedPatient, at_ms: int, quiet: int, writer: AlertWriter
) -> tuple[list[tuple[Key, StandingAlert]], int]:
    """Return the patient's alerts (locked) from the newest settled point before `at_ms` on, and that point."""
    since = at_ms - quiet
    while True:
        rows = await writer.standing_rules(watched.patient, rules_about(watched.code), since)
        standing = [(key, alert) for key, alert in rows if is_about(watched.code, key)]
        settled = settled_before((alert for _, alert in standing), at_ms, quiet)
        if settled - quiet >= since:
            return standing, settled
        since = settled - quiet


def _touched(spans: Iterable[Spanning], since: int, until: int) -> bool:
    return any(span.opened_at <= until and span.covers(max(span.opened_at, since)) for span in spans)


async def page_of(connection: Connection, watched: WatchedPatient, since: int) -> tuple[ReadingSeries, bool]:
    """Return up to PAGE readings from `since` on, whole instants only, and whether they are the last."""
    parameters = {
        "patient": watched.patient,
        "devices": list(watched.devices),
        "code": int(watched.code),
        "since": since,
        "limit": PAGE,
    }
    rows = await (await connection.execute(SQL.readings, parameters)).fetchall()
    complete = len(rows) < PAGE
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    series = ReadingSeries(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.float64),
        np.array(columns[2], np.int16),
        np.array(columns[3], np.int16),
    )
    if not complete and series.at[0] != series.at[-1]:
        series = series.take(series.at < series.at[-1])
    return series, complete
