"""The demo's clinic: two people who log in, and in each run a ward of new patients with their devices."""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg

from deploy.simulated_clinic import provision
from deploy.stack.embedded import new_password
from firmware_sim.plan import DevicePlan
from firmware_sim.scenarios import Scenario, Start, patients
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning import AlreadyExistsError, Provisioning

ADMIN = "admin@vigil.example"
DOCTOR = "doctor@vigil.example"
PATIENTS = 6
DAYS = 30.0
_DEVICE = re.compile(r"demo(?P<run>\d+)-[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class LogIn:
    """A log-in to the API."""

    email: str
    role: str
    password: str


@dataclass(frozen=True, slots=True)
class Wearer:
    """A patient as shown on the board."""

    name: str
    zone: ZoneInfo
    over_bluetooth: bool = False


@dataclass(frozen=True, slots=True)
class DemoClinic:
    """The patients of this run by id, their devices, and the devices' secrets."""

    run: int
    wearers: dict[str, Wearer]
    devices: Sequence[DevicePlan]
    secrets: dict[str, str]
    history_from_ms: int


@asynccontextmanager
async def provisioning(settings: Mapping[str, str], now: datetime) -> AsyncIterator[Provisioning]:
    """Give a provisioning for the stack with these settings."""
    async with (
        BrokerAccounts.connect(settings["VIGIL_MQTT_URL"]) as accounts,
        await psycopg.AsyncConnection.connect(settings["VIGIL_DATABASE_URL"], autocommit=True) as connection,
    ):
        await accounts.ensure_device_role()
        yield Provisioning(connection, accounts, now)


def log_ins(folder: Path) -> list[LogIn]:
    """Return the demo's log-ins; their passwords are made once per folder and kept there, readable by its owner."""
    path = folder / "log-ins.json"
    try:
        passwords: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        passwords = {ADMIN: new_password(), DOCTOR: new_password()}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(passwords, file)
    return [LogIn(ADMIN, "admin", passwords[ADMIN]), LogIn(DOCTOR, "doctor", passwords[DOCTOR])]


async def open_clinic(clinic: Provisioning, people: Sequence[LogIn]) -> None:
    """Add the people who are not there yet."""
    for person in people:
        with suppress(AlreadyExistsError):
            await clinic.add_user(person.email, person.role, person.password)


async def admit(clinic: Provisioning, now_ms: int) -> DemoClinic:
    """Discharge the ward of the previous run and admit a new one, with the doctor in its care team.

    The history of earlier wards stays; their devices, which nobody simulates any more, are disabled.
    """
    run = 1
    for device in await clinic.list_devices():
        match = _DEVICE.fullmatch(device.id)
        if match is None:
            continue
        run = max(run, int(match["run"]) + 1)
        if device.patient_id is not None:
            await clinic.unassign(device.id)
        if device.disabled_at is None:
            await clinic.disable_device(device.id)
    start = Start(now_ms=now_ms, days=DAYS, seed=2 * run, prefix=f"demo{run}")
    plans = patients(Scenario.CLINIC, PATIENTS, start)
    ids, secrets = await provision(clinic, plans, start)
    await clinic.add_to_care_team(DOCTOR, ids)
    return DemoClinic(
        run=run,
        wearers={str(key): Wearer(plan.name, ZoneInfo(plan.timezone)) for key, plan in zip(ids, plans, strict=True)},
        devices=[device for plan in plans for device in plan.devices],
        secrets=secrets,
        history_from_ms=start.history_from_ms,
    )
