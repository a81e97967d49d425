"""The picture of a patient's night, drawn from the store."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Response
from psycopg import AsyncConnection

from api.database import fetch_all, fetch_value
from api.dependencies import Caller, Now, Services, check_standing
from api.glucose import stored_glucose
from api.openapi import problems
from api.patients import patient_devices, seen_patient
from api.pictures.night import (
    AlertSpan,
    DoseMark,
    Format,
    GlucoseUnit,
    HeartRate,
    Limit,
    NightPicture,
    draw_night,
    night_span,
)
from api.problems import RETRY_SOON, ProblemError
from devices.units import to_canonical
from devices.vocabulary import Code, Flag
from gateway.clinic.patient_rules import rules_of
from gateway.clinic.zones import zone_of
from gateway.store.queries import load_queries
from streaming.episodes import Rule
from streaming.glucose.values import GLUCOSE_UNITS, counts, merge
from streaming.readings import Float64, ReadingSeries
from streaming.rules.history import PatientRules

SQL = load_queries("api.sql", "nights.sql")
router = APIRouter(prefix="/patients", tags=["patients"])

PictureFormat = Literal["svg", "png"]
MEDIA_TYPES: Final[dict[PictureFormat, str]] = {"svg": "image/svg+xml", "png": "image/png"}
SVG_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""An SVG opened by itself needs its own inline styles, and nothing else."""
MAX_WAITING: Final = 20
_UNUSABLE: Final = int(Flag.ARTIFACT | Flag.OFF_BODY)
_NAMED_LIMITS: Final = (
    (Rule.URGENT_LOW, "urgent"),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, "night"),
    (Rule.HYPOGLYCAEMIA, "low"),
    (Rule.HYPERGLYCAEMIA, "high"),
)


@dataclass(frozen=True, slots=True)
class _Beats:
    at: int
    value: float


class _Drawer:
    """Draws one picture after the other off the event loop; nobody holds a database connection while waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        self._waiting = 0

    async def draw(self, night: NightPicture, form: Format, unit: GlucoseUnit) -> bytes:
        """Return the picture. Raises ProblemError 503 if too many are requested at once: each of them takes memory."""
        if self._waiting >= MAX_WAITING:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pictures are being drawn.", headers=RETRY_SOON)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: draw_night(night, form, unit=unit)
            )
        finally:
            self._waiting -= 1


_drawer = _Drawer()
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    **problems(HTTPStatus.NOT_FOUND),
    200: {
        "description": "The picture; an SVG has a title and a description in words.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
    },
}


@router.get(
    "/{patient_id}/nights/{night}/picture",
    summary="The picture of a night",
    response_class=Response,
    responses=_RESPONSES,
)
async def get_night_picture(
    token: Caller,
    services: Services,
    now: Now,
    patient_id: str,
    night: Annotated[
        date, Path(ge=date(2000, 1, 1), lt=date(2200, 1, 1), description="Local date on which the night ends.")
    ],
    form: Annotated[PictureFormat, Query(alias="format")] = "svg",
    unit: Annotated[GlucoseUnit, Query(description="The unit of the axis.")] = "mmol/L",
) -> Response:
    """Glucose from 22:00 to 08:00 local with the limits of that night's rules, heart rate, alerts and doses."""
    now_ms = math.floor(now.timestamp() * 1000)
    async with services.database.as_user(token.user_id) as connection:
        await check_standing(connection, token)
        patient = await seen_patient(connection, patient_id)
        picture = await _stored_night(connection, patient, night, now_ms)
    headers = {"Content-Disposition": f'inline; filename="night-{night}.{form}"'}
    if form == "svg":
        headers["Content-Security-Policy"] = SVG_POLICY
    return Response(await _drawer.draw(picture, form, unit), media_type=MEDIA_TYPES[form], headers=headers)


async def _stored_night(connection: AsyncConnection, patient: int, night: date, now_ms: int) -> NightPicture:
    """Return the contents of a night's picture."""
    zone = await zone_of(connection, patient)
    start, end = night_span(zone, night)
    series = await stored_glucose(connection, patient, start, end)
    rules = (await rules_of(connection, patient)).at((start + end) // 2)
    merged, unused = merge(series), series.take(~counts(series.value, series.flags))
    span = {"patient": patient, "start": start, "end": end}
    return NightPicture(
        label=await fetch_value(connection, SQL.patient_name, span),
        zone=zone,
        start_ms=start,
        end_ms=end,
        at=np.concatenate((merged.at, unused.at)),
        mmol=np.concatenate((_mmol(merged), _mmol(unused))),
        flags=np.concatenate((merged.flags, unused.flags)),
        limits=_limits(rules),
        alerts=await fetch_all(connection, AlertSpan, SQL.alerts, span),
        doses=await fetch_all(connection, DoseMark, SQL.doses, span),
        heart_rate=await _heart_rate(connection, patient, start, end),
        now_ms=now_ms,
    )


async def _heart_rate(connection: AsyncConnection, patient: int, start: int, end: int) -> HeartRate | None:
    rows = await fetch_all(
        connection,
        _Beats,
        SQL.heart_rate,
        {
            "patient": patient,
            "devices": await patient_devices(connection, patient),
            "code": int(Code.HEART_RATE),
            "start": start,
            "end": end,
            "unusable": _UNUSABLE,
        },
    )
    if not rows:
        return None
    return HeartRate(np.array([row.at for row in rows], dtype=np.int64), np.array([row.value for row in rows]))


def _mmol(series: ReadingSeries) -> Float64:
    mmol = np.full(len(series), np.nan)
    for unit in GLUCOSE_UNITS:
        rows = series.unit == unit
        mmol[rows] = to_canonical(Code.GLUCOSE, unit, series.value[rows])
    return mmol


def _limits(rules: PatientRules) -> list[Limit]:
    """Return the limits that watch the patient; one shared by several rules has the name of the first."""
    named: dict[float, str] = {}
    for rule, name in _NAMED_LIMITS:
        settings = rules.of(rule)
        if settings is not None:
            named.setdefault(settings.limit_mmol, name)
    return [Limit(mmol, name) for mmol, name in named.items()]
