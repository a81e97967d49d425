"""What a person answered holds for what they saw: a low that gets worse asks again, whoever said what before."""

from typing import Any

import pytest

from gateway.ingest.pipeline import Pipeline
from tests.gateway.clinic import Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.test_reading_rules import MIDNIGHT, MINUTE
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

NIGHT, NOON = MIDNIGHT + 60 * MINUTE, MIDNIGHT + 12 * 60 * MINUTE


async def send(running: Pipeline, *readings: Reading) -> None:
    await running.commit(messages_of([readings_message("cgm", readings)]))


async def answer(clinic: Clinic, state: str) -> None:
    """As the API does it."""
    await clinic.connection.execute(
        "update alert set state = %s, answered_grade = grade,"
        " resolved_at = case when %s = 'resolved' then opened_at end where state = 'open'",
        (state, state),
    )


async def alert(clinic: Clinic) -> tuple[Any, ...]:
    (row,) = await clinic.rows(
        "select state, severity, grade, answered_grade, resolved_at is null, unanswered from alert"
    )
    return row


async def events(clinic: Clinic) -> list[str]:
    return [action for (action,) in await clinic.rows("select action from outbox order by id")]


@pytest.mark.parametrize("state", ["acknowledged", "resolved", "snoozed"])
@pytest.mark.parametrize(
    ("start", "first", "then", "grades"),
    [(NIGHT, 3.8, 2.4, (3, 5)), (NIGHT, 3.8, 2.5, (3, 4)), (NOON, 3.0, 1.8, (4, 5))],
    ids=["3.8 then 2.4", "3.8 then 2.5", "by day 3.0 then 1.8"],
)
async def test_worse_than_it_was_answered_it_is_open_again(
    start: int, first: float, then: float, grades: tuple[int, int], state: str, clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("cgm")
    async with pipeline(database_url) as running:
        await send(running, Reading(start, first))
        await answer(clinic, state)
        await send(running, Reading(start + 5 * MINUTE, first))
        assert (await alert(clinic))[:4:3] == (state, grades[0]), "no worse: the answer holds"
        await send(running, Reading(start + 10 * MINUTE, then))
        assert await alert(clinic) == ("open", "urgent", grades[1], grades[0], True, False)
        assert "reopened" in await events(clinic)
        await answer(clinic, state)
        told = await events(clinic)
        await send(running, Reading(start + 15 * MINUTE, then))
        assert (await alert(clinic))[0] == state, "it can be answered at that grade too"
        assert await events(clinic) == told
        await send(running, *(Reading(start + minutes * MINUTE, 6.0) for minutes in (20, 36)))
    assert await alert(clinic) == ("resolved", "urgent", grades[1], grades[1], False, False)


async def test_a_new_lowest_value_is_an_event_and_changes_no_answer(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    async with pipeline(database_url) as running:
        await send(running, Reading(NIGHT, 3.8))
        await answer(clinic, "acknowledged")
        await send(running, Reading(NIGHT + 5 * MINUTE, 3.6))
        assert await alert(clinic) == ("acknowledged", "high", 3, 3, True, False)
        assert await events(clinic) == ["raised", "updated"]
        await send(running, Reading(NIGHT + 10 * MINUTE, 3.7))
        assert await events(clinic) == ["raised", "updated"]


async def test_a_low_that_ends_without_an_answer_at_its_grade_says_so(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("cgm")
    async with pipeline(database_url) as running:
        await send(running, Reading(NIGHT, 3.8))
        await answer(clinic, "acknowledged")
        await send(running, Reading(NIGHT + 5 * MINUTE, 2.9))
        await send(running, *(Reading(NIGHT + minutes * MINUTE, 6.0) for minutes in (10, 26)))
        assert await alert(clinic) == ("resolved", "urgent", 4, 3, False, True)
        await send(running, Reading(NIGHT + 20 * MINUTE, 3.5))
        assert (await alert(clinic))[::5] == ("open", False), "it goes on after all"
