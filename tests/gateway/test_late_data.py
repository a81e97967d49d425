"""Late readings move, split, merge and undo alerts in the store; ids, histories and acknowledgements follow."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from devices.vocabulary import DeviceModel
from gateway.clinic.directory import load_directory
from gateway.clinic.provisioning import NewDevice
from gateway.ingest.pipeline import Pipeline
from gateway.store.connect import connect
from tests.gateway.clinic import EVER, AlertRow, Clinic, expected
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.wire import readings_message
from tests.streaming.nocturnal_reference import Reading

NIGHT = int(datetime(2026, 3, 10, 1, 0, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000


def at(minute: float) -> int:
    return NIGHT + round(minute * MINUTE)


def night(*readings: tuple[float, float]) -> list[Reading]:
    return [Reading(at(minute), value) for minute, value in readings]


LOW, WELL, URGENT = 3.5, 5.0, 2.8
ONE_EPISODE = night((0, WELL), (10, LOW), (20, WELL), (40, WELL))


async def send(running: Pipeline, readings: Sequence[Reading], device: str = "cgm") -> None:
    await running.commit(messages_of([readings_message(device, readings)]))


async def history(clinic: Clinic, alert: int) -> list[str]:
    return [
        row[0] for row in await clinic.rows("select action from alert_history where alert_id = %s order by id", alert)
    ]


async def acknowledge(clinic: Clinic, alert: int) -> int:
    """As the API does it."""
    user = await clinic.value("select id from app_user where email = 'd@clinic.test'")
    if user is None:
        user = await clinic.value(
            "insert into app_user (email, role, password_hash, created_at) values ('d@clinic.test', 'doctor', 'x', %s)"
            " returning id",
            EVER,
        )
    await clinic.connection.execute(
        "update alert set state = case state when 'open' then 'acknowledged' else state end, acknowledged_by = %s,"
        " acknowledged_at = %s, answered_grade = grade where id = %s",
        (user, EVER, alert),
    )
    return int(user)


@pytest.fixture
async def patient(clinic: Clinic) -> int:
    return await clinic.wearer("cgm")


async def one(clinic: Clinic, patient: int) -> AlertRow:
    (alert,) = await clinic.alerts(patient)
    return alert


async def test_a_late_low_before_the_first_opens_the_alert_earlier(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    async with pipeline(database_url) as running:
        await send(running, ONE_EPISODE)
        before = await one(clinic, patient)
        await send(running, night((5, LOW)))
        after = await one(clinic, patient)
    assert (before.span, after.span) == ((at(10), at(40)), (at(5), at(40)))
    assert after.id == before.id
    assert await history(clinic, after.id) == ["raised", "updated"]


async def test_a_late_recovery_inside_a_resolved_episode_splits_it(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    sparse = night((10, LOW), (30, WELL), (40, LOW), (50, WELL), (70, WELL))
    async with pipeline(database_url) as running:
        await send(running, sparse)
        whole = await one(clinic, patient)
        assert whole.span == (at(10), at(70))
        await send(running, night((14, WELL), (29, WELL)))
        first, second = await clinic.alerts(patient)
    assert (first.span, second.span) == ((at(10), at(29)), (at(40), at(70)))
    assert first.id == whole.id != second.id
    assert await history(clinic, second.id) == ["raised"]


async def test_a_late_low_between_two_episodes_merges_them(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((10, LOW), (20, WELL), (36, WELL), (40, LOW), (50, WELL), (66, WELL)))
        first, second = await clinic.alerts(patient)
        user = await acknowledge(clinic, second.id)
        await send(running, night((30, LOW)))
        merged = await one(clinic, patient)
        (gone,) = await clinic.alerts(patient, withdrawn=True)
    assert merged.span == (at(10), at(66))
    assert (merged.id, gone.id, gone.superseded_by) == (first.id, second.id, first.id)
    assert await clinic.value("select acknowledged_by from alert where id = %s", merged.id) == user
    assert (await history(clinic, gone.id))[-1] == "withdrawn"
    assert "merged" in await history(clinic, merged.id)
    told = await clinic.rows("select alert_id, action from outbox order by id desc limit 3")
    assert (gone.id, "withdrawn") in told


async def test_a_low_by_day_that_late_data_cut_off_from_the_night_opens_nothing(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    """The low at 06:20 was only part of the night's episode."""
    morning = 5 * 60.0
    async with pipeline(database_url) as running:
        await send(running, night((morning - 5, LOW), (morning + 20, LOW), (morning + 30, WELL), (morning + 45, WELL)))
        assert (await one(clinic, patient)).span == (at(morning - 5), at(morning + 45))
        await send(running, night((morning - 4, WELL), (morning + 12, WELL)))
        assert (await one(clinic, patient)).span == (at(morning - 5), at(morning + 12))
    assert await clinic.alerts(patient, withdrawn=True) == []


