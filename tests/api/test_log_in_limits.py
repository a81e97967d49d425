"""What a flood of log-ins may cost, and what is left of old ones."""

import asyncio
from datetime import timedelta

import argon2
import httpx
import pytest
from fastapi import FastAPI

from api import sign_in
from api.dependencies import ApiServices
from api.sign_in import SignIn
from tests.api.clinic import PASSWORD, START, Clinic, Clock, is_problem

TOKEN = "/api/v1/auth/token"


def form(user: str = "dora", password: str = PASSWORD) -> dict[str, str]:
    return {"grant_type": "password", "username": f"{user}@clinic.test", "password": password}


@pytest.fixture
def signing_in(app: FastAPI) -> SignIn:
    parts: ApiServices = app.state.services
    return parts.sign_in


async def waiting(signing_in: SignIn) -> None:
    """Wait until a log-in waits for its turn to hash."""
    async with asyncio.timeout(10):
        while not signing_in._waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("clinic")
async def test_however_many_log_in_no_more_than_two_hash_at_once(
    stranger: httpx.AsyncClient, signing_in: SignIn
) -> None:
    for _ in range(sign_in._HASHES_AT_ONCE):
        await signing_in._hashing.acquire()
    logging_in = asyncio.create_task(stranger.post(TOKEN, data=form()))
    await waiting(signing_in)
    done, _ = await asyncio.wait({logging_in}, timeout=1)
    assert not done, "it hashed beside the others"
    signing_in._hashing.release()
    assert (await logging_in).status_code == 200


@pytest.mark.usefixtures("clinic")
async def test_when_very_many_wait_the_next_log_in_is_told_to_come_back(
    stranger: httpx.AsyncClient, signing_in: SignIn
) -> None:
    signing_in._waiting = sign_in._HASHES_WAITING
    answer = await stranger.post(TOKEN, data=form())
    is_problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    signing_in._waiting -= 1
    assert (await stranger.post(TOKEN, data=form())).status_code == 200


@pytest.mark.usefixtures("clinic")
async def test_an_account_is_locked_however_its_name_is_written(stranger: httpx.AsyncClient, clock: Clock) -> None:
    for name in ("dora", "Dora", " dora", "DORA", "dORA") * 2:
        is_problem(await stranger.post(TOKEN, data=form(name, "wrong")), 401)
    clock.advance(minutes=5)
    locked = await stranger.post(TOKEN, data=form("DorA"))
    is_problem(locked, 429)
    assert locked.headers["retry-after"] == "601", "the rest of the quarter of an hour"


async def test_what_has_run_out_is_removed(stranger: httpx.AsyncClient, clinic: Clinic, clock: Clock) -> None:
    await stranger.post(TOKEN, data=form("nils", "wrong"))
    await stranger.post(TOKEN, data=form())
    await stranger.post(TOKEN, data=form("emil"))
    clock.advance(days=14)
    await stranger.post(TOKEN, data=form())
    assert clinic.value("select count(*) from login_attempt") == 0
    issued = clinic.connection.execute("select user_id, issued_at from refresh_token order by issued_at").fetchall()
    assert issued == [(clinic.users["emil"], START), (clinic.users["dora"], START + timedelta(days=14))]


async def test_a_hash_is_not_renewed_over_a_password_that_changed_meanwhile(
    stranger: httpx.AsyncClient, clinic: Clinic, signing_in: SignIn
) -> None:
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
    clinic.connection.execute("update app_user set password_hash = %s where id = %s", (old, clinic.users["dora"]))
    for _ in range(sign_in._HASHES_AT_ONCE):
        await signing_in._hashing.acquire()
    logging_in = asyncio.create_task(stranger.post(TOKEN, data=form()))
    await waiting(signing_in)
    clinic.connection.execute("update app_user set password_hash = 'another' where id = %s", (clinic.users["dora"],))
    signing_in._hashing.release()
    assert (await logging_in).status_code == 200
    assert clinic.value("select password_hash from app_user where id = %s", clinic.users["dora"]) == "another"
