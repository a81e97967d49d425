"""The CGM summary over stored readings: the figures of the plain functions, the period, the caps, who may see it."""

import math
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from api import glucose
from streaming.glucose.episodes import Level
from streaming.glucose.summary import PROFILE_MINUTES, GlucoseSummary, summarise
from streaming.readings import ReadingSeries
from streaming.zones import DAY_MS, ZoneHistory
from tests.api.clinic import START, Clinic, is_problem

MMOL, MG_DL = 1, 2
LO, WARMUP = 1, 4
NOW_MS = round(START.timestamp() * 1000)
Rows = list[tuple[Any, float | None, int, int]]


async def summary(client: httpx.AsyncClient, patient: int, **query: Any) -> dict[str, Any]:
    response = await client.get(f"/api/v1/patients/{patient}/glucose/summary", params=query)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def fortnight(days: float = 14, minutes: int = 5) -> Rows:
    """Readings up to now in both units with lows, highs, LO, and some that do not count."""
    rows: Rows = []
    for step in range(round(days * 24 * 60 / minutes)):
        mmol = 7.5 + 5 * math.sin(step / 40) + 1.5 * math.sin(step / 7)
        flags = WARMUP if step % 500 < 12 else LO if mmol < 1.5 else 0
        value = None if flags == LO else round(mmol * 18) if step % 2 else round(mmol, 1)
        rows.append((START - timedelta(minutes=minutes * (step + 1)), value, MG_DL if step % 2 else MMOL, flags))
    return rows


def expected(rows: Rows, days: int, zone: str) -> GlucoseSummary:
    at = np.array([round(row[0].timestamp() * 1000) for row in rows], dtype=np.int64)
    value = np.array([np.nan if row[1] is None else row[1] for row in rows])
    unit, flags = (np.array([row[column] for row in rows], dtype=np.int16) for column in (2, 3))
    found = summarise(ReadingSeries(at, value, unit, flags), ZoneHistory.of(zone), NOW_MS - days * DAY_MS, NOW_MS)
    assert found is not None
    return found


