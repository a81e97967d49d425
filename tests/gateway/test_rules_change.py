"""Rules, pauses, zones and gateways that change between readings: the alerts stay those of one fold, and are told once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.ingest.source import Message
from streaming.episodes import JSON
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import telemetry

NOON = at("2026-03-10T12:00Z")
NIGHT = at("2026-03-11T01:00Z")


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, NOON) as ward:
        yield ward


async def restart(ward: Ward) -> None:
    await ward.close()
    await ward.open()


async def send(ward: Ward, *readings: tuple[int, float], code: str = "glucose", **more: Any) -> None:
    """Readings of one device, as (ms, value)."""
    unit = "mmol/L" if code == "glucose" else "/min"
    series = [{"code": code, "unit": unit, "at": when, "value": value, **more} for when, value in readings]
    message = telemetry("cgm", series)
    await ward.hear(Message(message.topic, message.payload, None, 1))


async def alerts(ward: Ward) -> list[tuple[Any, ...]]:
    return await ward.clinic.rows(
        "select rule, to_ms(opened_at), to_ms(resolved_at), severity from alert where state <> 'withdrawn'"
        " order by opened_at, rule"
    )


async def told(ward: Ward) -> list[str]:
    return [action for (action,) in await ward.clinic.rows("select action from outbox order by id")]


async def rest(ward: Ward) -> None:
    await ward.worker.do("rest", ward.connection, ward.now)


async def test_what_a_pause_ended_is_still_one_episode_for_a_gateway_that_begins_anew(ward: Ward) -> None:
    """The sensor is not heard until the pause has begun; what it kept says how the low before the pause went on."""
    ada = await ward.clinic.wearer("cgm")
    await send(ward, (NOON, 2.8))
    pause = NOON + HOUR_MS
    await ward.provisioning.pause(ada, moment(pause + DAY_MS), "hospital", begin=moment(pause))
    ward.now = pause + MINUTE_MS
    await rest(ward)
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    await restart(ward)
    await send(ward, (NOON + 5 * MINUTE_MS, 2.7))
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    await restart(ward)
    await send(ward, (NOON + 10 * MINUTE_MS, 5.0))
    await send(ward, (NOON + 25 * MINUTE_MS, 5.0))
    assert await alerts(ward) == [("urgent_low", NOON, NOON + 25 * MINUTE_MS, "urgent")]


async def test_what_a_pause_ended_is_not_told_to_be_open_again(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    await send(ward, (NOON, 2.8))
    pause = NOON + HOUR_MS
    await ward.provisioning.pause(ada, moment(pause + DAY_MS), "hospital", begin=moment(pause))
    ward.now = pause + MINUTE_MS
    await rest(ward)
    await send(ward, (NOON + 5 * MINUTE_MS, 2.5))
    await send(ward, (NOON + 3 * MINUTE_MS, 2.4))
    await rest(ward)
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    assert await ward.clinic.value("select evidence #> '{finding,lowest_value}' from alert") == 2.4
    lower = ["raised", "resolved", "updated", "updated"]
    assert await told(ward) == lower
    await send(ward, (pause - HOUR_MS // 4, 5.0), (pause - 1, 5.0))
    await rest(ward)
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    await send(ward, (pause + DAY_MS, 5.0))
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    assert await told(ward) == lower


async def test_a_low_from_before_a_pause_that_comes_after_it_began_is_over(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    pause = NOON + HOUR_MS
    await ward.provisioning.pause(ada, moment(pause + DAY_MS), "hospital", begin=moment(pause))
    ward.now = pause + MINUTE_MS
    await send(ward, (NOON, 2.8))
    assert await alerts(ward) == [("urgent_low", NOON, pause, "urgent")]
    await rest(ward)
    assert await told(ward) == ["raised"]


@pytest.mark.parametrize("begin_anew", [False, True])
async def test_a_clock_ahead_of_a_change_is_judged_by_the_change(ward: Ward, *, begin_anew: bool) -> None:
    """A reading stamped two minutes ahead came before the limit was raised, and is about the time after it."""
    ada = await ward.clinic.wearer("cgm")
    ward.now = NIGHT
    early = NIGHT + 2 * MINUTE_MS
    await send(ward, (early, 4.2))
    ward.now = NIGHT + MINUTE_MS
    await ward.provisioning.set_rule(ada, "nocturnal_hypoglycaemia", {"limit_mmol": 4.5})
    ward.now = NIGHT + 7 * MINUTE_MS
    await send(ward, (ward.now, 5.0))
    assert await alerts(ward) == [("nocturnal_hypoglycaemia", early, None, "high")]
    if begin_anew:
        await restart(ward)
    ward.now = NIGHT + 22 * MINUTE_MS
    await send(ward, (ward.now, 5.0))
    assert await alerts(ward) == [("nocturnal_hypoglycaemia", early, ward.now, "high")]


async def test_a_change_for_the_whole_clinic_in_the_middle_of_episodes(ward: Ward) -> None:
    await ward.clinic.wearer("cgm")
    ward.now = NIGHT
    await send(ward, (NIGHT, 3.8))
    ward.now = NIGHT + MINUTE_MS
    await ward.provisioning.set_rule(None, "nocturnal_hypoglycaemia", {"limit_mmol": 3.5, "recovery_minutes": 5})
    for minutes, value in ((5, 3.6), (8, 3.7), (10, 3.6), (12, 3.4)):
        ward.now = NIGHT + minutes * MINUTE_MS
        await send(ward, (ward.now, value))
    assert await alerts(ward) == [
        ("nocturnal_hypoglycaemia", NIGHT, NIGHT + 10 * MINUTE_MS, "high"),
        ("nocturnal_hypoglycaemia", NIGHT + 12 * MINUTE_MS, None, "high"),
    ]
    assert await told(ward) == ["raised", "resolved", "raised"]


@pytest.mark.parametrize("begin_anew", [False, True])
async def test_a_journey_that_is_told_late_is_judged_by_the_night_it_brought(ward: Ward, *, begin_anew: bool) -> None:
    ada = await ward.clinic.wearer("cgm")
    await send(ward, (NOON, 3.8))
    ward.now = NIGHT
    await send(ward, (NIGHT, 3.7))
    assert await alerts(ward) == [("nocturnal_hypoglycaemia", NIGHT, None, "high")]
    await ward.provisioning.set_timezone(ada, "Etc/GMT-14", moment(NOON - HOUR_MS))
    if begin_anew:
        await restart(ward)
    ward.now = NIGHT + MINUTE_MS
    await send(ward, (ward.now, 5.0))
    assert await alerts(ward) == ([("nocturnal_hypoglycaemia", NOON, None, "high")] if not begin_anew else [])


async def test_readings_off_the_body_are_no_recovery(ward: Ward) -> None:
    ada = await ward.clinic.wearer("cgm")
    ward.now = NOON - 1
    limit: dict[str, JSON] = {"code": "heart_rate", "high": 120.0, "duration_minutes": 0, "recovery_minutes": 10}
    await ward.provisioning.set_rule(ada, "threshold", {"limits": [limit]})
    ward.now = NOON + HOUR_MS
    await send(ward, (NOON, 130.0), code="heart_rate")
    await send(ward, (NOON + MINUTE_MS, 60.0), code="heart_rate", flags=["off_body"])
    await send(ward, (NOON + 9 * MINUTE_MS, 100.0), code="heart_rate")
    await send(ward, (NOON + 12 * MINUTE_MS, 100.0), code="heart_rate")
    assert await alerts(ward) == [("threshold", NOON, None, "medium")]
    await send(ward, (NOON + 19 * MINUTE_MS, 100.0), code="heart_rate")
    assert await alerts(ward) == [("threshold", NOON, NOON + 19 * MINUTE_MS, "medium")]


async def test_a_late_reading_beside_an_episode_changes_what_it_looks_like(ward: Ward) -> None:
    """A compression low is told by the quarter of an hour before it, too."""
    await ward.clinic.wearer("cgm")
    ward.now = NIGHT + DAY_MS
    dip = [(NIGHT + minutes * MINUTE_MS, 3.6) for minutes in range(0, 45, 5)]
    out = [(NIGHT + minutes * MINUTE_MS, 5.1) for minutes in range(45, 75, 5)]
    await send(ward, *dip, *out)
    depth = "select evidence #> '{finding,compression_depth_mg_dl}' from alert"
    assert await ward.clinic.value(depth) is None
    await send(ward, (NIGHT - 5 * MINUTE_MS, 5.0))
    assert await ward.clinic.value(depth) == pytest.approx(25.2)
    assert await told(ward) == ["raised", "updated"]


async def test_a_sensor_handed_over_leaves_each_what_was_measured_on_them(ward: Ward) -> None:
    """What the new wearer's readings say of the sensor says nothing of the old one's, also after a restart."""
    ada = await ward.clinic.wearer("cgm")
    bob = await ward.provisioning.add_patient("Bob", "UTC")
    handed_over = NIGHT + 30 * MINUTE_MS
    await send(ward, (NIGHT - DAY_MS, 5.0))
    ward.now = NIGHT + DAY_MS
    await ward.provisioning.assign("cgm", bob, since=moment(handed_over))
    await send(ward, (handed_over + MINUTE_MS, 3.5))
    await restart(ward)
    for minutes, value in ((0, 3.4), (5, 5.0), (12, 5.0), (10, 3.3), (20, 5.0), (27, 5.0)):
        await send(ward, (NIGHT + minutes * MINUTE_MS, value))
    await send(ward, (handed_over + 5 * MINUTE_MS, 5.0), (handed_over + 20 * MINUTE_MS, 5.0))
    found = await ward.clinic.rows("select patient_id, to_ms(opened_at), to_ms(resolved_at) from alert order by id")
    assert found == [
        (bob, handed_over + MINUTE_MS, handed_over + 20 * MINUTE_MS),
        (ada, NIGHT, NIGHT + 27 * MINUTE_MS),
    ]
