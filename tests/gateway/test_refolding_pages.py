"""Late readings among so many that they are read in several pages: the alerts are those of all of them at once."""

from collections.abc import Sequence
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from gateway.ingest.pipeline import Pipeline
from gateway.rules.readings.refold import PAGE
from streaming.zones import MINUTE_MS
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.ward import ms as at
from tests.gateway.wire import telemetry

START = at("2026-03-10T12:00Z")
SECOND_MS = 1_000
FAST, WELL = 130.0, 90.0
LIMIT = {"code": "heart_rate", "high": 120, "duration_minutes": 10, "recovery_minutes": 5}


async def pulse(running: Pipeline, second: int, values: Sequence[float], device: str = "band") -> None:
    """Heart rate once a second from a time on."""
    for first in range(0, len(values), 500):
        series: dict[str, Any] = {
            "code": "heart_rate",
            "unit": "/min",
            "at": START + (second + first) * SECOND_MS,
            "period_ms": SECOND_MS,
            "values": values[first : first + 500],
        }
        await running.commit(messages_of([telemetry(device, [series])]))


async def spans(clinic: Clinic) -> list[tuple[float, float | None]]:
    """Beginnings and ends of the alerts, in minutes."""
    rows = await clinic.rows(
        "select to_ms(opened_at), to_ms(resolved_at) from alert where rule = 'threshold' and state <> 'withdrawn'"
        " order by opened_at"
    )
    return [
        ((opened - START) / MINUTE_MS, None if resolved is None else (resolved - START) / MINUTE_MS)
        for opened, resolved in rows
    ]


@pytest.fixture
async def patient(clinic: Clinic) -> int:
    found = await clinic.wearer("band")
    await clinic.connection.execute(
        "insert into rule_setting (patient_id, rule, changes, valid_from)"
        " values (%s, 'threshold', %s, '2020-01-01T00:00Z')",
        (found, Jsonb({"limits": [LIMIT], "enabled": True})),
    )
    return found


@pytest.mark.usefixtures("patient")
async def test_a_late_reading_moves_an_alert_that_began_on_the_next_page(clinic: Clinic, database_url: str) -> None:
    """The run of fast readings reaches over the page's end: it had opened an alert after it, and opens it later now."""
    missing = 29 * 60
    fast = 25 * 60
    assert missing < PAGE < fast + 10 * 60
    async with pipeline(database_url) as running:
        await pulse(running, 0, [WELL] * fast)
        await pulse(running, fast, [FAST] * (missing - fast))
        await pulse(running, missing + 1, [FAST] * (60 * 60 - missing - 1))
        assert await spans(clinic) == [(35, None)]
        await pulse(running, missing, [WELL])
        assert await spans(clinic) == [(39 + 1 / 60, None)]
        await pulse(running, 60 * 60, [WELL] * 301)
    assert await spans(clinic) == [(39 + 1 / 60, 65)]


@pytest.mark.usefixtures("patient")
async def test_an_alert_far_behind_a_late_reading_stays_as_it_is(clinic: Clinic, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await pulse(running, 0, [FAST] * 901 + [WELL] * 400)
        await pulse(running, 2 * 3600, [WELL] * PAGE + [FAST] * 700)
        found = await spans(clinic)
        assert [opened for opened, _ in found] == [10, 120 + PAGE / 60 + 10]
        history = "select alert_id, action from alert_history order by id"
        before = await clinic.rows(history)
        await pulse(running, 1400, [WELL])
    assert await spans(clinic) == found
    assert await clinic.rows(history) == before


@pytest.mark.parametrize("fast", ["band", "second"])
async def test_a_page_never_ends_between_two_devices_at_one_instant(
    fast: str, clinic: Clinic, patient: int, database_url: str
) -> None:
    """Two devices each second, of which one is fast; the late reading makes the number of rows before the page's end odd."""
    await clinic.provisioning.add_device("second", "wristband", patient, EVER)
    run = 10 * 60
    async with pipeline(database_url) as running:
        for device in ("band", "second"):
            beyond = FAST if device == fast else WELL
            rows = [WELL] * run + [beyond] * (25 * 60 - run)
            if device == "band":
                await pulse(running, 0, rows[:5])
                await pulse(running, 7, rows[7:])
            else:
                await pulse(running, 0, rows, device)
        assert await spans(clinic) == [(20, None)]
        assert run * 2 < PAGE < 20 * 60 * 2
        await pulse(running, 5, [WELL])
    assert await spans(clinic) == [(20, None)]
