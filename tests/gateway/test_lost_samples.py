"""One implausible sample costs only itself: what stands beside it is stored and judged; a wrong label costs the series."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.gateway.clinic import AlertRow, Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.test_reading_rules import MIDNIGHT, MINUTE
from tests.gateway.wire import telemetry

ONE = MIDNIGHT + 60 * MINUTE
NIGHT = [100, 95, 88, 80, 70, 62, 55, 50, 48, 12, 52, 60]
WITHOUT_THE_ERROR = [value for value in NIGHT if value != 12]


def series(
    values: Sequence[float], code: str = "glucose", unit: str = "mg/dL", period: int = 5 * MINUTE
) -> dict[str, Any]:
    return {"code": code, "unit": unit, "at": ONE, "period_ms": period, "values": list(values)}


async def send(database_url: str, *messages: list[dict[str, Any]]) -> None:
    async with pipeline(database_url) as running:
        for seq, observations in enumerate(messages, 1):
            await running.commit(messages_of([telemetry("cgm", observations, seq=seq)]))


async def stored(clinic: Clinic) -> list[tuple[int, float | None]]:
    return [((at - ONE) // MINUTE, value) for *_, at, value, _ in await clinic.readings()]


async def refused(clinic: Clinic) -> list[tuple[Any, ...]]:
    return await clinic.rows("select reason, series, samples, detail from quarantine order by id")


def shape(alert: AlertRow) -> tuple[Any, ...]:
    return alert.opened_at, alert.resolved_at, alert.severity, alert.running


async def test_a_night_around_an_error_code_raises_what_its_readings_raise_one_by_one(
    clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("cgm")
    await send(database_url, [series(NIGHT)])
    assert await stored(clinic) == [(5 * i, value) for i, value in enumerate(NIGHT) if value != 12]
    assert await refused(clinic) == [
        ("out_of_range", [0], [9], "12 mg/dL at position 9 is not within 20 – 600"),
    ]
    (together,) = await clinic.alerts()
    assert (together.severity, together.state) == ("urgent", "open")

    other = await clinic.wearer("second")
    async with pipeline(database_url) as running:
        for i, value in enumerate(NIGHT):
            one = {"code": "glucose", "unit": "mg/dL", "at": ONE + 5 * i * MINUTE, "value": value}
            await running.commit(messages_of([telemetry("second", [one])]))
    (alone,) = await clinic.alerts(other)
    assert shape(alone) == shape(together)


@pytest.mark.parametrize(
    ("code", "unit", "values", "lost"),
    [
        ("spo2", "%", [86, 80, 60, 49, 49], [3, 4]),
        ("heart_rate", "/min", [*[70.0] * 29, 0, *[70.0] * 30], [29]),
        ("body_temperature", "Cel", [36.6, 98.6, 36.7], [1]),
    ],
)
async def test_so_it_is_for_every_code(
    code: str, unit: str, values: list[float], lost: list[int], clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("cgm")
    await send(database_url, [series(values, code, unit, MINUTE)])
    assert await stored(clinic) == [(i, value) for i, value in enumerate(values) if i not in lost]
    assert [row[:3] for row in await refused(clinic)] == [("out_of_range", [0], lost)]


async def test_an_interval_that_cannot_be_is_a_break_in_the_run(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    beats = {"code": "rr_interval", "unit": "ms", "at": ONE, "values": [800, 900, 5000, 700, 600]}
    await send(database_url, [beats])
    runs = await clinic.rows("select to_ms(at) - %s, intervals from rr_series order by at", ONE)
    assert [(at, list(intervals)) for at, intervals in runs] == [(0, [800, 900]), (2400, [700, 600])]
    assert [row[:3] for row in await refused(clinic)] == [("out_of_range", [0], [2])]


async def test_a_wrong_label_costs_the_series(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    await send(database_url, [series([11.8, 13.4, 15.0, 17.7, 19.2, 21.4, 24.1])])
    assert await stored(clinic) == []
    assert await clinic.alerts() == []
    assert await refused(clinic) == [("unit_mismatch", [0], None, "11.8 cannot be mg/dL, it looks like mmol/L")]


async def test_a_fall_is_a_fall(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    await send(database_url, [series([60, 48, 40, 33, 27])])
    assert len(await stored(clinic)) == 5
    (alert,) = await clinic.alerts()
    assert alert.severity == "urgent"


async def test_the_same_series_again_is_refused_once_and_stored_once(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    await send(database_url, [series(NIGHT)])
    await send(database_url, [series(NIGHT)])
    assert len(await stored(clinic)) == len(WITHOUT_THE_ERROR)
    assert len(await refused(clinic)) == 1
    assert await clinic.rows("select reason, refused, kept from quarantine_count") == [("out_of_range", 2, 1)]
