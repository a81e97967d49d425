"""A small clinic in the database, written as the gateway and provisioning would, and helpers to talk to the API."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
from fastapi import FastAPI
from psycopg.types.json import Jsonb

from api.tokens import AccessToken, Role, sign_access_token
from gateway.clinic.passwords import hash_password
from streaming.episodes import Severity

SECRET = "a secret of at least forty-eight bytes, enough for HS384"
PASSWORD = "correct horse battery staple"
_HASH = hash_password(PASSWORD)
START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


@dataclass
class Clock:
    """The API's `now`: stands still until a test moves it."""

    now: datetime = START

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Clinic:
    """Writes rows as the gateway and provisioning would, over a connection of the owner."""

    connection: psycopg.Connection
    users: dict[str, int] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)

    def insert(self, table: str, **values: Any) -> Any:
        columns, marks = ", ".join(values), ", ".join(f"%({name})s" for name in values)
        query = f"insert into {table} as t ({columns}) values ({marks}) returning to_jsonb(t)"  # noqa: S608
        row = self.connection.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def value(self, query: str, *parameters: Any) -> Any:
        row = self.connection.execute(query.encode(), parameters).fetchone()
        return None if row is None else row[0]

    def user(self, name: str, role: Role, *patients: str) -> int:
        email = f"{name}@clinic.test"
        row = self.insert("app_user", email=email, role=role, password_hash=_HASH, created_at=START)
        for patient in patients:
            self.insert("care_team", user_id=row["id"], patient_id=self.patients[patient], added_at=START)
        self.users[name] = row["id"]
        return self.users[name]

    def patient(self, name: str, timezone: str = "Asia/Shanghai") -> int:
        self.patients[name] = self.insert("patient", name=name, created_at=START)["id"]
        zone = "insert into patient_timezone values (%s, '-infinity', %s)"
        self.connection.execute(zone, (self.patients[name], timezone))
        consent = "insert into consent (patient_id, valid, recorded_at) values (%s, '[-infinity,)', %s)"
        self.connection.execute(consent, (self.patients[name], START))
        return self.patients[name]

    def device(self, name: str, patient: str | None, model: str = "cgm", valid: str = "[-infinity,infinity)") -> int:
        self.devices[name] = self.insert("device", id=name, model=model, created_at=START)["key"]
        if patient is not None:
            self.insert(
                "assignment",
                device_key=self.devices[name],
                patient_id=self.patients[patient],
                valid=valid,
                created_at=START,
            )
        return self.devices[name]

    def readings(
        self, device: str, patient: str, rows: list[tuple[datetime, float | None, int, int]], code: int = 1
    ) -> None:
        """Store readings (at, value, unit, flags)."""
        with self.connection.cursor().copy(
            "copy observation (at, received_at, device_key, patient_id, code, unit, flags, value) from stdin"
        ) as copy:
            for at, value, unit, flags in rows:
                copy.write_row((at, at, self.devices[device], self.patients[patient], code, unit, flags, value))

    def alert(self, patient: str, opened_at: datetime = START, **values: Any) -> str:
        """Raise an alert as the pipeline does: row, history, outbox, notification, in one transaction."""
        with self.connection.transaction():
            row = self.insert(
                "alert",
                **{
                    "patient_id": self.patients[patient],
                    "rule": "nocturnal_hypoglycaemia",
                    "severity": "high",
                    "grade": Severity(values.get("severity", "high")).rank + 1,
                    "state": "open",
                    "running": True,
                    "opened_at": opened_at,
                    "raised_at": opened_at,
                    "updated_at": opened_at,
                    "retrospective": False,
                    "summary": "Glucose 3.8 mmol/L at 03:10",
                    "evidence": Jsonb({"lowest": 3.8}),
                    **values,
                },
            )
            self.insert("alert_history", alert_id=row["id"], at=opened_at, action="raised")
            self.publish(row["id"])
        return str(row["id"])

    def publish(self, alert_id: int | str, action: str = "raised") -> int:
        with self.connection.transaction():
            self.connection.execute("select alert_outbox_lock()")
            entry = self.value(
                "insert into outbox (alert_id, patient_id, action, alert, created_at)"
                " select id, patient_id, %s, to_jsonb(a), updated_at from alert a where id = %s returning id",
                action,
                alert_id,
            )
            self.connection.execute("select pg_notify('vigil_alerts', '')")
        return int(entry)

    def token(self, user: str, role: Role, *, now: datetime = START, minutes: float = 15) -> str:
        claims = AccessToken(self.users[user], role, now + timedelta(minutes=minutes))
        return sign_access_token(claims, key=SECRET, now=now)


def client_of(app: FastAPI, headers: dict[str, str]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://vigil.test", headers=headers)


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    return problem
