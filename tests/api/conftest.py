"""A small clinic in a real database, and clients that talk to the API over it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from api import dependencies
from api.app import create_app
from api.settings import ApiSettings
from api.tokens import Role
from tests.api.clinic import SECRET, Clinic, Clock, client_of


@pytest.fixture
def clinic(database_url: str) -> Any:
    """Two wards: Ada and Ben with doctor Dora and nurse Nils, Cleo with doctor Emil; Anna administers."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set timezone to 'UTC'")
        clinic = Clinic(connection)
        for patient in ("Ada", "Ben", "Cleo"):
            clinic.patient(patient)
            clinic.device(f"cgm-{patient.lower()}", patient)
        clinic.user("anna", "admin")
        clinic.user("dora", "doctor", "Ada", "Ben")
        clinic.user("nils", "nurse", "Ada", "Ben")
        clinic.user("emil", "doctor", "Cleo")
        clinic.user("ines", "integration", "Ada")
        clinic.user("paul", "patient", "Ada")
        yield clinic


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(database_url: str) -> ApiSettings:
    return ApiSettings(database_url=database_url, secret_key=SECRET, schema_version=2, max_connections=4)


@pytest.fixture
async def app(settings: ApiSettings, clock: Clock) -> AsyncIterator[FastAPI]:
    app = create_app(settings)

    async def now() -> datetime:
        return clock.now

    app.dependency_overrides[dependencies.now] = now
    async with app.router.lifespan_context(app):
        yield app


Login = Callable[[str, Role], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def login(app: FastAPI, clinic: Clinic) -> AsyncIterator[Login]:
    """Give a client that bears the token of a user of the clinic."""
    async with AsyncExitStack() as stack:

        async def as_user(user: str, role: Role) -> httpx.AsyncClient:
            headers = {"Authorization": f"Bearer {clinic.token(user, role)}"}
            return await stack.enter_async_context(client_of(app, headers))

        yield as_user


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, {}) as client:
        yield client


@pytest.fixture
async def anna(login: Login) -> httpx.AsyncClient:
    return await login("anna", "admin")


@pytest.fixture
async def dora(login: Login) -> httpx.AsyncClient:
    return await login("dora", "doctor")


@pytest.fixture
async def nils(login: Login) -> httpx.AsyncClient:
    return await login("nils", "nurse")


@pytest.fixture
async def emil(login: Login) -> httpx.AsyncClient:
    return await login("emil", "doctor")
