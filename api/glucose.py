"""Glucose over days: the consensus CGM report, and the stored readings behind it and the pictures."""

import asyncio
import math
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final

import numpy as np
from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_one
from api.dependencies import Caller, Now, Services, check_standing
from api.openapi import problems
from api.patients import patient_devices, seen_patient
from api.problems import ProblemError
from api.trends import EPOCH
from gateway.clinic.zones import zone_of
from gateway.store.queries import load_queries
from streaming.glucose.summary import PERCENTILES, PROFILE_MINUTES, DailyProfile, summarise
from streaming.glucose.values import merge
from streaming.readings import ReadingSeries
from streaming.zones import DAY_MS, MINUTE_MS, ZoneHistory

SQL = load_queries("api.sql", "glucose.sql")
router = APIRouter(prefix="/patients", tags=["patients"])

MAX_READINGS: Final = 500_000
"""90 days of three sensors that read once a minute; 10 MB."""
# Takes a fifth of the time that rows would, most of which the event loop would spend on making Python objects.
_ROW: Final = np.dtype([("at", ">i8"), ("value", ">f8"), ("unit", ">i2"), ("flags", ">i2")])
_YEAR_2000_MS: Final = 946_684_800_000
"""The epoch of PostgreSQL's timestamps."""


class TimesInRanges(BaseModel):
    """Shares of the active time in percent. Below 3.9 mmol/L includes below 3.0, above 10.0 includes above 13.9."""

    in_range: float = Field(description="3.9–10.0 mmol/L (70–180 mg/dL).")
    low_1: float = Field(description="Below 3.9 mmol/L (70 mg/dL).")
    low_2: float = Field(description="Below 3.0 mmol/L (54 mg/dL).")
    high_1: float = Field(description="Above 10.0 mmol/L (180 mg/dL).")
    high_2: float = Field(description="Above 13.9 mmol/L (250 mg/dL).")


class Episodes(BaseModel):
    """The episodes of one level, as the consensus counts them."""

    episodes: int
    extended: int = Field(description="Episodes with more than 120 min in a row beyond the limit.")
    minutes: int = Field(description="Their total length.")


class EpisodesByLevel(BaseModel):
    """The limits are those of the times in ranges; a level 2 episode lies inside a level 1 episode, and both count."""

    low_1: Episodes
    low_2: Episodes
    high_1: Episodes
    high_2: Episodes


class ProfilePoint(BaseModel):
    """Percentiles of all readings in one local quarter of an hour, in mmol/L; empty quarters are left out."""

    time: str = Field(description="Local time at which the quarter begins.", examples=["03:15"])
    readings: int
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


class TargetsMet(BaseModel):
    """Which of the consensus's targets for adults were met."""

    time_in_range: bool = Field(description="More than 70 %.")
    time_low_1: bool = Field(description="Less than 4 %.")
    time_low_2: bool = Field(description="Less than 1 %.")
    time_high_1: bool = Field(description="Less than 25 %.")
    time_high_2: bool = Field(description="Less than 5 %.")
    cv: bool = Field(description="At most 36 %.")


