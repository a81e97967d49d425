"""The time zones patients live by: the only module that reads them from the store."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg

from devices.instants import DISTANT_PAST_MS
from gateway.store.queries import load_queries
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "zones.sql")
log = logging.getLogger(__name__)

UTC = ZoneHistory.of("UTC")
"""The zone of a patient without a recorded one."""


def known_zone(name: str) -> ZoneInfo:
    """Return a time zone; UTC, and an error in the log, for a name this machine does not know.

    Provisioning refuses unknown names, but the database may be older or newer than the zone data here; one patient's
    zone must not stop the gateway for everybody.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        log.error("unknown time zone; UTC is used", extra={"timezone": name})  # noqa: TRY400 - no traceback is needed
        return ZoneInfo("UTC")


async def zone_of(connection: psycopg.AsyncConnection[Any], patient: int) -> ZoneHistory:
    """Return the zones a patient lives by; UTC if none is recorded."""
    return (await zones_of(connection, [patient])).get(patient, UTC)


async def zones_of(connection: psycopg.AsyncConnection[Any], patients: Sequence[int]) -> dict[int, ZoneHistory]:
    """Return the zones that these patients live by, without those who have none."""
    return _histories(await (await connection.execute(SQL.timezones, {"patients": list(patients)})).fetchall())


async def all_zones(connection: psycopg.AsyncConnection[Any]) -> dict[int, ZoneHistory]:
    """Return the zones that all patients live by, without those who have none."""
    return _histories(await (await connection.execute(SQL.all_timezones)).fetchall())


def _histories(rows: Iterable[tuple[int, int | None, str]]) -> dict[int, ZoneHistory]:
    spans: dict[int, list[tuple[int, ZoneInfo]]] = {}
    for patient, since, name in rows:
        spans.setdefault(patient, []).append((DISTANT_PAST_MS if since is None else since, known_zone(name)))
    return {patient: ZoneHistory.from_spans(history) for patient, history in spans.items()}
