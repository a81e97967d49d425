"""Stores one batch inside its transaction: fast lane, slow lane, RR runs, events, statuses, quarantine, journal."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from devices.runs import beat_times
from devices.units import to_canonical
from devices.vocabulary import MAX_PAYLOAD_BYTES, Code, EventType, Reason, Unit
from gateway.ingest.decoding import Refused, StatusReport
from gateway.ingest.lanes import SAME_BEAT_MS, uncovered
from gateway.ingest.receipts import NumberedMessages
from gateway.ingest.source import Delivered
from gateway.store.binary import observation_rows, rr_rows
from gateway.store.queries import load_queries
from gateway.store.rows import Rows, WornEvent, WornRun

SQL = load_queries("gateway.store", "batch.sql")

QUARANTINE_A_DAY = 1_000
# Entries in one statement: 32 MiB at most, whatever was sent.
QUARANTINED_TOGETHER = 512
HRV_WINDOW_MS = 300_000
COMMAND_DIGITS = 18  # fits a bigint
Connection = psycopg.AsyncConnection[Any]
StoredRun = tuple[float, float, int, int, int, int, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of rows whose key is stored already: how many repeat it, how many contradict it."""

    duplicates: int
    conflicts: int


async def copy_observations(connection: Connection, rows: Rows, now_ms: int) -> None:
    """Store rows that are new by construction. Raises psycopg.errors.UniqueViolation when one is not."""
    data = observation_rows(rows.at, now_ms, rows.device, rows.patient, rows.code, rows.unit, rows.flags, rows.value)
    async with connection.cursor() as cursor, cursor.copy(SQL.copy_observations) as copy:
        await copy.write(data)


async def express(
    connection: Connection, rows: Rows, heads: NumberedMessages, version: int, now_ms: int
) -> tuple[int, int | None]:
    """Store a small batch of new rows and its journal entry in one statement, a transaction of its own.

    Returns the directory's version (another one than `version`: nothing was stored) and the journal entry's id.
    Raises psycopg.errors.UniqueViolation when a row is not new.
    """
    parameters = {**journal_parameters(heads, now_ms), "heads_device": heads.device, **_columns(rows)}
    cursor = await connection.execute(SQL.express, {**parameters, "version": version})
    row = await cursor.fetchone()
    return row if row is not None else (0, None)


async def insert_late(connection: Connection, rows: Rows, now_ms: int) -> NDArray[np.bool_]:
    """Store rows that may be stored already; return which ones were new. Keys must be distinct."""
    new = np.zeros(len(rows), np.bool_)
    cursor = await connection.execute(SQL.insert_late, {**_columns(rows), "now": now_ms})
    for (position,) in await cursor.fetchall():
        new[position] = True
    return new


async def compare(connection: Connection, rows: Rows, now_ms: int) -> Compared:
    """Tell repeats of stored readings from contradictions; keep the contradictions."""
    columns = _columns(rows)
    span = {"oldest": int(rows.at.min()), "newest": int(rows.at.max())}
    cursor = await connection.execute(SQL.stored, {**columns, **span})
    value, unit = rows.value.copy(), rows.unit.copy()
    for position, kept_value, kept_unit in await cursor.fetchall():
        value[position] = np.nan if kept_value is None else kept_value
        unit[position] = kept_unit
    same = ((value == rows.value) | (np.isnan(value) & np.isnan(rows.value))) & (unit == rows.unit)
    contrary = ~same
    conflicts = int(contrary.sum())
    if conflicts:
        kept = {"kept_value": value[contrary], "kept_unit": unit[contrary]}
        await connection.execute(SQL.conflicts, {**_columns(rows.take(contrary)), **kept, "now": now_ms})
    return Compared(len(rows) - conflicts, conflicts)


def _columns(rows: Rows) -> dict[str, NDArray[Any]]:
    return {
        "at": rows.at,
        "device": rows.device,
        "patient": rows.patient,
        "code": rows.code,
        "unit": rows.unit,
        "flags": rows.flags,
        "value": rows.value,
    }


