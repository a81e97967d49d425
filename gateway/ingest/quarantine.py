"""Keeps what was refused, with its bytes and the reason."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import psycopg

from devices.vocabulary import MAX_PAYLOAD_BYTES, Reason
from gateway.clinic.directory import Directory
from gateway.ingest.decoding import Refused
from gateway.ingest.source import Delivered
from gateway.ingest.whose import Whose, whose
from gateway.store.queries import load_queries

SQL = load_queries("gateway.store", "batch.sql")

QUARANTINE_A_DAY = 1_000
# Entries in one statement: 32 MiB at most, whatever was sent.
QUARANTINED_TOGETHER = 512
WITHHELD = "nothing of its content is kept: it may be that of somebody who has not consented"
Connection = psycopg.AsyncConnection[Any]


async def quarantine(
    connection: Connection,
    refused: Sequence[Refused],
    messages: Sequence[Delivered],
    directory: Directory,
    now_ms: int,
) -> None:
    """Keep what was refused with its bytes, at most QUARANTINE_A_DAY entries a device a day; count all of it.

    The same refusal of the same bytes is kept once. `whose` decides under whom an entry is filed and whether its
    bytes are kept.
    """
    day = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    room = await _room(connection, {r.device_id or "" for r in refused}, day)
    kept: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    entries: list[dict[str, Any]] = []
    filed: dict[int, Whose] = {}
    for refusal in refused:
        device_id = refusal.device_id or ""
        counted[device_id, refusal.reason.value] += 1
        if refusal.reason is not Reason.NO_CONSENT and room[device_id] > 0:
            room[device_id] -= 1
            message = messages[refusal.message]
            if refusal.message not in filed:
                filed[refusal.message] = whose(directory, message, now_ms)
            entries.append(_entry(refusal, message, filed[refusal.message]))
    for start in range(0, len(entries), QUARANTINED_TOGETHER):
        part = entries[start : start + QUARANTINED_TOGETHER]
        columns = {name: [entry[name] for entry in part] for name in part[0]}
        cursor = await connection.execute(SQL.quarantine, {**columns, "now": now_ms}, binary=True)
        kept.update(await cursor.fetchall())
    keys = sorted(counted)
    await connection.execute(
        SQL.count_quarantined,
        {
            "day": day,
            "device_id": [device_id for device_id, _ in keys],
            "reason": [reason for _, reason in keys],
            "refused": [counted[key] for key in keys],
            "kept": [kept[key] for key in keys],
        },
    )


async def _room(connection: Connection, devices: set[str], day: date) -> dict[str, int]:
    """Return how many entries may still be kept of each device today."""
    cursor = await connection.execute(SQL.quarantined_today, {"day": day, "devices": sorted(devices)})
    room = dict.fromkeys(devices, QUARANTINE_A_DAY)
    for device_id, kept in await cursor.fetchall():
        room[device_id] -= kept
    return room


def _array(positions: Sequence[int] | None) -> str | None:
    return "{" + ",".join(map(str, positions)) + "}" if positions is not None else None


def _entry(refusal: Refused, message: Delivered, filed: Whose) -> dict[str, Any]:
    payload = message.payload
    detail = refusal.detail.replace("\0", "\ufffd") if filed.keep_bytes else WITHHELD  # a sentence may quote a value
    return {
        "topic": message.topic.replace("\0", "\ufffd"),
        "device_id": refusal.device_id,
        "patient_id": filed.patient,
        "reason": refusal.reason.value,
        "detail": detail,
        "series": _array(refusal.series),
        "samples": _array(refusal.samples),
        "content_type": message.content_type.replace("\0", "\ufffd") if message.content_type else None,
        "payload": payload[:MAX_PAYLOAD_BYTES] if filed.keep_bytes else None,
        "payload_bytes": len(payload),
        "payload_sha256": hashlib.sha256(payload).digest(),
    }
