"""Stores what happened on devices and what they say of themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from devices.vocabulary import EventType
from gateway.ingest.decoding import StatusReport
from gateway.store.queries import load_queries
from gateway.store.rows import WornEvent

SQL = load_queries("gateway.store", "batch.sql")
Connection = psycopg.AsyncConnection[Any]

COMMAND_DIGITS = 18  # fits a bigint


async def store_events(connection: Connection, events: Sequence[WornEvent], now_ms: int) -> list[WornEvent]:
    """Store events; return those that were not known yet."""
    parameters = {
        "device": [e.device for e in events],
        "patient": [e.patient for e in events],
        "type": [e.event.type.value for e in events],
        "at": [e.event.at for e in events],
        "compartment": [e.event.compartment for e in events],
        "count": [e.event.count for e in events],
        "detail": [Jsonb(e.event.detail) if e.event.detail is not None else None for e in events],
    }
    cursor = await connection.execute(SQL.events, {**parameters, "now": now_ms})
    new = [events[position] for (position,) in await cursor.fetchall()]
    answers = [answer for worn in events if (answer := _answer(worn)) is not None]  # two may share their instant
    if answers:
        names = ("device", "id", "at", "ok")
        columns = dict(zip(names, (list(column) for column in zip(*answers, strict=True)), strict=True))
        await connection.execute(SQL.command_done, columns)
    return new


def _answer(worn: WornEvent) -> tuple[int, int, int, bool] | None:
    """Return (device, command, time, ok) of an answer to one of our commands."""
    event = worn.event
    if event.type is not EventType.COMMAND_DONE or event.detail is None:
        return None
    number = str(event.detail.get("id", ""))
    if not number.isdecimal() or len(number) > COMMAND_DIGITS:
        return None
    return worn.device, int(number), event.at, bool(event.detail.get("ok"))


async def store_statuses(
    connection: Connection, reports: Mapping[int, StatusReport], without_gap: Mapping[int, bool], now_ms: int
) -> None:
    """Store what devices say of themselves. A `clock` counts as contact only without a gap in the device's numbers."""
    rows = sorted(reports.items())
    await connection.execute(
        SQL.status,
        {
            "now": now_ms,
            "device": [device for device, _ in rows],
            "online": [report.status.online for _, report in rows],
            "battery": [report.status.battery for _, report in rows],
            "firmware": [report.status.firmware for _, report in rows],
            "heard_at": [now_ms if report.heard_now else None for _, report in rows],
            "contact_at": [now_ms if report.online_now else None for _, report in rows],
            "stamp": [
                min(report.status.clock, now_ms) if report.status.clock is not None and without_gap[device] else None
                for device, report in rows
            ],
        },
    )
