"""Data that was refused: the quarantine, and readings that contradict a stored one."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_all
from api.dependencies import INT4_MAX, PatientFilter, TheSession, filter_key
from api.openapi import problems
from api.pages import CursorText, Limit, Page, page, read_cursor
from devices.vocabulary import Reason
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "refusals.sql")
router = APIRouter(tags=["refusals"])


class Refused(BaseModel):
    """A quarantined message, or parts of one."""

    model_config = ConfigDict(frozen=True)

    id: str
    received_at: datetime
    topic: str
    device_id: str | None = Field(description="As in the topic; the device may not exist.")
    patient_id: str | None
    reason: Reason
    detail: str = Field(description="Why, in a sentence.")
    series: list[int] | None = Field(description="Which series or events of the message; null: all of it.")
    samples: list[int] | None = Field(description="Which samples of the one series; null: all of it.")
    content_type: str | None
    payload: str | None = Field(description="The bytes as they came, base64, the first 4 KiB; null: not kept.")
    payload_bytes: int = Field(description="Length of the whole message.")
    payload_sha256: str = Field(description="SHA-256 of the whole message, hexadecimal.")
    replayed_at: datetime | None


class Conflict(BaseModel):
    """A reading with the device, code and time of a stored one, but another value. The stored one counts."""

    model_config = ConfigDict(frozen=True)

    id: str
    device_id: str
    patient_id: str
    code: str
    at: datetime
    value: float | None
    unit: str
    flags: list[str]
    kept_value: float | None = Field(description="The value that was stored first.")
    kept_unit: str
    received_at: datetime


@router.get("/quarantine", summary="What was refused, latest first", responses=problems())
async def list_quarantine(
    session: TheSession,
    reason: Annotated[Reason | None, Query(description="Only what was refused for this.")] = None,
    device_id: Annotated[
        str | None, Query(max_length=64, pattern=r"^[^\x00]*$", description="Only what this device sent.")
    ] = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Page[Refused]:
    """List quarantined messages; those that belong to nobody known are shown to administrators only."""
    (after,) = read_cursor(cursor, int)
    found = await fetch_all(
        session.connection,
        Refused,
        SQL.quarantine,
        {"reason": reason, "device": device_id, "after": after, "limit": limit + 1},
    )
    return page(found, limit, lambda refused: (int(refused.id),))


@router.get("/conflicts", summary="Readings that contradict a stored one, latest first", responses=problems())
async def list_conflicts(
    session: TheSession, patient_id: PatientFilter = None, limit: Limit = 50, cursor: CursorText = None
) -> Page[Conflict]:
    """List conflicts, each beside the value that was stored first."""
    (after,) = read_cursor(cursor, int)
    found = await fetch_all(
        session.connection,
        Conflict,
        SQL.conflicts,
        {"patient": filter_key(patient_id, INT4_MAX), "after": after, "limit": limit + 1},
    )
    return page(found, limit, lambda conflict: (int(conflict.id),))
