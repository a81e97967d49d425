"""Devices: their status, and their wearers."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.database import fetch_all, fetch_value
from api.dependencies import TheSession
from api.openapi import problems
from api.pages import CursorText, Limit, Page, page, read_cursor
from api.problems import not_found
from devices.vocabulary import DeviceModel
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "devices.sql")
router = APIRouter(prefix="/devices", tags=["devices"])


class DeviceStatus(BaseModel):
    """The last status of a device; null: it never sent one."""

    online: bool | None
    battery: float | None = Field(description="%")
    firmware: str | None
    status_at: datetime | None = Field(description="When the last status arrived.")
    contact_at: datetime | None = Field(description="When anything last arrived.")
    clock_offset_ms: int | None = Field(description="How far its clock seems to be ahead; null: unknown.")


class Device(BaseModel):
    """A wearable, a pill box, or an edge box that speaks for other devices."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: DeviceModel
    address: str | None = Field(description="Bluetooth address.")
    via: str | None = Field(description="Id of the edge box that may speak for it.")
    patient_id: str | None = Field(description="Who wears it now.")
    status: DeviceStatus | None
    disabled_at: datetime | None
    created_at: datetime


class Assignment(BaseModel):
    """A device and its wearer in [valid_from, valid_until); null: open-ended."""

    model_config = ConfigDict(frozen=True)

    id: str
    device_id: str
    patient_id: str
    valid_from: datetime | None
    valid_until: datetime | None
    created_at: datetime


@router.get("", summary="The devices you may see, by id", responses=problems())
async def list_devices(session: TheSession, limit: Limit = 50, cursor: CursorText = None) -> Page[Device]:
    """List the devices that a patient of yours wears or wore; administrators see all."""
    (after,) = read_cursor(cursor, str)
    found = await fetch_all(
        session.connection, Device, SQL.devices, {"now": session.now, "after": after, "limit": limit + 1}
    )
    return page(found, limit, lambda device: (device.id,))


@router.get("/{device_id}/assignments", summary="Who wore a device when", responses=problems(HTTPStatus.NOT_FOUND))
async def list_assignments(
    session: TheSession,
    device_id: Annotated[str, Path(max_length=64)],
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Page[Assignment]:
    """List assignments, the latest first; wearers whom you may not see are left out."""
    (after,) = read_cursor(cursor, int)
    if "\0" in device_id:
        raise not_found()
    key = await fetch_value(session.connection, SQL.device_key, {"device": device_id})
    if key is None:
        raise not_found()
    found = await fetch_all(
        session.connection,
        Assignment,
        SQL.assignments,
        {"device": device_id, "key": key, "after": after, "limit": limit + 1},
    )
    return page(found, limit, lambda assignment: (int(assignment.id),))
