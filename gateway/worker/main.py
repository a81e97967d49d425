"""The worker process: deadlines, HRV, silence and rest as set queries on a tick, commands and rosters at the broker."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
import psycopg

from alerts.reconcile import Action
from gateway.rules.doses.keeper import DoseKeeper
from gateway.rules.hrv import HrvKeeper
from gateway.rules.offline import OfflineKeeper
from gateway.rules.rest import RestKeeper
from gateway.rules.silence import SilenceKeeper
from gateway.runtime import clock
from gateway.runtime.backoff import full_jitter
from gateway.runtime.broker_address import Address, mqtt_client
from gateway.runtime.metrics import WorkerMetrics
from gateway.runtime.process import ended, told_to_stop
from gateway.store.alerts import AlertWriter
from gateway.store.connect import connect
from gateway.store.errors import AWAY, FAULTS
from gateway.store.queries import load_queries
from gateway.worker.commands import send_commands
from gateway.worker.rosters import RosterKeeper
from streaming.limits.detectors import GLUCOSE_RULES

SQL = load_queries("gateway.store", "worker.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]
Step = Callable[[Connection, int], Awaitable[int]]
T = TypeVar("T")
Settle = Callable[[int, T, AlertWriter], Awaitable[None]]

PATIENTS_AT_ONCE = 20
# Twice the longest cadence of a glucose sensor (15 min): one lost reading is not silence.
DATA_STOPPED_AFTER_MS = 30 * 60_000


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the process needs to know."""

    database_url: str
    broker: Address
    contact_grace_ms: int = 120_000
    retrospective_after_ms: int = 30 * 60_000
    metrics_port: int = 0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to be done again and again: at once while there is more to do, else every `every_s` seconds."""

    name: str
    every_s: float
    step: Step


@dataclass(frozen=True, slots=True)
class Errand:
    """Something done at the broker for as long as both connections last; it never ends by itself."""

    name: str
    work: Callable[[Connection, aiomqtt.Client], Awaitable[None]]


class Worker:
    """The duties over the store. Every step is one or more short transactions with `now` as an argument."""

    def __init__(self, settings: WorkerSettings, metrics: WorkerMetrics) -> None:
        """Work with these settings."""
        self._settings = settings
        self._metrics = metrics
        self._doses = DoseKeeper(settings.contact_grace_ms)
        self._hrv = HrvKeeper()
        self._silence = SilenceKeeper()
        self._offline = OfflineKeeper()
        self._rest = RestKeeper()

    def duties(self) -> list[Duty]:
        """Return what a worker does in the store alone."""
        return [
            Duty("doses", 1.0, self.settle_doses),
            Duty("hrv windows", 2.0, self._hrv.compute_windows),
            Duty("hrv nights", 2.0, self.assess_nights),
            Duty("silent data", 15.0, self.mark_silent_data),
            Duty("silence", 15.0, self.tell_silence),
            Duty("offline devices", 30.0, self.tell_offline_devices),
            Duty("rest", 15.0, self.end_what_rests),
        ]

    async def settle_doses(self, connection: Connection, now_ms: int) -> int:
        """Settle the doses of patients with something due; return how many patients that were.

        Each in a transaction of their own: one who cannot be settled does not keep the others waiting.
        """
        settled = 0
        for patient, touched_ms in await self._doses.patients_due(connection, now_ms, PATIENTS_AT_ONCE):
            writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
            try:
                async with connection.transaction():
                    settled += await self._doses.settle_patient(patient, touched_ms, writer, now_ms)
                    await writer.finish()
            except FAULTS:
                log.exception("a patient's doses could not be settled", extra={"patient": patient})
                self._metrics.failures.labels("doses").inc()
            else:
                self._metrics.alerts.inc(len(writer.raised))
        return settled

    async def assess_nights(self, connection: Connection, now_ms: int) -> int:
        """Assess HRV nights that are over."""
        return await self._hrv.assess_nights(connection, now_ms, self._settings.retrospective_after_ms)

    async def mark_silent_data(self, connection: Connection, now_ms: int) -> int:
        """Mark open glucose alerts whose data stopped as unknown: silence clears no alarm. Undo it when data come."""
        values = {"since": now_ms - DATA_STOPPED_AFTER_MS, "rules": [rule.value for rule in GLUCOSE_RULES]}
        async with connection.transaction():
            cursor = await connection.execute(SQL.silent, values)
            changed = await cursor.fetchall()
            writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
            for action, wanted in ((Action.DATA_UNKNOWN, True), (Action.DATA_CURRENT, False)):
                ids = [alert_id for alert_id, stopped in changed if stopped is wanted]
                if ids:
                    await writer.set_data(ids, action)
            await writer.finish()
        return 0

    async def tell_silence(self, connection: Connection, now_ms: int) -> int:
        """Tell whose glucose does not come, and whose came again."""
        due = await self._silence.due(connection, now_ms)
        return await self._look_after("silence", due, self._silence.settle, connection, now_ms)

    async def tell_offline_devices(self, connection: Connection, now_ms: int) -> int:
        """Tell which devices are not heard any more, and which are again."""
        due = await self._offline.due(connection, now_ms)
        return await self._look_after("offline devices", due, self._offline.settle, connection, now_ms)

    async def end_what_rests(self, connection: Connection, now_ms: int) -> int:
        """End the alerts of rules that were switched off, and of patients who rest."""
        due = await self._rest.due(connection, now_ms)
        return await self._look_after("rest", due, self._rest.settle, connection, now_ms)

    async def _look_after(
        self, duty: str, due: Mapping[int, T], settle: Settle[T], connection: Connection, now_ms: int
    ) -> int:
        """Settle each patient in a transaction of their own: one who cannot be does not keep the others waiting."""
        for patient, touched in due.items():
            writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
            try:
                async with connection.transaction():
                    await settle(patient, touched, writer)
                    await writer.finish()
            except FAULTS:
                log.exception("a patient's alerts could not be settled", extra={"patient": patient, "duty": duty})
                self._metrics.failures.labels(duty).inc()
            else:
                self._metrics.alerts.inc(len(writer.raised))
        return 0

    async def run(self) -> None:
        """Do all duties until cancelled; the database and the broker may go away and come back."""
        async with asyncio.TaskGroup() as group:
            for duty in self.duties():
                group.create_task(self._repeat(duty), name=duty.name)
            for errand in ERRANDS:
                group.create_task(self._attend(errand), name=errand.name)

    async def _repeat(self, duty: Duty) -> None:
        connection: Connection | None = None
        chance = random.Random()  # noqa: S311 - jitter, not a secret
        attempt = 0
        try:
            while True:
                try:
                    if connection is None or connection.closed:
                        connection = await connect(self._settings.database_url, f"vigil worker {duty.name}")
                    more = await duty.step(connection, clock.now_ms())
                    attempt = 0
                except AWAY as error:
                    log.warning("the database is away", extra={"duty": duty.name, "cause": str(error).strip()})
                    more = 0
                    attempt += 1
                    await _closed(connection)
                    connection = None
                except FAULTS:
                    log.exception("a duty failed; it is tried again", extra={"duty": duty.name})
                    self._metrics.failures.labels(duty.name).inc()
                    more = 0
                    attempt += 1
                self._metrics.steps.labels(duty.name).inc()
                if not more:
                    await asyncio.sleep(duty.every_s + full_jitter(attempt, chance) if attempt else duty.every_s)
        finally:
            await _closed(connection)

    async def _attend(self, errand: Errand) -> None:
        """Do what needs the database and the broker; when either goes, begin anew with both."""
        chance = random.Random()  # noqa: S311 - jitter, not a secret
        attempt = 0
        while True:
            try:
                async with (
                    await connect(self._settings.database_url, f"vigil worker {errand.name}") as connection,
                    mqtt_client(self._settings.broker, f"vigil-worker-{chance.getrandbits(48):x}") as client,
                ):
                    attempt = 0
                    await errand.work(connection, client)
            except* (*AWAY, aiomqtt.MqttError) as lost:
                cause = str(lost.exceptions[0]).strip()
                log.warning("the broker or the database is away", extra={"duty": errand.name, "cause": cause})
            except* FAULTS:
                log.exception("a duty failed; it is tried again", extra={"duty": errand.name})
                self._metrics.failures.labels(errand.name).inc()
            await asyncio.sleep(1 + full_jitter(attempt, chance))
            attempt += 1


async def _send_commands(connection: Connection, client: aiomqtt.Client) -> None:
    """Send commands as they come: woken by a notification, or every few seconds for what it missed."""
    await connection.execute("listen vigil_commands")
    while True:
        while await send_commands(connection, client, clock.now_ms()):
            pass
        async for _ in connection.notifies(timeout=5, stop_after=1):
            pass


async def _keep_rosters(connection: Connection, client: aiomqtt.Client) -> None:
    await RosterKeeper(connection, client, clock.now_ms).run()


ERRANDS = (Errand("commands", _send_commands), Errand("rosters", _keep_rosters))


async def _closed(connection: Connection | None) -> None:
    if connection is not None:
        await connection.close()


async def run_worker(settings: WorkerSettings) -> None:
    """Work until SIGTERM or SIGINT."""
    metrics = WorkerMetrics()
    with told_to_stop(metrics.registry, settings.metrics_port) as stop:
        working = asyncio.create_task(Worker(settings, metrics).run(), name="worker")
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        log.info("worker active")
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await ended(working)
        finally:
            stopping.cancel()
    log.info("worker stopped")
