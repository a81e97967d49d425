"""How doses are taken, as the API tells it: local days, shares of what is known, each medication by itself."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.api.clinic import START, Clinic, Clock, is_problem

# Ada lives in Shanghai: at START it is 11:00 on 22 November there.
MORNING = datetime(2026, 11, 22, 0, 0, tzinfo=UTC)  # 08:00 local


def doses(clinic: Clinic, medication: str, letters: str, *, last: datetime = MORNING, patient: str = "Ada") -> None:
    """One dose a day, the last letter's at `last`: t(aken), l(ate), d(oubled), m(issed), s(kipped), p(aused), u, due."""
    states = {"t": "taken", "l": "late", "d": "doubled", "m": "missed", "s": "skipped", "p": "paused", "u": "unknown"}
    schedule = clinic.insert(
        "dose_schedule",
        patient_id=clinic.patients[patient],
        medication=medication,
        local_times=["08:00"],
        valid_from="2026-01-01",
        created_at=START,
    )["id"]
    for back, letter in enumerate(reversed(letters)):
        due = last - timedelta(days=back)
        settled = due + timedelta(hours=3 if letter == "l" else 0)
        clinic.insert(
            "dose",
            schedule_id=schedule,
            patient_id=clinic.patients[patient],
            due_at=due,
            window_start=due - timedelta(hours=1),
            window_end=due + timedelta(hours=1),
            state=states.get(letter, "due"),
            taken_at=settled if letter in "tlds" else None,
            updated_at=due,
        )


async def adherence(client: httpx.AsyncClient, clinic: Clinic, **parameters: Any) -> dict[str, Any]:
    response = await client.get(f"/api/v1/patients/{clinic.patients['Ada']}/adherence", params=parameters)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def part(found: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(found[name] for name in names)


async def test_shares_days_and_streaks(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    doses(clinic, "Metformin", "ttlmmmdusptttt")
    found = await adherence(dora, clinic)
    assert part(found, "first", "last") == ("2026-10-24", "2026-11-22")
    assert part(found, "prescribed", "judged", "taken", "on_time") == (13, 12, 8, 7)
    assert part(found, "taking", "timing") == (pytest.approx(8 / 12), pytest.approx(7 / 12))
    assert part(found, "days", "correct_days", "correct_dosing") == (12, 7, pytest.approx(7 / 12))
    assert part(found, "streak", "longest_streak") == (4, 4)
    assert found["holidays"] == [{"first": "2026-11-12", "last": "2026-11-14", "days": 3}]


async def test_medications_apart_and_together(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    doses(clinic, "Metformin", "tttt")
    doses(clinic, "Insulin", "tmtm")
    doses(clinic, "Insulin", "tttt", last=MORNING + timedelta(hours=12))
    found = await adherence(dora, clinic, days=4)
    assert part(found, "judged", "taken", "correct_days") == (12, 10, 2)
    each = {one["medication"]: part(one, "judged", "taken", "days", "correct_days") for one in found["medications"]}
    assert each == {"Insulin": (8, 6, 4, 2), "Metformin": (4, 4, 4, 4)}


async def test_days_are_the_patients_and_end_today(dora: httpx.AsyncClient, clinic: Clinic, clock: Clock) -> None:
    zone = "update patient_timezone set timezone = 'America/Argentina/Buenos_Aires' where patient_id = %s"
    clinic.connection.execute(zone.encode(), (clinic.patients["Ada"],))
    doses(clinic, "Metformin", "tmt", last=START)  # at midnight, three hours behind
    assert part(await adherence(dora, clinic, days=1), "first", "judged", "taken") == ("2026-11-22", 1, 1)
    assert part(await adherence(dora, clinic, days=2), "first", "judged", "taken") == ("2026-11-21", 2, 1)
    clock.advance(seconds=-1)
    assert part(await adherence(dora, clinic, days=1), "last", "judged", "taken") == ("2026-11-21", 1, 0)


async def test_nothing_known_is_no_share(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    empty = await adherence(dora, clinic)
    assert part(empty, "prescribed", "taking", "timing", "correct_dosing") == (0, None, None, None)
    assert empty["medications"] == []
    doses(clinic, "Metformin", "u.")
    assert part(await adherence(dora, clinic), "prescribed", "judged", "taking") == (2, 0, None)


async def test_how_many_days(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    for days in (0, 367, "x"):
        path = f"/api/v1/patients/{clinic.patients['Ada']}/adherence"
        is_problem(await dora.get(path, params={"days": days}), 422)
    assert (await adherence(dora, clinic, days=366))["first"] == "2025-11-22"
