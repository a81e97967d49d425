"""People who act on alerts beside the gateway and beside each other."""

import asyncio
from datetime import timedelta

import httpx
import psycopg
import pytest

from tests.api.clinic import START, Clinic


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
async def test_who_acts_on_an_alert_takes_their_turn_at_the_outbox(
    dora: httpx.AsyncClient, clinic: Clinic, database_url: str, action: str
) -> None:
    """Ids become visible in the order of commits only if every writer waits for the one before."""
    alert = clinic.alert("Ada")
    others = clinic.alert("Ben")
    with psycopg.connect(database_url) as gateway:
        gateway.execute("select alert_outbox_lock()")
        acting = asyncio.create_task(dora.post(f"/api/v1/alerts/{alert}/{action}"))
        waiting = "select exists (select from pg_locks where locktype = 'advisory' and classid = 7316 and not granted)"
        async with asyncio.timeout(10):
            while not clinic.value(waiting):
                assert not acting.done(), "it did not wait"
                await asyncio.sleep(0.01)
        gateway.execute(
            "insert into outbox (alert_id, patient_id, action, alert, created_at)"
            " select id, patient_id, 'updated', to_jsonb(a), updated_at from alert a where id = %s",
            (others,),
        )
        gateway.commit()
        assert (await acting).status_code == 200
    written = clinic.connection.execute("select action from outbox order by id").fetchall()
    assert [row[0] for row in written] == ["raised", "raised", "updated", f"{action.removesuffix('e')}ed"]


async def test_an_alert_that_somebody_deals_with_is_snoozed_no_more(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    for hour, action in enumerate(("acknowledge", "resolve")):
        alert = clinic.alert(
            "Ada", START + timedelta(hours=hour), state="snoozed", snoozed_until=START + timedelta(hours=9)
        )
        assert (await dora.post(f"/api/v1/alerts/{alert}/{action}")).status_code == 200
    assert clinic.value("select count(*) from alert where snoozed_until is not null") == 0


async def test_two_people_may_note_the_same_words(
    dora: httpx.AsyncClient, nils: httpx.AsyncClient, clinic: Clinic
) -> None:
    alert = clinic.alert("Ada")
    for client in (dora, nils, nils):
        await client.post(f"/api/v1/alerts/{alert}/acknowledge", json={"note": "Seen."})
    history = (await dora.get(f"/api/v1/alerts/{alert}")).json()["history"]
    assert [(entry["actor_email"], entry["note"]) for entry in history[1:]] == [
        ("dora@clinic.test", "Seen."),
        ("nils@clinic.test", "Seen."),
    ]