async def test_two_episodes_and_a_recovery_that_moves_both(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((0, LOW), (10, WELL), (16, LOW), (20, WELL), (40, LOW), (45, WELL), (60, WELL)))
        before = await clinic.alerts(patient)
        await send(running, night((35, WELL)))
        after = await clinic.alerts(patient)
    assert [alert.span for alert in before] == [(at(0), at(60))]
    assert [alert.span for alert in after] == [(at(0), at(35)), (at(40), at(60))]
    assert after[0].id == before[0].id


async def test_a_late_low_reopens_what_was_resolved(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, ONE_EPISODE)
        resolved = await one(clinic, patient)
        user = await acknowledge(clinic, resolved.id)
        await send(running, night((30, LOW)))
        reopened = await one(clinic, patient)
    assert (resolved.state, reopened.state, reopened.running) == ("resolved", "acknowledged", True)
    assert (reopened.id, reopened.span) == (resolved.id, (at(10), None))
    assert (await history(clinic, resolved.id))[-1] == "reopened"
    assert await clinic.value("select acknowledged_by from alert where id = %s", resolved.id) == user


async def test_a_deeper_late_reading_makes_it_urgent(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, ONE_EPISODE)
        await send(running, night((15, URGENT)))
        alert = await one(clinic, patient)
    assert (alert.severity, alert.span) == ("urgent", (at(10), at(40)))
    assert "severity_raised" in await history(clinic, alert.id)
    assert await clinic.value("select evidence -> 'finding' ->> 'lowest_value' from alert") == "2.8"


async def test_what_a_doctor_resolved_stays_resolved_while_the_low_goes_on_unless_it_gets_worse(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((10, LOW)))
        alert = await one(clinic, patient)
        await clinic.connection.execute(
            "update alert set state = 'resolved', answered_grade = grade, resolved_at = from_ms(%s) where id = %s",
            (at(12), alert.id),
        )
        await send(running, night((15, LOW)))
        still = await one(clinic, patient)
        assert (still.state, still.running, still.resolved_at) == ("resolved", True, at(12))
        await send(running, night((20, URGENT)))
        worse = await one(clinic, patient)
        assert (worse.state, worse.severity, worse.resolved_at) == ("open", "urgent", None)
        assert (await history(clinic, alert.id))[-2:] == ["reopened", "severity_raised"]
        await send(running, night((25, WELL), (40, WELL), (50, LOW)))
        first, second = await clinic.alerts(patient)
    assert (first.id, first.span, first.state) == (alert.id, (at(10), at(40)), "resolved")
    assert (second.span, second.state) == ((at(50), None), "open")


@pytest.mark.parametrize(
    ("zone", "now"),
    [
        ("UTC", "2026-03-10T01:00Z"),
        ("Asia/Kathmandu", "2026-03-10T03:00+05:45"),
        ("Pacific/Kiritimati", "2026-03-10T00:30+14:00"),
        ("Pacific/Pago_Pago", "2026-03-10T04:00-11:00"),
        ("Europe/Berlin", "2026-03-29T03:30+02:00"),
        ("America/New_York", "2026-11-01T02:30-05:00"),
    ],
)
async def test_an_old_low_is_retrospective_and_one_of_now_is_not(
    clinic: Clinic, database_url: str, zone: str, now: str
) -> None:
    """At night in any zone, also an hour after its clocks were changed."""
    patient = await clinic.wearer("cgm", zone)
    stamp = int(datetime.fromisoformat(now).timestamp() * 1000)
    async with pipeline(database_url, now_ms=lambda: stamp) as running:
        await send(running, [Reading(stamp - 24 * 60 * MINUTE, LOW), Reading(stamp - 20 * 60 * MINUTE, WELL)])
        await send(running, [Reading(stamp - 19 * 60 * MINUTE, WELL), Reading(stamp - MINUTE, LOW)])
        alerts = await clinic.alerts(patient)
    assert [alert.retrospective for alert in alerts] == [True, False]


@pytest.mark.parametrize("first", ["left", "right", "mixed"])
async def test_two_sensors_on_one_patient_are_one_series(
    clinic: Clinic, patient: int, database_url: str, first: str
) -> None:
    """At one instant the lowest counts, whichever sensor says it and whichever comes first."""
    await clinic.provisioning.add_devices([NewDevice("second", DeviceModel.CGM, patient, EVER)])
    left = night((0, WELL), (10, LOW), (20, WELL), (30, WELL), (40, WELL))
    right = night((0, WELL), (10, WELL), (20, LOW), (35, WELL), (51, WELL), (60, WELL))
    sent = [("cgm", left), ("second", right)]
    if first == "right":
        sent.reverse()
    if first == "mixed":
        sent = [(name, [reading]) for name, readings in sent for reading in readings]
        sent.sort(key=lambda pair: pair[1][0].at)
    async with pipeline(database_url) as running:
        for device, readings in sent:
            await send(running, readings, device)
    alerts = [(*alert.span, alert.severity) for alert in await clinic.alerts(patient)]
    assert alerts == expected(left + right) == [(at(10), at(51), "high")]


