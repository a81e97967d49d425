"""Patients, their nights and their doses."""

from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_all, fetch_one, fetch_value
from api.dependencies import INT4_MAX, TheSession, Time, row_key
from api.openapi import problems
from api.pages import CursorText, Limit, Page, page, read_cursor
from api.problems import invalid, not_found
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "patients.sql")
router = APIRouter(prefix="/patients", tags=["patients"])

_DOSES_BACK = timedelta(days=7)
_DOSES_AHEAD = timedelta(days=1)


class Patient(BaseModel):
    """A patient."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    timezone: str | None = Field(description="IANA zone in which the patient lives now.", examples=["Asia/Shanghai"])
    group: Literal["new", "fluctuating", "stable"]
    hypoglycaemia_risk: bool
    consent: bool = Field(description="Whether a consent is in force now; without one, data are refused.")
    created_at: datetime


class ZoneSince(BaseModel):
    """A time zone and since when the patient lives by it; null: always."""

    timezone: str
    valid_from: datetime | None


class ExpectedCode(BaseModel):
    """What the patient is expected to send, and how often."""

    code: str
    interval_seconds: float


class WornDevice(BaseModel):
    """A device the patient wears now, and since when; null: always."""

    id: str
    model: str
    since: datetime | None


class PatientDetails(Patient):
    """A patient with everything that the rules need to know."""

    timezones: list[ZoneSince]
    expected: list[ExpectedCode]
    devices: list[WornDevice]


class HrvNight(BaseModel):
    """Heart-rate variability of one night, 00:00-06:00 local; medians over the night's valid 5-min windows."""

    model_config = ConfigDict(frozen=True)

    night: date = Field(description="Local date on which the night ends.")
    starts_at: datetime
    ends_at: datetime
    modality: Literal["ecg", "ppg"] = Field(
        description="What most of the night was measured with: electrodes, or light (pulse-rate variability)."
    )
    windows: int = Field(description="Valid 5-min windows of that modality; a night counts with 12.")
    rmssd: float | None = Field(description="ms")
    sdnn: float | None = Field(description="ms")
    mean_heart_rate: float | None = Field(description="/min")
    ln_rmssd: float | None = Field(description="Natural logarithm of RMSSD in ms; the scale of what follows.")
    baseline: float | None = Field(
        description="Centre of the nights of its modality in the 60 days before; null below 7."
    )
    band_low: float | None = Field(description="Baseline − 0.5 SD, the smallest worthwhile change.")
    band_high: float | None = Field(description="Baseline + 0.5 SD.")
    rolling_mean: float | None = Field(description="7-day mean, to be compared with the band; null below 3 nights.")
    z: float | None = Field(description="The night standardised by the baseline.")
    drift: bool = Field(description="The sequential test says that the patient has drifted away from the baseline.")


class Dose(BaseModel):
    """One dose, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    schedule_id: str
    medication: str
    compartment: int | None
    critical: bool
    due_at: datetime
    window_start: datetime
    window_end: datetime
    state: Literal["due", "taken", "early", "late", "missed", "doubled", "skipped", "paused", "unknown"]
    taken_at: datetime | None = Field(description="Event time of the opening that settled it.")


async def seen_patient(connection: AsyncConnection, patient_id: str) -> int:
    """Return the key of a patient whom the user may see. Raises ProblemError 404."""
    key = row_key(patient_id, INT4_MAX)
    if not await fetch_value(connection, SQL.patient_exists, {"patient": key}):
        raise not_found()
    return key


async def patient_devices(connection: AsyncConnection, patient: int) -> list[int]:
    """Return the keys of every device that the patient ever had."""
    return cast("list[int]", await fetch_value(connection, SQL.patient_devices, {"patient": patient}))


@router.get("", summary="The patients you may see, by name", responses=problems())
async def list_patients(session: TheSession, limit: Limit = 50, cursor: CursorText = None) -> Page[Patient]:
    """List patients: administrators see all, doctors and nurses those of their care team."""
    name, key = read_cursor(cursor, str, int)
    found = await fetch_all(
        session.connection,
        Patient,
        SQL.patients,
        {"now": session.now, "after_name": name, "after_id": key, "limit": limit + 1},
    )
    return page(found, limit, lambda patient: (patient.name, int(patient.id)))


@router.get("/{patient_id}", summary="One patient", responses=problems(HTTPStatus.NOT_FOUND))
async def get_patient(session: TheSession, patient_id: str) -> PatientDetails:
    """Return a patient with time zones and their validity, expected codes, and the devices worn now."""
    key = row_key(patient_id, INT4_MAX)
    found = await fetch_one(session.connection, PatientDetails, SQL.patient, {"now": session.now, "patient": key})
    if found is None:
        raise not_found()
    return found


@router.get(
    "/{patient_id}/hrv/nights", summary="Heart-rate variability by night", responses=problems(HTTPStatus.NOT_FOUND)
)
async def list_hrv_nights(
    session: TheSession,
    patient_id: str,
    days: Annotated[
        int, Query(ge=1, le=366, description="How many nights back from today, the last one included.")
    ] = 30,
) -> Page[HrvNight]:
    """All nights of the last `days` that have data, oldest first, in one page."""
    key = await seen_patient(session.connection, patient_id)
    nights = await fetch_all(
        session.connection, HrvNight, SQL.hrv_nights, {"patient": key, "now": session.now, "days": days}
    )
    return Page(items=nights, next=None)


@router.get("/{patient_id}/doses", summary="Doses and their states", responses=problems(HTTPStatus.NOT_FOUND))
async def list_doses(
    session: TheSession,
    patient_id: str,
    start: Annotated[Time | None, Query(description="Due at or after this; a week ago unless given.")] = None,
    end: Annotated[Time | None, Query(description="Due before this; a day ahead unless given.")] = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Page[Dose]:
    """Every dose due in [start, end), oldest first."""
    start = start or (end or session.now) - _DOSES_BACK
    end = end or max(session.now, start) + _DOSES_AHEAD
    if end <= start:
        raise invalid("query.end", "end must be later than start")
    key = await seen_patient(session.connection, patient_id)
    after_due, after_id = read_cursor(cursor, datetime, int)
    found = await fetch_all(
        session.connection,
        Dose,
        SQL.doses,
        {"patient": key, "start": start, "end": end, "after_due": after_due, "after_id": after_id, "limit": limit + 1},
    )
    return page(found, limit, lambda dose: (dose.due_at, int(dose.id)))
