"""What the rules about readings come to in the store: urgent lows, thresholds, compression lows, settings in the alert."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from gateway.ingest.pipeline import Pipeline
from tests.gateway.clinic import Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.wire import readings_message, telemetry
from tests.streaming.nocturnal_reference import Reading

MIDNIGHT = int(datetime(2026, 3, 10, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000
NOON = 12 * 60


def at(minute: float) -> int:
    return MIDNIGHT + round(minute * MINUTE)


def readings(*pairs: tuple[float, float]) -> list[Reading]:
    return [Reading(at(minute), value) for minute, value in pairs]


async def send(running: Pipeline, *pairs: tuple[float, float]) -> None:
    await running.commit(messages_of([readings_message("cgm", readings(*pairs))]))


async def pulse(running: Pipeline, minute: float, values: Sequence[float | None], **more: Any) -> None:
    """Heart rate once a minute from a time on."""
    series = {
        "code": "heart_rate",
        "unit": "/min",
        "at": at(minute),
        "period_ms": MINUTE,
        "values": list(values),
        **more,
    }
    await running.commit(messages_of([telemetry("cgm", [series])]))


async def told(clinic: Clinic, rule: str) -> list[tuple[Any, ...]]:
    """The alerts of a rule: minutes of beginning and end, severity, state."""
    rows = await clinic.rows(
        "select to_ms(opened_at), to_ms(resolved_at), severity, state from alert where rule = %s order by opened_at",
        rule,
    )
    minutes = [tuple(None if ms is None else (ms - MIDNIGHT) // MINUTE for ms in row[:2]) for row in rows]
    return [(*span, *row[2:]) for span, row in zip(minutes, rows, strict=True)]


async def set_rule(clinic: Clinic, rule: str, **changes: Any) -> None:
    """As provisioning does it, but since long ago."""
    await clinic.connection.execute(
        "insert into rule_setting (patient_id, rule, changes, valid_from)"
        " select id, %s, %s, '2020-01-01T00:00Z' from patient",
        (rule, Jsonb(changes)),
    )


@pytest.fixture
async def patient(clinic: Clinic) -> int:
    return await clinic.wearer("cgm")


async def test_an_urgent_low_by_day_is_an_alert_of_its_own(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, (NOON, 3.0), (NOON + 5, 2.8), (NOON + 10, 3.1), (NOON + 20, 3.2))
        assert await told(clinic, "urgent_low") == [(NOON, None, "urgent", "open")]
        await send(running, (NOON + 25, 3.3))
    assert await told(clinic, "urgent_low") == [(NOON, NOON + 25, "urgent", "resolved")]
    assert await told(clinic, "nocturnal_hypoglycaemia") == []
    (row,) = await clinic.rows(
        "select summary, rule_version, settings, evidence from alert where patient_id = %s", patient
    )
    summary, version, settings, evidence = row
    assert summary == "Glucose urgently low since 12:00: lowest 2.8 mmol/L at 12:05"
    assert (version, settings) == (1, {"limit_mmol": 3.1, "recovery_minutes": 15.0})
    assert [one["value"] for one in evidence["glucose"]] == [3.0]


async def test_at_night_the_nocturnal_alert_speaks_for_the_urgent_low(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    assert patient
    async with pipeline(database_url) as running:
        await send(running, (-10, 3.0))
        await send(running, (-5, 2.9))
        assert await told(clinic, "urgent_low") == [(-10, None, "urgent", "open")]
        await send(running, (5, 2.8))
        assert await told(clinic, "urgent_low") == [(-10, 5, "urgent", "resolved")]
        assert await told(clinic, "nocturnal_hypoglycaemia") == [(5, None, "urgent", "open")]
        await send(running, (6 * 60 + 30, 2.7))
    assert len(await told(clinic, "urgent_low")) == 1
    assert await clinic.value(
        "select evidence -> 'finding' ->> 'continued_as' from alert where rule = 'urgent_low'"
    ) == ("nocturnal_hypoglycaemia")


async def test_a_late_low_at_night_takes_the_urgent_alert_of_the_morning_back(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    assert patient
    async with pipeline(database_url) as running:
        await send(running, (6 * 60 + 2, 2.9))
        assert await told(clinic, "urgent_low") == [(362, None, "urgent", "open")]
        await send(running, (5 * 60 + 58, 3.8))
    assert await told(clinic, "nocturnal_hypoglycaemia") == [(358, None, "urgent", "open")]
    assert await told(clinic, "urgent_low") == [(362, None, "urgent", "withdrawn")]


async def test_the_settings_of_the_patient_decide_and_stand_in_the_alert(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    assert patient
    await set_rule(clinic, "nocturnal_hypoglycaemia", limit_mmol=4.5)
    await set_rule(clinic, "hypoglycaemia", enabled=True)
    async with pipeline(database_url) as running:
        await send(running, (60, 4.4), (NOON, 3.8), (NOON + 10, 3.7))
        await send(running, (NOON + 15, 3.8))
    assert await told(clinic, "nocturnal_hypoglycaemia") == [(60, None, "high", "open")]
    assert await clinic.value("select settings ->> 'limit_mmol' from alert") == "4.5"
    assert await told(clinic, "hypoglycaemia") == []  # the nocturnal alert still speaks for this patient


async def test_a_pause_ends_what_is_open_and_lets_nothing_open(clinic: Clinic, patient: int, database_url: str) -> None:
    await clinic.connection.execute(
        "insert into pause (patient_id, valid, reason, recorded_at)"
        " values (%s, tstzrange(from_ms(%s), from_ms(%s)), 'hospital', from_ms(%s))",
        (patient, at(65), at(120), at(65)),
    )
    async with pipeline(database_url) as running:
        await send(running, (60, 3.5))
        await send(running, (70, 3.0), (75, 2.5))
        assert await told(clinic, "nocturnal_hypoglycaemia") == [(60, 65, "high", "resolved")]
        await send(running, (125, 3.6))
    assert await told(clinic, "nocturnal_hypoglycaemia") == [(60, 65, "high", "resolved"), (125, None, "high", "open")]
    assert await clinic.stored() == 4, "data are kept"


async def test_limits_of_another_vital_sign(clinic: Clinic, patient: int, database_url: str) -> None:
    limits = [
        {"code": "heart_rate", "high": 120, "low": 40, "duration_minutes": 5, "recovery_minutes": 5, "severity": "high"}
    ]
    await set_rule(clinic, "threshold", limits=limits, enabled=True)
    async with pipeline(database_url) as running:
        await pulse(running, 0, [90, 130, 131, 135, 90])
        await pulse(running, 5, [121, 125, 140, 122, 121])
        assert await told(clinic, "threshold") == []
        await pulse(running, 10, [123])
        assert await told(clinic, "threshold") == [(10, None, "high", "open")]
        await pulse(running, 11, [119, 118, 117, 116, 115, 114])
        assert await told(clinic, "threshold") == [(10, 16, "high", "resolved")]
        await pulse(running, 30, [39] * 8, flags=["off_body"])
        await pulse(running, 40, [39] * 6)
    assert await told(clinic, "threshold") == [(10, 16, "high", "resolved"), (45, None, "high", "open")]
    subjects = await clinic.rows("select subject, summary from alert where patient_id = %s order by opened_at", patient)
    assert subjects[0] == ("heart_rate:high", "Heart rate above 120 /min, told at 00:10: highest 123 /min at 00:10")
    assert [subject for subject, _ in subjects] == ["heart_rate:high", "heart_rate:low"]


async def test_a_late_reading_breaks_a_run_that_had_opened(clinic: Clinic, patient: int, database_url: str) -> None:
    assert patient
    await set_rule(
        clinic, "threshold", limits=[{"code": "heart_rate", "high": 120, "duration_minutes": 5}], enabled=True
    )
    async with pipeline(database_url) as running:
        await pulse(running, 0, [130, 130])
        await pulse(running, 3, [130, 130, 130])
        assert await told(clinic, "threshold") == [(5, None, "medium", "open")]
        await pulse(running, 2, [100])
    assert await told(clinic, "threshold") == [(5, None, "medium", "withdrawn")]


async def test_what_looks_like_a_compression_low_is_said(clinic: Clinic, patient: int, database_url: str) -> None:
    assert patient
    into = [(minute, 5.0) for minute in range(60, 120, 5)]
    dip = [(120 + minute, 3.6) for minute in range(0, 45, 5)]
    out = [(165 + minute, 5.1) for minute in range(0, 30, 5)]
    async with pipeline(database_url) as running:
        await send(running, *into, *dip[:3])
        assert await clinic.value("select evidence -> 'finding' -> 'compression_depth_mg_dl' from alert") is None
        await send(running, *dip[3:], *out)
    assert await told(clinic, "nocturnal_hypoglycaemia") == [(120, 180, "high", "resolved")]
    assert await clinic.value("select evidence -> 'finding' -> 'compression_depth_mg_dl' from alert") == pytest.approx(
        25.2
    )