async def test_figures_are_those_of_the_readings_one_knows(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    rows = fortnight()
    clinic.readings("cgm-ada", "Ada", rows)
    clinic.readings("cgm-ben", "Ben", [(at, 22.0, MMOL, 0) for at, *_ in rows])
    assert await summary(dora, clinic.patients["Ada"]) == await summary(dora, clinic.patients["Ada"], days=14)
    for days in (1, 14, 90):
        is_as_expected(await summary(dora, clinic.patients["Ada"], days=days), days, rows)


def is_as_expected(body: dict[str, Any], days: int, rows: Rows) -> None:
    found = expected(rows, days, "Asia/Shanghai")
    assert body["start"] == (START - timedelta(days=days)).isoformat().replace("+00:00", "Z")
    assert body["end"] == START.isoformat().replace("+00:00", "Z")
    assert body["unit"] == "mmol/L"
    assert (body["readings"], body["cadence_minutes"]) == (found.readings, 5)
    assert body["sufficient"] is found.sufficient is (days == 14)
    assert body["active_percent"] == pytest.approx(found.active_percent)
    assert [body["mean"], body["gmi_percent"], body["cv_percent"]] == pytest.approx(
        [found.mean_mmol, found.gmi_percent, found.cv_percent]
    )
    assert body["times"] == pytest.approx({"in_range": found.in_range_percent, **found.beyond_percent})
    assert body["targets_met"] == found.targets_met
    assert {level: body["episodes"][level]["episodes"] for level in Level} == {
        level: count.episodes for level, count in found.episodes.items()
    }
    assert body["episodes"]["low_1"]["episodes"] > 0
    assert body["episodes"]["low_1"]["minutes"] == found.episodes[Level.LOW_1].minutes


async def test_the_profile_is_by_the_patient_s_own_clock(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    rows: Rows = [
        (START - timedelta(minutes=5 * step), 4.0 + step / 10, MMOL, 0) for step in range(1, 7)
    ]  # 02:30–02:55 UTC
    clinic.readings("cgm-ada", "Ada", rows)
    body = await summary(dora, clinic.patients["Ada"])
    assert [(point["time"], point["readings"]) for point in body["profile"]] == [("10:30", 3), ("10:45", 3)]
    assert [body["profile"][1][key] for key in ("p5", "p50", "p95")] == pytest.approx([4.11, 4.2, 4.29])
    minutes = [int(point["time"][3:]) for point in body["profile"]]
    assert all(minute % PROFILE_MINUTES == 0 for minute in minutes)


async def test_a_period_without_a_sensor_has_no_figures(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    body = await summary(dora, clinic.patients["Ada"])
    assert body["readings"] == 0
    assert body["sufficient"] is False
    for name in ("cadence_minutes", "active_percent", "mean", "gmi_percent", "cv_percent", "times", "episodes"):
        assert body[name] is None
    assert body["profile"] == []
    # Finger pricks are readings, and no share of time can be told from them.
    clinic.readings("cgm-ada", "Ada", [(START - timedelta(hours=6 * step), 5.0, MMOL, 0) for step in (1, 2, 3)])
    body = await summary(dora, clinic.patients["Ada"])
    assert (body["readings"], body["mean"]) == (3, None)


async def test_the_period_ends_before_now_and_begins_with_its_first_moment(
    dora: httpx.AsyncClient, clinic: Clinic
) -> None:
    inside = [START - timedelta(days=1), *(START - timedelta(minutes=5 * step) for step in range(1, 5))]
    outside = [START - timedelta(days=1, milliseconds=1), START, START + timedelta(minutes=2)]
    clinic.readings("cgm-ada", "Ada", [(at, 5.0, MMOL, 0) for at in (*inside, *outside)])
    assert (await summary(dora, clinic.patients["Ada"], days=1))["readings"] == len(inside)


async def test_a_device_that_changed_hands_counts_for_each_wearer(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    clinic.device("shared", None)
    for patient, valid in (("Ada", "[-infinity,2026-11-22 02:00+00)"), ("Ben", "[2026-11-22 02:00+00,infinity)")):
        key = clinic.devices["shared"]
        clinic.insert("assignment", device_key=key, patient_id=clinic.patients[patient], valid=valid, created_at=START)
    clinic.readings("shared", "Ada", [(START - timedelta(minutes=60 + 5 * step), 5.0, MMOL, 0) for step in (1, 2, 3)])
    clinic.readings("shared", "Ben", [(START - timedelta(minutes=5 * step), 9.0, MMOL, 0) for step in (1, 2)])
    assert (await summary(dora, clinic.patients["Ada"]))["mean"] == pytest.approx(5.0)
    assert (await summary(dora, clinic.patients["Ben"]))["mean"] == pytest.approx(9.0)


async def test_the_period_is_one_to_ninety_days(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    for days in ("0", "91", "-1", "x", "1.5"):
        response = await dora.get(f"/api/v1/patients/{clinic.patients['Ada']}/glucose/summary", params={"days": days})
        assert is_problem(response, 422)["errors"][0]["location"] == "query.days"


async def test_more_readings_than_fit_are_refused(
    dora: httpx.AsyncClient, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.readings("cgm-ada", "Ada", fortnight(days=1))
    path = f"/api/v1/patients/{clinic.patients['Ada']}/glucose/summary"
    monkeypatch.setattr(glucose, "MAX_READINGS", 288)
    assert (await dora.get(path)).status_code == 200
    monkeypatch.setattr(glucose, "MAX_READINGS", 287)
    assert "287 readings" in is_problem(await dora.get(path), 422)["detail"]


async def test_only_the_care_team_sees_it(
    dora: httpx.AsyncClient, emil: httpx.AsyncClient, stranger: httpx.AsyncClient, clinic: Clinic
) -> None:
    clinic.readings("cgm-ada", "Ada", fortnight(days=1))
    path = f"/api/v1/patients/{clinic.patients['Ada']}/glucose/summary"
    assert (await dora.get(path)).status_code == 200
    assert is_problem(await emil.get(path), 404)
    assert is_problem(await stranger.get(path), 401)
    for nobody in ("999", "x", str(2**40)):
        assert is_problem(await dora.get(f"/api/v1/patients/{nobody}/glucose/summary"), 404)
