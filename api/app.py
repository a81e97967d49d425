"""Assembles the API: `create_app(settings)` is all that others need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI

from api import adherence, alerts, auth, devices, glucose, nights, operations, patients, refusals, rules, trends
from api.database import Database
from api.dependencies import ApiServices
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
        return version("vigil-gateway")
    except PackageNotFoundError:
        return "0"


def _build_services(settings: ApiSettings) -> ApiServices:
    metrics = ApiMetrics()
    database = Database(settings)
    return ApiServices(settings, database, SignIn(database, settings), Streams(database, settings, metrics), metrics)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: ApiServices = app.state.services
    await services.database.open()
    await services.streams.open()
    try:
        yield
    finally:
        await services.streams.close()
        await services.database.close()


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the application, with its services in `app.state.services`; it connects to the database on startup.

    No page of another origin may use it (no CORS), and no documentation pages are served, because they would load
    third-party scripts. The description is at /api/v1/openapi.json.
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
    app.state.services = services = _build_services(settings)
    install_problem_handlers(app)
    install_openapi(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(Surroundings, metrics=services.metrics)
    v1 = APIRouter(prefix=PREFIX)
    for module in (auth, patients, rules, trends, glucose, nights, adherence, devices, alerts, refusals):
        v1.include_router(module.router)
    app.include_router(v1)
    app.include_router(operations.router)
    return app
