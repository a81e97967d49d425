"""A rest ends what runs, and only that: what was over before stays as it was, and one worker at a time does it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.ingest.source import Message
from gateway.store.connect import connect
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

START = at("2026-03-10T12:00Z")
AGAIN = START + 2 * HOUR_MS
REST = START + 4 * HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, AGAIN + MINUTE_MS) as ward:
        yield ward


async def two_lows(ward: Ward) -> int:
    """One that is over and one that goes on when the rest begins."""
    ada = await ward.clinic.wearer("cgm")
    readings = [(0, 2.8), (5, 5.0), (20, 5.0), (120, 2.9)]
    message = readings_message("cgm", [Reading(START + minute * MINUTE_MS, value) for minute, value in readings])
    await ward.hear(Message(message.topic, message.payload, None, 1))
    await ward.provisioning.pause(ada, moment(REST + DAY_MS), "hospital", begin=moment(REST))
    return ada


async def alerts(ward: Ward) -> list[tuple[Any, ...]]:
    return await ward.clinic.rows(
        "select to_ms(opened_at), to_ms(resolved_at), evidence #>> '{finding,ended_by}' from alert order by opened_at"
    )


async def test_an_alert_of_the_same_rule_that_was_over_before_the_rest_stays_as_it_was(ward: Ward) -> None:
    await two_lows(ward)
    over = (START, START + 20 * MINUTE_MS, None)
    assert await alerts(ward) == [over, (AGAIN, None, None)]
    await ward.worker.do("rest", ward.connection, REST + MINUTE_MS)
    assert await alerts(ward) == [over, (AGAIN, REST, "rest")]
    actions = await ward.clinic.rows("select action from alert_history order by id")
    assert actions == [("raised",), ("raised",), ("resolved",)]


async def test_a_patient_somebody_else_is_at_is_left_for_later(ward: Ward, database_url: str) -> None:
    ada = await two_lows(ward)
    other = await connect(database_url, "another worker")
    try:
        async with other.transaction():
            await other.execute("select id from patient where id = %s for no key update", [ada])
            await ward.worker.do("rest", ward.connection, REST)
            assert (await alerts(ward))[1] == (AGAIN, None, None)
    finally:
        await other.close()
    await ward.worker.do("rest", ward.connection, REST)
    assert (await alerts(ward))[1] == (AGAIN, REST, "rest")
