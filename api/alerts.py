"""Alerts, their details and history, and the live stream."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import StreamingResponse
from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict, Field

from alerts.reconcile import VERY_LOW, Action
from api.alert_actions import SQL, act
from api.alert_view import Alert, AlertState, Severity
from api.database import fetch_all
from api.dependencies import (
    INT4_MAX,
    INT8_MAX,
    Caller,
    Now,
    PatientFilter,
    Services,
    Session,
    TheSession,
    check_standing,
    filter_key,
    row_key,
)
from api.openapi import problems
from api.pages import CursorText, Limit, Page, page, read_cursor
from api.problems import invalid, not_found
from api.streams import AlertStream

router = APIRouter(prefix="/alerts", tags=["alerts"])


class HistoryEntry(BaseModel):
    """Something that happened to an alert."""

    model_config = ConfigDict(frozen=True)

    id: str
    at: datetime
    action: str = Field(examples=["raised", "acknowledged", "resolved"])
    actor: str | None = Field(description="Id of the user who did it; null: Vigil itself.")
    actor_email: str | None
    note: str | None
    detail: dict[str, Any] | None


class Delivery(BaseModel):
    """One delivery of an alert."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Of the channel `stream`: the id of the event.")
    channel: str = Field(examples=["stream"])
    action: str = Field(description="The change that was delivered.")
    at: datetime


class AlertDetails(Alert):
    """An alert with everything that happened to it."""

    history: list[HistoryEntry]
    deliveries: list[Delivery]


class Remark(BaseModel):
    """A note to store with the action, and the grade of the alert that was acted upon."""

    grade: int | None = Field(
        None,
        ge=1,
        le=VERY_LOW,
        description="The grade that the person saw, by default the present one. If the alert is worse by now, the answer is"
        " kept in its history, and it stays open.",
    )
    note: str | None = Field(None, min_length=1, max_length=2000, pattern=r"^[^\x00]*$", examples=["Ate at 03:20."])


RemarkBody = Annotated[Remark | None, Body()]
_NOT_FOUND = problems(HTTPStatus.NOT_FOUND)
_ACTION_PROBLEMS = problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus(413))
_STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    **problems(HTTPStatus(422), HTTPStatus.TOO_MANY_REQUESTS),
    200: {
        "description": "Events until the token runs out. `data` of each is an Alert.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: alert\nid: 1042\ndata: {"id":"41","state":"open"}\n\n',
            }
        },
        "headers": {
            "Last-Event-ID": {
                "description": "Where the stream begins: resume here when it breaks before its first event.",
                "schema": {"type": "string"},
            }
        },
    },
}


@router.get("", summary="Alerts, latest first", responses=problems())
async def list_alerts(
    session: TheSession,
    state: Annotated[
        list[AlertState] | None, Query(description="Only these states; all but withdrawn unless given. Repeatable.")
    ] = None,
    severity: Annotated[list[Severity] | None, Query(description="Only these severities. Repeatable.")] = None,
    patient_id: PatientFilter = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Page[Alert]:
    """List alerts in the order in which they were raised, the latest first."""
    (after,) = read_cursor(cursor, int)
    async with session.connection.cursor(row_factory=dict_row) as found:
        await found.execute(
            SQL.alerts,
            {
                "states": state,
                "severities": severity,
                "patient": filter_key(patient_id, INT4_MAX),
                "after": after,
                "limit": limit + 1,
            },
        )
        alerts = [Alert.model_validate(row) for row in await found.fetchall()]
    return page(alerts, limit, lambda alert: (int(alert.id),))


@router.get(
    "/stream",
    summary="Live alerts (server-sent events)",
    response_class=StreamingResponse,
    response_model=None,
    responses=_STREAM_RESPONSES,
)
async def stream_alerts(
    token: Caller,
    services: Services,
    now: Now,
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="Id of the last event you have; the stream goes on after it.")
    ] = None,
    from_query: Annotated[
        str | None, Query(alias="last_event_id", max_length=20, description="The same, where headers cannot be set.")
    ] = None,
) -> AlertStream:
    """Every change of an alert that you may see, as it is committed: `event: alert`, `id`, `data`.

    Starts now, or after the event named. Ids rise in the order of commits, so a resumed stream skips nothing. It ends
    when the token expires or the account changes; comments come every 15 s while nothing happens.
    """
    async with services.database.as_user(token.user_id) as connection:
        await check_standing(connection, token)
    wanted = last_event_id or from_query
    if wanted and not (wanted.isascii() and wanted.isdecimal() and int(wanted) <= INT8_MAX):
        raise invalid("header.last-event-id", "An event id is a number.")
    head = await services.streams.head()
    # An id from the future can only come from another database: start where this one is.
    return services.streams.subscribe(token, min(int(wanted), head) if wanted else head, now)


@router.get("/{alert_id}", summary="One alert", responses=_NOT_FOUND)
async def get_alert(session: TheSession, alert_id: str) -> AlertDetails:
    """Return an alert with its evidence, its history, and its deliveries."""
    key = {"alert": row_key(alert_id)}
    async with session.connection.cursor(row_factory=dict_row) as found:
        await found.execute(SQL.alert, key)
        row = await found.fetchone()
    if row is None:
        raise not_found()
    history = await fetch_all(session.connection, HistoryEntry, SQL.history, key)
    deliveries = await fetch_all(session.connection, Delivery, SQL.deliveries, key)
    return AlertDetails.model_validate({**row, "history": history, "deliveries": deliveries})


@router.post("/{alert_id}/acknowledge", summary="Acknowledge an alert", responses=_ACTION_PROBLEMS)
async def acknowledge_alert(session: TheSession, alert_id: str, remark: RemarkBody = None) -> Alert:
    """Acknowledge an alert. Doing so again changes nothing; a resolved or withdrawn alert refuses it.

    An answer holds for the grade that was seen: an alert that becomes worse while it goes on is open again.
    """
    return await _answer(session, alert_id, Action.ACKNOWLEDGED, remark)


@router.post("/{alert_id}/resolve", summary="Resolve an alert", responses=_ACTION_PROBLEMS)
async def resolve_alert(session: TheSession, alert_id: str, remark: RemarkBody = None) -> Alert:
    """Resolve an alert. Doing so again changes nothing; a withdrawn alert refuses it.

    An answer holds for the grade that was seen: an alert that becomes worse while it goes on is open again.
    """
    return await _answer(session, alert_id, Action.RESOLVED, remark)


async def _answer(session: Session, alert_id: str, action: Action, remark: Remark | None) -> Alert:
    said = remark or Remark()
    return await act(session, row_key(alert_id), action, said.note, said.grade)
