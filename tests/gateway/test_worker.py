"""Workers beside each other and beside the gateway, data that stop, and what a tick costs with many patients."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from gateway.ingest.source import Message
from gateway.runtime import clock
from gateway.store.connect import connect
from gateway.store.locks import lock_patient
from gateway.store.queries import load_queries
from gateway.worker.main import Worker
from streaming.doses.low_adherence import low_adherence_episodes
from streaming.limits.detectors import GLUCOSE_RULES
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import GRACE_MS, Ward, new_worker, open_ward, plain
from tests.gateway.ward import ms as at
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

START = at("2026-03-10T00:00Z")
ROUNDS = 200
BOXES = ("one", "two", "three")
DOSES = load_queries("gateway.store", "doses.sql")
WORKER = load_queries("gateway.store", "worker.sql")


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


# Beside each other ---------------------------------------------------------------------------------------------------


async def test_two_workers_and_the_gateway_settle_each_dose_once(ward: Ward, database_url: str) -> None:
    """Two hundred rounds of two hours; in each the workers and late openings meet at random moments."""
    rng = random.Random(8)
    patients = {box: await ward.patient(box) for box in BOXES}
    for patient in patients.values():
        times = [f"{hour:02d}:30" for hour in range(0, 24, 2)]
        await ward.schedule(patient, *times, since="2026-03-10", window_before=5, window_after=5)
    await ward.work()
    other = await connect(database_url, "another worker")
    openings: dict[str, list[int]] = {box: [] for box in BOXES}
    try:
        for number in range(ROUNDS):
            ward.now = START + number * 2 * HOUR_MS + 36 * MINUTE_MS
            await ward.hear(*(ward.alive(box) for box in BOXES))
            await ward.work()
            ward.now += GRACE_MS
            late = {box: _late(rng, ward.now) for box in rng.sample(BOXES, rng.randint(1, 3))}
            for box, found in late.items():
                openings[box] += found
            messages = [ward.opened(box, *found) for box, found in late.items() if found]
            await asyncio.gather(
                _soon(rng, ward.worker, ward.connection, ward.now),
                _soon(rng, new_worker(database_url), other, ward.now),
                ward.hear(*messages),
            )
            await ward.work()
    finally:
        await other.close()
    for box, patient in patients.items():
        wanted = ward.folded(patient, "UTC", openings[box], ward.now)
        assert await ward.doses(patient) == plain(wanted)
        standing = [opened for opened, _, state, _ in await ward.alerts(patient) if state == "open"]
        assert standing == [o.dose.window_end for o in wanted if o.state == "missed"]
        low = [(opened, resolved) for opened, _, _, resolved in await ward.alerts(patient, "low_adherence")]
        assert low == [(one.opened_at, one.resolved_at) for one in low_adherence_episodes(wanted)]
    twice = "select subject from alert where rule = 'missed_dose' group by patient_id, subject having count(*) > 1"
    assert await ward.clinic.rows(twice) == []
    told = "select count(*) from outbox where action = 'raised' group by alert_id having count(*) > 1"
    assert await ward.clinic.rows(told) == []


def _late(rng: random.Random, now: int) -> list[int]:
    return [now - rng.randint(0, 8 * 60) * MINUTE_MS for _ in range(rng.randint(0, 2))]


async def _soon(rng: random.Random, worker: Worker, connection: psycopg.AsyncConnection[Any], now: int) -> None:
    await asyncio.sleep(rng.random() * 0.01)
    await worker.do("doses", connection, now)


async def test_a_worker_leaves_a_patient_to_whoever_has_them(ward: Ward) -> None:
    first, second = await ward.patient("one"), await ward.patient("two")
    for patient in (first, second):
        await ward.schedule(patient, "08:00", since="2026-03-10")
    async with ward.clinic.connection.transaction():
        await lock_patient(ward.clinic.connection, first)
        assert await ward.worker.do("doses", ward.connection, ward.now) == 1
    assert await ward.worker.do("doses", ward.connection, ward.now) == 1
    assert await ward.worker.do("doses", ward.connection, ward.now) == 0


# Data that stop ------------------------------------------------------------------------------------------------------


async def low(ward: Ward, device: str, *readings: tuple[int, float]) -> None:
    message = readings_message(device, [Reading(moment, value, "mmol/L") for moment, value in readings])
    await ward.hear(Message(message.topic, message.payload, None, 1))


async def state(ward: Ward) -> tuple[str, str]:
    """Data and state of the only alert about the patient."""
    rows = await ward.clinic.rows("select data, state from alert")
    assert len(rows) == 1
    return rows[0][0], rows[0][1]


async def told(ward: Ward) -> list[tuple[str, str]]:
    return await ward.clinic.rows("select action, alert ->> 'data' from outbox order by id")


async def test_an_open_low_whose_data_stop_is_unknown_until_they_come_back(ward: Ward) -> None:
    await ward.clinic.wearer("cgm")
    night = START + 3 * HOUR_MS
    ward.now = night + MINUTE_MS
    await low(ward, "cgm", (night, 3.5))
    for minutes, data in ((5, "current"), (30, "current"), (31, "unknown"), (300, "unknown")):
        await ward.worker.do("stopped data", ward.connection, night + minutes * MINUTE_MS)
        assert await state(ward) == (data, "open")
    assert await told(ward) == [("raised", "current"), ("data_unknown", "unknown")]
    ward.now = night + 301 * MINUTE_MS
    await low(ward, "cgm", (ward.now, 3.6))
    await ward.worker.do("stopped data", ward.connection, ward.now)
    assert await state(ward) == ("current", "open")
    assert (await told(ward))[2:] == [("data_current", "current")]
    history = await ward.clinic.rows("select action from alert_history order by id")
    assert history == [("raised",), ("data_unknown",), ("data_current",)]


async def test_data_that_come_back_with_the_end_of_the_low_are_current(ward: Ward) -> None:
    await ward.clinic.wearer("cgm")
    night = START + 3 * HOUR_MS
    ward.now = night + HOUR_MS
    await low(ward, "cgm", (night, 3.5))
    await ward.worker.do("stopped data", ward.connection, ward.now)
    assert await state(ward) == ("unknown", "open")
    await low(ward, "cgm", *((night + minutes * MINUTE_MS, 5.5) for minutes in range(20, 60, 5)))
    await ward.worker.do("stopped data", ward.connection, ward.now)
    assert await state(ward) == ("current", "resolved")
    await ward.worker.do("stopped data", ward.connection, ward.now + DAY_MS)
    assert await state(ward) == ("current", "resolved")


async def test_one_of_two_sensors_is_enough(ward: Ward) -> None:
    patient = await ward.clinic.wearer("cgm")
    await ward.provisioning.add_device("meter", "glucose_meter", patient)
    night = START + 3 * HOUR_MS
    ward.now = night + 40 * MINUTE_MS
    await low(ward, "cgm", (night, 3.5))
    await low(ward, "meter", (night + 35 * MINUTE_MS, 3.4))
    await ward.worker.do("stopped data", ward.connection, ward.now)
    assert await state(ward) == ("current", "open")


@pytest.mark.parametrize(
    ("rule", "hour", "value", "settings"),
    [
        ("nocturnal_hypoglycaemia", 3, 3.5, {}),
        ("urgent_low", 12, 2.9, {}),
        ("hypoglycaemia", 12, 3.5, {"duration_minutes": 0}),
        ("hyperglycaemia", 12, 16.0, {"duration_minutes": 0}),
    ],
)
async def test_an_open_alert_of_any_glucose_rule_knows_that_its_data_stopped(
    ward: Ward, rule: str, hour: int, value: float, settings: dict[str, float]
) -> None:
    patient = await ward.clinic.wearer("cgm")
    ward.now = START - 1
    await ward.provisioning.set_rule(patient, rule, {"enabled": True, **settings})
    ward.now = START + hour * HOUR_MS
    await low(ward, "cgm", (ward.now, value))
    assert await ward.clinic.value("select rule from alert") == rule
    for minutes, data in ((30, "current"), (31, "unknown")):
        await ward.worker.do("stopped data", ward.connection, ward.now + minutes * MINUTE_MS)
        assert await state(ward) == (data, "open")
    ward.now += HOUR_MS
    await low(ward, "cgm", (ward.now, value))
    await ward.worker.do("stopped data", ward.connection, ward.now)
    assert await state(ward) == ("current", "open")


# Many patients -------------------------------------------------------------------------------------------------------

MANY = """
insert into patient (name, created_at) select 'p', 'epoch' from generate_series(1, 2000);
insert into device (id, model, created_at) select 'box' || n, 'pillbox', 'epoch' from generate_series(1, 2000) n;
insert into assignment (device_key, patient_id, valid, created_at)
select n, n, tstzrange('2020-01-01', null), 'epoch' from generate_series(1, 2000) n;
insert into device_status (device_key, contact_at, contact_stamp)
select n, at, at from generate_series(1, 2000) n,
    lateral (select timestamptz '2026-03-10' - case when n % 20 = 0 then 18 else 0 end * interval '1 day' as at) c;
