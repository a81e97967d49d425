"""Alerts: their shape, their lists, and what people may do to them."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from alerts.reconcile import Action, AlertState
from api.alert_actions import FROM, Decision, decide
from api.alert_view import alert_json
from tests.api.clinic import START, Clinic, Clock, is_problem

WRITTEN = {"acknowledge": "acknowledged", "resolve": "resolved"}
ALERTS = "/api/v1/alerts"
FIELDS = [
    "id",
    "patient_id",
    "rule",
    "severity",
    "grade",
    "answered_grade",
    "unanswered",
    "technical",
    "state",
    "opened_at",
    "resolved_at",
    "raised_at",
    "updated_at",
    "retrospective",
    "data",
    "summary",
    "evidence",
    "acknowledged_by",
    "superseded_by",
]


async def get(client: httpx.AsyncClient, path: str = ALERTS, **query: Any) -> dict[str, Any]:
    response = await client.get(path, params=query)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def pages(client: httpx.AsyncClient, path: str, **query: Any) -> list[list[str]]:
    """Return the ids of every page."""
    body = await get(client, path, **query)
    found = [[item["id"] for item in body["items"]]]
    while body["next"] is not None:
        body = await get(client, path, **query, cursor=body["next"])
        found.append([item["id"] for item in body["items"]])
    return found


async def test_an_alert_has_the_shape_of_the_contract(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    alert = clinic.alert("Ada", evidence=Jsonb({"lowest": {"value": 3.8}}))
    (item,) = (await get(dora))["items"]
    assert list(item) == FIELDS
    assert item == {
        **item,
        "id": alert,
        "patient_id": str(clinic.patients["Ada"]),
        "rule": "nocturnal_hypoglycaemia",
        "severity": "high",
        "grade": 3,
        "answered_grade": None,
        "unanswered": False,
        "technical": False,
        "state": "open",
        "opened_at": "2026-11-22T03:00:00Z",
        "resolved_at": None,
        "retrospective": False,
        "data": "current",
        "evidence": {"lowest": {"value": 3.8}},
        "acknowledged_by": None,
        "superseded_by": None,
    }


def test_the_row_and_its_snapshot_in_the_outbox_give_the_same_json(clinic: Clinic) -> None:
    first = clinic.alert("Ada", state="withdrawn", resolved_at=START + timedelta(minutes=20, microseconds=5))
    clinic.alert("Ada", acknowledged_by=clinic.users["dora"], superseded_by=int(first))
    for snapshot, row in clinic.connection.execute(
        "select o.alert, to_jsonb(a) from outbox o join alert a on a.id = alert_id"
    ):
        assert alert_json(snapshot) == alert_json(row)
        assert json.loads(json.dumps(alert_json(row))) == alert_json(row)


async def test_lists_are_filtered_and_without_a_state_hide_the_withdrawn(
    anna: httpx.AsyncClient, clinic: Clinic
) -> None:
    states = list(AlertState)
    ids = {
        state: clinic.alert("Ada", START + timedelta(minutes=n), state=state, severity="low" if n else "urgent")
        for n, state in enumerate(states)
    }
    other = clinic.alert("Cleo")

    async def found(**query: Any) -> set[str]:
        return {item["id"] for item in (await get(anna, **query))["items"]}

    assert await found() == {*ids.values(), other} - {ids[AlertState.WITHDRAWN]}
    for state in states:
        assert await found(state=state, patient_id=clinic.patients["Ada"]) == {ids[state]}
    assert await found(state=["resolved", "withdrawn"]) == {ids[AlertState.RESOLVED], ids[AlertState.WITHDRAWN]}
    assert await found(severity="urgent") == {ids[AlertState.OPEN]}
    assert await found(patient_id=clinic.patients["Cleo"]) == {other}
    assert await found(patient_id="nobody") == set()
    is_problem(await anna.get(ALERTS, params={"state": "lost"}), 422)


async def test_pages_neither_repeat_nor_skip_while_rows_come(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    ids = [clinic.alert("Ada", START + timedelta(minutes=n)) for n in range(25)]
    body = await get(dora, limit=10)
    seen = [item["id"] for item in body["items"]]
    minute = 100
    while body["next"]:
        clinic.alert("Ada", START + timedelta(minutes=minute))
        minute += 1
        body = await get(dora, limit=10, cursor=body["next"])
        seen += [item["id"] for item in body["items"]]
    assert seen == ids[::-1]


async def test_cursors_that_we_did_not_write_are_refused(dora: httpx.AsyncClient) -> None:
    written_by_others = (
        *("!", "Ñ", "x" * 1024, "x" * 1025),
        *("e30", "bnVsbA", "WzEsMl0", "WyJ4Il0", "W3RydWVd", "W10", "WzFlNDBd", "W251bGxd"),
    )
    for cursor in written_by_others:
        problem = is_problem(await dora.get(ALERTS, params={"cursor": cursor}), 422)
        assert problem["errors"][0]["location"] == "query.cursor"


async def test_a_page_holds_1_to_500(dora: httpx.AsyncClient) -> None:
    for limit in ("0", "501", "many"):
        is_problem(await dora.get(ALERTS, params={"limit": limit}), 422)


async def test_ids_are_opaque_so_a_strange_one_is_just_not_found(dora: httpx.AsyncClient) -> None:
    for strange in ("0", "-1", "01", "x", "9223372036854775808", "٣", "1.0", "%00"):
        is_problem(await dora.get(f"{ALERTS}/{strange}"), 404)
        is_problem(await dora.get(f"/api/v1/patients/{strange}"), 404)
        is_problem(await dora.get(f"/api/v1/devices/{strange}/assignments"), 404)
        is_problem(await dora.post(f"{ALERTS}/{strange}/resolve"), 404)


def test_decisions() -> None:
    table = {action: [decide(action, state) for state in AlertState] for action in FROM}
    change, already, refuse = Decision.CHANGE, Decision.ALREADY_SO, Decision.REFUSE
    # open, acknowledged, snoozed, resolved, withdrawn
    assert table[Action.ACKNOWLEDGED] == [change, already, change, refuse, refuse]
    assert table[Action.RESOLVED] == [change, change, change, already, refuse]


async def test_acknowledging_writes_alert_history_and_outbox(
    nils: httpx.AsyncClient, clinic: Clinic, clock: Clock
) -> None:
    alert = clinic.alert("Ada")
    clock.advance(minutes=4)
    done = await nils.post(f"{ALERTS}/{alert}/acknowledge", json={"note": "Called her."})
    assert done.status_code == 200
    assert done.json()["state"] == "acknowledged"
    assert done.json()["acknowledged_by"] == str(clinic.users["nils"])
    assert done.json()["updated_at"] == "2026-11-22T03:04:00Z"
    details = await get(nils, f"{ALERTS}/{alert}")
    assert list(details) == [*FIELDS, "history", "deliveries"]
    assert [(entry["action"], entry["actor_email"], entry["note"]) for entry in details["history"]] == [
        ("raised", None, None),
        ("acknowledged", "nils@clinic.test", "Called her."),
    ]
    assert details["history"][1]["actor"] == str(clinic.users["nils"])
    assert details["history"][1]["detail"] == {"grade": 3}
    assert details["answered_grade"] == 3
    assert [(entry["channel"], entry["action"]) for entry in details["deliveries"]] == [
        ("stream", "raised"),
        ("stream", "acknowledged"),
    ]
    assert alert_json(clinic.value("select alert from outbox order by id desc limit 1")) == done.json()


async def test_resolving_ends_the_alert_but_not_the_episode_in_the_data(
    dora: httpx.AsyncClient, clinic: Clinic, clock: Clock
) -> None:
    early, ahead = clinic.alert("Ada"), clinic.alert("Ada", START + timedelta(hours=1))
    clock.advance(minutes=10)
    resolved = (await dora.post(f"{ALERTS}/{early}/resolve")).json()
    assert (resolved["state"], resolved["resolved_at"]) == ("resolved", "2026-11-22T03:10:00Z")
    resolved = (await dora.post(f"{ALERTS}/{ahead}/resolve", json={})).json()
    assert resolved["resolved_at"] == resolved["opened_at"], "a device's clock may run ahead of ours"
    assert clinic.value("select bool_and(running) from alert")


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
async def test_an_answer_to_something_milder_is_kept_and_the_alert_stays_open(
    dora: httpx.AsyncClient, clinic: Clinic, action: str
) -> None:
    """She saw it at 3.8 mmol/L; it is urgent by the time the answer comes."""
    alert = clinic.alert("Ada", severity="urgent")
    late = (await dora.post(f"{ALERTS}/{alert}/{action}", json={"grade": 3, "note": "Juice."})).json()
    assert (late["state"], late["grade"], late["answered_grade"]) == ("open", 4, 3)
    assert (late["acknowledged_by"], late["resolved_at"]) == (None, None)
    *_, last = (await get(dora, f"{ALERTS}/{alert}"))["history"]
    assert (last["action"], last["note"], last["detail"]) == (WRITTEN[action], "Juice.", {"grade": 3})
    seen = (await dora.post(f"{ALERTS}/{alert}/{action}", json={"grade": 4})).json()
    assert (seen["state"], seen["answered_grade"]) == (WRITTEN[action], 4)


async def test_an_answer_never_counts_for_less_than_an_earlier_one(dora: httpx.AsyncClient, clinic: Clinic) -> None:
    alert = clinic.alert("Ada", severity="urgent", grade=5, answered_grade=4)
    milder = (await dora.post(f"{ALERTS}/{alert}/acknowledge", json={"grade": 2})).json()
    assert (milder["state"], milder["answered_grade"]) == ("open", 4)
    answered = (await dora.post(f"{ALERTS}/{alert}/resolve")).json()
    assert (answered["state"], answered["answered_grade"]) == ("resolved", 5)
    for grade in (0, 6, "x", 3.5):
        is_problem(await dora.post(f"{ALERTS}/{alert}/acknowledge", json={"grade": grade}), 422)


def test_an_event_from_before_there_were_grades_has_that_of_its_severity(clinic: Clinic) -> None:
    clinic.alert("Ada", severity="urgent")
    snapshot = clinic.value("select alert - array['grade', 'answered_grade', 'unanswered'] from outbox")
    shown = alert_json(snapshot)
    assert (shown["grade"], shown["answered_grade"], shown["unanswered"]) == (4, None, False)


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
async def test_doing_it_again_changes_nothing_but_keeps_a_new_note_once(
    dora: httpx.AsyncClient, nils: httpx.AsyncClient, clinic: Clinic, clock: Clock, action: str
) -> None:
    alert = clinic.alert("Ada")
    first = await dora.post(f"{ALERTS}/{alert}/{action}", json={"note": "Seen."})
    clock.advance(minutes=1)
    for client, body in (
        (dora, {"note": "Seen."}),
        (dora, {"note": "And called."}),
        (nils, None),
        (dora, {"note": "And called."}),
    ):
        again = await client.post(f"{ALERTS}/{alert}/{action}", json=body)
        assert again.status_code == 200
        assert again.json() == first.json()
    history = (await get(dora, f"{ALERTS}/{alert}"))["history"]
    assert [entry["note"] for entry in history] == [None, "Seen.", "And called."]
    assert clinic.value("select count(*) from outbox") == 2


@pytest.mark.parametrize(
    ("state", "action"), [("withdrawn", "acknowledge"), ("withdrawn", "resolve"), ("resolved", "acknowledge")]
)
async def test_states_that_forbid_it_are_a_conflict(
    dora: httpx.AsyncClient, clinic: Clinic, state: str, action: str
) -> None:
    alert = clinic.alert("Ada", state=state)
    problem = is_problem(await dora.post(f"{ALERTS}/{alert}/{action}"), 409)
    assert problem["error"] == f"alert_{state}"
    assert clinic.value("select count(*) from outbox") == 1


async def test_of_many_who_acknowledge_at_once_one_does(
    dora: httpx.AsyncClient, nils: httpx.AsyncClient, clinic: Clinic
) -> None:
    alert = clinic.alert("Ada")
    answers = await asyncio.gather(*(client.post(f"{ALERTS}/{alert}/acknowledge") for client in [dora, nils] * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["acknowledged_by"] for answer in answers}) == 1
    assert clinic.value("select count(*) from alert_history where action = 'acknowledged'") == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"note": "\\u0000"}', 422),
        (b'{"note": "\\ud800"}', 422),
        (b'{"note": ""}', 422),
        (b'{"note": 5}', 422),
        (b'{"note"', 422),
        (b"[]", 422),
        (b'{"note": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
async def test_bodies_that_are_wrong(dora: httpx.AsyncClient, clinic: Clinic, body: bytes, status: int) -> None:
    path = f"{ALERTS}/{clinic.alert('Ada')}/acknowledge"
    is_problem(await dora.post(path, content=body, headers={"Content-Type": "application/json"}), status)

    async def in_pieces() -> Any:
        for offset in range(0, len(body), 10_000):
            yield body[offset : offset + 10_000]

    is_problem(await dora.post(path, content=in_pieces(), headers={"Content-Type": "application/json"}), status)
    assert clinic.value("select state from alert") == "open"
