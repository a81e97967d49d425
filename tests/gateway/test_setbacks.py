"""Patients who cannot be settled keep nobody else waiting, however many they are, and are tried again."""

from collections.abc import AsyncIterator

import pytest

from gateway.rules.doses.keeper import PATIENTS_AT_ONCE as DOSES_AT_ONCE
from gateway.rules.hrv import PATIENTS_AT_ONCE as HEARTS_AT_ONCE
from gateway.worker.setbacks import LONGEST_PAUSE_MS, Setbacks
from streaming.zones import MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, ms, open_ward

NOW = ms("2026-03-10T08:00Z")
BROKEN = {"doses": DOSES_AT_ONCE + 5, "hrv windows": HEARTS_AT_ONCE + 5, "hrv nights": HEARTS_AT_ONCE + 5}
FAILS = {  # the windows of nobody's beats are not written: there it fails when the marks are taken
    "doses": ("dose", "insert or update", "new"),
    "hrv windows": ("hrv_dirty", "delete", "old"),
    "hrv nights": ("hrv_night", "insert or update", "new"),
}
WAITS = {
    "doses": "select count(*) from dose_schedule where computed_until is null",
    "hrv windows": "select count(*) from hrv_dirty",
    "hrv nights": "select count(*) from hrv_night where not settled",
}


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, NOW) as ward:
        yield ward


async def something_to_do(ward: Ward, duty: str, patients: list[int]) -> None:
    if duty == "doses":
        for patient in patients:
            await ward.schedule(patient, "07:30", since="2026-03-09")
    elif duty == "hrv windows":
        await ward.connection.execute(
            "insert into hrv_dirty (patient_id, window_start)"
            " select p, from_ms(%s + n) from unnest(%s::int[]) with ordinality as i (p, n)",
            (NOW - 60 * MINUTE_MS, patients),
        )
    else:
        await ward.connection.execute(
            "insert into hrv_night (patient_id, night, starts_at, ends_at, windows, settled)"
            " select p, '2026-03-09', from_ms(%s), from_ms(%s + n), 0, false"
            " from unnest(%s::int[]) with ordinality as i (p, n)",
            (NOW - 600 * MINUTE_MS, NOW - 240 * MINUTE_MS, patients),
        )


async def break_for(ward: Ward, duty: str, last: int) -> None:
    """Let what the duty writes fail for patients up to this one."""
    await ward.connection.execute(
        "create function broken() returns trigger language plpgsql as $$ begin raise 'a defect'; return null; end $$"
    )
    table, event, row = FAILS[duty]
    await ward.connection.execute(
        f"create trigger broken before {event} on {table} for each row when ({row}.patient_id <= {last})"
        " execute function broken()".encode()
    )


@pytest.mark.parametrize("duty", BROKEN)
async def test_however_many_cannot_be_settled_the_others_are(ward: Ward, duty: str) -> None:
    count = BROKEN[duty]
    patients = [await ward.patient() for _ in range(count + 1)]
    assert patients == sorted(patients)
    await something_to_do(ward, duty, patients)
    await break_for(ward, duty, patients[-2])
    settled = 0
    for _ in range(3):
        settled += await ward.worker.do(duty, ward.connection, ward.now)
    assert settled == 1
    assert await ward.clinic.value(WAITS[duty]) == count
    assert await ward.worker.do(duty, ward.connection, ward.now) == 0

    await ward.connection.execute(f"drop trigger broken on {FAILS[duty][0]}".encode())
    assert await ward.worker.do(duty, ward.connection, ward.now) == 0, "they pause"
    ward.now += LONGEST_PAUSE_MS
    while await ward.worker.do(duty, ward.connection, ward.now):
        pass
    assert await ward.clinic.value(WAITS[duty]) == 0


def test_each_failure_doubles_the_pause_up_to_a_quarter_of_an_hour() -> None:
    setbacks = Setbacks(1_000)
    now, pauses = 0, []
    for _ in range(15):
        setbacks.failed(7, now)
        again = next(at for at in range(now, now + 2_000_000, 1_000) if 7 not in setbacks.waiting(at))
        pauses.append(again - now)
        now = again
    assert pauses[:4] == [1_000, 2_000, 4_000, 8_000]
    assert pauses[-1] == LONGEST_PAUSE_MS
    setbacks.failed(8, now)
    assert setbacks.waiting(now) == [8]
    setbacks.settled(7)
    setbacks.failed(7, now)
    assert setbacks.waiting(now + 999) == [8, 7]
    assert setbacks.waiting(now + 1_000) == []
