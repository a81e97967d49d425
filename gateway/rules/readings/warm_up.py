"""What the rules remember of many patients at once, folded out of the store: how the gateway begins where it left off."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from devices.vocabulary import EARLIEST_MS, Code
from gateway.rules.readings.refold import PAGE, WatchedPatient
from gateway.store.binary import ReadingRows, parse_readings
from gateway.store.errors import FAULTS
from gateway.store.queries import load_queries
from streaming.episodes import Episode, Key, Rule, Severity, settled_before
from streaming.limits.detectors import is_about, rules_about
from streaming.limits.patient_fold import PatientState, quiet_ms
from streaming.readings import ReadingSeries
from streaming.zones import DAY_MS

SQL = load_queries("gateway.store", "readings.sql")

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

# An alert that is looked at to find a settled point ended at most so long before the newest reading, or still runs.
LOOK_BACK_MS = 2 * DAY_MS
# Patients folded between two looks at what else there is to do.
FOLDED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A patient's newest reading (ms, -1: none) and the state after it; `cold`: it must be folded when needed."""

    newest: int
    state: PatientState | None
    cold: bool = False


async def warm(connection: Connection, patients: Sequence[WatchedPatient]) -> tuple[dict[int, WarmStart], int]:
    """Return what is remembered of patients (all of one code), in three questions; and how many readings were folded."""
    stored = await gather(connection, patients)
    starts: dict[int, WarmStart] = {}
    for count, watched in enumerate(patients):
        if count % FOLDED_AT_ONCE == 0:
            await asyncio.sleep(0)
        newest, series = stored.newest[watched.patient], stored.series.get(watched.patient)
        settled = stored.settled.get(watched.patient)
        if newest < 0 or (settled is not None and series is None):
            starts[watched.patient] = WarmStart(newest, None)
        elif settled is None or series is None or len(series) > PAGE:
            starts[watched.patient] = WarmStart(newest, None, cold=True)
        else:
            starts[watched.patient] = _folded(watched, newest, series, settled, stored.open.get(watched.patient, set()))
    return starts, stored.readings


def _folded(
    watched: WatchedPatient, newest: int, series: ReadingSeries, settled: int, open_alerts: set[tuple[Key, int]]
) -> WarmStart:
    """Fold one patient; whoever cannot be folded must not keep the gateway from beginning, nor others' messages."""
    try:
        state, _ = watched.fold(None, series, settled)
    except FAULTS:
        log.exception("a patient's readings could not be folded", extra={"patient": watched.patient})
        return WarmStart(newest, None, cold=True)
    found = {(one.key, one.episode.opened_at) for one in state.open_episodes()} if state is not None else set()
    # Alerts of another version of a rule, or of a zone that was corrected: the next reading brings them in line.
    cold = found != open_alerts
    return WarmStart(newest, None if cold else state, cold)


@dataclass(frozen=True, slots=True)
class StoredHistories:
    """What the store says of patients: newest reading (ms, -1: none), newest settled point, readings that matter there.

    A patient with readings and without a settled point has one that lies too far back. `open`: the episodes that were
    open after the newest reading, with their beginnings.
    """

    newest: dict[int, int]
    settled: dict[int, int]
    open: dict[int, set[tuple[Key, int]]]
    series: dict[int, ReadingSeries]
    readings: int


async def gather(connection: Connection, patients: Sequence[WatchedPatient]) -> StoredHistories:
    """Read what has to be folded of patients (all of one code)."""
    if not patients:
        return StoredHistories({}, {}, {}, {}, 0)
    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")
        newest = await newest_of(connection, patients)
        quiet = {watched.patient: quiet_ms(watched.code, watched.rules) for watched in patients}
        episodes = await _episodes(connection, patients[0].code, newest, quiet)
        found = {
            patient: settled_before([one for _, one in episodes[patient]], at + 1, quiet[patient])
            for patient, at in newest.items()
            if at >= 0
        }
        # What ended before that was not asked for.
        settled = {patient: at for patient, at in found.items() if at >= newest[patient] - LOOK_BACK_MS}
        since = [
            (watched, settled[watched.patient] - quiet[watched.patient])
            for watched in patients
            if watched.patient in settled
        ]
        rows = await _readings(connection, patients[0].code, since)
    still = {
        patient: {
            (key, one.opened_at) for key, one in found if one.resolved_at is None or one.resolved_at > newest[patient]
        }
        for patient, found in episodes.items()
    }
    return StoredHistories(newest, settled, still, dict(_by_patient(rows)), len(rows.at))


async def newest_of(connection: Connection, patients: Sequence[WatchedPatient]) -> dict[int, int]:
    """Return each patient's newest reading over all devices, ms; -1 where there is none."""
    pairs = [
        (watched.patient, device, max(since, EARLIEST_MS))
        for watched in patients
        for device, since in zip(watched.devices, watched.worn_from, strict=True)
    ]
    parameters = {
        "patient": np.array([patient for patient, _, _ in pairs], np.int32),
        "device": np.array([device for _, device, _ in pairs], np.int32),
        "since": np.array([since for _, _, since in pairs], np.int64),
        "code": int(patients[0].code),
    }
    newest = dict.fromkeys((watched.patient for watched in patients), -1)
    for patient, at in await (await connection.execute(SQL.newest_of, parameters)).fetchall():
        newest[patient] = max(newest[patient], at)
    return newest


async def _episodes(
    connection: Connection, code: Code, newest: dict[int, int], quiet: dict[int, int]
) -> defaultdict[int, list[tuple[Key, Episode]]]:
    """Return each patient's episodes of lately, as alerts stand for them."""
    asked = [patient for patient, at in newest.items() if at >= 0]
    parameters = {
        "rules": list(rules_about(code)),
        "patient": np.array(asked, np.int32),
        "since": np.array([newest[patient] - quiet[patient] - LOOK_BACK_MS for patient in asked], np.int64),
    }
    episodes: defaultdict[int, list[tuple[Key, Episode]]] = defaultdict(list)
    for patient, rule, subject, opened_at, resolved_at in await (
        await connection.execute(SQL.alerts_since, parameters)
    ).fetchall():
        key = (Rule(rule), subject)
        if is_about(code, key):
            episodes[patient].append((key, Episode(opened_at, resolved_at, Severity.LOW)))
    return episodes


async def _readings(connection: Connection, code: Code, patients: Sequence[tuple[WatchedPatient, int]]) -> ReadingRows:
    """Return the readings of all these patients from their starts on, in any order; of each device at most PAGE + 1."""
    pairs = [(watched.patient, device, since) for watched, since in patients for device in watched.devices]
    parameters = {
        "patient": [patient for patient, _, _ in pairs],
        "device": [device for _, device, _ in pairs],
        "since": [since for _, _, since in pairs],
        "code": int(code),
        "limit": PAGE + 1,
    }
    async with connection.cursor() as cursor, cursor.copy(SQL.copy_readings, parameters) as copy:
        return parse_readings(b"".join([bytes(block) async for block in copy]))


def _by_patient(rows: ReadingRows) -> Iterator[tuple[int, ReadingSeries]]:
    """Yield each patient's readings in order of time."""
    order = np.lexsort((rows.at, rows.patient))
    patient: NDArray[np.int32] = rows.patient[order]
    series = ReadingSeries(rows.at, rows.value, rows.unit, rows.flags).take(order)
    edges = np.flatnonzero(np.diff(patient, prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield int(patient[start]), series.take(slice(start, end))