async def store_runs(
    connection: Connection, runs: Sequence[WornRun], last_beat: Mapping[int, int], now_ms: int
) -> tuple[list[StoredRun], set[int], int]:
    """Store the beats that are not stored yet and mark their 5-min windows.

    `last_beat`: the last stored beat of each device in ms. Returns what was stored, the positions of the runs that
    brought news, and how many beats were duplicates.
    """
    newest: dict[int, float] = {device: float(beat) for device, beat in last_beat.items()}
    fresh: list[StoredRun] = []
    news: set[int] = set()
    duplicates = 0
    for position, worn in enumerate(runs):
        run = worn.run
        beats = beat_times(int(run.at), to_canonical(Code.RR_INTERVAL, Unit(run.unit), run.intervals))
        beats += run.at - beats[0]
        parts = [(0, len(beats))]
        if run.at <= newest[worn.device] + SAME_BEAT_MS:
            stored = await _stored_spans(connection, worn.device, run.at, run.ends_at)
            stored += [(at, ends) for at, ends, device, *_ in fresh if device == worn.device]
            parts = uncovered(beats, stored)
        for start, stop in parts:
            first, last = float(beats[start]), float(beats[stop - 1])
            intervals = run.intervals[start:stop]
            fresh.append((first, last, worn.device, worn.patient, run.unit, run.flags, intervals))
            news.add(position)
        duplicates += len(beats) - sum(stop - start for start, stop in parts)
        newest[worn.device] = max(newest[worn.device], run.ends_at)
    if fresh:
        async with connection.cursor() as cursor, cursor.copy(SQL.copy_rr) as copy:
            await copy.write(rr_rows(fresh, now_ms))
        await _mark_windows(connection, fresh)
    return fresh, news, duplicates


async def _stored_spans(connection: Connection, device: int, since: float, until: float) -> list[tuple[float, float]]:
    cursor = await connection.execute(
        SQL.rr_overlapping,
        {"device": device, "since": int(since - SAME_BEAT_MS), "until": int(until + SAME_BEAT_MS) + 1},
    )
    return [(first, last) for first, last in await cursor.fetchall()]


async def _mark_windows(connection: Connection, runs: Sequence[StoredRun]) -> None:
    windows: set[tuple[int, int]] = set()
    for at, ends_at, _, patient, *_ in runs:
        first, last = int(at) // HRV_WINDOW_MS, int(ends_at) // HRV_WINDOW_MS
        windows.update((patient, window * HRV_WINDOW_MS) for window in range(first, last + 1))
    ordered = sorted(windows)
    await connection.execute(
        SQL.hrv_dirty, {"patient": [p for p, _ in ordered], "window_start": [w for _, w in ordered]}
    )


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
            "stamp": [
                min(report.status.clock, now_ms) if report.status.clock is not None and without_gap[device] else None
                for device, report in rows
            ],
        },
    )


def journal_parameters(heads: NumberedMessages, now_ms: int) -> dict[str, Any]:
    """Return the parameters of SQL.journal, which notes the numbered messages that a transaction holds."""
    return {
        "now": now_ms,
        "device": heads.device,
        "seq": heads.seq,
        "oldest": heads.oldest,
        "stamp": heads.stamp,
        "news": heads.news,
    }


async def quarantine(
    connection: Connection, refused: Sequence[Refused], messages: Sequence[Delivered], now_ms: int
) -> None:
    """Keep what was refused with its bytes, at most QUARANTINE_A_DAY entries a device a day; count all of it.

    The same refusal of the same bytes is kept once. Bytes that may hold readings of somebody who has not consented
    are not kept, whatever else is wrong with them.
    """
    day = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    room = await _room(connection, {r.device_id or "" for r in refused}, day)
    kept: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    entries: list[dict[str, Any]] = []
    private = {r.message for r in refused if r.private or r.reason is Reason.NO_CONSENT}
    for refusal in refused:
        device_id = refusal.device_id or ""
        counted[device_id, refusal.reason.value] += 1
        if refusal.reason is not Reason.NO_CONSENT and room[device_id] > 0:
            room[device_id] -= 1
            message = messages[refusal.message]
            entries.append(_entry(refusal, message, keep_bytes=refusal.message not in private))
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


def _entry(refusal: Refused, message: Delivered, *, keep_bytes: bool) -> dict[str, Any]:
    payload = message.payload
    return {
        "topic": message.topic.replace("\0", "\ufffd"),
        "device_id": refusal.device_id,
        "patient_id": refusal.patient,
        "reason": refusal.reason.value,
        "detail": refusal.detail.replace("\0", "\ufffd"),
        "series": "{" + ",".join(map(str, refusal.series)) + "}" if refusal.series is not None else None,
        "content_type": message.content_type.replace("\0", "\ufffd") if message.content_type else None,
        "payload": payload[:MAX_PAYLOAD_BYTES] if keep_bytes else None,
        "payload_bytes": len(payload),
        "payload_sha256": hashlib.sha256(payload).digest(),
    }
