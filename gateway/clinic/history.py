"""One patient's history in the store: readings, nights and doses, in the form that the rules take."""

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.rows import class_row, kwargs_row

from devices.vocabulary import Code, Modality
from gateway.clinic.doses import DoseRow
from gateway.clinic.patient_rules import rules_of
from gateway.clinic.zones import zone_of
from gateway.store.queries import load_queries
from streaming.doses.matching import DoseOutcome
from streaming.hrv.nights import NightValue
from streaming.readings import ReadingSeries
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "history.sql")

Connection = psycopg.AsyncConnection[Any]

ROWS_AT_ONCE: Final = 50_000
"""A heart rate each second makes 86,400 rows a day: rows are turned into arrays as they arrive."""


@dataclass(frozen=True, slots=True)
class PatientHistory:
    """One patient's readings by code, in order of time, and all nights and doses that were over at its end."""

    readings: Mapping[Code, ReadingSeries]
    nights: Sequence[NightValue]
    doses: Sequence[DoseOutcome]


@dataclass(frozen=True, slots=True)
class Person:
    """Where a patient lives, which rules watch the patient, and whether a signal lost at night matters."""

    id: int
    zone: ZoneHistory
    rules: RulesHistory
    night_watch: bool


async def people(connection: Connection, patients: Sequence[int]) -> list[Person]:
    """Return those of the patients who exist, in the order given."""
    rows = await (await connection.execute(SQL.patients, {"patients": list(patients)})).fetchall()
    watched: dict[int, bool] = dict(rows)
    return [
        Person(patient, await zone_of(connection, patient), await rules_of(connection, patient), watched[patient])
        for patient in patients
        if patient in watched
    ]


async def patient_history(
    connection: Connection, patient: int, codes: Collection[Code], since_ms: int, until_ms: int
) -> PatientHistory:
    """Read a patient's history up to `until_ms` in one snapshot; readings of these codes from `since_ms` on."""
    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")
        readings = {code: await _readings(connection, patient, code, since_ms, until_ms) for code in codes}
        about = {"patient": patient, "until": until_ms}
        async with connection.cursor(row_factory=kwargs_row(_night)) as cursor:
            nights = await (await cursor.execute(SQL.nights, about)).fetchall()
        async with connection.cursor(row_factory=class_row(DoseRow)) as cursor:
            doses = [row.outcome() for row in await (await cursor.execute(SQL.doses, about)).fetchall()]
    return PatientHistory({code: series for code, series in readings.items() if len(series)}, nights, doses)


async def _readings(connection: Connection, patient: int, code: Code, since_ms: int, until_ms: int) -> ReadingSeries:
    at, value, unit, flags = array("q"), array("d"), array("h"), array("h")
    about = {"patient": patient, "code": int(code), "since": since_ms, "until": until_ms}
    async with connection.cursor("history") as cursor:
        await cursor.execute(SQL.readings, about)
        while rows := await cursor.fetchmany(ROWS_AT_ONCE):
            at.extend(row[0] for row in rows)
            value.extend(row[1] for row in rows)
            unit.extend(row[2] for row in rows)
            flags.extend(row[3] for row in rows)
    return ReadingSeries(
        np.array(at, np.int64), np.array(value, np.float64), np.array(unit, np.int16), np.array(flags, np.int16)
    )


def _night(*, modality: str, **row: Any) -> NightValue:
    return NightValue(**row, modality=Modality(modality))
