"""The API's own description: `/api/v1/openapi.json`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.problems import MEDIA_TYPE, Problem

TAGS = [
    {"name": "alerts", "description": "What was found, what became of it, and the live stream."},
    {"name": "patients", "description": "Who is watched, by which rules, their trends, nights and doses."},
    {"name": "devices", "description": "What is worn, and by whom from when to when."},
    {"name": "refusals", "description": "What was not taken as it came: the quarantine and the conflicts."},
    {"name": "auth", "description": "Tokens."},
    {"name": "operations", "description": "Whether the process runs well."},
]
DESCRIPTION = """\
Readings of wearables and smart pill boxes, and the alerts that the clinic should know of.

Log in at `POST /api/v1/auth/token` and send the token as `Authorization: Bearer …`. Times are RFC 3339 with a zone, ids
are strings without meaning. Lists come in pages: give `next` as `cursor` to get the next one. Every error is a problem
document (RFC 9457). You see the patients of your care team, administrators see all; what you may not see is not found.
"""
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_ALWAYS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_MEANING = {
    HTTPStatus.BAD_REQUEST: "The request is not one that this path knows.",
    HTTPStatus.UNAUTHORIZED: "The token is missing, has expired, or its account has changed.",
    HTTPStatus.FORBIDDEN: "The role has no access to this.",
    HTTPStatus.NOT_FOUND: "Not there, or not yours to see.",
    HTTPStatus.CONFLICT: "The alert is in a state that does not allow it, or the time is taken.",
    HTTPStatus(413): "The body is too large.",
    HTTPStatus(422): "A parameter is wrong; `errors` says which.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too often; `Retry-After` says when to come back.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer.",
}


def _problem(status: HTTPStatus) -> dict[str, Any]:
    return {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}}}


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe these problems, for a path that needs no token."""
    return {status.value: _problem(status) for status in statuses}


def problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe these problems and those of every path that needs a token."""
    return problem_responses(*sorted({*_ALWAYS, *statuses}))


def operation_id(route: APIRoute) -> str:
    """Name an operation after its function: `list_alerts`."""
    return route.name


def _replace_validation_errors(paths: Mapping[str, Any]) -> None:
    """Replace the framework's own 422, which this API never sends, by ours."""
    for operations in paths.values():
        for operation in operations.values():
            responses = operation.get("responses", {})
            if "422" in responses:
                responses["422"] = _problem(HTTPStatus(422))


def install_openapi(app: FastAPI) -> None:
    """Make the app describe its errors as they really are."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            definition = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(definition.pop("$defs", {}))
            schemas["Problem"] = definition
            _replace_validation_errors(schema["paths"])
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # the documented way to extend it
