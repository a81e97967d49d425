"""What surrounds the resources: health, metrics, problems, headers, and how the API describes itself."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.settings import ApiSettings
from tests.api.clinic import SECRET, START, Clinic, client_of, is_problem


async def started(settings: ApiSettings, path: str) -> httpx.Response:
    app = create_app(settings)
    async with app.router.lifespan_context(app), client_of(app, {}) as client:
        return await client.get(path)


async def test_healthy_and_ready(stranger: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz"):
        response = await stranger.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_not_ready_without_schema_or_with_an_older_one(settings: ApiSettings, empty_database_url: str) -> None:
    problem = is_problem(await started(replace(settings, schema_version=9999), "/readyz"), 503)
    assert "9999" in problem["detail"]
    is_problem(await started(replace(settings, database_url=empty_database_url), "/readyz"), 503)


async def test_a_database_that_is_away_is_told_and_does_not_stop_the_process() -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    away = ApiSettings(database_url=url, secret_key=SECRET, connection_timeout=timedelta(milliseconds=300))
    app = create_app(away)
    async with app.router.lifespan_context(app), client_of(app, {}) as client:
        assert (await client.get("/healthz")).status_code == 200
        is_problem(await client.get("/readyz"), 503)
        form = {"username": "a@b", "password": "x"}
        response = await client.post("/api/v1/auth/token", data=form)
        is_problem(response, 503)
        assert response.headers["retry-after"]
        assert "vigil_database_up 0.0" in (await client.get("/metrics")).text


async def test_metrics_count_requests_by_route_and_the_work_that_waits(
    anna: httpx.AsyncClient, stranger: httpx.AsyncClient, clinic: Clinic
) -> None:
    clinic.alert("Ada")
    clinic.insert("quarantine_count", device_id="x", day=START, reason="malformed", refused=7, kept=3)
    await anna.get("/api/v1/patients/1")
    await anna.get("/api/v1/nothing/like/it")
    response = await stranger.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["vigil_http_requests_total", ("operation", "get_patient"), ("status", "200")] == 1
    assert samples["vigil_http_requests_total", ("operation", "unknown"), ("status", "404")] == 1
    standing = (("rule", "nocturnal_hypoglycaemia"), ("severity", "high"), ("state", "open"))
    assert samples[("vigil_alerts_standing", *standing)] == 1
    assert samples["vigil_quarantine_refused", ("reason", "malformed")] == 7
    assert samples["vigil_database_up",] == 1
    assert "Ada" not in response.text


async def test_what_is_not_there_is_a_problem(anna: httpx.AsyncClient) -> None:
    for path in ("/", "/api/v1", "/api/v1/thresholds", "/docs", "/api/v1/alerts/", "/api/v1/alerts/1/snooze"):
        is_problem(await anna.get(path), 404)
    response = await anna.delete("/api/v1/alerts")
    is_problem(response, 405)
    assert response.headers["allow"] == "GET"


async def test_without_a_token_nothing_opens(app: FastAPI, stranger: httpx.AsyncClient) -> None:
    paths = app.openapi()["paths"]
    closed = [(path, method) for path in paths for method in paths[path] if path.startswith("/api/v1")]
    closed.remove(("/api/v1/auth/token", "post"))
    assert len(closed) >= 14
    for path, method in closed:
        response = await stranger.request(method, re.sub(r"\{.*?\}", "1", path))
        is_problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_defect_is_told_by_number_and_without_its_insides(
    app: FastAPI, stranger: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password of the database is hunter2")

    response = await stranger.get("/broken")
    problem = is_problem(response, 500)
    assert "hunter2" not in response.text
    assert problem["instance"].startswith("urn:uuid:")
    assert problem["instance"] in caplog.text + "".join(capsys.readouterr())
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_every_answer_bears_the_security_headers_and_no_cors(stranger: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/api/v1/alerts", "/nothing", "/api/v1/openapi.json"):
        response = await stranger.get(path, headers={"Origin": "https://evil.test"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["cache-control"] == "no-store"
        assert not [name for name in response.headers if name.startswith("access-control")]


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in schema["paths"].values() for operation in methods.values()]


async def test_the_description_reads_well(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/api/v1/openapi.json")
    assert response.status_code == 200
    schema = response.json()
    assert set(schema["paths"]) == {
        "/api/v1/auth/token",
        "/api/v1/patients",
        "/api/v1/patients/{patient_id}",
        "/api/v1/patients/{patient_id}/thresholds",
        "/api/v1/patients/{patient_id}/thresholds/{rule}",
        "/api/v1/patients/{patient_id}/group",
        "/api/v1/patients/{patient_id}/pauses",
        "/api/v1/patients/{patient_id}/pauses/current",
        "/api/v1/patients/{patient_id}/glucose/summary",
        "/api/v1/patients/{patient_id}/nights/{night}/picture",
        "/api/v1/patients/{patient_id}/trends",
        "/api/v1/patients/{patient_id}/hrv/nights",
        "/api/v1/patients/{patient_id}/doses",
        "/api/v1/patients/{patient_id}/adherence",
        "/api/v1/devices",
        "/api/v1/devices/{device_id}/assignments",
        "/api/v1/alerts",
        "/api/v1/alerts/stream",
        "/api/v1/alerts/{alert_id}",
        "/api/v1/alerts/{alert_id}/acknowledge",
        "/api/v1/alerts/{alert_id}/resolve",
        "/api/v1/quarantine",
        "/api/v1/conflicts",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    names = [operation["operationId"] for operation in operations(schema)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    for operation in operations(schema):
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"][0] in [tag["name"] for tag in schema["tags"]]
        for status, answer in operation["responses"].items():
            if not status.startswith("2"):
                assert list(answer["content"]) == ["application/problem+json"], (operation["operationId"], status)
    references = set(re.findall(r"#/components/schemas/(\w+)", response.text))
    assert references == set(schema["components"]["schemas"])


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ApiSettings(database_url="postgresql://", secret_key="short")
    assert SECRET not in repr(ApiSettings(database_url="postgresql://", secret_key=SECRET))
