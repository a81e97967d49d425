"""A band that changed hands: the beats of each wearer are in nobody else's trend."""

from datetime import timedelta

import httpx

from tests.api.clinic import START, Clinic
from tests.api.test_trends import trend


async def test_intervals_between_beats_are_those_of_the_patient_alone(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    handed_over = START + timedelta(minutes=10)
    key = clinic.device("band", "Ada", "wristband", valid=f"[-infinity,{handed_over})")
    clinic.insert(
        "assignment", device_key=key, patient_id=clinic.patients["Ben"], valid=f"[{handed_over},)", created_at=START
    )
    for name, at, interval in (("Ada", START, 800.0), ("Ben", handed_over, 600.0)):
        clinic.insert(
            "rr_series", at=at, ends_at=at + timedelta(seconds=2), received_at=at, device_key=key,
            patient_id=clinic.patients[name], unit=4, flags=0, intervals=[interval] * 3,
        )  # fmt: skip
    query = {"code": "rr_interval", "start": START, "end": START + timedelta(minutes=20), "points": 1}
    for name, interval in (("Ada", 800.0), ("Ben", 600.0)):
        (point,) = (await trend(anna, clinic.patients[name], **query))["points"]
        assert (point["min"], point["max"], point["count"]) == (interval, interval, 3)
