"""What a doctor sees beside an alert: the patient's own, of the hours before it, and nobody else's."""

from typing import Any

from gateway.ingest.source import Message
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.ward import moment
from tests.gateway.ward import ms as at
from tests.gateway.wire import readings_message, telemetry
from tests.streaming.nocturnal_reference import Reading

NIGHT = at("2026-03-10T03:00Z")
HANDED_OVER = NIGHT - 90 * MINUTE_MS


def message(device: str, series: list[dict[str, Any]]) -> Message:
    return messages_of([telemetry(device, series)])[0]


def values(device: str, code: str, unit: str, *readings: tuple[float, float]) -> Message:
    """Readings, as minutes before the low and value."""
    series = [
        {"code": code, "unit": unit, "at": NIGHT - round(minute * MINUTE_MS), "value": value}
        for minute, value in readings
    ]
    return message(device, series)


async def hrv(clinic: Clinic, patient: int, *windows: tuple[float, float, bool]) -> None:
    """Windows as the worker would have computed them: minutes before the low, RMSSD, whether valid."""
    for minute, rmssd, valid in windows:
        await clinic.connection.execute(
            "insert into hrv_window (patient_id, window_start, device_key, beats, coverage, corrected, valid, rmssd, sdnn,"
            " mean_heart_rate, modality) values (%s, from_ms(%s), 1, 300, 1, 0, %s, %s, 50, 60, 'ppg')",
            (patient, NIGHT - round(minute * MINUTE_MS), valid, rmssd),
        )


async def doses(clinic: Clinic, patient: int, medication: str, *hours: float) -> None:
    """Doses as the worker would have written them, due so many hours before the low."""
    schedule = await clinic.value(
        "insert into dose_schedule (patient_id, medication, local_times, valid_from, created_at, computed_until)"
        " values (%s, %s, '{08:00}', '2026-01-01', %s, 'infinity') returning id",
        patient,
        medication,
        moment(NIGHT - 90 * DAY_MS),
    )
    for hour in hours:
        due = NIGHT - round(hour * HOUR_MS)
        await clinic.connection.execute(
            "insert into dose (schedule_id, patient_id, due_at, window_start, window_end, state, taken_at, updated_at)"
            " values (%s, %s, %s, %s, %s, 'taken', %s, %s)",
            (schedule, patient, *(moment(one) for one in (due, due - HOUR_MS, due + HOUR_MS, due + 1, due))),
        )


async def evidence_of(clinic: Clinic, patient: int) -> dict[str, Any]:
    (evidence,) = await clinic.rows("select evidence from alert where patient_id = %s", patient)
    return dict(evidence[0])


async def test_readings_before_the_sensor_was_handed_over_are_the_other_patients(
    clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("cgm")
    bob = await clinic.provisioning.add_patient("Bob", "UTC")
    await clinic.provisioning.assign("cgm", bob, since=moment(HANDED_OVER))
    async with pipeline(database_url) as running:
        await running.commit([values("cgm", "glucose", "mmol/L", (100, 9.0), (95, 9.5), (80, 6.0), (40, 5.0))])
        await running.commit([values("cgm", "heart_rate", "/min", (100, 150.0), (80, 60.0), (40, 64.0))])
        await running.commit([values("cgm", "glucose", "mmol/L", (0, 3.5))])
    evidence = await evidence_of(clinic, bob)
    assert [reading["value"] for reading in evidence["glucose"]] == [6.0, 5.0, 3.5]
    assert evidence["heart_rate"] == {"mean": 62.0, "unit": "/min", "readings": 2}


async def test_each_kind_is_of_its_own_time_before_the_episode(clinic: Clinic, database_url: str) -> None:
    ada, eve = await clinic.wearers(["cgm", "other"])
    await hrv(clinic, ada, (370, 10.0, True), (355, 40.0, True), (60, 44.0, True), (30, 90.0, False), (-5, 10.0, True))
    await hrv(clinic, eve, (60, 99.0, True))
    await doses(clinic, ada, "Metformin", 25, 23, 1, -1)
    await doses(clinic, eve, "Insulin", 2)
    async with pipeline(database_url) as running:
        await running.commit([values("other", "heart_rate", "/min", (60, 200.0))])
        await running.commit([values("cgm", "heart_rate", "/min", (365, 200.0), (355, 60.0), (5, 70.0), (-5, 200.0))])
        await running.commit([values("cgm", "glucose", "mmol/L", (125, 8.0), (119, 7.0), (60, 6.0))])
        await running.commit([values("cgm", "glucose", "mmol/L", (0, 3.5), (-5, 3.4))])
    evidence = await evidence_of(clinic, ada)
    assert [(reading["at"], reading["value"]) for reading in evidence["glucose"]] == [
        (NIGHT - 119 * MINUTE_MS, 7.0),
        (NIGHT - 60 * MINUTE_MS, 6.0),
        (NIGHT, 3.5),
    ]
    assert evidence["heart_rate"] == {"mean": 65.0, "unit": "/min", "readings": 2}
    assert evidence["hrv"] == {"median_rmssd": 42.0, "unit": "ms", "windows": 2}
    assert evidence["doses"] == [
        {"medication": "Metformin", "due_at": due, "state": "taken", "taken_at": due + 1}
        for due in (NIGHT - 23 * HOUR_MS, NIGHT - HOUR_MS)
    ]


async def test_alerts_of_one_batch_have_each_the_readings_of_their_own_patient(
    clinic: Clinic, database_url: str
) -> None:
    patients = await clinic.wearers(["one", "two", "three"])
    lows = [3.5, 3.6, 3.7]
    async with pipeline(database_url) as running:
        await running.commit(
            messages_of(
                [
                    readings_message(device, [Reading(NIGHT, low)])
                    for device, low in zip(("one", "two", "three"), lows, strict=True)
                ]
            )
        )
    found = [(await evidence_of(clinic, patient))["glucose"] for patient in patients]
    assert [[reading["value"] for reading in readings] for readings in found] == [[low] for low in lows]


async def test_a_worse_reading_in_a_later_batch_is_the_lowest_that_the_alert_tells(
    clinic: Clinic, database_url: str
) -> None:
    await clinic.wearer("cgm")
    async with pipeline(database_url) as running:
        for minute, value in ((0, 3.6), (-5, 3.8), (-10, 3.4)):
            await running.commit([values("cgm", "glucose", "mmol/L", (minute, value))])
    rows = await clinic.rows(
        "select severity, summary, evidence #> '{finding,lowest_value}', evidence #> '{finding,lows}' from alert"
    )
    assert rows == [("high", "Glucose low at night since 03:00: lowest 3.4 mmol/L at 03:10", 3.4, 3)]
