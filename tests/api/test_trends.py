"""Trends: buckets against numpy over the same readings, and their edges."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import dependencies
from api.app import create_app
from api.settings import ApiSettings
from api.trends import EPOCH, SQL, CodeName, choose_buckets
from devices.vocabulary import CODES, Code
from gateway.runtime import clock as real_clock
from tests.api.clinic import SECRET, START, Clinic, client_of, is_problem

MMOL, MG_DL = 1, 2
DAY = timedelta(days=1)
Stored = list[tuple[datetime, float | None, int, int]]
Ask = Callable[[Stored, datetime, datetime, int], dict[str, Any]]


async def trend(client: httpx.AsyncClient, patient: int, **query: Any) -> dict[str, Any]:
    times = {name: value.isoformat() for name, value in query.items() if isinstance(value, datetime)}
    response = await client.get(f"/api/v1/patients/{patient}/trends", params={"code": "glucose", **query, **times})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_the_codes_are_those_of_the_vocabulary() -> None:
    assert list(CodeName.__args__) == [code.wire for code in Code]  # type: ignore[attr-defined]  # a Literal has them


@given(
    start=st.datetimes(datetime(2010, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    span=st.timedeltas(timedelta(microseconds=1), timedelta(days=9000)),
    points=st.integers(1, 2000),
)
def test_never_more_than_points_buckets_touch_the_interval(start: datetime, span: timedelta, points: int) -> None:
    buckets = choose_buckets(start, start + span, points)
    width = timedelta(seconds=buckets.seconds)
    last_moment = start + span - timedelta(microseconds=1)
    touched = (last_moment - buckets.origin) // width - (start - buckets.origin) // width + 1
    assert 1 <= touched <= points
    if points > 1:
        assert buckets.origin == EPOCH
        assert 86_400 % buckets.seconds == 0 or buckets.seconds % 86_400 == 0


@pytest.mark.parametrize(
    ("span", "points", "seconds"),
    [
        (timedelta(days=30), 300, 3 * 3600),
        (timedelta(hours=24), 288, 300),
        (timedelta(minutes=5), 300, 1),
        (timedelta(days=365), 2, 500 * 86_400),
    ],
)
def test_buckets_are_the_narrowest_round_ones(span: timedelta, points: int, seconds: int) -> None:
    midnight = datetime(2026, 11, 1, tzinfo=UTC)
    assert choose_buckets(midnight, midnight + span, points).seconds == seconds


reading = st.tuples(
    st.integers(0, 3 * 86_400_000 - 1),
    st.one_of(
        st.tuples(st.none(), st.sampled_from([MMOL, MG_DL])),
        st.tuples(st.floats(1.1, 33.3), st.just(MMOL)),
        st.tuples(st.floats(20, 600), st.just(MG_DL)),
    ),
    st.sampled_from([0, 1, 2, 4]),
)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(reading, max_size=120, unique_by=lambda row: row[0]),
    cut=st.tuples(st.integers(-(10**7), 3 * 86_400_000), st.integers(1, 3 * 86_400_000)),
    points=st.integers(1, 60),
)
def test_points_are_what_numpy_says(
    rows: list[tuple[int, tuple[float | None, int], int]], cut: tuple[int, int], points: int, trends: Ask
) -> None:
    start = START + timedelta(milliseconds=cut[0])
    end = start + timedelta(milliseconds=cut[1])
    stored = [(START + timedelta(milliseconds=at), value, unit, flags) for at, (value, unit), flags in rows]
    body = trends(stored, start, end, points)
    width = body["bucket_seconds"]
    kept = [(at, value, unit) for at, value, unit, _ in stored if start <= at < end]
    assert len(body["points"]) <= points
    assert sum(point["count"] for point in body["points"]) == len(kept)
    times = [datetime.fromisoformat(point["time"]) for point in body["points"]]
    assert times == sorted(set(times))
    for time, point in zip(times, body["points"], strict=True):
        inside = [(value, unit) for at, value, unit in kept if time <= at < time + timedelta(seconds=width)]
        canonical = np.array([value / 18 if unit == MG_DL else value for value, unit in inside if value is not None])
        assert point["count"] == len(inside) > 0
        if canonical.size == 0:
            assert point["mean"] is point["min"] is point["max"] is None
        else:
            expected = [canonical.mean(), canonical.min(), canonical.max()]
            assert [point["mean"], point["min"], point["max"]] == pytest.approx(expected)


@pytest.fixture(scope="module")
def trends(stack: Any) -> Iterator[Ask]:
    """Store these readings alone and ask the API for their trend; one database and one API for all of the examples."""

    async def fixed_now() -> datetime:
        return START

    with ExitStack() as parts:
        url = parts.enter_context(stack.database())
        clinic = Clinic(parts.enter_context(psycopg.connect(url, autocommit=True)))
        ada = clinic.patient("Ada")
        clinic.device("cgm", "Ada")
        clinic.user("anna", "admin")
        app = create_app(ApiSettings(database_url=url, secret_key=SECRET))
        app.dependency_overrides[dependencies.now] = fixed_now
        client = client_of(app, {"Authorization": f"Bearer {clinic.token('anna', 'admin')}"})
        runner = parts.enter_context(asyncio.Runner())
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())

        def store_and_ask(rows: Stored, start: datetime, end: datetime, points: int) -> dict[str, Any]:
            clinic.connection.execute("delete from observation")
            clinic.readings("cgm", "Ada", rows)
            return runner.run(trend(client, ada, start=start, end=end, points=points))

        yield store_and_ask
        runner.run(client.aclose())
        runner.run(lifespan.__aexit__(None, None, None))


async def test_all_devices_of_the_patient_count_and_no_others(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    clinic.device("spare", "Ada", valid=f"[{START - DAY},{START})")
    clinic.insert(
        "assignment",
        device_key=clinic.devices["spare"],
        patient_id=clinic.patients["Ben"],
        valid=f"[{START},)",
        created_at=START,
    )
    clinic.readings("cgm-ada", "Ada", [(START - timedelta(hours=2), 5.0, MMOL, 0)])
    clinic.readings("spare", "Ada", [(START - timedelta(hours=1), 7.0, MMOL, 0)])
    clinic.readings("spare", "Ben", [(START, 20.0, MMOL, 0)])
    body = await trend(anna, clinic.patients["Ada"], start=START - DAY, end=START + DAY, points=1)
    assert body["unit"] == "mmol/L"
    assert body["points"] == [
        {"time": (START - DAY).strftime("%Y-%m-%dT%H:%M:%SZ"), "mean": 6.0, "min": 5.0, "max": 7.0, "count": 2}
    ]


async def test_the_interval_is_half_open(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    end = START + timedelta(minutes=10)
    clinic.readings("cgm-ada", "Ada", [(START, 4.0, MMOL, 0), (end, 9.0, MMOL, 0)])
    body = await trend(anna, clinic.patients["Ada"], start=START, end=end)
    assert [(point["mean"], point["count"]) for point in body["points"]] == [(4.0, 1)]


async def test_rr_intervals_count_at_the_beat_that_ends_them(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    at = START + timedelta(seconds=59, milliseconds=500)
    for offset, unit, scale in ((0, 4, 1.0), (600, 5, 0.001)):
        clinic.insert(
            "rr_series",
            at=at + timedelta(seconds=offset),
            ends_at=at + timedelta(seconds=offset + 1.6),
            received_at=at,
            device_key=clinic.devices["cgm-ada"],
            patient_id=clinic.patients["Ada"],
            unit=unit,
            flags=0,
            intervals=[800 * scale, 700 * scale, 900 * scale],
        )
    query = {"code": "rr_interval", "start": START, "end": START + timedelta(minutes=20), "points": 21}
    body = await trend(anna, clinic.patients["Ada"], **query)
    assert body["unit"] == "ms"
    assert body["bucket_seconds"] == 60
    minutes = [datetime.fromisoformat(point["time"]).minute for point in body["points"]]
    assert minutes == [0, 1, 10, 11]
    assert [point["count"] for point in body["points"]] == [1, 2, 1, 2]
    assert [point["mean"] for point in body["points"]] == pytest.approx([800, 800, 800, 800])
    seen = clinic.value("select count(*) from readings where code = 'rr_interval'")
    assert sum(point["count"] for point in body["points"]) == seen
    later = await trend(anna, clinic.patients["Ada"], **{**query, "start": at + timedelta(milliseconds=1)})
    assert sum(point["count"] for point in later["points"]) == 5, "a series that began before start counts from there"


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"start": "2026-11-22T03:00:00"}, "query.start"),
        ({"start": "1763769900"}, "query.start"),
        ({"start": "0001-01-01T00:00:00+14:00"}, "query.start"),
        ({"end": "2026-11-22T02:00:00Z"}, "query.end"),
        ({"end": None}, "query.end"),
        ({"points": 0}, "query.points"),
        ({"points": 2001}, "query.points"),
        ({"code": "mood"}, "query.code"),
    ],
)
async def test_wrong_questions_are_told_where(
    anna: httpx.AsyncClient, clinic: Clinic, change: dict[str, Any], location: str
) -> None:
    query = {"code": "glucose", "start": "2026-11-22T03:00:00Z", "end": "2026-11-23T03:00:00+00:00", **change}
    path = f"/api/v1/patients/{clinic.patients['Ada']}/trends"
    response = await anna.get(path, params={name: value for name, value in query.items() if value is not None})
    problem = is_problem(response, 422)
    assert [error["location"] for error in problem["errors"]] == [location]


async def test_every_code_answers_in_its_canonical_unit(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    for code, rule in CODES.items():
        body = await trend(anna, clinic.patients["Ada"], code=code.wire, start=START, end=START + DAY)
        assert body["unit"] == rule.canonical.ucum
        assert body["points"] == []


async def test_the_longest_question_is_answered(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    clinic.readings("cgm-ada", "Ada", [(START, 4.0, MMOL, 0)])
    for points in (1, 2, 2000):
        begin, finish = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
        body = await trend(anna, clinic.patients["Ada"], start=begin, end=finish, points=points)
        assert [point["count"] for point in body["points"]] == [1]


async def test_a_month_of_5_minute_readings_is_read_by_index(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    month = [START - timedelta(minutes=5 * n) for n in range(30 * 288)]
    for name in ("Ada", "Ben", "Cleo"):
        clinic.readings(f"cgm-{name.lower()}", name, [(at, 5.5, MMOL, 0) for at in month])
    clinic.connection.execute("analyze observation")
    ada = clinic.patients["Ada"]
    query = {"start": START - timedelta(days=30), "end": START + timedelta(minutes=1)}
    await trend(dora, ada, **query)
    began = real_clock.monotonic()
    body = await trend(dora, ada, **query)
    took = real_clock.monotonic() - began
    assert sum(point["count"] for point in body["points"]) == len(month)
    assert took < 1.0, f"{took:.3f} s"
    plan = explain(clinic, ada, query["start"], query["end"])
    assert plan.count("observation_key") >= 29
    assert plan.count("Seq Scan on _hyper") <= 2, "of the first and the last day there is next to nothing to read"


def explain(clinic: Clinic, patient: int, start: datetime, end: datetime) -> str:
    with clinic.connection.transaction(force_rollback=True):
        clinic.connection.execute("set local role vigil_api")
        clinic.connection.execute("select set_config('vigil.user_id', %s, true)", (str(clinic.users["dora"]),))
        values = {
            "devices": [clinic.devices["cgm-ada"]],
            "patient": patient,
            "code": 1,
            "start": start,
            "end": end,
            "width": timedelta(hours=3),
            "origin": EPOCH,
        }
        return "\n".join(row[0] for row in clinic.connection.execute(b"explain " + SQL.trend.encode(), values))
