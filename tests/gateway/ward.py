"""Pill boxes and their patients: messages through the real pipeline, receipts and the worker, at a time one chooses."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

import psycopg

from gateway.clinic.provisioning import Provisioning
from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.ingest.source import Batch, Message, SourceClosedError
from gateway.runtime.broker_address import parse_url
from gateway.runtime.metrics import GatewayMetrics, WorkerMetrics
from gateway.store.connect import connect
from gateway.worker.main import Worker, WorkerSettings
from streaming.doses.calendar import DoseSchedule, due_doses
from streaming.doses.matching import DoseOutcome, Opening
from streaming.doses.missed import Contact, settle
from streaming.zones import DAY_MS, MINUTE_MS, ZoneHistory
from tests.gateway.clinic import EVER, Clinic

GRACE_MS = 2 * MINUTE_MS
DoseTuple = tuple[int, str, int | None]


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


class Closed:
    """A source that the tests feed by calling the pipeline directly."""

    async def batch(self) -> Batch:
        raise SourceClosedError

    def ack(self, batch: Batch) -> None:
        """Nothing to do."""


class Told:
    """What receipts are published to: keeps the last one of each topic."""

    def __init__(self) -> None:
        self.last: dict[str, bytes] = {}

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        self.last[topic] = payload


@dataclass(slots=True)
class Ward:
    """Everything between a pill box and the care team, with `now` in ms as a value that the test sets."""

    clinic: Clinic
    database_url: str
    connection: psycopg.AsyncConnection[Any]
    now: int
    worker: Worker
    pipeline: Pipeline = field(init=False)
    keeper: ReceiptKeeper = field(init=False)
    schedules: dict[int, list[DoseSchedule]] = field(default_factory=dict)
    _seq: dict[str, int] = field(default_factory=dict)

    async def open(self) -> None:
        metrics = GatewayMetrics()
        self.keeper = ReceiptKeeper(self.database_url, Told(), metrics, 3.0, lambda: self.now)
        book = await self.keeper.hydrate()
        self.pipeline = Pipeline(PipelineSettings(self.database_url), Closed(), book, metrics, now_ms=lambda: self.now)

    async def close(self) -> None:
        await self.pipeline.run()  # the source is closed: it closes its connection
        await self.keeper.close()

    # Provisioning

    @property
    def provisioning(self) -> Provisioning:
        return Provisioning(self.clinic.connection, None, moment(self.now))

    async def patient(self, *boxes: str, zone: str = "UTC", since: datetime = EVER, via: str | None = None) -> int:
        patient = await self.provisioning.add_patient("Ada", zone)
        for box in boxes:
            await self.provisioning.add_device(box, "pillbox", patient, since, via=via)
        return patient

    async def schedule(self, patient: int, *times: str, since: str, **changes: Any) -> int:
        local_times = [time.fromisoformat(one) for one in times]
        first = date.fromisoformat(since)
        found = await self.provisioning.add_dose(patient, "Metformin", local_times, valid_from=first, **changes)
        plain = {key: value for key, value in changes.items() if key in {"compartment", "critical", "valid_until"}}
        windows = {
            f"{name}_ms": changes[name] * MINUTE_MS for name in ("window_before", "window_after") if name in changes
        }
        schedule = DoseSchedule(found, tuple(sorted(local_times)), first, self.now, **plain, **windows)
        self.schedules.setdefault(patient, []).append(schedule)
        return found

    # What boxes say

    def seq(self, device: str) -> int:
        self._seq[device] = self._seq.get(device, 0) + 1
        return self._seq[device]

    def opened(self, device: str, *ats: int, seq: int | None = None, via: str | None = None, **head: Any) -> Message:
        """One message with openings; `sent_at` is now."""
        events = [{"type": "compartment_opened", "at": at} for at in ats]
        return self.message(device, "event", {"events": events, **head}, seq, via)

    def alive(self, device: str, seq: int | None = None, via: str | None = None) -> Message:
        """A sign of life: the battery."""
        reading = {"code": "battery", "unit": "%", "at": self.now, "value": 87}
        return self.message(device, "telemetry", {"observations": [reading]}, seq, via)

    def message(self, device: str, kind: str, body: dict[str, Any], seq: int | None, via: str | None) -> Message:
        sender = via or device
        head = {"seq": self.seq(sender) if seq is None else seq, "sent_at": self.now}
        named = {"device": device} if via else {}
        return Message(f"vigil/v1/{sender}/{kind}", json.dumps({**head, **named, **body}).encode(), None, 1)

    def status(self, device: str) -> Message:
        body = json.dumps({"online": True, "battery": 80, "clock": self.now}).encode()
        return Message(f"vigil/v1/{device}/status", body, None, 1)

    async def hear(self, *messages: Message) -> None:
        """Let the gateway commit a batch and fold its receipts."""
        await self.pipeline.commit(messages)
        await self.keeper.flush(self.pipeline.journalled)

    # What Vigil does

    async def work(self, at: int | None = None) -> int:
        """Let the worker do all that is due; fails when it never comes to an end. Return how many patients it did."""
        self.now = self.now if at is None else at
        done = 0
        for _ in range(200):
            settled = await self.worker.do("doses", self.connection, self.now)
            done += settled
            if not settled:
                return done
        raise AssertionError("the worker finds the same things to do again and again")

    async def doses(self, patient: int) -> list[DoseTuple]:
        """Due, state, taken_at of every dose whose window began, in order."""
        return await self.clinic.rows(
            "select to_ms(due_at), state, to_ms(taken_at) from dose where patient_id = %s and window_start <= %s"
            " order by due_at, schedule_id",
            patient,
            moment(self.now),
        )

    async def states(self, patient: int) -> list[str]:
        return [state for _, state, _ in await self.doses(patient)]

    async def alerts(self, patient: int, rule: str = "missed_dose") -> list[tuple[int, str, str, int | None]]:
        """Opened_at, severity, state, resolved_at of the alerts of a rule that are not withdrawn."""
        return await self.clinic.rows(
            "select to_ms(opened_at), severity, state, to_ms(resolved_at) from alert"
            " where patient_id = %s and rule = %s and state <> 'withdrawn' order by opened_at, subject",
            patient,
            rule,
        )

    async def commands(self) -> list[tuple[str, str]]:
        return await self.clinic.rows(
            "select d.id, c.type from command c join device d on d.key = c.device_key order by c.id"
        )

    def folded(self, patient: int, zone: str, openings: Sequence[int], stamp_ms: int) -> list[DoseOutcome]:
        """What the pure fold over everything says, with a box that was heard at `stamp_ms`, long enough ago."""
        history = ZoneHistory.of(zone)
        doses = [dose for one in self.schedules[patient] for dose in due_doses(one, history, 0, self.now + 2 * DAY_MS)]
        outcomes = settle(doses, [Opening(at) for at in openings], Contact(stamp_ms, 0), self.now)
        return [outcome for outcome in outcomes if outcome.dose.window_start <= self.now]


def plain(outcomes: Sequence[DoseOutcome]) -> list[DoseTuple]:
    return [(outcome.dose.due_at, outcome.state.value, outcome.taken_at) for outcome in outcomes]


def new_worker(database_url: str) -> Worker:
    return Worker(WorkerSettings(database_url, parse_url("mqtt://127.0.0.1:1")), WorkerMetrics())


@asynccontextmanager
async def open_ward(clinic: Clinic, database_url: str, now: int) -> AsyncIterator[Ward]:
    connection = await connect(database_url, "test worker")
    ward = Ward(clinic, database_url, connection, now, new_worker(database_url))
    await ward.open()
    try:
        yield ward
    finally:
        await ward.close()
        await connection.close()
