"""Patients and devices of a test, provisioned for real, and what the store says of them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning
from tests.streaming.nocturnal_reference import Reading, nocturnal_alerts

EVER = datetime(2010, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)  # where no program runs that reads the clock; after all data of the tests
NOW_MS = round(NOW.timestamp() * 1000)
Span = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert as the store has it; times in ms."""

    id: int
    patient_id: int
    opened_at: int
    resolved_at: int | None
    severity: str
    state: str
    running: bool
    retrospective: bool
    superseded_by: int | None

    @property
    def span(self) -> Span:
        return self.opened_at, self.resolved_at


class Clinic:
    """One connection to the test's database and provisioning on it; devices get no accounts at the broker."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], now: datetime) -> None:
        self.connection = connection
        self.provisioning = Provisioning(connection, None, now)

    async def wearers(self, devices: Sequence[str], timezones: Sequence[str] = ("UTC",)) -> list[int]:
        """Add one patient for each device, who has worn it since ever; return their ids."""
        zones = [timezones[i % len(timezones)] for i in range(len(devices))]
        people = [NewPatient(f"wearer of {device}", zone) for device, zone in zip(devices, zones, strict=True)]
        ids = await self.provisioning.add_patients(people)
        await self.provisioning.add_devices(
            [NewDevice(device, DeviceModel.CGM, patient, EVER) for device, patient in zip(devices, ids, strict=True)]
        )
        return ids

    async def wearer(self, device: str, timezone: str = "UTC") -> int:
        return (await self.wearers([device], [timezone]))[0]

    async def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self.connection.execute(query.encode(), parameters)).fetchall()

    async def value(self, query: str, *parameters: Any) -> Any:
        rows = await self.rows(query, *parameters)
        return rows[0][0] if rows else None

    async def readings(self) -> list[tuple[str, str, int, float | None, str]]:
        """Every stored reading: device, code, time in ms, value, unit; through the contract's view."""
        return await self.rows(
            "select device_id, code, to_ms(at), value, unit from readings order by device_id, code, at"
        )

    async def stored(self) -> int:
        return int(await self.value("select count(*) from observation"))

    async def alerts(
        self, patient: int | None = None, *, withdrawn: bool = False, rule: str = "nocturnal_hypoglycaemia"
    ) -> list[AlertRow]:
        """The alerts of one rule, by patient and beginning."""
        rows = await self.rows(
            "select id, patient_id, to_ms(opened_at), to_ms(resolved_at), severity, state, running, retrospective,"
            " superseded_by from alert where (state = 'withdrawn') = %s and (%s::int is null or patient_id = %s)"
            " and rule = %s"
            " order by patient_id, opened_at",
            withdrawn,
            patient,
            patient,
            rule,
        )
        return [AlertRow(*row) for row in rows]

    async def spans(self, patient: int) -> list[Span]:
        """Beginnings and ends of a patient's alerts that are not withdrawn."""
        return [alert.span for alert in await self.alerts(patient)]

    async def quarantined(self) -> list[tuple[str, str]]:
        """Device and reason of everything kept, in order."""
        return await self.rows("select device_id, reason from quarantine order by id")

    async def receipts(self) -> dict[str, int]:
        """What the devices were told."""
        query = "select d.id, r.published_seq from receipt r join device d on d.key = r.device_key"
        return dict(await self.rows(query))


def expected(readings: Sequence[Reading], timezone: str = "UTC") -> list[tuple[int, int | None, str]]:
    """What the plain reference concludes from readings in order: opened, resolved, severity."""
    found = nocturnal_alerts(readings, ZoneInfo(timezone))
    return [(alert.opened_at, alert.resolved_at, "urgent" if alert.urgent else "high") for alert in found]


@asynccontextmanager
async def open_clinic(database_url: str, now: datetime = NOW) -> AsyncIterator[Clinic]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield Clinic(connection, now)