insert into dose_schedule (patient_id, medication, local_times, valid_from, created_at, computed_until)
select n % 2000 + 1, 'm', '{08:00}', '2026-01-01', 'epoch', '2026-03-12' from generate_series(1, 4000) n;
insert into dose (schedule_id, patient_id, due_at, window_start, window_end, state, awaits, judge_at, updated_at)
select s.id, s.patient_id, due, due - interval '1 h', due + interval '1 h',
       case when due > '2026-03-10' then 'due' when s.patient_id % 20 = 0 and due > '2026-02-20' then 'unknown'
            when s.id % 9 = 0 then 'missed' else 'taken' end,
       case when s.patient_id % 20 = 0 and due between '2026-02-20' and '2026-03-10' then s.patient_id end,
       case when due > '2026-03-10' then due + interval '1 h' end, 'epoch'
from dose_schedule s, generate_series(timestamptz '2026-02-10 08:00', '2026-03-11 08:00', interval '1 day') due;
insert into alert (patient_id, rule, severity, grade, state, opened_at, resolved_at, running, raised_at, updated_at,
                   retrospective, summary, evidence)
select n % 2000 + 1, 'nocturnal_hypoglycaemia', 'high', 3, 'resolved', at, at, false, at, at, false, '', '{}'
from generate_series(0, 19999) n, lateral (select timestamptz '2026-02-10' + n / 2000 * interval '1 day' as at) a;
"""


async def test_a_tick_with_nothing_due_reads_next_to_nothing(ward: Ward) -> None:
    """2,000 patients, 120,000 doses, 100 dead boxes: only what waits is looked at, by its index."""
    for statement in MANY.split(";"):
        if statement.strip():
            await ward.connection.execute(statement.encode())
    await ward.connection.execute("analyze")
    now: dict[str, Any] = {
        "now": START,
        "horizon": START + 13 * HOUR_MS,
        "limit": 20,
        "without": [],
        "since": START - 30 * MINUTE_MS,
    }
    now["rules"] = [rule.value for rule in GLUCOSE_RULES]
    for query in (DOSES.patients_due, WORKER.silent):
        assert await (await ward.connection.execute(query.encode(), now)).fetchall() == []
        async with psycopg.AsyncClientCursor(ward.connection) as cursor:
            await cursor.execute(f"explain {query}".encode(), now)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
        assert not [table for table in ("dose", "alert", "dose_schedule", "patient") if f"Seq Scan on {table}" in plan]
    started = clock.monotonic()
    for _ in range(10):
        assert await ward.worker.do("doses", ward.connection, START) == 0
        await ward.worker.do("stopped data", ward.connection, START)
    assert clock.monotonic() - started < 1.0, "a tick takes a few ms"
