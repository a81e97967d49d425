"""Readings over time, in buckets for a chart."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_all, fetch_value
from api.dependencies import TheSession, Time
from api.openapi import problems
from api.patients import patient_devices, seen_patient
from api.problems import invalid
from devices.vocabulary import CODE_BY_WIRE, Code
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "trends.sql")
router = APIRouter(prefix="/patients", tags=["patients"])

CodeName = Literal[
    "glucose",
    "heart_rate",
    "rr_interval",
    "spo2",
    "body_temperature",
    "systolic_pressure",
    "diastolic_pressure",
    "body_weight",
    "step_count",
    "battery",
]
MAX_POINTS: Final = 2000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400
_WIDTHS: Final = (
    *(1, 2, 5, 10, 15, 20, 30),
    *(minutes * 60 for minutes in (1, 2, 5, 10, 15, 20, 30)),
    *(hours * 3600 for hours in (1, 2, 3, 4, 6, 8, 12)),
)
"""Seconds; each divides a day, so that buckets begin at round times of day in UTC."""


class TrendPoint(BaseModel):
    """The readings of one bucket; the numbers are null if the sensor gave none (LO, HI)."""

    model_config = ConfigDict(frozen=True)

    time: datetime = Field(
        description="Beginning of the bucket; may lie before `start`, readings before it do not count."
    )
    mean: float | None
    min: float | None
    max: float | None
    count: int = Field(description="Stored readings, including those without a number.")


class Trend(BaseModel):
    """Readings of one code in [start, end), empty buckets left out."""

    code: CodeName
    unit: str = Field(description="The canonical unit of the code (UCUM).", examples=["mmol/L"])
    bucket_seconds: int
    points: list[TrendPoint]


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets of `seconds` that tile the time line from `origin`."""

    seconds: int
    origin: datetime


def _widths() -> Iterator[int]:
    yield from _WIDTHS
    for exponent in itertools.count():
        yield from (days * 10**exponent * _DAY for days in (1, 2, 5))


def choose_buckets(start: datetime, end: datetime, points: int) -> Buckets:
    """Return the narrowest round buckets of which at most `points` touch [start, end).

    They are aligned to the epoch, so that a chart that moves keeps its buckets. A single bucket cannot be: it begins at
    `start`.
    """
    microsecond = timedelta(microseconds=1)
    first, last = (start - EPOCH) // microsecond, (end - EPOCH) // microsecond - 1
    if points == 1:
        return Buckets(-(-(last + 1 - first) // 1_000_000), start)
    for seconds in _widths():
        width = seconds * 1_000_000
        if last // width - first // width < points:
            return Buckets(seconds, EPOCH)
    raise AssertionError("the widths have no end")


@router.get("/{patient_id}/trends", summary="Readings over time", responses=problems(HTTPStatus.NOT_FOUND))
async def get_trend(
    session: TheSession,
    patient_id: str,
    code: Annotated[CodeName, Query()],
    start: Annotated[Time, Query(description="First moment.")],
    end: Annotated[Time, Query(description="The moment after the last.")],
    points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="How many buckets at most.")] = 300,
) -> Trend:
    """Mean, minimum, maximum and count per bucket, in the code's canonical unit, over all the patient's devices."""
    if end <= start:
        raise invalid("query.end", "end must be later than start")
    connection = session.connection
    patient = await seen_patient(connection, patient_id)
    number = CODE_BY_WIRE[code]
    buckets = choose_buckets(start, end, points)
    found = await fetch_all(
        connection,
        TrendPoint,
        SQL.rr_trend if number is Code.RR_INTERVAL else SQL.trend,
        {
            "patient": patient,
            "devices": await patient_devices(connection, patient),
            "code": int(number),
            "start": start,
            "end": end,
            "width": timedelta(seconds=buckets.seconds),
            "origin": buckets.origin,
        },
    )
    unit = await fetch_value(connection, SQL.canonical_unit, {"code": int(number)})
    return Trend(code=code, unit=unit, bucket_seconds=buckets.seconds, points=found)
