"""`POST /auth/token`: passwords and refresh tokens in, access tokens out (RFC 6749, 4.3 and 6)."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, Field

from api.dependencies import Now, Services
from api.openapi import problem_responses
from api.problems import ProblemError
from api.sign_in import TokenPair

router = APIRouter(prefix="/auth", tags=["auth"])

_RESPONSES = problem_responses(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus(413),
    HTTPStatus(422),
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_NO_NUL = r"^[^\x00]*$"


class Tokens(BaseModel):
    """The tokens of a client: the access token for its requests, the refresh token for the next pair."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int = Field(description="Seconds until the access token expires.", examples=[900])
    refresh_token: str = Field(description="Good for one use; reuse revokes all tokens issued from it.")


@router.post("/token", summary="Log in, or renew a token", responses=_RESPONSES)
async def create_token(
    request: Request,
    services: Services,
    now: Now,
    grant_type: Annotated[str, Form(description="password or refresh_token")] = "password",
    username: Annotated[str | None, Form(max_length=254, pattern=_NO_NUL, description="E-mail address.")] = None,
    password: Annotated[str | None, Form(max_length=1024, json_schema_extra={"format": "password"})] = None,
    refresh_token: Annotated[str | None, Form(max_length=256)] = None,
) -> Tokens:
    """OAuth2 forms: `grant_type=password` with `username` and `password`, or `grant_type=refresh_token`."""
    result = "failed"
    try:
        if grant_type == "password" and username is not None and password is not None:
            address = request.client.host if request.client else "unknown"
            pair = await services.sign_in.with_password(username, password, address, now)
        elif grant_type == "refresh_token" and refresh_token is not None:
            pair = await services.sign_in.with_refresh_token(refresh_token, now)
        else:
            raise _unfit(grant_type)
        result = "ok"
    finally:
        known = grant_type if grant_type in {"password", "refresh_token"} else "unknown"
        services.metrics.logins.labels(known, result).inc()
    return _tokens(pair)


def _tokens(pair: TokenPair) -> Tokens:
    return Tokens(
        access_token=pair.access_token,
        expires_in=int(pair.lifetime.total_seconds()),
        refresh_token=pair.refresh_token,
    )


def _unfit(grant_type: str) -> ProblemError:
    if grant_type == "password":
        return ProblemError(HTTPStatus.BAD_REQUEST, "This grant needs username and password.", error="invalid_request")
    if grant_type == "refresh_token":
        return ProblemError(HTTPStatus.BAD_REQUEST, "This grant needs refresh_token.", error="invalid_request")
    return ProblemError(HTTPStatus.BAD_REQUEST, "There is no such grant here.", error="unsupported_grant_type")
