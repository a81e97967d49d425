"""Who sees what: decided by PostgreSQL, so that a handler that forgot to ask could leak nothing."""

from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.api.clinic import START, Clinic

SECURED = [
    "patient", "patient_timezone", "consent", "assignment", "alert", "outbox", "dose", "dose_schedule", "hrv_night",
    "conflict", "quarantine", "observation_seen", "rr_series_seen", "pillbox_event", "hrv_window",
]  # fmt: skip


@pytest.fixture
def clinic(clinic: Clinic) -> Clinic:
    """The clinic with one row of everything for each patient."""
    for name, patient in clinic.patients.items():
        device = f"cgm-{name.lower()}"
        key = clinic.devices[device]
        clinic.alert(name)
        clinic.readings(device, name, [(START, 5.0, 1, 0)])
        clinic.insert(
            "rr_series", at=START, ends_at=START, received_at=START, device_key=key, patient_id=patient, unit=4, flags=0,
            intervals=[800.0],
        )  # fmt: skip
        clinic.insert("pillbox_event", device_key=key, patient_id=patient, type="tamper", at=START, received_at=START)
        clinic.insert(
            "conflict", device_key=key, patient_id=patient, code=1, at=START, unit=1, flags=0, value=6.0, kept_value=5.0,
            kept_unit=1, received_at=START,
        )  # fmt: skip
        clinic.insert(
            "quarantine", received_at=START, topic=f"vigil/v1/{device}/telemetry", device_id=device, patient_id=patient,
            reason="malformed", detail="no JSON", payload=b"{", payload_bytes=1, payload_sha256=name.encode(),
        )  # fmt: skip
        schedule = clinic.insert(
            "dose_schedule", patient_id=patient, medication="Metformin", local_times=["08:00"], valid_from=START,
            created_at=START,
        )["id"]  # fmt: skip
        clinic.insert(
            "dose", schedule_id=schedule, patient_id=patient, due_at=START, window_start=START, window_end=START,
            state="taken", updated_at=START,
        )  # fmt: skip
        clinic.insert("hrv_night", patient_id=patient, night=START, starts_at=START, ends_at=START, windows=12)
        clinic.insert(
            "hrv_window", patient_id=patient, window_start=START, device_key=key, beats=300, coverage=1, corrected=0,
            valid=True,
        )  # fmt: skip
    clinic.insert(
        "quarantine", received_at=START, topic="vigil/v1/ghost/telemetry", device_id="ghost", reason="unknown_device",
        detail="no such device", payload=b"{", payload_bytes=1, payload_sha256=b"ghost",
    )  # fmt: skip
    return clinic


def patients_in(clinic: Clinic, user: int | None, relation: str) -> set[str]:
    """Return whose rows a query without any condition of its own gets as `vigil_api`."""
    column = "id" if relation == "patient" else "patient_id"
    names = {key: name for name, key in clinic.patients.items()}
    with clinic.connection.transaction(force_rollback=True):
        clinic.connection.execute("set local role vigil_api")
        clinic.connection.execute("select set_config('vigil.user_id', %s, true)", (str(user or ""),))
        query = sql.SQL("select {} from {}").format(sql.Identifier(column), sql.Identifier(relation))
        return {names.get(row[0], "nobody") for row in clinic.connection.execute(query)}


def test_without_any_check_in_python_each_user_gets_only_their_patients(clinic: Clinic) -> None:
    for relation in SECURED:
        everyone = {"Ada", "Ben", "Cleo"} | ({"nobody"} if relation == "quarantine" else set())
        seen = {user: patients_in(clinic, key, relation) for user, key in clinic.users.items()}
        assert seen == {
            "anna": everyone,
            "dora": {"Ada", "Ben"},
            "nils": {"Ada", "Ben"},
            "emil": {"Cleo"},
            "ines": set(),
            "paul": set(),
        }, relation
        assert patients_in(clinic, None, relation) == set(), relation
    clinic.connection.execute("update app_user set disabled_at = %s", (START,))
    for relation in SECURED:
        assert patients_in(clinic, clinic.users["anna"], relation) == set(), relation


