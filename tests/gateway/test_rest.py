"""Alerts of rules that were switched off or whose patient rests end when that begins, as the fold says later."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.ingest.source import Message
from gateway.rules.rest import NOTE
from streaming.episodes import JSON
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import telemetry

START = at("2026-03-10T12:00Z")


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


async def send(ward: Ward, device: str, code: str, unit: str, *readings: tuple[int, float]) -> None:
    series = [{"code": code, "unit": unit, "at": when, "value": value} for when, value in readings]
    message = telemetry(device, series)
    await ward.hear(Message(message.topic, message.payload, None, 1))


async def low(ward: Ward, *readings: tuple[int, float]) -> None:
    await send(ward, "cgm", "glucose", "mmol/L", *readings)


async def alerts(ward: Ward) -> list[tuple[Any, ...]]:
    return await ward.clinic.rows(
        "select rule, subject, to_ms(opened_at), to_ms(resolved_at), running, evidence #>> '{finding,ended_by}',"
        " evidence #> '{finding}' from alert where state <> 'withdrawn' order by rule, opened_at"
    )


async def short(ward: Ward) -> list[tuple[Any, ...]]:
    return [row[:-1] for row in await alerts(ward)]


async def rest(ward: Ward, now: int) -> None:
    ward.now = now
    await ward.worker.do("rest", ward.connection, now)


async def test_a_pause_ends_it_at_its_beginning_as_the_fold_says_later(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    await low(ward, (START, 2.8))
    began = START + HOUR_MS
    ward.now = START + MINUTE_MS
    await ward.provisioning.pause(ada, moment(began + DAY_MS), "hospital", begin=moment(began))
    await rest(ward, began - 1)
    assert await short(ward) == [("urgent_low", "", START, None, True, None)]
    for now in (began, began + MINUTE_MS):
        await rest(ward, now)
        assert await short(ward) == [("urgent_low", "", START, began, False, "rest")]
    ended = await alerts(ward)
    history = await ward.clinic.rows("select action, note from alert_history order by id")
    assert history == [("raised", None), ("resolved", NOTE)]
    ward.now = began + 2 * HOUR_MS
    await low(ward, (ward.now, 2.7))
    assert await alerts(ward) == ended
    ward.now = began + 2 * DAY_MS
    await low(ward, (ward.now, 2.6))
    assert (await alerts(ward))[:1] == ended
    assert (await short(ward))[1:] == [("urgent_low", "", ward.now, None, True, None)]
    assert await ward.clinic.value("select count(*) from alert_history where alert_id = 1") == 2


async def test_the_fold_alone_and_the_rest_alone_say_the_same(clinic: Clinic, ward: Ward) -> None:
    first = await clinic.wearer("cgm")
    second = await clinic.wearer("other")
    began = START + HOUR_MS
    for device in ("cgm", "other"):
        await send(ward, device, "glucose", "mmol/L", (START, 2.8), (START + 5 * MINUTE_MS, 2.5))
    for patient in (first, second):
        ward.now = START + 10 * MINUTE_MS
        await ward.provisioning.pause(patient, moment(began + DAY_MS), "hospital", begin=moment(began))
    ward.now = began + HOUR_MS
    await send(ward, "other", "glucose", "mmol/L", (began + HOUR_MS, 2.5))
    await rest(ward, ward.now)
    told = "select to_ms(opened_at), to_ms(resolved_at), severity, state, summary, evidence -> 'finding' from alert"
    one, other = await clinic.rows(f"{told} order by patient_id")
    assert one == other
    assert one[1] == began


async def test_a_rule_switched_off_ends_its_own_alert_only(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    ward.now = START - 1
    await ward.provisioning.set_rule(ada, "hyperglycaemia", {"enabled": True})
    limit: dict[str, JSON] = {"code": "heart_rate", "high": 120.0}
    await ward.provisioning.set_rule(ada, "threshold", {"limits": [limit]})
    await low(ward, (START - DAY_MS, 2.8))
    ward.now = START + HOUR_MS
    await low(ward, *((START + minutes * MINUTE_MS, 15.0) for minutes in range(0, 30, 5)))
    await send(ward, "cgm", "heart_rate", "/min", *((START + s * 1000, 150.0) for s in range(0, 1300, 30)))
    running = {row[:2] for row in await alerts(ward) if row[4]}
    assert {("hyperglycaemia", ""), ("threshold", "heart_rate:high")} <= running
    off = START + 2 * HOUR_MS
    ward.now = off
    await ward.provisioning.set_rule(ada, "hyperglycaemia", {"enabled": False})
    await rest(ward, off + MINUTE_MS)
    ended = {row[:2]: (row[3], row[5]) for row in await alerts(ward) if row[2] >= START and not row[4]}
    assert ended == {("hyperglycaemia", ""): (off, "rest")}
    ward.now = off + HOUR_MS
    await ward.provisioning.set_rule(ada, "threshold", {"limits": [{"code": "spo2", "low": 88.0}]})
    await rest(ward, ward.now)
    ended = {row[:2]: (row[3], row[5]) for row in await alerts(ward) if row[2] >= START and not row[4]}
    assert ended[("threshold", "heart_rate:high")] == (off + HOUR_MS, "rest")


async def test_a_clinic_that_switches_a_rule_off_and_on_again_before_anybody_looks(ward: Ward) -> None:
    await ward.clinic.wearer("cgm")
    await low(ward, (START, 2.8))
    for hours, enabled in ((1, False), (2, True)):
        ward.now = START + hours * HOUR_MS
        await ward.provisioning.set_rule(None, "urgent_low", {"enabled": enabled})
    await rest(ward, START + 3 * HOUR_MS)
    assert await short(ward) == [("urgent_low", "", START, START + HOUR_MS, False, "rest")]


async def test_other_settings_end_nothing_and_nobody_else_is_touched(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    await ward.clinic.wearer("other")
    await low(ward, (START, 2.8))
    await send(ward, "other", "glucose", "mmol/L", (START, 2.8))
    ward.now = START + HOUR_MS
    await ward.provisioning.set_rule(ada, "urgent_low", {"recovery_minutes": 30})
    await rest(ward, START + 2 * HOUR_MS)
    assert [row[4] for row in await alerts(ward)] == [True, True]
