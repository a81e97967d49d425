"""RR intervals through the pipeline, windows and nights by the worker, drift as an alert: against the pure fold."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest

from gateway.clinic.provisioning import Provisioning
from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipts import ReceiptBook
from gateway.ingest.source import Batch, Message, SourceClosedError
from gateway.rules.hrv import NightKeeper, WindowKeeper
from gateway.runtime.metrics import GatewayMetrics
from gateway.store.alerts import AlertWriter
from gateway.store.connect import connect
from streaming.episodes import Rule
from streaming.hrv.drift import VERSION, fold_nights
from streaming.hrv.nights import NightValue, night_bounds
from streaming.rules.settings import DriftSettings
from streaming.zones import HOUR_MS, MINUTE_MS, ZoneHistory
from tests.gateway.clinic import Clinic
from tests.gateway.wire import telemetry

ZONE = "Asia/Shanghai"
FIRST_NIGHT = date(2026, 3, 1)
NIGHTS = 24
STEP_AT = 18
WINDOWS = 13
RETROSPECTIVE_MS = 30 * MINUTE_MS


class Batches:
    """A source that the tests feed by calling the pipeline directly."""

    async def batch(self) -> Batch:
        raise SourceClosedError

    def ack(self, batch: Batch) -> None:
        """Nothing to do."""


def night_of_beats(rng: np.random.Generator, start_ms: int, rmssd: float) -> list[dict[str, Any]]:
    """Thirteen windows of breathing RR whose RMSSD is as wanted, in series of about a minute."""
    series: list[dict[str, Any]] = []
    beat = float(start_ms + 1_000)
    end = start_ms + WINDOWS * 5 * MINUTE_MS
    while beat < end:
        breath = np.sin(2 * np.pi * 0.24 * np.arange(60) + rng.uniform(0, 6)) + rng.normal(0, 0.2, 60)
        values = np.round(950 + breath * rmssd / np.sqrt(np.mean(np.diff(breath) ** 2)))
        series.append({"code": "rr_interval", "unit": "ms", "at": round(beat), "values": values.tolist()})
        beat = round(beat) + float(values[1:].sum()) + 950
        series[-1]["values"].append(950.0)
        beat += 950
    return series


def nights(rng: np.random.Generator) -> list[list[dict[str, Any]]]:
    zone = ZoneHistory.of(ZONE)
    usual = rng.normal(np.log(42), 0.08, NIGHTS)
    usual[STEP_AT:] -= 0.35
    return [
        night_of_beats(rng, night_bounds(zone, FIRST_NIGHT + timedelta(days=n))[0] + HOUR_MS, float(np.exp(usual[n])))
        for n in range(NIGHTS)
    ]


async def settle(pipeline: Pipeline, device: str, series: Sequence[dict[str, Any]]) -> None:
    messages = [telemetry(device, series[i : i + 20]) for i in range(0, len(series), 20)]
    await pipeline.commit([Message(m.topic, m.payload, None, 1) for m in messages])


async def work(connection: psycopg.AsyncConnection[Any], now_ms: int) -> None:
    for keeper in (WindowKeeper(), NightKeeper()):
        while due := await keeper.due(connection, now_ms):
            for patient in due:
                writer = AlertWriter(connection, now_ms, RETROSPECTIVE_MS)
                async with connection.transaction():
                    assert await keeper.settle(patient, None, writer)
                    await writer.finish()


@pytest.mark.parametrize("order", ["in order", "newest first", "a night late"])
async def test_drift_alerts_equal_the_fold_over_the_stored_nights(
    clinic: Clinic, database_url: str, order: str
) -> None:
    rng = np.random.default_rng(4)
    patient = await clinic.wearer("band", ZONE)
    zone = ZoneHistory.of(ZONE)
    end = night_bounds(zone, FIRST_NIGHT + timedelta(days=NIGHTS - 1))[1]
    now = end + HOUR_MS
    pipeline = Pipeline(PipelineSettings(database_url), Batches(), ReceiptBook(), GatewayMetrics(), now_ms=lambda: now)
    recorded = nights(rng)
    arriving = {
        "in order": recorded,
        "newest first": recorded[::-1],
        "a night late": recorded[:7] + recorded[8:] + recorded[7:8],
    }[order]
    connection = await connect(database_url, "test worker")
    try:
        for series in arriving:
            await settle(pipeline, "band", series)
            await work(connection, now)
    finally:
        await connection.close()
        await pipeline.run()  # the source is closed: it closes its connection

    rows = await clinic.rows(
        "select night, to_ms(starts_at), to_ms(ends_at), windows, rmssd, sdnn, mean_heart_rate, ln_rmssd"
        " from hrv_night where patient_id = %s order by night",
        patient,
    )
    values = [NightValue(*row) for row in rows]
    assert [value.night for value in values] == [FIRST_NIGHT + timedelta(days=n) for n in range(NIGHTS)]
    assert all(value.windows >= 12 for value in values)
    _, episodes = fold_nights(values)
    assert len(episodes) == 1, "the step is found"
    alerts = await clinic.alerts(patient, rule="hrv_drift")
    assert [(a.opened_at, a.resolved_at, a.severity) for a in alerts] == [
        (e.opened_at, e.resolved_at, e.severity.value) for e in episodes
    ]
    assert alerts[0].opened_at >= night_bounds(zone, FIRST_NIGHT + timedelta(days=STEP_AT))[1]
    assert await clinic.value("select count(*) from hrv_dirty") == 0
    assert await clinic.value("select count(*) from hrv_night where not settled") == 0


async def test_beats_sent_twice_change_nothing(clinic: Clinic, database_url: str) -> None:
    rng = np.random.default_rng(5)
    await clinic.wearer("band", ZONE)
    start = night_bounds(ZoneHistory.of(ZONE), FIRST_NIGHT)[0] + HOUR_MS
    series = night_of_beats(rng, start, 40)
    pipeline = Pipeline(
        PipelineSettings(database_url), Batches(), ReceiptBook(), GatewayMetrics(), now_ms=lambda: start + 12 * HOUR_MS
    )
    await settle(pipeline, "band", series)
    stored = await clinic.value("select count(*), sum(cardinality(intervals)) from rr_series")
    await settle(pipeline, "band", series)
    await settle(pipeline, "band", series[::-1])
    await pipeline.run()  # the source is closed: it closes its connection
    assert await clinic.value("select count(*), sum(cardinality(intervals)) from rr_series") == stored
    beats = await clinic.value("select count(*) from readings where code = 'rr_interval'")
    assert beats == sum(len(one["values"]) for one in series)


def fallen_nights(zone: ZoneHistory, falls: int) -> list[NightValue]:
    """Return twenty usual nights and some far below them, as the worker would have computed them."""
    usual = np.random.default_rng(6).normal(np.log(42), 0.08, 20)
    values = [*usual.tolist(), *[float(np.log(25))] * falls]
    days = [FIRST_NIGHT + timedelta(days=n) for n in range(len(values))]
    return [
        NightValue(day, *night_bounds(zone, day), 60, float(np.exp(value)), 50.0, 58.0, value)
        for day, value in zip(days, values, strict=True)
    ]


async def store(clinic: Clinic, patient: int, found: Sequence[NightValue]) -> None:
    for one in found:
        await clinic.rows(
            "insert into hrv_night (patient_id, night, starts_at, ends_at, windows, rmssd, sdnn, mean_heart_rate, ln_rmssd)"
            " values (%s, %s, from_ms(%s), from_ms(%s), %s, %s, %s, %s, %s) returning 1",
            patient, one.night, one.starts_at, one.ends_at, one.windows, one.rmssd, one.sdnn, one.mean_heart_rate,
            one.ln_rmssd,
        )  # fmt: skip


def instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


async def test_settings_and_pauses_of_the_time_decide_and_the_alert_carries_them(
    clinic: Clinic, database_url: str
) -> None:
    zone = ZoneHistory.of(ZONE)
    found = fallen_nights(zone, 6)
    eager, deaf = [await clinic.wearer(name, ZONE) for name in ("eager", "deaf")]
    for patient in (eager, deaf):
        await store(clinic, patient, found)
    began, paused = found[18].ends_at, found[24].ends_at + HOUR_MS
    then = Provisioning(clinic.connection, None, instant(began))
    await then.set_rule(eager, Rule.HRV_DRIFT, {"threshold": 2.5})
    await then.set_rule(deaf, Rule.HRV_DRIFT, {"threshold": 50.0})
    await then.pause(eager, instant(paused + 48 * HOUR_MS), "in hospital", begin=instant(paused))
    connection = await connect(database_url, "test worker")
    try:
        await work(connection, found[24].ends_at)
        running = await clinic.alerts(eager, rule="hrv_drift")
        await work(connection, found[25].ends_at)
    finally:
        await connection.close()
    assert [(alert.opened_at, alert.resolved_at) for alert in running] == [(found[21].ends_at, None)]
    assert [(alert.id, alert.resolved_at) for alert in await clinic.alerts(eager, rule="hrv_drift")] == [
        (running[0].id, paused),
    ]  # fmt: skip
    assert await clinic.alerts(deaf, rule="hrv_drift") == []
    query = "select rule_version, settings, evidence #>> '{finding,ended_by}' from alert where patient_id = %s"
    assert await clinic.rows(query, eager) == [(VERSION, asdict(DriftSettings(threshold=2.5)), "rest")]
    shown = "select count(baseline), count(z), count(statistic) from hrv_night where patient_id = %s and night > %s"
    assert await clinic.rows(shown, eager, found[24].night) == [(1, 1, 0)]


async def test_what_a_device_measures_with_stays_with_windows_and_nights(clinic: Clinic, database_url: str) -> None:
    rng = np.random.default_rng(8)
    strap, band = [await clinic.wearer(name, ZONE) for name in ("strap", "band")]
    await clinic.rows("update device set modality = 'ecg' where id = 'strap' returning 1")
    start = night_bounds(ZoneHistory.of(ZONE), FIRST_NIGHT)[0] + HOUR_MS
    now = start + 12 * HOUR_MS
    pipeline = Pipeline(PipelineSettings(database_url), Batches(), ReceiptBook(), GatewayMetrics(), now_ms=lambda: now)
    for device in ("strap", "band"):
        await settle(pipeline, device, night_of_beats(rng, start, 40))
    await pipeline.run()  # the source is closed: it closes its connection
    connection = await connect(database_url, "test worker")
    try:
        await work(connection, now)
    finally:
        await connection.close()
    kept = (
        "select patient_id, n.modality, n.windows >= 12, array_agg(distinct w.modality)"
        " from hrv_night n join hrv_window w using (patient_id) group by 1, 2, 3 order by 1"
    )
    assert await clinic.rows(kept) == [(strap, "ecg", True, ["ecg"]), (band, "ppg", True, ["ppg"])]
