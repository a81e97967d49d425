"""Keeps HRV windows, nights and drift alerts equal to what the stored RR intervals say; the worker's part.

The gateway marks the 5-min windows whose beats changed, in the transaction that stores them. Here they are computed
once they are over, then the night they belong to, and once that is over the patient's nights are assessed as a whole,
so that late data are right by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import kwargs_row

from devices.units import to_canonical
from devices.vocabulary import Code, DeviceModel, Modality, Unit, modality_of
from gateway.clinic.patient_rules import rules_of
from gateway.clinic.zones import zone_of
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.locks import try_lock_patient
from gateway.store.queries import load_queries
from streaming.hrv.drift import RULE, VERSION, NightAssessment, fold_nights
from streaming.hrv.nights import NightValue, night_bounds, night_value
from streaming.hrv.rr_cleaning import RRRun
from streaming.hrv.windows import CONTEXT_MS, WINDOW_MS, HrvWindow, windows_of
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "hrv.sql")

Connection = psycopg.AsyncConnection[Any]

# After its end a window waits a little for the message that completes it.
COMPLETE_AFTER_MS = 30_000
# One transaction holds its marks, and a late message to the same windows waits for it: keep it short.
WINDOWS_AT_ONCE = 72
PATIENTS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class _Span:
    """Consecutive windows, from the start of the first to the end of the last, ms."""

    since: int
    until: int


class WindowKeeper:
    """Computes the windows that are marked, once they are over, and the nights they lie in."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, None]:
        """Return some patients with marked windows that are over."""
        values = {"until": _over_before(now_ms), "without": list(without), "limit": PATIENTS_AT_ONCE}
        return dict.fromkeys(row[0] for row in await (await connection.execute(SQL.patients_dirty, values)).fetchall())

    async def settle(self, patient: int, touched: None, writer: AlertWriter) -> bool:
        """Compute some windows of a patient, the oldest first; False: others hold all that are marked."""
        del touched  # the marks say which
        connection = writer.connection
        values = {"patient": patient, "until": _over_before(writer.now_ms), "limit": WINDOWS_AT_ONCE}
        taken = await (await connection.execute(SQL.take_dirty, values)).fetchall()
        if taken:
            await self._compute(connection, patient, sorted(start for (start,) in taken))
        return bool(taken)

    async def _compute(self, connection: Connection, patient: int, starts: Sequence[int]) -> None:
        windows: list[HrvWindow] = []
        electrodes = await self._electrodes(connection, patient)
        for span in _spans(starts):
            runs = await self._runs(connection, patient, span)
            windows += windows_of(runs, span.since, span.until, electrodes)
        if not windows:
            return
        await connection.execute(
            SQL.write_windows,
            {
                "patient": patient,
                "start": [w.start_ms for w in windows],
                "device": [w.device for w in windows],
                "beats": [w.beats for w in windows],
                "coverage": [w.coverage for w in windows],
                "corrected": [w.corrected for w in windows],
                "valid": [w.valid for w in windows],
                "rmssd": [w.rmssd for w in windows],
                "sdnn": [w.sdnn for w in windows],
                "mean_heart_rate": [w.mean_heart_rate for w in windows],
                "modality": [w.modality for w in windows],
            },
        )
        zone = await zone_of(connection, patient)
        for night in _nights_of(zone, windows):
            await self._write_night(connection, patient, zone, night)

    @staticmethod
    async def _electrodes(connection: Connection, patient: int) -> set[int]:
        rows = await (await connection.execute(SQL.devices, {"patient": patient})).fetchall()
        told = {key: (DeviceModel(model), Modality(modality) if modality else None) for key, model, modality in rows}
        return {key for key, device in told.items() if modality_of(*device) is Modality.ECG}

    @staticmethod
    async def _runs(connection: Connection, patient: int, span: _Span) -> dict[int, list[RRRun]]:
        parameters = {"patient": patient, "since": span.since - CONTEXT_MS, "until": span.until + CONTEXT_MS}
        runs: dict[int, list[RRRun]] = {}
        for device, at, intervals, unit, flags in await (await connection.execute(SQL.runs, parameters)).fetchall():
            in_ms = to_canonical(Code.RR_INTERVAL, Unit(unit), np.array(intervals, np.float64))
            runs.setdefault(device, []).append(RRRun(at, in_ms, flags))
        return runs

    @staticmethod
    async def _write_night(connection: Connection, patient: int, zone: ZoneHistory, night: date) -> None:
        bounds = night_bounds(zone, night)
        async with connection.cursor(row_factory=kwargs_row(_window)) as cursor:
            await cursor.execute(SQL.windows, {"patient": patient, "since": bounds[0], "until": bounds[1]})
            value = night_value(night, bounds, await cursor.fetchall())
        await connection.execute(
            SQL.write_night,
            {
                "patient": patient,
                "night": night,
                "starts_at": value.starts_at,
                "ends_at": value.ends_at,
                "windows": value.windows,
                "rmssd": value.rmssd,
                "sdnn": value.sdnn,
                "mean_heart_rate": value.mean_heart_rate,
                "ln_rmssd": value.ln_rmssd,
                "modality": value.modality,
            },
        )


