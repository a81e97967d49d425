"""Whose a refused message is: a device was handed from Ada (doctor Dora) to Cleo (doctor Emil) a day ago."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from tests.api.clinic import Clinic
from tests.api.conftest import Login
from tests.gateway.clinic import NOW, NOW_MS
from tests.gateway.harness import settle_all
from tests.gateway.wire import Outgoing, events, telemetry

HOUR = 3_600_000
DAY = 24 * HOUR
BOX = "box"
EDGE = "edge-1"
Seer = Literal["dora", "emil", "anna"]


@dataclass(frozen=True, slots=True)
class Instants:
    """ms since the epoch: while Ada wore the box, and while Cleo did."""

    ada: int
    cleo: int


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


@pytest.fixture
def at(clinic: Clinic) -> Instants:
    """Hand the box from Ada to Cleo; an edge box reads it."""
    handed = NOW_MS - DAY
    clinic.device(BOX, None)
    clinic.device(EDGE, None, model="edge")
    clinic.connection.execute("update device set via = %s where id = %s", (clinic.devices[EDGE], BOX))
    assign(clinic, BOX, "Ada", f"[,{iso(handed)})")
    assign(clinic, BOX, "Cleo", f"[{iso(handed)},)")
    return Instants(handed - HOUR, handed + HOUR)


def assign(clinic: Clinic, device: str, patient: str, valid: str) -> None:
    keys = {"device_key": clinic.devices[device], "patient_id": clinic.patients[patient]}
    clinic.insert("assignment", **keys, valid=valid, created_at=NOW)


def withdraw(clinic: Clinic, patient: str, at: int) -> None:
    query = "update consent set valid = tstzrange(null, %s) where patient_id = %s"
    clinic.connection.execute(query, (iso(at), clinic.patients[patient]))


def good(at: int) -> dict[str, Any]:
    return {"code": "heart_rate", "unit": "/min", "at": at, "value": 61.5}


def odd(at: int) -> dict[str, Any]:
    return good(at) | {"code": "mood"}


def torn(device: str, kind: str = "telemetry") -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/{kind}", b'{"seq": 3, "observations": [{"value": 61.5')


async def seen(login: Login) -> dict[Seer, list[bool]]:
    """Return who sees how many refusals in the quarantine; True for each whose bytes are kept."""
    found: dict[Seer, list[bool]] = {}
    for user, role in (("dora", "doctor"), ("emil", "doctor"), ("anna", "admin")):
        response = await (await login(user, role)).get("/api/v1/quarantine")  # type: ignore[arg-type]
        items = response.json()["items"]
        assert all("61.5" not in item["detail"] for item in items if item["payload"] is None)
        found[user] = [item["payload"] is not None for item in items]  # type: ignore[index]
    return found


def only(*seers: Seer, kept: bool = True) -> dict[Seer, list[bool]]:
    return {seer: [kept] if seer in seers else [] for seer in ("dora", "emil", "anna")}


def rr(at: int, *values: float | None) -> dict[str, Any]:
    return {"code": "rr_interval", "unit": "ms", "at": at, "values": list(values)}


CASES: dict[str, tuple[Callable[[Instants], Outgoing], dict[Seer, list[bool]]]] = {
    "late, of the first wearer": (lambda at: telemetry(BOX, [good(at.ada), odd(at.ada)]), only("dora", "anna")),
    "of the present wearer": (lambda at: telemetry(BOX, [good(at.cleo), odd(at.cleo)]), only("emil", "anna")),
    "a good part of the other": (lambda at: telemetry(BOX, [good(at.ada), odd(at.cleo)]), only("anna")),
    "a series over the hand-over": (
        lambda at: telemetry(BOX, [odd(at.ada) | {"value": None, "values": [61.5, 62, 63], "period_ms": HOUR}]),
        only("anna"),
    ),
    "a malformed series that says when": (
        lambda at: telemetry(BOX, [good(at.ada), good(at.ada) | {"value": "61.5"}]),
        only("dora", "anna"),
    ),
    "a malformed series that does not": (
        lambda at: telemetry(BOX, [good(at.ada), {"code": "heart_rate", "unit": "/min", "value": 61.5}]),
        only("anna"),
    ),
    "beats": (lambda at: telemetry(BOX, [rr(at.ada, 800, None, 61.5)]), only("dora", "anna")),
    "beats of an unknown unit": (lambda at: telemetry(BOX, [rr(at.ada, 800, 810) | {"unit": "%"}]), only("anna")),
    "a refused event": (
        lambda at: events(BOX, [{"type": "danced", "at": at.ada}, {"type": "tamper", "at": at.ada}]),
        only("dora", "anna"),
    ),
    "events of both": (
        lambda at: events(BOX, [{"type": "danced", "at": at.ada}, {"type": "tamper", "at": at.cleo}]),
        only("anna"),
    ),
    "too many series": (lambda at: telemetry(BOX, [good(at.ada)] * 65), only("dora", "anna")),
    "sent by a clock that is ahead": (
        lambda at: telemetry(BOX, [good(at.ada)], sent_at=NOW_MS + DAY),
        only("dora", "anna"),
    ),
    "stamped at the end of 64 bits": (lambda _: telemetry(BOX, [good(2**63 - 1)]), only("emil", "anna")),
    "stamped before 2010": (lambda _: telemetry(BOX, [good(0)]), only("dora", "anna")),
    "unreadable": (lambda _: torn(BOX), only("anna")),
    "an unreadable status": (lambda _: torn(BOX, "status"), only("anna")),
    "an edge box, of the first wearer": (
        lambda at: telemetry(EDGE, [good(at.ada), odd(at.ada)], device=BOX),
        only("dora", "anna"),
    ),
    "an edge box, of both": (lambda at: events(EDGE, [{"type": "danced", "at": at.ada}, {"at": at.cleo}], device=BOX), only("anna")),
    "an edge box, unreadable": (lambda _: torn(EDGE), only("anna", kept=False)),
    "an edge box, of a device that is not its own": (
        lambda at: telemetry(EDGE, [good(at.ada)], device="cgm-cleo"),
        only("anna"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_the_wearers_at_the_instants_of_the_message_decide(
    case: str, at: Instants, clinic: Clinic, login: Login, database_url: str
) -> None:
    message, expected = CASES[case]
    await settle_all(database_url, [[message(at)]])
    assert clinic.value("select count(*) from quarantine") == 1
    assert await seen(login) == expected


WITHDRAWN: dict[str, tuple[Callable[[Instants], Outgoing], dict[Seer, list[bool]]]] = {
    "of the one who withdrew": (
        lambda at: telemetry(BOX, [odd(at.ada), good(at.ada) | {"unit": "%"}, odd(at.ada - DAY)]),
        {"dora": [False, False], "emil": [], "anna": [False, False]},
    ),
    "before the withdrawal": (lambda at: telemetry(BOX, [odd(at.ada - DAY)]), only("dora", "anna", kept=False)),
    "of both": (lambda at: telemetry(BOX, [odd(at.ada), odd(at.cleo)]), only("anna", kept=False)),
    "of the other": (lambda at: telemetry(BOX, [odd(at.cleo)]), only("emil", "anna")),
    "an implausible value": (
        lambda at: telemetry(BOX, [good(at.ada) | {"code": "spo2", "unit": "%", "value": 161.5}]),
        only("dora", "anna", kept=False),
    ),
    "unreadable": (lambda _: torn(BOX), only("anna", kept=False)),
    "an unreadable status": (lambda _: torn(BOX, "status"), only("anna", kept=False)),
    "an edge box, of the one who withdrew": (
        lambda at: telemetry(EDGE, [odd(at.ada)], device=BOX),
        only("dora", "anna", kept=False),
    ),
}


@pytest.mark.parametrize("case", WITHDRAWN)
async def test_without_consent_at_every_instant_no_bytes_are_kept(
    case: str, at: Instants, clinic: Clinic, login: Login, database_url: str
) -> None:
    withdraw(clinic, "Ada", at.ada - HOUR)
    message, expected = WITHDRAWN[case]
    await settle_all(database_url, [[message(at)]])
    kept = {user: sorted(rows) for user, rows in (await seen(login)).items()}
    assert {user: rows for user, rows in kept.items() if rows} == {
        user: rows for user, rows in expected.items() if rows
    }


async def test_a_device_with_one_wearer_ever_tells_by_itself_whose_it_is(login: Login, database_url: str) -> None:
    await settle_all(database_url, [[torn("cgm-ada")]])
    assert await seen(login) == only("dora", "anna")


async def test_at_a_time_that_nobody_wore_it_it_is_nobody_s(clinic: Clinic, login: Login, database_url: str) -> None:
    now = NOW_MS
    clinic.device("spare", None)
    assign(clinic, "spare", "Ada", f"[{iso(now - DAY)},)")
    message = telemetry("spare", [good(now - HOUR), good(now - 2 * DAY)])
    await settle_all(database_url, [[message]])
    assert await seen(login) == only("anna")


async def test_what_the_store_cannot_take_is_filed_likewise(
    at: Instants, clinic: Clinic, login: Login, database_url: str
) -> None:
    clinic.connection.execute("alter table observation add constraint poison check (value <> 61.5)")
    await settle_all(database_url, [[telemetry(BOX, [good(at.ada)])]])
    assert await seen(login) == only("dora", "anna")


async def test_what_the_store_cannot_take_of_somebody_who_withdrew_is_not_quoted(
    at: Instants, clinic: Clinic, login: Login, database_url: str
) -> None:
    clinic.connection.execute("alter table observation add constraint poison check (value <> 61.5)")
    withdraw(clinic, "Ada", at.ada)
    message = telemetry(BOX, [good(at.ada), good(at.cleo)])
    await settle_all(database_url, [[message]])
    assert clinic.value("select payload from quarantine where reason = 'malformed'") is None
    assert json.dumps(clinic.value("select detail from quarantine where reason = 'malformed'")).count("61.5") == 0
    assert await seen(login) == only("anna", kept=False)
