"""Stores runs of RR intervals: the beats that are not stored yet, and the 5-min windows that they change."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from gateway.store.binary import rr_rows
from gateway.store.queries import load_queries
from gateway.store.rows import WornRun

SQL = load_queries("gateway.store", "batch.sql")
Connection = psycopg.AsyncConnection[Any]

HRV_WINDOW_MS = 300_000


StoredRun = tuple[float, float, int, int, int, int, NDArray[np.float64]]


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
        beats = run.beats()
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


# Beats closer than this are the same beat: two series join only where their times meet within 50 ms (the contract),
# and no heart beats twice within 200 ms.
SAME_BEAT_MS = 50.0


def uncovered(beats: NDArray[np.float64], stored: list[tuple[float, float]]) -> list[tuple[int, int]]:
    """Return the half-open index ranges of `beats` (ms, ascending) that lie in none of the stored runs (first, last)."""
    covered = np.zeros(len(beats), np.bool_)
    for first, last in stored:
        covered |= (beats >= first - SAME_BEAT_MS) & (beats <= last + SAME_BEAT_MS)
    edges = np.flatnonzero(np.diff(np.concatenate(([True], covered, [True])).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
