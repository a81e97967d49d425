"""Tokens: passwords, refresh with rotation, expiry, and how often a stranger may try."""

import asyncio
from typing import Any

import argon2
import httpx
import jwt
import psycopg
import pytest

from api.sign_in import client_network
from tests.api.clinic import PASSWORD, SECRET, START, Clinic, Clock, is_problem

TOKEN = "/api/v1/auth/token"
DORA = {"grant_type": "password", "username": "dora@clinic.test", "password": PASSWORD}


async def log_in(client: httpx.AsyncClient, **form: str) -> dict[str, Any]:
    response = await client.post(TOKEN, data={**DORA, **form})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_a_password_gives_a_token_that_opens_the_api(stranger: httpx.AsyncClient, clinic: Clinic) -> None:
    tokens = await log_in(stranger, username=" Dora@Clinic.Test ")
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert tokens["token_type"] == "bearer"
    assert tokens["expires_in"] == 900
    claims = jwt.decode(tokens["access_token"], SECRET, algorithms=["HS256"], options={"verify_exp": False})
    assert claims["sub"] == str(clinic.users["dora"])
    assert claims["role"] == "doctor"
    assert claims["exp"] - claims["iat"] == 900
    assert claims["jti"]
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert (await stranger.get("/api/v1/patients", headers=bearer)).status_code == 200


@pytest.mark.usefixtures("clinic")
async def test_unknown_wrong_and_disabled_are_told_alike(stranger: httpx.AsyncClient, clinic: Clinic) -> None:
    clinic.connection.execute("update app_user set disabled_at = %s where email like 'nils%%'", (START,))
    answers = [
        await stranger.post(TOKEN, data={**DORA, **form})
        for form in ({"username": "nobody@clinic.test"}, {"password": "wrong"}, {"username": "nils@clinic.test"})
    ]
    problems = [is_problem(answer, 401) for answer in answers]
    assert problems[0] == problems[1] == problems[2]
    assert all("Bearer" in answer.headers["www-authenticate"] for answer in answers)


@pytest.mark.usefixtures("clinic")
@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"grant_type": "client_credentials"}, 400),
        ({"grant_type": "password", "username": "dora@clinic.test"}, 400),
        ({"grant_type": "refresh_token"}, 400),
        ({"grant_type": "refresh_token", "refresh_token": "made up"}, 401),
        ({**DORA, "username": "dora\0@clinic.test"}, 422),
        ({**DORA, "password": "x" * 2000}, 422),
    ],
)
async def test_forms_that_cannot_work_are_problems(
    stranger: httpx.AsyncClient, form: dict[str, str], status: int
) -> None:
    response = await stranger.post(TOKEN, data=form)
    is_problem(response, status)
    assert "xxxx" not in response.text


