"""Puts the API together: `create_app(settings)` is all that others need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI

from api import adherence, alerts, auth, devices, glucose, nights, operations, patients, refusals, rules, trends
from api.database import Database
from api.dependencies import Parts
from api.metrics import ApiMetrics
from api.middleware import BodyLimit, Surroundings
from api.openapi import install_openapi, operation_id
from api.problems import install_problem_handlers
from api.settings import ApiSettings
from api.sign_in import SignIn
from api.streams import Streams

PREFIX = "/api/v1"


def _version() -> str:
    try:
        return version("vigil")
    except PackageNotFoundError:
        return "0"


def _build_parts(settings: ApiSettings) -> Parts:
    metrics = ApiMetrics()
    database = Database(settings)
    return Parts(settings, database, SignIn(database, settings), Streams(database, settings, metrics), metrics)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    await parts.database.open()
    await parts.streams.open()
    try:
        yield
    finally:
        await parts.streams.close()
        await parts.database.close()


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the application; it connects to the database when the server starts it, `app.state.parts` are its parts.

    No page of another origin may use it (no CORS), and no documentation pages are served: they would load scripts of
    strangers. The description is at /api/v1/openapi.json.
    """
    app = FastAPI(
        title="Vigil",
        version=_version(),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        lifespan=_lifespan,
    )
    app.state.parts = parts = _build_parts(settings)
    install_problem_handlers(app)
    install_openapi(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(Surroundings, metrics=parts.metrics)
    v1 = APIRouter(prefix=PREFIX)
    for module in (auth, patients, rules, trends, glucose, nights, adherence, devices, alerts, refusals):
        v1.include_router(module.router)
    app.include_router(v1)
    app.include_router(operations.router)
    return app
