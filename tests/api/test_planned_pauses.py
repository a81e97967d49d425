"""Pauses that are planned ahead, and the list of devices in pages."""

from datetime import timedelta

import httpx

from tests.api.clinic import START, Clinic, is_problem
from tests.api.test_lists import all_pages

DAY = timedelta(days=1)


async def test_a_pause_begins_when_it_was_planned_and_ends_within_a_year_from_now(
    dora: httpx.AsyncClient, clinic: Clinic
) -> None:
    path = f"/api/v1/patients/{clinic.patients['Ada']}/pauses"
    planned = {"from": (START + 300 * DAY).isoformat(), "reason": "on holiday"}
    too_long = await dora.post(path, json={**planned, "until": (START + 367 * DAY).isoformat()})
    assert is_problem(too_long, 422)["errors"][0]["location"] == "body.until"
    paused = await dora.post(path, json={**planned, "until": (START + 366 * DAY).isoformat()})
    assert paused.status_code == 201
    stored = clinic.connection.execute("select lower(valid), upper(valid) from pause").fetchall()
    assert stored == [(START + 300 * DAY, START + 366 * DAY)]


async def test_devices_come_by_id_in_pages(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    for name in ("a", "z"):
        clinic.device(name, None)
    for limit in (1, 2, 5):
        items = await all_pages(anna, "/devices", limit)
        assert [item["id"] for item in items] == ["a", "cgm-ada", "cgm-ben", "cgm-cleo", "z"]
