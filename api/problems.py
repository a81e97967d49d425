"""Errors as problem details (RFC 9457): the one form in which the API refuses.

ProblemError            anything that is answered with a problem; carries status, detail and headers everything else
answered with 500 and a number that is also in the log, never with internals
"""

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gateway.store.errors import UNAVAILABLE

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
BEARER = {"WWW-Authenticate": "Bearer"}
RETRY_SOON = {"Retry-After": "5"}
_DETAILS = {404: "There is nothing here, or nothing that you may see.", 405: "This path does not know that method."}


class FieldError(BaseModel):
    """One part of a request that is wrong."""

    location: str = Field(examples=["query.start"])
    message: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """What went wrong, for people (`title`, `detail`) and for programs (`status`, `error`)."""

    type: str = Field("about:blank", description="A URI for the kind of problem; about:blank: the status says it all.")
    title: str = Field(examples=["Not Found"], description="The phrase of the status.")
    status: int = Field(examples=[404])
    detail: str = Field(examples=[_DETAILS[404]])
    instance: str | None = Field(None, description="Identifies this occurrence; it is in the server's log too.")
    error: str | None = Field(None, description="A word for programs, where the status leaves a choice.")
    errors: list[FieldError] | None = Field(None, description="The parts of the request that are wrong.")


class ProblemError(HTTPException):
    """Raised to end a request with a problem."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        error: str | None = None,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status.value, detail, dict(headers or {}))
        self.error = error
        self.errors = errors


def not_found() -> ProblemError:
    """Do not distinguish what does not exist from what the caller may not see."""
    return ProblemError(HTTPStatus.NOT_FOUND, _DETAILS[404])


def unauthorized(detail: str, error: str = "invalid_token") -> ProblemError:
    """Ask for a (new) token, as RFC 6750 requires."""
    return ProblemError(
        HTTPStatus.UNAUTHORIZED, detail, error=error, headers={"WWW-Authenticate": f'Bearer error="{error}"'}
    )


def invalid(location: str, message: str) -> ProblemError:
    """Refuse one part of the request, in the same form as schema validation does."""
    return ProblemError(
        HTTPStatus(422),
        "The request is not valid.",
        errors=[FieldError(location=location, message=message)],
    )


def problem_response(error: ProblemError, instance: str | None = None) -> Response:
    """Return the problem as a response."""
    status = HTTPStatus(error.status_code)
    problem = Problem(
        title=status.phrase,
        status=status.value,
        detail=error.detail,
        instance=instance,
        error=error.error,
        errors=error.errors,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True), status.value, headers=error.headers, media_type=MEDIA_TYPE
    )


def unexpected_response(error: Exception, scope: Mapping[str, Any]) -> Response:
    """Answer an unforeseen error; the traceback goes to the log under the number that the caller is given."""
    if isinstance(error, UNAVAILABLE):
        log.warning("database_unavailable", path=scope.get("path"), error=str(error).strip())
        away = ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer.", headers=RETRY_SOON)
        return problem_response(away)
    instance = uuid.uuid4().urn
    log.error("request_failed", instance=instance, method=scope.get("method"), path=scope.get("path"), exc_info=error)
    detail = "Something went wrong on our side. The log has it under the number in `instance`."
    return problem_response(ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail), instance)


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for that class alone
    if isinstance(error, ProblemError):
        return problem_response(error)
    status = HTTPStatus(error.status_code)
    detail = _DETAILS.get(status.value, error.detail)
    return problem_response(ProblemError(status, detail, headers=error.headers))


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for that class alone
    # The input itself is left out: it may be a password.
    errors = [
        FieldError(location=".".join(str(part) for part in item["loc"]), message=item["msg"]) for item in error.errors()
    ]
    return problem_response(ProblemError(HTTPStatus(422), "The request is not valid.", errors=errors))


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of the framework a problem too."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