async def test_a_change_of_wearer_gives_each_their_own_readings(
    clinic: Clinic, patient: int, database_url: str
) -> None:
    other = await clinic.provisioning.add_patient("Other", "UTC")
    handed_over = datetime.fromtimestamp(at(25) / 1000, UTC)
    await clinic.provisioning.assign("cgm", other, since=handed_over)
    async with pipeline(database_url) as running:
        await send(running, night((30, WELL), (40, LOW), (60, WELL), (80, WELL)))
        await send(running, night((10, LOW), (20, WELL), (24.9, WELL)))
        assert await clinic.spans(patient) == [(at(10), None)]
        assert await clinic.spans(other) == [(at(40), at(80))]
        await clinic.provisioning.assign("cgm", patient, since=handed_over + timedelta(days=1))
        await send(running, [Reading(at(30) + 24 * 60 * MINUTE, WELL), Reading(at(46) + 24 * 60 * MINUTE, WELL)])
    assert await clinic.spans(patient) == [(at(10), at(30) + 24 * 60 * MINUTE)]
    assert await clinic.spans(other) == [(at(40), at(80))]


async def test_a_journey_changes_what_is_night(clinic: Clinic, patient: int, database_url: str) -> None:
    """03:00 UTC is night in UTC and noon in Shanghai; the running gateway hears of the journey."""
    day = 24 * 60.0
    async with pipeline(database_url) as running:
        await send(running, night((120, LOW), (130, WELL), (150, WELL)))
        await clinic.provisioning.set_timezone(patient, "Asia/Shanghai", datetime.fromtimestamp(at(600) / 1000, UTC))
        await send(running, night((day + 120, LOW), (day + 130, WELL), (day + 150, WELL)))
        assert await clinic.spans(patient) == [(at(120), at(150))]
        await send(running, night((day + 960, LOW), (day + 970, WELL), (day + 990, WELL)))
    assert await clinic.spans(patient) == [(at(120), at(150)), (at(day + 960), at(day + 990))]


async def test_conflicts_are_kept_once_and_the_first_counts(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((10, WELL)))
        for _ in range(3):
            await send(running, night((10, LOW), (10, WELL), (10, 4.9)))
        await send(running, [Reading(at(10), 90.0, "mg/dL")])
    assert await clinic.readings() == [("cgm", "glucose", at(10), WELL, "mmol/L")]
    assert await clinic.alerts(patient) == []
    found = await clinic.rows("select value, unit, kept_value, kept_unit, to_ms(at) from conflict order by unit, value")
    assert found == [(3.5, 1, 5.0, 1, at(10)), (4.9, 1, 5.0, 1, at(10)), (90.0, 2, 5.0, 1, at(10))]


async def test_two_values_in_one_batch_are_a_conflict_too(clinic: Clinic, patient: int, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((10, WELL), (10, LOW), (10, WELL)))
        await send(running, [Reading(at(20), None, "mmol/L", ("below_range",)), Reading(at(20), 5.0)])
    assert await clinic.stored() == 2
    assert await clinic.rows("select value, kept_value from conflict order by at") == [(3.5, 5.0), (5.0, None)]
    assert [alert.opened_at for alert in await clinic.alerts(patient)] == [at(20)]


@pytest.mark.usefixtures("patient")
async def test_evidence_is_gathered_when_it_is_raised_and_stays(clinic: Clinic, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, night((-60, 6.0), (0, WELL), (10, LOW)))
        await send(running, night((15, URGENT)))
    evidence = await clinic.value("select evidence from alert")
    assert [reading["value"] for reading in evidence["glucose"]] == [6.0, WELL, LOW]
    assert evidence["finding"]["lowest_at"] == at(15)
    assert await clinic.value("select evidence = %s from alert", Jsonb(evidence))


async def test_a_zone_this_machine_does_not_know_stops_nobody(clinic: Clinic, database_url: str) -> None:
    await clinic.wearers(["known", "unknown"])
    await clinic.connection.execute(
        "update patient_timezone set timezone = 'Mars/Olympus_Mons' where patient_id = (select max(id) from patient)"
    )
    connection = await connect(database_url, "test")
    try:
        directory = await load_directory(connection)
    finally:
        await connection.close()
    assert set(directory.keys) == {"known", "unknown"}
    assert all(zone.local(0).utcoffset() == timedelta(0) for zone in directory.zones.values())
