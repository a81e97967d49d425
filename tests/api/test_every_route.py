"""Every path of the API, out of its own description: who has no business there is told so."""

from collections.abc import Iterator
from typing import Any

import httpx
from fastapi import FastAPI

from tests.api.clinic import Clinic, is_problem

QUERY = {"code": "glucose", "start": "2026-11-22T03:00:00Z", "end": "2026-11-22T04:00:00Z"}


def operations(app: FastAPI, clinic: Clinic) -> Iterator[tuple[str, str]]:
    """Return method and path of everything but the log-in, of things that are there."""
    there = {
        "patient_id": clinic.patients["Ada"],
        "alert_id": clinic.value("select max(id) from alert"),
        "device_id": "cgm-ada",
        "rule": "hyperglycaemia",
        "night": "2026-11-22",
    }
    for path, methods in app.openapi()["paths"].items():
        if path.startswith("/api/v1/") and not path.startswith("/api/v1/auth/"):
            for method in methods:
                yield method.upper(), path.format(**there)


async def test_every_path_asks_who_one_is_now(app: FastAPI, clinic: Clinic, stranger: httpx.AsyncClient) -> None:
    clinic.alert("Ada")
    found = list(operations(app, clinic))
    assert len(found) > 20
    callers: list[tuple[int, Any, Any]] = [
        (403, "ines", "integration"),
        (403, "paul", "patient"),
        (401, "dora", "admin"),
    ]
    for status, user, role in callers:
        headers = {"Authorization": f"Bearer {clinic.token(user, role)}"}
        for method, path in found:
            answer = await stranger.request(method, path, params=QUERY, headers=headers)
            assert is_problem(answer, status), (user, method, path)
    assert clinic.value("select count(*) from alert_history") == 1
