"""Shared by every kind of provisioning: the connection, the moment, and how rows are read."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from psycopg.rows import class_row

from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning.errors import InvalidValueError, NotFoundError
from gateway.store.queries import load_queries
from streaming.rules.presets import PatientGroup

SQL = load_queries("gateway.store", "provisioning.sql")

_Row = TypeVar("_Row")


class Core:
    """The connection, broker and moment that provisioning works with; see Provisioning."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], broker: BrokerAccounts | None, now: datetime) -> None:
        self._connection = connection
        self._broker = broker
        self._now = now

    async def timezone_of(self, patient_id: int) -> ZoneInfo:
        """Return the zone the patient lives by now."""
        await self._require_patients([patient_id])
        return ZoneInfo(await self._value(SQL.timezone_now, {"patient_id": patient_id, "at": self._now}) or "UTC")

    async def _value(self, query: LiteralString, values: Mapping[str, Any]) -> Any:
        """Return the first column of the first row, None without one."""
        row = await (await self._connection.execute(query, values)).fetchone()
        return None if row is None else row[0]

    async def _column(self, query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        """Return the first column of every row."""
        return [row[0] for row in await (await self._connection.execute(query, values)).fetchall()]

    async def _rows(self, kind: type[_Row], query: LiteralString, values: Mapping[str, Any]) -> list[_Row]:
        async with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            return await (await cursor.execute(query, values)).fetchall()

    async def _require_patients(self, patient_ids: Sequence[int]) -> None:
        missing = await self._column(SQL.missing_patients, {"ids": sorted(set(patient_ids))})
        if missing:
            raise NotFoundError(f"there is no patient {', '.join(map(str, missing))}")


def check_timezone(name: str) -> str:
    """Return the name if it is an IANA time zone; raise InvalidValueError otherwise."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidValueError(f"{name!r} is not an IANA time zone such as Asia/Shanghai") from None
    return name


def check_group(name: str) -> PatientGroup:
    """Return the patient group; raise InvalidValueError if there is no such group."""
    try:
        return PatientGroup(name)
    except ValueError:
        raise InvalidValueError(f"{name!r} is not a group: {', '.join(PatientGroup)}", "group") from None


def check_text(name: str, text: str | None, longest: int = 500) -> str | None:
    """Return the text, None if it is blank; raise InvalidValueError for one that the store cannot hold."""
    if text is None or not text.strip():
        return None
    if len(text) > longest or "\0" in text or text.encode("utf-8", "ignore").decode() != text:
        raise InvalidValueError(f"the {name} has at most {longest} characters, and none that are not text", name)
    return text


def check_instant(name: str, at: datetime | None) -> datetime | None:
    """Return the time if it has an offset; raise InvalidValueError otherwise."""
    if at is not None and at.tzinfo is None:
        raise InvalidValueError(f"{name} needs a time with an offset, such as 2026-11-02T08:00+08:00")
    return at
