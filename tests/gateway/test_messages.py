"""Beats, events, statuses, edge boxes and receipts, through the pipeline into the store."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import NewDevice
from gateway.ingest.pipeline import Pipeline, PipelineSettings
from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.ingest.receipts import ReceiptBook
from gateway.runtime.metrics import GatewayMetrics
from tests.gateway.clinic import EVER, NOW_MS, Clinic
from tests.gateway.harness import ListSource, messages_of, pipeline
from tests.gateway.wire import Outgoing, events, telemetry

HOUR = 3_600_000
NOW = NOW_MS
START = NOW - 5 * HOUR


def rr(at: int, intervals: list[float | None], unit: str = "ms") -> dict[str, Any]:
    return {"code": "rr_interval", "unit": unit, "at": at, "values": intervals}


def heart_rate(at: int) -> dict[str, Any]:
    return {"code": "heart_rate", "unit": "/min", "at": at, "value": 60}


async def send(running: Pipeline, *messages: Outgoing) -> None:
    await running.commit(messages_of(messages))


async def beats(clinic: Clinic) -> list[tuple[int, float]]:
    return [(at, value) for _, _, at, value, _ in await clinic.readings() if value is not None]


# RR intervals


async def test_beats_sent_twice_or_overlapping_are_stored_once(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("band")
    rng = np.random.default_rng(3)
    intervals: list[float] = [float(round(value)) for value in rng.normal(800, 30, 400)]
    ends = [START + round(sum(intervals[1 : n + 1])) for n in range(len(intervals))]
    parts = [(0, 100), (80, 180), (80, 180), (300, 400), (150, 320), (0, 400)]
    async with pipeline(database_url) as running:
        for first, last in parts:
            await send(running, telemetry("band", [rr(ends[first], list(intervals[first:last]))]))
    stored = await beats(clinic)
    assert len(stored) == 400
    assert [value for _, value in stored] == intervals
    assert max(abs(at - end) for (at, _), end in zip(stored, ends, strict=True)) <= 1
    runs = await clinic.rows("select to_ms(at), to_ms(ends_at) from rr_series order by at")
    assert all(before[1] < after[0] for before, after in pairwise(runs))


async def test_overlaps_within_one_batch_are_stored_once(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("band")
    message = telemetry("band", [rr(START, [800] * 50), rr(START + 800 * 40, [800] * 50)])
    async with pipeline(database_url) as running:
        await send(running, message, message)
        await send(running, message)
    assert len(await beats(clinic)) == 90


async def test_a_null_ends_a_run_and_seconds_are_kept_as_sent(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("band")
    async with pipeline(database_url) as running:
        await send(running, telemetry("band", [rr(START, [0.8, 0.9, None, 0.7], "s")]))
    runs = await clinic.rows("select intervals, u.ucum from rr_series join vocabulary_unit u using (unit) order by at")
    assert runs == [([0.8, 0.9], "s"), ([0.7], "s")]
    marked = await clinic.value("select count(*) from hrv_dirty")
    assert marked >= 1


# Events


async def test_an_event_is_stored_once_and_answers_close_commands(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("box")
    key = await clinic.value("select key from device")
    commands = [
        await clinic.value(
            "insert into command (device_key, type, payload, created_at, expires_at) values (%s, 'remind', '{}', %s, %s) returning id",
            key,
            EVER,
            EVER,
        )
        for _ in range(3)
    ]
    opened = {"type": "compartment_opened", "at": START, "compartment": 3}
    answers = [
        {"type": "command_done", "at": START, "id": str(commands[0]), "ok": True},
        {"type": "command_done", "at": START, "id": str(commands[1]), "ok": False},
        {"type": "command_done", "at": START, "id": "9" * 60, "ok": True},
        {"type": "command_done", "at": START, "id": "strange", "ok": True},
    ]
    async with pipeline(database_url) as running:
        await send(running, events("box", [opened, *answers]), events("box", [opened]))
        await send(running, events("box", [opened, opened | {"compartment": 4}]))
    assert await clinic.rows(
        "select compartment, to_ms(at) from pillbox_event where type = 'compartment_opened' order by 1"
    ) == [(3, START), (4, START)]
    done = await clinic.rows("select ok, to_ms(done_at) from command order by id")
    assert done == [(True, START), (False, START), (None, None)]


async def test_another_devices_answer_closes_nothing(clinic: Clinic, database_url: str) -> None:
    await clinic.wearers(["box", "other"])
    command = await clinic.value(
        "insert into command (device_key, type, payload, created_at, expires_at)"
        " select key, 'remind', '{}', %s, %s from device where id = 'box' returning id",
        EVER,
        EVER,
    )
    answer = {"type": "command_done", "at": START, "id": str(command), "ok": True}
    async with pipeline(database_url) as running:
        await send(running, events("other", [answer]))
    assert await clinic.rows("select done_at from command") == [(None,)]


# Statuses


async def test_a_status_is_kept_and_what_it_does_not_say_stays(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("band")
    full = {"online": True, "battery": 87, "firmware": "1.4.2", "clock": NOW - 5_000}
    topic = "vigil/v1/band/status"
    query = "select online, battery, firmware, to_ms(contact_stamp) from device_status"
    async with pipeline(database_url) as running:
        await send(running, Outgoing(topic, json.dumps(full).encode()))
        assert await clinic.rows(query) == [(True, 87.0, "1.4.2", NOW - 5_000)]
        await send(running, Outgoing(topic, b""), Outgoing(topic, b'{"online": false}'))
        assert await clinic.rows(query) == [(False, 87.0, "1.4.2", NOW - 5_000)]
    assert await clinic.quarantined() == []


# Edge boxes


@pytest.fixture
async def edge(clinic: Clinic) -> int:
    """An edge box, a device bound to it, and a stranger."""
    patient = await clinic.wearer("stranger")
    await clinic.provisioning.add_devices(
        [
            NewDevice("edge", DeviceModel.EDGE),
            NewDevice("bound", DeviceModel.CGM, patient, EVER, via="edge"),
            NewDevice("other-edge", DeviceModel.EDGE),
        ]
    )
    return patient


async def test_an_edge_box_speaks_for_what_is_bound_to_it(clinic: Clinic, edge: int, database_url: str) -> None:
    book = ReceiptBook()
    async with pipeline(database_url, book) as running:
        await send(
            running,
            telemetry("edge", [heart_rate(START), heart_rate(START)], device="bound", seq=1),
            telemetry("edge", [heart_rate(START + 1)], device="stranger", seq=2),
            telemetry("edge", [heart_rate(START + 2)], device="unheard-of", seq=3),
            telemetry("other-edge", [heart_rate(START + 3)], device="bound", seq=1),
            telemetry("edge", [rr(START, [800, 810])], device="bound", seq=4),
            events("edge", [{"type": "tamper", "at": START}], device="bound", seq=5),
            telemetry("edge", [heart_rate(START + 4)], seq=6),
        )
    assert {(device, code) for device, code, *_ in await clinic.readings()} == {
        ("bound", "heart_rate"),
        ("bound", "rr_interval"),
    }
    assert await clinic.stored() == 1
    assert await clinic.rows(
        "select d.id, e.patient_id from pillbox_event e join device d on d.key = e.device_key"
    ) == [("bound", edge)]
    assert sorted(await clinic.quarantined()) == [
        ("edge", "unassigned_device"),
        ("edge", "unknown_device"),
        ("edge", "unknown_device"),
        ("other-edge", "unknown_device"),
    ]
    names = dict(await clinic.rows("select id, key from device"))
    receipts = {key: receipt.seq for key, receipt in book.receipts.items()}
    assert receipts == {names["edge"]: 6, names["other-edge"]: 1}, "numbers and receipts are the edge's"


# Receipts over a restart


class Ears:
    """Hears what is published."""

    def __init__(self) -> None:
        self.heard: dict[str, bytes] = {}

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        self.heard[topic] = payload


async def test_receipts_survive_a_crash_by_the_journal(clinic: Clinic, database_url: str) -> None:
    """A process dies after its commits and before it wrote receipts: the next one knows what was committed."""
    await clinic.wearers(["a", "b"])
    metrics, ears = GatewayMetrics(), Ears()
    keeper = ReceiptKeeper(database_url, ears, metrics, 1)
    running = Pipeline(PipelineSettings(database_url), ListSource([]), await keeper.hydrate(), metrics)
    await send(running, *(telemetry("a", [heart_rate(START + seq)], seq=seq, sent_at=NOW) for seq in (1, 2, 3, 5)))
    await keeper.flush(running.journalled)
    await send(running, telemetry("a", [heart_rate(START + 9)], seq=4), telemetry("b", [heart_rate(START)], seq=70))
    await running.run()
    await keeper.close()
    assert ears.heard == {"vigil/v1/a/receipt": b'{"seq":3}'}

    for _ in range(2):  # and one that crashes again before anything new comes
        ears = Ears()
        keeper = ReceiptKeeper(database_url, ears, metrics, 1)
        book = await keeper.hydrate()
        assert sorted((receipt.first_seq, receipt.seq, receipt.above) for receipt in book.receipts.values()) == [
            (1, 5, []),
            (70, 70, []),
        ]
        await keeper.flush(0)
        await keeper.close()
        assert await clinic.value("select count(*) from receipt_journal") == 0
    assert await clinic.receipts() == {"a": 5, "b": 70}
    assert ears.heard == {}, "what was told already is not told again"


async def test_a_receipt_that_could_not_be_published_is_told_later(clinic: Clinic, database_url: str) -> None:
    await clinic.wearer("a")
    metrics = GatewayMetrics()

    class Deaf(Ears):
        async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
            raise OSError(f"no broker for {topic}: {payload!r}, {retain}")

    keeper = ReceiptKeeper(database_url, Deaf(), metrics, 1)
    running = Pipeline(PipelineSettings(database_url), ListSource([]), await keeper.hydrate(), metrics)
    await send(running, telemetry("a", [heart_rate(START)], seq=1))
    await keeper.flush(running.journalled)
    ears = Ears()
    keeper._publisher = ears
    await keeper.flush(running.journalled)
    await running.run()
    await keeper.close()
    assert ears.heard == {"vigil/v1/a/receipt": b'{"seq":1}'}


async def test_a_clock_that_is_off_is_told_to_set_itself(clinic: Clinic, database_url: str) -> None:
    await clinic.wearers(["ahead", "right"])
    metrics = GatewayMetrics()
    keeper = ReceiptKeeper(database_url, Ears(), metrics, 1)
    running = Pipeline(PipelineSettings(database_url), ListSource([]), await keeper.hydrate(), metrics, lambda: NOW)
    now = NOW
    await send(
        running,
        telemetry("ahead", [heart_rate(START)], seq=1, sent_at=now + 200_000),
        telemetry("right", [heart_rate(START)], seq=1, sent_at=now),
    )
    await keeper.flush(running.journalled)
    await keeper.flush(running.journalled)
    await running.run()
    await keeper.close()
    told = await clinic.rows("select d.id, c.type from command c join device d on d.key = c.device_key")
    assert told == [("ahead", "set_clock")]
    offsets = dict(
        await clinic.rows("select d.id, clock_offset_ms from device_status s join device d on d.key = s.device_key")
    )
    assert offsets["ahead"] == pytest.approx(200_000, abs=20_000)
    assert offsets["right"] == pytest.approx(0, abs=20_000)
