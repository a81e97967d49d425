"""What a doctor wants to see beside an alert about readings: those of the last 2 h, the night's heart, the day's doses."""

from collections.abc import Sequence
from typing import Any

import psycopg

from devices.vocabulary import Code
from gateway.store.queries import load_queries
from streaming.episodes import JSON
from streaming.zones import DAY_MS, HOUR_MS

SQL = load_queries("gateway.store", "evidence.sql")

BEFORE_MS = 2 * HOUR_MS
NIGHT_MS = 6 * HOUR_MS


async def evidence_of(
    connection: psycopg.AsyncConnection[Any], code: Code, patient_id: int, devices: Sequence[int], opened_at: int
) -> dict[str, JSON]:
    """Return evidence as JSON; times are ms since the epoch, values as the sensor sent them."""
    of_patient = {"patient": patient_id, "devices": list(devices), "until": opened_at}
    night = {**of_patient, "since": opened_at - NIGHT_MS}
    before = {**of_patient, "since": opened_at - BEFORE_MS, "code": int(code)}
    async with connection.pipeline():  # four questions, one round trip
        told = await connection.execute(SQL.evidence_readings, before)
        heart_rate = await connection.execute(SQL.evidence_heart_rate, night)
        variability = await connection.execute(SQL.evidence_hrv, night)
        due = await connection.execute(SQL.evidence_doses, {**of_patient, "since": opened_at - DAY_MS})
    readings, doses = await told.fetchall(), await due.fetchall()
    heart, hrv = await heart_rate.fetchone(), await variability.fetchone()
    evidence: dict[str, JSON] = {
        code.wire: [
            {"at": at, "value": value, "unit": unit, "flags": list(flags)}
            for at, value, unit, flags in reversed(readings)
        ],
        "doses": [
            {"medication": medication, "due_at": due_at, "state": state, "taken_at": taken_at}
            for medication, due_at, state, taken_at in doses
        ],
    }
    if heart is not None and heart[1] and code is not Code.HEART_RATE:
        evidence["heart_rate"] = {"mean": round(heart[0], 1), "unit": "/min", "readings": heart[1]}
    if hrv is not None and hrv[1]:
        evidence["hrv"] = {"median_rmssd": round(hrv[0], 1), "unit": "ms", "windows": hrv[1]}
    return evidence