class NightKeeper:
    """Assesses the nights of patients once they are over, and keeps their drift alerts equal to what is found."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, None]:
        """Return some patients with a night that is over and not assessed yet."""
        values = {"now": now_ms, "without": list(without), "limit": PATIENTS_AT_ONCE}
        return dict.fromkeys(
            row[0] for row in await (await connection.execute(SQL.patients_unsettled, values)).fetchall()
        )

    async def settle(self, patient: int, touched: None, writer: AlertWriter) -> bool:
        """Assess all nights of a patient, for a late one may change any of them; False: somebody else is at it."""
        del touched
        if not await try_lock_patient(writer.connection, patient):
            return False
        await self._assess(patient, writer)
        return True

    @staticmethod
    async def _assess(patient: int, writer: AlertWriter) -> None:
        connection, now_ms = writer.connection, writer.now_ms
        rules = await rules_of(connection, patient)
        async with connection.cursor(row_factory=kwargs_row(_night)) as cursor:
            await cursor.execute(SQL.nights, {"patient": patient, "now": now_ms})
            assessments, episodes = fold_nights(await cursor.fetchall(), rules, now_ms)
        await connection.execute(SQL.write_assessments, {"patient": patient, **_columns(assessments)})
        context = RuleContext(patient, RULE, await zone_of(connection, patient), VERSION, rules)
        await writer.apply(context, await writer.standing(context, 0, None), episodes)


def _over_before(now_ms: int) -> int:
    """Return the newest start (ms) of windows that are over, with what completes them."""
    return now_ms - WINDOW_MS - COMPLETE_AFTER_MS


def _window(*, modality: str, **row: Any) -> HrvWindow:
    return HrvWindow(**row, modality=Modality(modality))


def _night(*, modality: str, **row: Any) -> NightValue:
    return NightValue(**row, modality=Modality(modality))


def _spans(starts: Sequence[int]) -> list[_Span]:
    """Return the windows to compute as spans: each dirty one, and its neighbours, whose correction sees its beats."""
    spans: list[_Span] = []
    for start in starts:
        since, until = start - WINDOW_MS, start + 2 * WINDOW_MS
        if spans and since <= spans[-1].until:
            spans[-1] = _Span(spans[-1].since, until)
        else:
            spans.append(_Span(since, until))
    return spans


def _nights_of(zone: ZoneHistory, windows: Sequence[HrvWindow]) -> list[date]:
    """Return the nights that the windows lie in; a window of the day belongs to none."""
    nights: set[date] = set()
    for window in windows:
        day = zone.local(window.start_ms).date()
        since, until = night_bounds(zone, day)
        if since <= window.start_ms < until:
            nights.add(day)
    return sorted(nights)


def _columns(assessments: Sequence[NightAssessment]) -> dict[str, list[Any]]:
    return {
        "night": [a.night.night for a in assessments],
        "baseline": [a.baseline.center if a.baseline else None for a in assessments],
        "baseline_sd": [a.baseline.spread if a.baseline else None for a in assessments],
        "rolling_mean": [a.rolling_mean for a in assessments],
        "z": [a.z for a in assessments],
        "statistic": [a.statistic for a in assessments],
        "cusum": [a.cusum for a in assessments],
        "drift": [a.drift for a in assessments],
    }
