"""By which rules a patient is watched, over HTTP: what is set, by whom, what is refused, and who may."""

from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from streaming.episodes import Rule
from tests.api.clinic import START, Clinic, Clock, is_problem

V1 = "/api/v1/patients"


def path(clinic: Clinic, patient: str, tail: str = "/thresholds") -> str:
    return f"{V1}/{clinic.patients[patient]}{tail}"


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat()


async def done(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_rule_is_set_and_reset_in_the_callers_name(
    clinic: Clinic, clock: Clock, dora: httpx.AsyncClient
) -> None:
    before = await done(await dora.get(path(clinic, "Ada")))
    assert (before["group"], before["paused_until"], before["history"], before["pauses"]) == ("stable", None, [], [])
    assert set(before["rules"]) == set(Rule)
    assert before["rules"]["urgent_low"] == {
        "enabled": True,
        "settings": {"limit_mmol": 3.1, "recovery_minutes": 15.0},
        "layer": "default",
    }
    assert before["rules"]["threshold"] == {"enabled": False, "settings": {"limits": []}, "layer": "default"}
    change = {"changes": {"limit_mmol": 3.5}, "note": "falls fast"}
    after = await done(await dora.put(path(clinic, "Ada", "/thresholds/urgent_low"), json=change))
    assert after == await done(await dora.get(path(clinic, "Ada")))
    assert after["rules"]["urgent_low"] == {
        "enabled": True,
        "settings": {"limit_mmol": 3.5, "recovery_minutes": 15.0},
        "layer": "patient",
    }
    dora_id = str(clinic.users["dora"])
    entry = {
        "layer": "patient",
        "rule": "urgent_low",
        "changes": {"limit_mmol": 3.5},
        "valid_from": "2026-11-22T03:00:00Z",
    }
    entry |= {"changed_by": dora_id, "changed_by_email": "dora@clinic.test", "note": "falls fast"}
    assert after["history"] == [entry]
    clock.advance(minutes=5)
    reset = await done(await dora.put(path(clinic, "Ada", "/thresholds/urgent_low"), json={"changes": None}))
    assert reset["rules"] == before["rules"]
    assert [row["changes"] for row in reset["history"]] == [{}, {"limit_mmol": 3.5}]


async def test_limits_the_group_and_the_clinic(
    clinic: Clinic, nils: httpx.AsyncClient, anna: httpx.AsyncClient
) -> None:
    clinic.insert("rule_setting", rule="data_silence", changes=Jsonb({"days": 2}), valid_from=START - timedelta(days=1))
    limit = {"code": "heart_rate", "high": 120, "duration_minutes": 10}
    found = await done(
        await nils.put(path(clinic, "Ada", "/thresholds/threshold"), json={"changes": {"limits": [limit]}})
    )
    assert found["rules"]["threshold"]["enabled"]
    assert found["rules"]["threshold"]["settings"]["limits"][0].items() >= limit.items()
    assert (found["rules"]["data_silence"]["settings"]["days"], found["rules"]["data_silence"]["layer"]) == (
        2.0,
        "clinic",
    )
    found = await done(
        await anna.put(path(clinic, "Ada", "/group"), json={"group": "fluctuating", "note": "new insulin"})
    )
    assert (found["group"], found["rules"]["predicted_low"]["layer"]) == ("fluctuating", "group")
    assert found["rules"]["predicted_low"]["enabled"]
    assert [(row["layer"], row["rule"], row["changes"]) for row in found["history"]] == [
        ("group", None, {"group": "fluctuating"}),
        ("patient", "threshold", {"limits": [limit], "enabled": True}),
        ("clinic", "data_silence", {"days": 2}),
    ]
    assert clinic.value("select patient_group from patient where name = 'Ada'") == "fluctuating"


async def test_a_pause_begins_and_ends(clinic: Clinic, clock: Clock, dora: httpx.AsyncClient) -> None:
    pauses, current = path(clinic, "Ada", "/pauses"), path(clinic, "Ada", "/pauses/current")
    schedule = {"patient_id": clinic.patients["Ada"], "medication": "x", "local_times": ["08:00"], "valid_from": START}
    clinic.insert("dose_schedule", **schedule, created_at=START, computed_until=START)
    version = clinic.value("select version from directory_version")
    pause = await done(await dora.post(pauses, json={"until": at(24), "reason": "in hospital"}), 201)
    assert clinic.value("select version from directory_version") > version
    assert clinic.value("select computed_until is null from dose_schedule")
    assert (pause["from"], pause["until"]) == ("2026-11-22T03:00:00Z", "2026-11-23T03:00:00Z")
    assert (pause["changed_by"], pause["ended_by"]) == (str(clinic.users["dora"]), None)
    assert (await done(await dora.get(path(clinic, "Ada"))))["paused_until"] == pause["until"]
    again = is_problem(await dora.post(pauses, json={"from": at(1), "until": at(2), "reason": "x"}), 409)
    assert again["error"] == "paused_already"
    clock.advance(minutes=10)
    assert (await dora.delete(current)).status_code == 204
    ended = await done(await dora.get(path(clinic, "Ada")))
    assert ended["paused_until"] is None
    assert [(one["until"], one["ended_by"]) for one in ended["pauses"]] == [
        ("2026-11-22T03:10:00Z", str(clinic.users["dora"]))
    ]
    await done(await dora.post(pauses, json={"from": at(10), "until": at(24), "reason": "holiday"}), 201)
    assert (await dora.delete(current)).status_code == 204
    is_problem(await dora.delete(current), 404)


async def test_a_refusal_names_the_part_that_is_wrong(clinic: Clinic, dora: httpx.AsyncClient) -> None:
    wrong: list[tuple[str, str, Any, str]] = [
        ("PUT", "/thresholds/sleepiness", {"changes": {}}, "path.rule"),
        ("PUT", "/thresholds/urgent_low", {"changes": {"limit": 3}}, "body.changes.limit"),
        ("PUT", "/thresholds/urgent_low", {"changes": {"limit_mmol": "3"}}, "body.changes.limit_mmol"),
        ("PUT", "/thresholds/urgent_low", {"changes": {"limit mmol": 3}}, "body.changes"),
        (
            "PUT",
            "/thresholds/threshold",
            {"changes": {"limits": [{"code": "glucose", "low": 4}]}},
            "body.changes.limits",
        ),
        (
            "PUT",
            "/thresholds/threshold",
            {"changes": {"limits": [{"code": "heart_rate", "high": "120"}]}},
            "body.changes.limits",
        ),
        ("PUT", "/thresholds/urgent_low", {"changes": [1]}, "body.changes"),
        ("PUT", "/thresholds/urgent_low", {"note": "x"}, "body.changes"),
        ("PUT", "/thresholds/urgent_low", {"changes": {}, "note": "x" * 501}, "body.note"),
        ("PUT", "/group", {"group": "odd"}, "body.group"),
        ("POST", "/pauses", {"until": at(0), "reason": "x"}, "body.until"),
        ("POST", "/pauses", {"until": at(367 * 24), "reason": "x"}, "body.until"),
        ("POST", "/pauses", {"until": "2026-11-23T03:00", "reason": "x"}, "body.until"),
        ("POST", "/pauses", {"from": at(-1), "until": at(1), "reason": "x"}, "body.from"),
        ("POST", "/pauses", {"until": at(1), "reason": " "}, "body.reason"),
    ]
    for method, tail, body, location in wrong:
        problem = is_problem(await dora.request(method, path(clinic, "Ada", tail), json=body), 422)
        assert [error["location"] for error in problem["errors"]] == [location], body
        assert "instance" not in problem["errors"][0]["message"], "no word of Python's"
    odd = await dora.put(
        path(clinic, "Ada", "/thresholds/urgent_low"),
        content=b'{"changes": {"\\udc00": 3}, "note": "\\udc00"}',
        headers={"content-type": "application/json"},
    )
    is_problem(odd, 422)
    assert (await done(await dora.get(path(clinic, "Ada"))))["history"] == []


async def test_patients_of_another_team_are_not_there(clinic: Clinic, emil: httpx.AsyncClient) -> None:
    for method, tail, body in [
        ("GET", "/thresholds", None),
        ("PUT", "/thresholds/urgent_low", {"changes": {"limit_mmol": 3.5}}),
        ("PUT", "/group", {"group": "new"}),
        ("POST", "/pauses", {"until": at(1), "reason": "x"}),
        ("DELETE", "/pauses/current", None),
    ]:
        is_problem(await emil.request(method, path(clinic, "Ada", tail), json=body), 404)
        is_problem(await emil.request(method, f"{V1}/none{tail}", json=body), 404)
    assert clinic.value("select count(*) from rule_setting") == clinic.value("select count(*) from pause") == 0


def refused(clinic: Clinic, user: str, statement: str, **values: Any) -> bool:
    """Whether row security refuses what the API's role does in the name of a user (or lets it change nothing)."""
    values = {"at": START, "later": START + timedelta(hours=1), **values}
    try:
        with clinic.connection.transaction():
            clinic.connection.execute("set local role vigil_api")
            clinic.connection.execute("select set_config('vigil.user_id', %s, true)", (str(clinic.users[user]),))
            return clinic.connection.execute(sql.SQL(statement), values).rowcount == 0
    except psycopg.errors.InsufficientPrivilege:
        return True


SETTING = "insert into rule_setting (patient_id, rule, changes, valid_from, changed_by) values (%(p)s, 'x', '{}', %(at)s, %(u)s)"
GROUP = "insert into patient_group_history (patient_id, valid_from, patient_group, changed_by) values (%(p)s, %(at)s, 'new', %(u)s)"
PAUSE = (
    "insert into pause (patient_id, valid, reason, recorded_at, changed_by)"
    " values (%(p)s, tstzrange(%(at)s, %(later)s), 'x', %(at)s, %(u)s)"
)


@pytest.mark.parametrize("statement", [SETTING, GROUP, PAUSE])
def test_the_database_itself_refuses_strangers_and_false_names(clinic: Clinic, statement: str) -> None:
    dora, emil, ada = clinic.users["dora"], clinic.users["emil"], clinic.patients["Ada"]
    assert refused(clinic, "emil", statement, p=ada, u=emil)
    assert refused(clinic, "dora", statement, p=ada, u=emil)
    assert refused(clinic, "dora", statement, p=ada, u=None)
    assert refused(clinic, "dora", statement, p=None, u=dora)
    assert refused(clinic, "paul", statement, p=ada, u=clinic.users["paul"])
    assert not refused(clinic, "dora", statement, p=ada, u=dora)


def test_what_was_set_is_seen_by_the_team_and_stays(clinic: Clinic) -> None:
    ada = clinic.patients["Ada"]
    for statement in (SETTING, GROUP, PAUSE):
        assert not refused(clinic, "dora", statement, p=ada, u=clinic.users["dora"])
    clinic.insert("rule_setting", rule="x", changes=Jsonb({}), valid_from=START)
    for table in ("rule_setting", "patient_group_history", "pause"):
        see = f"select from {table} where patient_id = %(p)s"
        assert not refused(clinic, "nils", see, p=ada)
        assert refused(clinic, "emil", see, p=ada)
    clinic_wide = "select from rule_setting where patient_id is null"
    assert not refused(clinic, "emil", clinic_wide)
    assert refused(clinic, "paul", clinic_wide)
    end = "update pause set valid = tstzrange(%(at)s, %(at)s + interval '1 min'), ended_by = %(u)s"
    assert refused(clinic, "emil", end, u=clinic.users["emil"])
    assert refused(clinic, "nils", end, u=clinic.users["dora"])
    assert not refused(clinic, "nils", end, u=clinic.users["nils"])
    assert refused(clinic, "emil", "delete from pause")
    clinic.connection.execute("update pause set ended_at = upper(valid)")
    for again in (end, "delete from pause"):
        assert refused(clinic, "anna", again, u=clinic.users["anna"])
    for rewrite in (
        "update rule_setting set note = 'x'",
        "delete from rule_setting",
        "update pause set reason = 'y'",
        "delete from patient_group_history",
        "update patient set patient_group = 'new'",
    ):
        assert refused(clinic, "anna", rewrite)