def as_api(clinic: Clinic, user: str, statement: str) -> None:
    with clinic.connection.transaction(force_rollback=True):
        clinic.connection.execute("set local role vigil_api")
        clinic.connection.execute("select set_config('vigil.user_id', %s, true)", (str(clinic.users[user]),))
        clinic.connection.execute(statement.encode())


def test_hypertables_their_chunks_and_the_contracts_view_are_out_of_reach(clinic: Clinic) -> None:
    chunks = clinic.connection.execute(
        "select show_chunks('observation')::text union select show_chunks('rr_series')::text"
    )
    relations = [row[0] for row in chunks]
    assert len(relations) == 2
    for relation in [*relations, "observation", "rr_series", "readings", "device_status", "receipt", "command"]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, "anna", f"table {relation}")


def test_the_role_of_the_api_can_write_little(clinic: Clinic) -> None:
    for statement in (
        "update patient set name = 'X'",
        "delete from alert",
        "delete from alert_history",
        "update alert set patient_id = 1",
        "update alert set evidence = '{}'",
        "insert into care_team values (2, 3, '2026-01-01')",
        "update app_user set role = 'admin'",
        "select pg_read_file('/etc/passwd')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, "anna", statement)


def test_nobody_writes_about_alerts_that_they_cannot_see_or_in_anothers_name(clinic: Clinic) -> None:
    alert = clinic.value("select id from alert where patient_id = %s", clinic.patients["Cleo"])
    entry = "insert into alert_history (alert_id, at, action, actor) values ({}, '2026-01-01', 'note', {})"
    for user, actor in (("dora", "dora"), ("emil", "dora")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, user, entry.format(alert, clinic.users[actor]))
    as_api(clinic, "emil", entry.format(alert, clinic.users["emil"]))


async def ids(client: httpx.AsyncClient, path: str, key: str = "patient_id") -> set[Any]:
    response = await client.get(f"/api/v1{path}")
    assert response.status_code == 200, response.text
    return {item[key] for item in response.json()["items"]}


async def test_every_list_shows_each_user_their_own(
    anna: httpx.AsyncClient,
    dora: httpx.AsyncClient,
    nils: httpx.AsyncClient,
    emil: httpx.AsyncClient,
    clinic: Clinic,
) -> None:
    ada, ben, cleo = (str(clinic.patients[name]) for name in ("Ada", "Ben", "Cleo"))
    assert await ids(anna, "/quarantine") == {ada, ben, cleo, None}
    for path in ("/alerts", "/conflicts", "/devices"):
        assert await ids(anna, path) == {ada, ben, cleo}
    for path in ("/alerts", "/conflicts", "/quarantine", "/devices"):
        assert await ids(dora, path) == await ids(nils, path) == {ada, ben}
        assert await ids(emil, path) == {cleo}
    assert await ids(dora, "/patients", "id") == {ada, ben}


async def test_what_one_may_not_see_is_not_found(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    cleo = clinic.patients["Cleo"]
    alert = clinic.value("select id from alert where patient_id = %s", cleo)
    span = {"code": "glucose", "start": START.isoformat(), "end": (START + timedelta(hours=1)).isoformat()}
    for path in ("", "/hrv/nights", "/doses", "/adherence", "/trends"):
        assert (await dora.get(f"/api/v1/patients/{cleo}{path}", params=span)).status_code == 404
    assert (await dora.get(f"/api/v1/alerts/{alert}")).status_code == 404
    assert (await dora.get("/api/v1/devices/cgm-cleo/assignments")).status_code == 404
    for action in ("acknowledge", "resolve"):
        assert (await dora.post(f"/api/v1/alerts/{alert}/{action}")).status_code == 404
    assert clinic.value("select state from alert where id = %s", alert) == "open"
    assert (await dora.get("/api/v1/alerts", params={"patient_id": cleo})).json()["items"] == []
