"""Dependencies of the handlers: the clock, the process's services, and a session on behalf of the caller."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final, cast

from fastapi import Depends, Query, Request
from fastapi.security import OAuth2PasswordBearer
from psycopg import AsyncConnection
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, WithJsonSchema

from api.database import Database
from api.metrics import ApiMetrics
from api.problems import BEARER, ProblemError, not_found, unauthorized
from api.settings import ApiSettings
from api.sign_in import SignIn, current_role
from api.streams import Streams
from api.tokens import AccessToken, TokenError, read_access_token
from gateway.runtime import clock

CLINICAL_ROLES: Final = frozenset({"admin", "doctor", "nurse"})
INT4_MAX: Final = 2**31 - 1
INT8_MAX: Final = 2**63 - 1

_DECIMAL = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TOKEN_URL = "/api/v1/auth/token"  # noqa: S105 - an address

bearer = OAuth2PasswordBearer(
    tokenUrl=_TOKEN_URL,
    refreshUrl=_TOKEN_URL,
    scheme_name="bearer",
    auto_error=False,
    description="See POST /auth/token.",
)


@dataclass(frozen=True, slots=True)
class ApiServices:
    """The parts of one API process."""

    settings: ApiSettings
    database: Database
    sign_in: SignIn
    streams: Streams
    metrics: ApiMetrics


@dataclass(frozen=True, slots=True)
class Session:
    """A transaction in which row security knows the caller."""

    connection: AsyncConnection
    user_id: int
    now: datetime


async def now() -> datetime:
    """Return the time of day; tests override it."""
    return clock.now()


async def services(request: Request) -> ApiServices:
    """Return the services of the process that handles the request."""
    return cast("ApiServices", request.app.state.services)


Now = Annotated[datetime, Depends(now)]
Services = Annotated[ApiServices, Depends(services)]


async def caller(token: Annotated[str | None, Depends(bearer)], services: Services, at: Now) -> AccessToken:
    """Return the owner of the bearer token. Raises ProblemError 401."""
    if not token:
        raise ProblemError(HTTPStatus.UNAUTHORIZED, "This needs a bearer token.", headers=BEARER)
    try:
        return read_access_token(token, key=services.settings.secret_key, now=at)
    except TokenError as error:
        raise unauthorized(str(error)) from error


Caller = Annotated[AccessToken, Depends(caller)]


async def check_standing(connection: AsyncConnection, token: AccessToken) -> None:
    """Compare the token with the user's current state. Raises ProblemError 401 or 403.

    Row security alone decides what is seen; this only says so explicitly instead of by empty lists.
    """
    if await current_role(connection) != token.role:
        raise unauthorized("The account has changed since the token was made. Log in again.")
    if token.role not in CLINICAL_ROLES:
        raise ProblemError(HTTPStatus.FORBIDDEN, f"The role {token.role} has no access to this.")


async def session(token: Caller, services: Services, at: Now) -> AsyncIterator[Session]:
    """Open the caller's transaction; it is committed before the response is sent."""
    async with services.database.as_user(token.user_id) as connection:
        await check_standing(connection, token)
        yield Session(connection, token.user_id, at)


TheSession = Annotated[Session, Depends(session, scope="function")]


def row_key(public_id: str, largest: int = INT8_MAX) -> int:
    """Return the number behind a public id. Raises ProblemError 404 for an impossible one: ids are opaque."""
    if not _DECIMAL.fullmatch(public_id) or int(public_id) > largest:
        raise not_found()
    return int(public_id)


def filter_key(public_id: str | None, largest: int = INT8_MAX) -> int | None:
    """Return the number behind an id to filter by; 0, which no row has, for an impossible one."""
    if public_id is None:
        return None
    return int(public_id) if _DECIMAL.fullmatch(public_id) and int(public_id) <= largest else 0


def _rfc_3339(value: object) -> object:
    if isinstance(value, str) and not _RFC_3339.fullmatch(value):
        raise ValueError("a time is written as RFC 3339 with a zone: 2026-11-22T03:10:00Z (in a URL, + is %2B)")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies beyond the calendar") from error


Time = Annotated[
    AwareDatetime,
    BeforeValidator(_rfc_3339),
    AfterValidator(_in_utc),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-22T03:10:00Z"]}),
]
PatientFilter = Annotated[str | None, Query(max_length=20, description="Only what belongs to this patient.")]
