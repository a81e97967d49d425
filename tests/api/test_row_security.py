"""Who sees what: decided by PostgreSQL, so that a handler that forgot to ask could leak nothing."""

from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.clinic import START, Clinic
from tests.api.everything import store_everything


@pytest.fixture
def clinic(clinic: Clinic) -> Clinic:
    """The clinic with one row of everything for each patient."""
    store_everything(clinic)
    return clinic


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
    for action in ("note", "acknowledged"):
        told = f"select tell_of_alert({alert}, '{action}', 'Hm.', 3, '2026-01-01')"
        for user in ("dora", "nils", "ines", "paul"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                as_api(clinic, user, told)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, "emil", f"select set_config('vigil.user_id', '', true); {told}")
        check = f"exists (select from alert_history where note = 'Hm.' and actor = {clinic.users['emil']})"
        as_api(clinic, "emil", f"{told}; do $$ begin assert {check}; end $$")
    for action in ("raised", "withdrawn", "data_current"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, "emil", f"select tell_of_alert({alert}, '{action}', null, 3, '2026-01-01')")
    history = "insert into alert_history (alert_id, at, action, actor) values ({}, '2026-01-01', 'note', {})"
    event = (
        "insert into outbox (alert_id, patient_id, action, alert, created_at) values ({}, {}, '', '{{}}', '2026-01-01')"
    )
    telling = "select tell_of_alerts(array[{}], array['raised'], array[null], array[null::jsonb], '2026-01-01')"
    for statement in (
        history.format(alert, clinic.users["emil"]),
        event.format(alert, clinic.patients["Cleo"]),
        telling.format(alert),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_api(clinic, "emil", statement)


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
        assert await ids(anna, path) == {ada, ben, cleo} | ({None} if path == "/devices" else set())
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
