"""What settles a dose and what does not, who is reminded of it, and which schedule counts as computed."""

from collections.abc import AsyncIterator

import pytest

from gateway.rules.doses.keeper import SQL
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward

MORNING = ms("2026-03-10T06:00Z")
DUE = ms("2026-03-10T08:00Z")
END = DUE + HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, MORNING) as ward:
        yield ward


async def a_dose_at_eight(ward: Ward) -> int:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.work()
    return patient


@pytest.mark.parametrize("kind", ["compartment_closed", "button_pressed", "low_battery", "tamper"])
async def test_what_is_no_opening_settles_no_dose(ward: Ward, kind: str) -> None:
    patient = await a_dose_at_eight(ward)
    ward.now = DUE
    await ward.hear(ward.message("box", "event", {"events": [{"type": kind, "at": DUE}]}, None, None))
    assert await ward.states(patient) == ["due"]
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    assert [opened for opened, *_ in await ward.alerts(patient)] == [END]


async def test_only_the_boxes_a_patient_has_now_are_to_remind(ward: Ward) -> None:
    patient = await ward.patient("box", "given-back")
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.provisioning.add_device("band", "wristband", patient, EVER)
    await ward.provisioning.unassign("given-back", moment(MORNING - DAY_MS))
    await ward.work()
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    assert await ward.commands() == [("box", "remind")]


async def test_a_schedule_that_changed_while_it_was_computed_is_computed_again(ward: Ward) -> None:
    """As a worker does that had read it before somebody changed it."""
    patient = await a_dose_at_eight(ward)
    (seen,) = await ward.clinic.rows("select id, version from dose_schedule")
    await ward.clinic.connection.execute("update dose_schedule set local_times = '{13:00}'")
    values = {"id": [seen[0]], "version": [seen[1]], "until": ward.now + 3 * DAY_MS}
    await ward.connection.execute(SQL.computed, values)
    assert await ward.clinic.value("select computed_until from dose_schedule") is None
    await ward.work()
    due = await ward.clinic.rows("select to_ms(due_at) from dose where patient_id = %s order by due_at", patient)
    assert due[0] == (DUE + 5 * HOUR_MS,)
