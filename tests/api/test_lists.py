"""Patients, devices, doses, nights, quarantine and conflicts as the API shows them."""

import base64
import hashlib
from datetime import date, timedelta
from typing import Any

import httpx
import pytest

from devices.vocabulary import Reason
from tests.api.clinic import START, Clinic, is_problem


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    response = await client.get(f"/api/v1{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def all_pages(client: httpx.AsyncClient, path: str, limit: int) -> list[Any]:
    body = await get(client, path, limit=limit)
    items: list[Any] = body["items"]
    while body["next"] is not None:
        assert len(body["items"]) == limit
        body = await get(client, path, limit=limit, cursor=body["next"])
        items += body["items"]
    return items


async def test_patients_come_by_name_in_pages(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    for name in ("Ben", "Łucja", "阿达\u00a0", "'; drop table patient; --"):
        clinic.patient(name)
    whole = (await get(anna, "/patients"))["items"]
    assert len(whole) == 7
    for limit in (1, 2, 7):
        assert await all_pages(anna, "/patients", limit) == whole


async def test_a_patient_with_zones_expectations_and_devices(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    ada = clinic.patients["Ada"]
    moved = START - timedelta(days=1)
    clinic.insert("patient_timezone", patient_id=ada, valid_from=moved, timezone="Europe/Berlin")
    clinic.insert("expected_code", patient_id=ada, code=1, expected_interval=timedelta(minutes=5))
    clinic.device("old", "Ada", valid=f"[{START - timedelta(days=9)},{START})")
    clinic.device("band", "Ada", "wristband", valid=f"[{moved},)")
    body = await get(dora, f"/patients/{ada}")
    assert body["timezone"] == "Europe/Berlin"
    assert body["consent"] is True
    assert body["timezones"] == [
        {"timezone": "Asia/Shanghai", "valid_from": None},
        {"timezone": "Europe/Berlin", "valid_from": "2026-11-21T03:00:00Z"},
    ]
    assert body["expected"] == [{"code": "glucose", "interval_seconds": 300}]
    assert body["devices"] == [
        {"id": "band", "model": "wristband", "since": "2026-11-21T03:00:00Z"},
        {"id": "cgm-ada", "model": "cgm", "since": None},
    ]
    clinic.connection.execute("delete from consent")
    assert (await get(dora, f"/patients/{ada}"))["consent"] is False


async def test_devices_with_status_wearer_and_assignments(
    anna: httpx.AsyncClient, dora: httpx.AsyncClient, clinic: Clinic
) -> None:
    edge = clinic.device("edge", None, "edge")
    clinic.connection.execute("update device set via = %s where id = 'cgm-ada'", (edge,))
    clinic.insert(
        "device_status",
        device_key=clinic.devices["cgm-ada"],
        online=True,
        battery=87,
        firmware="1.4.2",
        contact_at=START,
    )
    clinic.insert(
        "assignment",
        device_key=edge,
        patient_id=clinic.patients["Ada"],
        valid=f"[{START - timedelta(days=2)},{START - timedelta(days=1)})",
        created_at=START,
    )
    clinic.insert(
        "assignment",
        device_key=edge,
        patient_id=clinic.patients["Cleo"],
        valid=f"[{START - timedelta(days=1)},)",
        created_at=START,
    )
    devices = {device["id"]: device for device in await all_pages(anna, "/devices", 2)}
    assert list(devices) == ["cgm-ada", "cgm-ben", "cgm-cleo", "edge"]
    assert devices["cgm-ada"]["via"] == "edge"
    assert devices["cgm-ada"]["patient_id"] == str(clinic.patients["Ada"])
    assert devices["cgm-ada"]["status"]["battery"] == 87
    assert devices["cgm-ben"]["status"] is None
    assert devices["edge"]["patient_id"] == str(clinic.patients["Cleo"])
    worn = await all_pages(anna, "/devices/edge/assignments", 1)
    assert [item["valid_until"] for item in worn] == [None, "2026-11-21T03:00:00Z"]
    assert worn[0]["device_id"] == "edge"
    seen = {device["id"]: device["patient_id"] for device in (await get(dora, "/devices"))["items"]}
    assert seen == {"cgm-ada": str(clinic.patients["Ada"]), "cgm-ben": str(clinic.patients["Ben"]), "edge": None}
    worn = (await get(dora, "/devices/edge/assignments"))["items"]
    assert [item["patient_id"] for item in worn] == [str(clinic.patients["Ada"])]
    is_problem(await anna.get("/api/v1/devices/nothing/assignments"), 404)


async def test_doses_in_an_interval(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    ada = clinic.patients["Ada"]
    for medication in ("Metformin", "Insulin"):
        schedule = clinic.insert(
            "dose_schedule",
            patient_id=ada,
            medication=medication,
            local_times=["08:00"],
            valid_from=START,
            created_at=START,
        )["id"]
        for day in range(-10, 4):
            due = START + timedelta(days=day)
            clinic.insert(
                "dose",
                schedule_id=schedule,
                patient_id=ada,
                due_at=due,
                window_start=due - timedelta(hours=1),
                window_end=due + timedelta(hours=1),
                state="taken" if day < 0 else "due",
                taken_at=due if day < 0 else None,
                updated_at=due,
            )
    usual = await all_pages(dora, f"/patients/{ada}/doses", 3)
    assert len(usual) == 2 * 8, "a week back and a day ahead unless told otherwise"
    assert [dose["due_at"] for dose in usual] == sorted(dose["due_at"] for dose in usual)
    assert {dose["medication"] for dose in usual} == {"Metformin", "Insulin"}
    span = {"start": "2026-11-22T03:00:00Z", "end": "2026-11-23T03:00:00Z"}
    doses = (await get(dora, f"/patients/{ada}/doses", **span))["items"]
    assert [dose["state"] for dose in doses] == ["due", "due"]
    assert (await get(dora, f"/patients/{ada}/doses", end="2000-01-01T00:00:00Z"))["items"] == []
    assert (await get(dora, f"/patients/{ada}/doses", start="2030-01-01T00:00:00Z"))["items"] == []
    is_problem(
        await dora.get(f"/api/v1/patients/{ada}/doses", params={"start": span["end"], "end": span["start"]}), 422
    )


async def test_nights_of_the_last_days_by_the_patients_calendar(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    ada = clinic.patients["Ada"]
    for back in range(10):
        night = date(2026, 11, 22) - timedelta(days=back)
        clinic.insert(
            "hrv_night",
            patient_id=ada,
            night=night,
            starts_at=START,
            ends_at=START,
            windows=20,
            modality="ppg" if back else "ecg",
            ln_rmssd=3.5,
            baseline=3.6 if back < 3 else None,
            baseline_sd=0.2 if back < 3 else None,
        )
    nights = (await get(dora, f"/patients/{ada}/hrv/nights", days=4))["items"]
    assert [night["night"] for night in nights] == ["2026-11-19", "2026-11-20", "2026-11-21", "2026-11-22"]
    assert [night["modality"] for night in nights] == ["ppg", "ppg", "ppg", "ecg"]
    assert (nights[0]["band_low"], nights[0]["band_high"]) == (None, None)
    assert (nights[3]["band_low"], nights[3]["band_high"]) == (pytest.approx(3.5), pytest.approx(3.7))
    is_problem(await dora.get(f"/api/v1/patients/{ada}/hrv/nights", params={"days": 367}), 422)


async def test_the_quarantine_shows_what_came_and_why_it_was_refused(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    for n, reason in enumerate(Reason):
        payload = bytes([n]) * (5000 if n else 3)
        clinic.insert(
            "quarantine",
            received_at=START,
            topic=f"vigil/v1/box-{n}/telemetry",
            device_id=f"box-{n}",
            reason=reason,
            detail="why",
            series=[0, 2],
            samples=[1] if n else None,
            content_type="application/json",
            payload=payload,
            payload_bytes=len(payload),
            payload_sha256=hashlib.sha256(payload).digest(),
        )
    items = await all_pages(anna, "/quarantine", 4)
    assert [item["reason"] for item in items] == [*Reason][::-1]
    assert base64.b64decode(items[-1]["payload"]) == b"\0\0\0"
    assert len(base64.b64decode(items[0]["payload"])) == 4096
    assert items[0]["payload_bytes"] == 5000
    assert items[-1]["payload_sha256"] == hashlib.sha256(b"\0\0\0").hexdigest()
    assert items[0]["series"] == [0, 2]
    assert (items[0]["samples"], items[-1]["samples"]) == ([1], None)
    for n, reason in enumerate(Reason):
        assert len((await get(anna, "/quarantine", reason=reason.value))["items"]) == 1
        assert len((await get(anna, "/quarantine", device_id=f"box-{n}"))["items"]) == 1
    assert (await get(anna, "/quarantine", device_id="no one's"))["items"] == []
    is_problem(await anna.get("/api/v1/quarantine", params={"reason": "boredom"}), 422)
    is_problem(await anna.get("/api/v1/quarantine", params={"device_id": "\0"}), 422)


async def test_conflicts_show_both_values(anna: httpx.AsyncClient, clinic: Clinic) -> None:
    for name in ("Ada", "Cleo"):
        clinic.insert(
            "conflict",
            device_key=clinic.devices[f"cgm-{name.lower()}"],
            patient_id=clinic.patients[name],
            code=1,
            at=START,
            unit=2,
            flags=1,
            value=None,
            kept_value=5.0,
            kept_unit=1,
            received_at=START,
        )
    assert len(await all_pages(anna, "/conflicts", 1)) == 2
    (conflict,) = (await get(anna, "/conflicts", patient_id=clinic.patients["Ada"]))["items"]
    assert conflict == {
        "id": "1",
        "device_id": "cgm-ada",
        "patient_id": str(clinic.patients["Ada"]),
        "code": "glucose",
        "at": "2026-11-22T03:00:00Z",
        "value": None,
        "unit": "mg/dL",
        "flags": ["below_range"],
        "kept_value": 5.0,
        "kept_unit": "mmol/L",
        "received_at": "2026-11-22T03:00:00Z",
    }
