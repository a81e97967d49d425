"""Which boxes a dose is asked of: several, one handed on, none, one behind an edge box; faults and confirmations."""

from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from streaming.zones import HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward

MORNING = ms("2026-03-10T06:00Z")
DUE = ms("2026-03-10T08:00Z")
END = DUE + HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, MORNING) as ward:
        yield ward


async def a_dose_at_eight(ward: Ward, box: str = "box") -> int:
    patient = await ward.patient(box)
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.work()
    return patient


async def test_with_several_boxes_each_must_have_been_heard(ward: Ward) -> None:
    patient = await a_dose_at_eight(ward)
    await ward.provisioning.add_device("second", "pillbox", patient, datetime.fromisoformat("2026-01-01T00:00Z"))
    await ward.work()
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("box"))
    await ward.work(END + 10 * MINUTE_MS)
    assert await ward.states(patient) == ["unknown"]
    await ward.hear(ward.alive("second"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    assert sorted(await ward.commands()) == [("box", "remind"), ("second", "remind")]


async def test_a_box_tells_of_the_time_it_was_worn(ward: Ward) -> None:
    """It moves to another patient at noon; what it says later settles the morning of the first, not of the second."""
    ada = await a_dose_at_eight(ward)
    bob = await ward.patient()
    await ward.schedule(bob, "08:00", since="2026-03-08")
    await ward.work(END + GRACE_MS)
    assert (await ward.states(ada), await ward.states(bob)) == (["unknown"], ["unknown"] * 3)
    ward.now = END + 3 * HOUR_MS
    await ward.provisioning.assign("box", bob, moment(ward.now))
    await ward.work()
    ward.now += HOUR_MS
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(ada) == ["missed"]
    assert await ward.states(bob) == ["unknown", "unknown", "missed"]  # the last day's are asked of a box handed over
    ward.now += HOUR_MS
    await ward.hear(ward.opened("box", DUE))
    assert await ward.states(ada) == ["taken"]


async def test_without_a_box_nothing_is_known(ward: Ward) -> None:
    patient = await ward.patient()
    await ward.schedule(patient, "08:00", since="2026-03-10")
    await ward.work(END + GRACE_MS)
    assert await ward.states(patient) == ["unknown"]
    assert await ward.work(END + 2 * GRACE_MS) == 0


async def test_a_box_behind_an_edge_is_in_contact_when_it_is_heard_itself(ward: Ward) -> None:
    await ward.provisioning.add_device("edge", "edge")
    patient = await ward.patient("box", via="edge")
    await ward.schedule(patient, "08:00", "14:00", since="2026-03-10")
    await ward.work()
    ward.now = END + MINUTE_MS
    await ward.hear(ward.alive("edge"))
    await ward.hear(ward.status("edge"))
    await ward.work(END + 10 * MINUTE_MS)
    assert await ward.states(patient) == ["unknown"]
    await ward.hear(ward.alive("box", via="edge"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["missed"]
    ward.now = DUE + 6 * HOUR_MS
    await ward.hear(ward.opened("box", ward.now, via="edge"))
    assert await ward.states(patient) == ["missed", "taken"]


async def test_a_fault_of_one_patient_does_not_keep_others_waiting(ward: Ward) -> None:
    broken = await a_dose_at_eight(ward, "first")
    await ward.clinic.connection.execute(
        "update patient_timezone set timezone = 'Mars/Olympus' where patient_id = %s", [broken]
    )
    patient = await a_dose_at_eight(ward, "second")
    assert await ward.states(patient) == []
    ward.now = DUE
    assert await ward.states(patient) == ["due"]


async def test_confirmations_and_skips_settle_over_the_wire(ward: Ward) -> None:
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "20:00", since="2026-03-10")
    await ward.work()
    ward.now = ms("2026-03-10T21:00Z")
    happened = [
        {"type": "compartment_opened", "at": DUE, "compartment": 1},
        {"type": "dose_taken", "at": DUE + MINUTE_MS, "compartment": 1, "count": 1},
        {"type": "dose_skipped", "at": DUE + 12 * HOUR_MS},
    ]
    for event in reversed(happened):
        await ward.hear(ward.message("box", "event", {"events": [event]}, None, None))
    assert await ward.doses(patient) == [(DUE, "taken", DUE), (DUE + 12 * HOUR_MS, "skipped", DUE + 12 * HOUR_MS)]
    await ward.hear(ward.opened("box", DUE + 12 * HOUR_MS + MINUTE_MS))
    assert (await ward.states(patient))[1] == "taken"