class GlucoseReport(BaseModel):
    """The CGM summary of [start, end). Without the readings of a sensor, at most 15 min apart, there are no figures."""

    model_config = ConfigDict(title="GlucoseSummary")

    start: datetime
    end: datetime
    unit: str = Field("mmol/L", description="The unit of all values.")
    readings: int = Field(description="Those that count: warm-up, calibration and artifacts do not; one an instant.")
    cadence_minutes: int | None = Field(None, description="The sensor's interval, by the readings themselves.")
    active_percent: float | None = Field(None, description="Share of the period that is covered by readings.")
    sufficient: bool = Field(False, description="At least 14 days of which at least 70 % were active.")
    mean: float | None = Field(None, description="mmol/L")
    gmi_percent: float | None = Field(
        None, description="Glucose management indicator: the HbA1c that corresponds to the mean."
    )
    cv_percent: float | None = Field(None, description="Coefficient of variation.")
    times: TimesInRanges | None = None
    targets_met: TargetsMet | None = None
    episodes: EpisodesByLevel | None = None
    profile: list[ProfilePoint] = Field(
        default_factory=list, description="The ambulatory glucose profile (AGP), not smoothed."
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    readings: int
    packed: bytes


async def stored_glucose(connection: AsyncConnection, patient: int, start_ms: int, end_ms: int) -> ReadingSeries:
    """Return all stored readings of [start, end) that the caller may see, as sent, in any order.

    Raises ProblemError 422 for more than `MAX_READINGS`.
    """
    devices = await patient_devices(connection, patient)
    span = {"patient": patient, "devices": devices, "start": start_ms, "end": end_ms, "limit": MAX_READINGS + 1}
    found = await fetch_one(connection, _Packed, SQL.readings, span)
    if found is None or found.readings > MAX_READINGS:
        raise ProblemError(HTTPStatus(422), f"These are more than {MAX_READINGS} readings; ask for less time.")
    rows = np.frombuffer(found.packed, dtype=_ROW)
    return ReadingSeries(
        rows["at"].astype(np.int64) // 1000 + _YEAR_2000_MS,
        rows["value"].astype(np.float64),
        rows["unit"].astype(np.int16),
        rows["flags"].astype(np.int16),
    )


@router.get(
    "/{patient_id}/glucose/summary", summary="Glucose by the consensus", responses=problems(HTTPStatus.NOT_FOUND)
)
async def get_glucose_summary(
    token: Caller,
    services: Services,
    now: Now,
    patient_id: str,
    days: Annotated[int, Query(ge=1, le=90, description="How many days of 24 h back from now.")] = 14,
) -> GlucoseReport:
    """Return times in ranges, mean, GMI, CV, daily profile and episodes over all sensors (Battelino 2019)."""
    end_ms = math.floor(now.timestamp() * 1000)
    start_ms = end_ms - days * DAY_MS
    async with services.database.as_user(token.user_id) as connection:
        await check_standing(connection, token)
        patient = await seen_patient(connection, patient_id)
        zone = await zone_of(connection, patient)
        series = await stored_glucose(connection, patient, start_ms, end_ms)
    # After the connection is released, since others wait for it, and off the event loop: a quarter of a year takes a while.
    return await asyncio.to_thread(_report, series, zone, start_ms, end_ms)


def _report(series: ReadingSeries, zone: ZoneHistory, start_ms: int, end_ms: int) -> GlucoseReport:
    period = {"start": _time(start_ms), "end": _time(end_ms)}
    found = summarise(series, zone, start_ms, end_ms)
    if found is None:
        return GlucoseReport(**period, readings=len(merge(series)))
    return GlucoseReport(
        **period,
        readings=found.readings,
        cadence_minutes=found.cadence_ms // MINUTE_MS,
        active_percent=found.active_percent,
        sufficient=found.sufficient,
        mean=found.mean_mmol,
        gmi_percent=found.gmi_percent,
        cv_percent=found.cv_percent,
        times=TimesInRanges.model_validate({"in_range": found.in_range_percent, **found.beyond_percent}),
        targets_met=TargetsMet.model_validate(found.targets_met),
        episodes=EpisodesByLevel.model_validate({level: asdict(count) for level, count in found.episodes.items()}),
        profile=_profile(found.profile),
    )


def _profile(profile: DailyProfile) -> list[ProfilePoint]:
    return [
        ProfilePoint(
            time=f"{row * PROFILE_MINUTES // 60:02d}:{row * PROFILE_MINUTES % 60:02d}",
            readings=readings,
            **{f"p{percent}": value for percent, value in zip(PERCENTILES, percentiles, strict=True)},
        )
        for row, (readings, percentiles) in enumerate(
            zip(profile.readings.tolist(), profile.percentiles.tolist(), strict=True)
        )
        if readings
    ]


def _time(at_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=at_ms)
