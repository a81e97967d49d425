"""The worker process: its duties in the store, each on a tick (`Worker.duties`), and its errands at the broker (`ERRANDS`)."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import aiomqtt
import psycopg

from gateway.rules.doses.keeper import DoseKeeper
from gateway.rules.hrv import NightKeeper, WindowKeeper
from gateway.rules.offline import OfflineKeeper
from gateway.rules.rest import RestKeeper
from gateway.rules.silence import SilenceKeeper
from gateway.rules.stopped_data import mark_stopped_data
from gateway.runtime import clock
from gateway.runtime.backoff import full_jitter
from gateway.runtime.broker_address import Address, mqtt_client
from gateway.runtime.metrics import WorkerMetrics
from gateway.runtime.process import cancelled, ended, told_to_stop
from gateway.store.alerts import AlertWriter
from gateway.store.connect import connect
from gateway.store.errors import AWAY, FAULTS
from gateway.worker.commands import send_commands
from gateway.worker.rosters import RosterKeeper
from gateway.worker.setbacks import Setbacks

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]
Step = Callable[[Connection, int], Awaitable[int]]
T = TypeVar("T")


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


class Keeper(Protocol[T]):
    """Keeps what follows from the store true for one patient after the other; any number of workers may do so at once."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int]) -> Mapping[int, T]:
        """Return patients about whom there may be news, each with what it may be about; none of those in `without`."""

    async def settle(self, patient: int, touched: T, writer: AlertWriter) -> bool:
        """Bring one patient up to date, in the open transaction of the writer; False: somebody else is at it."""


class Worker:
    """The duties over the store. Every step is one or more short transactions with `now` as an argument."""

    def __init__(self, settings: WorkerSettings, metrics: WorkerMetrics) -> None:
        """Work with these settings."""
        self._settings = settings
        self._metrics = metrics
        self.duties: Sequence[Duty] = (
            self._of_patients("doses", 1.0, DoseKeeper(settings.contact_grace_ms), again=True),
            self._of_patients("hrv windows", 2.0, WindowKeeper(), again=True),
            self._of_patients("hrv nights", 2.0, NightKeeper(), again=True),
            Duty("stopped data", 15.0, self._mark_stopped_data),
            self._of_patients("silence", 15.0, SilenceKeeper()),
            self._of_patients("offline devices", 30.0, OfflineKeeper()),
            self._of_patients("rest", 15.0, RestKeeper()),
        )
        """What a worker does in the store alone."""

    async def do(self, name: str, connection: Connection, now_ms: int) -> int:
        """Do one duty once; return how many of those it was done for may not have been the last. KeyError: no such duty."""
        return await {duty.name: duty.step for duty in self.duties}[name](connection, now_ms)

    def _of_patients(self, name: str, every_s: float, keeper: Keeper[T], *, again: bool = False) -> Duty:
        """Return the duty of a keeper; `again`: it gives some patients at a time, so once some are done there may be more."""
        setbacks = Setbacks(round(every_s * 1000))

        async def step(connection: Connection, now_ms: int) -> int:
            settled = 0
            for patient, touched in (await keeper.due(connection, now_ms, setbacks.waiting(now_ms))).items():
                settled += await self._settle(name, keeper, patient, touched, connection, now_ms, setbacks)
            return settled if again else 0

        return Duty(name, every_s, step)

    async def _settle(
        self,
        name: str,
        keeper: Keeper[T],
        patient: int,
        touched: T,
        connection: Connection,
        now_ms: int,
        setbacks: Setbacks,
    ) -> bool:
        """Settle a patient in a transaction of their own: one who cannot be does not keep the others waiting."""
        writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
        try:
            async with connection.transaction():
                settled = await keeper.settle(patient, touched, writer)
                await writer.finish()
        except FAULTS:
            log.exception("a patient could not be settled", extra={"patient": patient, "duty": name})
            self._metrics.failures.labels(name).inc()
            setbacks.failed(patient, now_ms)
            return False
        setbacks.settled(patient)
        self._metrics.alerts.inc(len(writer.raised))
        return settled

    async def _mark_stopped_data(self, connection: Connection, now_ms: int) -> int:
        async with connection.transaction():
            writer = AlertWriter(connection, now_ms, self._settings.retrospective_after_ms)
            await mark_stopped_data(writer)
            await writer.finish()
        return 0

    async def run(self) -> None:
        """Do all duties until cancelled; the database and the broker may go away and come back."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat(duty), name=duty.name) for duty in self.duties]
            tasks += [group.create_task(self._attend(errand), name=errand.name) for errand in ERRANDS]
            try:
                await asyncio.wait(tasks)
            finally:
                await cancelled(tasks)

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
