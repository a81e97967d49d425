"""For operators, outside /api/v1: liveness, readiness and metrics."""

from http import HTTPStatus
from typing import Literal

import psycopg
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from api.database import fetch_value
from api.dependencies import Services
from api.metrics import SQL
from api.openapi import problem_responses
from api.problems import RETRY_SOON, ProblemError
from gateway.store.errors import UNAVAILABLE

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The process works as it should."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="The process lives")
async def get_health() -> Health:
    """Liveness of the process alone: a database that is down is no reason to restart this process."""
    return Health()


@router.get("/readyz", summary="The process can serve", responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE))
async def get_readiness(services: Services) -> Health:
    """Whether the database answers and has the schema that this program needs."""
    try:
        async with services.database.as_operator() as connection:
            migrated_to = await fetch_value(connection, SQL.migrated_to)
    except UNAVAILABLE as error:
        raise _not_ready("The database does not answer.") from error
    except psycopg.errors.UndefinedTable as error:
        raise _not_ready("The database has no schema yet.") from error
    if (migrated_to or 0) < services.settings.schema_version:
        raise _not_ready(
            f"The database is migrated to {migrated_to}, this program needs {services.settings.schema_version}."
        )
    return Health()


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def get_metrics(services: Services) -> Response:
    """Metrics for Prometheus; none of them identifies a person."""
    return Response(await services.metrics.exposition(services.database), media_type=CONTENT_TYPE_LATEST)


def _not_ready(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=RETRY_SOON)