@pytest.mark.usefixtures("clinic")
async def test_refresh_tokens_rotate_and_are_stored_as_hashes(stranger: httpx.AsyncClient, clinic: Clinic) -> None:
    first = await log_in(stranger)
    renewed = await stranger.post(TOKEN, data={"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})
    assert renewed.status_code == 200
    assert renewed.json()["refresh_token"] != first["refresh_token"]
    stored = clinic.value("select string_agg(encode(token_hash, 'escape'), ' ') from refresh_token")
    assert first["refresh_token"] not in stored
    assert clinic.value("select count(distinct family) from refresh_token") == 1


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post(TOKEN, data={"grant_type": "refresh_token", "refresh_token": token})


@pytest.mark.usefixtures("clinic")
async def test_a_used_refresh_token_that_comes_back_ends_its_family_and_no_other(stranger: httpx.AsyncClient) -> None:
    first, other = await log_in(stranger), await log_in(stranger)
    second = (await refresh(stranger, first["refresh_token"])).json()
    third = (await refresh(stranger, second["refresh_token"])).json()
    is_problem(await refresh(stranger, first["refresh_token"]), 401)
    is_problem(await refresh(stranger, third["refresh_token"]), 401)
    assert (await refresh(stranger, other["refresh_token"])).status_code == 200


@pytest.mark.usefixtures("clinic")
async def test_of_two_that_use_one_refresh_token_at_once_one_wins_and_the_family_ends(
    stranger: httpx.AsyncClient,
) -> None:
    token = (await log_in(stranger))["refresh_token"]
    answers = await asyncio.gather(*(refresh(stranger, token) for _ in range(4)))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    is_problem(await refresh(stranger, winners[0].json()["refresh_token"]), 401)


async def test_refresh_ends_with_time_and_with_the_user(
    stranger: httpx.AsyncClient, clinic: Clinic, clock: Clock
) -> None:
    old, new = await log_in(stranger), await log_in(stranger)
    clinic.connection.execute("update app_user set disabled_at = %s", (START,))
    is_problem(await refresh(stranger, new["refresh_token"]), 401)
    clinic.connection.execute("update app_user set disabled_at = null")
    clock.advance(days=14)
    is_problem(await refresh(stranger, old["refresh_token"]), 401)
    await log_in(stranger)
    assert clinic.value("select count(*) from refresh_token") == 1, "tokens that have run out are removed at log-in"


def forged(**changes: Any) -> str:
    claims = {"sub": "1", "role": "admin", "iat": 1, "exp": int(START.timestamp()) + 60, "jti": "x", **changes}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, SECRET, algorithm="HS256")


@pytest.mark.usefixtures("clinic")
async def test_tokens_that_are_not_good_are_refused(stranger: httpx.AsyncClient) -> None:
    claims = {"sub": "1", "role": "admin", "iat": 1, "exp": 2**40, "jti": "x"}
    for token in (
        "",
        "nonsense",
        forged(exp=int(START.timestamp())),
        forged(exp=None),
        forged(jti=None),
        forged(sub="one"),
        forged(role="root"),
        forged(role=["admin"]),
        forged(exp=10**30),
        jwt.encode(claims, "k" * 32, algorithm="HS256"),
        jwt.encode(claims, SECRET, algorithm="HS384"),
        jwt.encode(claims, "", algorithm="none"),
    ):
        response = await stranger.get("/api/v1/patients", headers={"Authorization": f"Bearer {token}"})
        is_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_ends_with_its_time_its_role_and_its_user(
    dora: httpx.AsyncClient, clinic: Clinic, clock: Clock
) -> None:
    assert (await dora.get("/api/v1/patients")).status_code == 200
    clinic.connection.execute("update app_user set role = 'nurse' where id = %s", (clinic.users["dora"],))
    is_problem(await dora.get("/api/v1/patients"), 401)
    clinic.connection.execute("update app_user set role = 'doctor', disabled_at = %s", (START,))
    is_problem(await dora.get("/api/v1/patients"), 401)
    clinic.connection.execute("update app_user set disabled_at = null")
    assert (await dora.get("/api/v1/patients")).status_code == 200
    clock.advance(minutes=15)
    is_problem(await dora.get("/api/v1/patients"), 401)


@pytest.mark.usefixtures("clinic")
async def test_too_many_failures_lock_account_and_address_for_a_while(
    stranger: httpx.AsyncClient, clinic: Clinic, clock: Clock
) -> None:
    wrong = {**DORA, "password": "wrong"}
    answers = await asyncio.gather(*(stranger.post(TOKEN, data=wrong) for _ in range(14)))
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 4, "not even all at once"
    locked = await stranger.post(TOKEN, data=DORA)
    is_problem(locked, 429)
    assert 0 < int(locked.headers["retry-after"]) <= 901
    await log_in(stranger, username="nils@clinic.test")
    clock.advance(minutes=15)
    await log_in(stranger)
    assert clinic.value("select count(*) from login_attempt") == 0
    assert clinic.value("select max(length(account)) from login_attempt") is None


@pytest.mark.usefixtures("clinic")
async def test_a_success_clears_the_count(stranger: httpx.AsyncClient) -> None:
    for _ in range(2):
        for _ in range(9):
            is_problem(await stranger.post(TOKEN, data={**DORA, "password": "wrong"}), 401)
        await log_in(stranger)


async def test_a_hash_of_older_parameters_is_renewed(stranger: httpx.AsyncClient, clinic: Clinic) -> None:
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
    clinic.connection.execute("update app_user set password_hash = %s where id = %s", (old, clinic.users["dora"]))
    await log_in(stranger)
    new = clinic.value("select password_hash from app_user where id = %s", clinic.users["dora"])
    assert new != old
    assert new.startswith("$argon2id$")
    await log_in(stranger)
    assert clinic.value("select password_hash from app_user where id = %s", clinic.users["dora"]) == new


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("somewhere", "unknown"),
    ],
)
def test_one_client_is_one_ipv4_address_or_one_ipv6_network(address: str, network: str) -> None:
    assert client_network(address) == network


async def test_only_clinical_roles_have_access(stranger: httpx.AsyncClient, clinic: Clinic) -> None:
    for user, role in (("ines", "integration"), ("paul", "patient")):
        token = clinic.token(user, role)  # type: ignore[arg-type]  # both are roles
        is_problem(await stranger.get("/api/v1/alerts", headers={"Authorization": f"Bearer {token}"}), 403)


def test_the_owner_of_the_database_is_no_superuser(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone()
    assert row == (False,)
