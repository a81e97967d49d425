"""Readings, RR runs, events, statuses and refusals in one batch: each is stored as if it had come alone."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import NewDevice
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.receipts import ReceiptBook
from tests.gateway.clinic import EVER, NOW_MS, Clinic
from tests.gateway.harness import messages_of, pipeline, settle_all
from tests.gateway.wire import Outgoing, events, telemetry

MINUTE = 60_000
HOUR = 60 * MINUTE
START = NOW_MS // HOUR * HOUR - 6 * HOUR
TURN = START + 2 * HOUR
"""When the band changes hands, one consent ends and another begins."""


def rr(at: int, intervals: list[float | None], **more: Any) -> dict[str, Any]:
    return {"code": "rr_interval", "unit": "ms", "at": at, "values": intervals, **more}


def heart_rate(at: int, value: float = 60.0) -> dict[str, Any]:
    return {"code": "heart_rate", "unit": "/min", "at": at, "value": value}


def opened(at: int, compartment: int = 1) -> dict[str, Any]:
    return {"type": "compartment_opened", "at": at, "compartment": compartment}


def status(device: str, /, **said: Any) -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/status", json.dumps({"online": True, **said}).encode())


async def send(running: Pipeline, *messages: Outgoing) -> None:
    await running.commit(messages_of(messages))


@dataclass(slots=True)
class People:
    """Patients by what is special about them."""

    first: int
    """Wore the band before TURN."""
    second: int
    """Wears the band from TURN on, and the box."""
    leaving: int
    """Consented until TURN, and does not any more; wears `left`."""
    late: int
    """Consents from TURN on; wears `late`."""

    def wearer(self, device: str, at: int) -> int | None:
        """Who wears a device; None where the consent is missing."""
        if device == "band":
            return self.first if at < TURN else self.second
        if device == "left":
            return None
        if device == "late":
            return self.late if at >= TURN else None
        return self.second


@pytest.fixture
async def people(clinic: Clinic) -> People:
    turn = datetime.fromtimestamp(TURN / 1000, UTC)
    provisioning = clinic.provisioning
    first = await clinic.wearer("band")
    second = await provisioning.add_patient("Second", "UTC")
    await provisioning.assign("band", second, since=turn)
    leaving = await clinic.wearer("left")
    await provisioning.withdraw_consent(leaving, turn)
    late = await provisioning.add_patient("Late", "UTC", consent=False)
    await provisioning.add_devices(
        [
            NewDevice("late", DeviceModel.WRISTBAND, late, EVER),
            NewDevice("box", DeviceModel.PILLBOX, second, EVER),
            NewDevice("edge", DeviceModel.EDGE),
            NewDevice("bound", DeviceModel.WRISTBAND, second, EVER, via="edge"),
        ]
    )
    await provisioning.give_consent(late, turn)
    return People(first, second, leaving, late)


# Beside plain readings -----------------------------------------------------------------------------------------------

BESIDE = {
    "nothing": ([], {}),
    "a status": ([status("band", battery=50)], {"device_status": 1}),
    "RR intervals": ([telemetry("band", [rr(START, [800, 800])])], {"rr_series": 1}),
    "an event": ([events("box", [opened(START)])], {"pillbox_event": 1}),
    "a refusal": ([Outgoing("vigil/v1/box/event", b"{")], {"quarantine": 1}),
    "a contradiction": ([telemetry("band", [heart_rate(TURN, 80)])], {"conflict": 1}),
    "two values of an instant": (
        [telemetry("band", [heart_rate(TURN + 1), heart_rate(TURN + 1, 80), heart_rate(TURN + 1)])],
        {"observation": 3, "conflict": 1},
    ),
    "an older reading": ([telemetry("band", [heart_rate(TURN - 1)])], {"observation": 3}),
}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("what", BESIDE)
async def test_what_comes_beside_a_new_reading_is_stored_too(clinic: Clinic, database_url: str, what: str) -> None:
    """A small batch of new readings takes a way of its own, which knows nothing but readings."""
    others, wanted = BESIDE[what]
    async with pipeline(database_url) as running:
        await send(running, telemetry("band", [heart_rate(TURN - 1 if what == "nothing" else TURN)]))
        await send(running, *others, telemetry("band", [heart_rate(TURN + MINUTE)]))
    tables = ("observation", "rr_series", "pillbox_event", "conflict", "quarantine", "device_status")
    found = {table: await clinic.value(f"select count(*) from {table}") for table in tables}  # noqa: S608 - our names
    assert found == dict.fromkeys(tables, 0) | {"observation": 2} | wanted


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("beside", [[], [events("box", [opened(START)])]], ids=["plain", "with an event"])
@pytest.mark.parametrize("late", [[], [heart_rate(TURN - 1), heart_rate(TURN, 80)]], ids=["new", "with late ones"])
async def test_what_another_process_stored_meanwhile_costs_no_reading(
    clinic: Clinic, database_url: str, beside: list[Outgoing], late: list[dict[str, Any]]
) -> None:
    """What is taken for new is not: the batch is stored again, row by row, the late ones with it."""
    known = heart_rate(TURN + MINUTE)
    async with pipeline(database_url) as running, pipeline(database_url) as other:
        await send(running, telemetry("band", [heart_rate(TURN)]))
        await send(other, telemetry("band", [known]))
        await send(running, telemetry("band", [known, heart_rate(TURN + 2 * MINUTE), *late]), *beside)
        results = {result: running._metrics.readings.labels(result)._value.get() for result in ("stored", "duplicate")}
    ats = [row[0] for row in await clinic.rows("select to_ms(at) from observation order by at")]
    assert ats == [TURN - 1] * bool(late) + [TURN, TURN + MINUTE, TURN + 2 * MINUTE]
    assert await clinic.value("select count(*) from conflict") == bool(late)
    assert await clinic.value("select count(*) from pillbox_event") == len(beside)
    assert results == {"stored": len(ats) - 1, "duplicate": 1}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("size", [255, 256, 257, 600])
async def test_a_batch_that_is_read_in_parts_is_one_batch(
    clinic: Clinic, database_url: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A large batch is read while the one before is stored, part by part; every tenth message of it is refused."""
    first = [[telemetry("band", [heart_rate(START + n)])] for n in range(2)]  # the directory is not there yet
    bad = {"code": "mood"}
    large = [
        telemetry("band", [heart_rate(TURN + n) | ({} if n % 10 else bad)], seq=n) for n in range(1, size + 1)
    ]  # fmt: skip
    await settle_all(database_url, [*first, large])
    assert caplog.records == [], "it was read at the first go"
    refused = [message.payload for n, message in enumerate(large, 1) if n % 10 == 0]
    assert [row[0] for row in await clinic.rows("select payload from quarantine order by id")] == refused
    assert await clinic.stored() == 2 + size - len(refused)
    ((seqs, news),) = await clinic.rows("select seqs, news from receipt_journal")
    assert dict(zip(seqs, news, strict=True)) == {n: n % 10 > 0 for n in range(1, size + 1)}


@pytest.mark.usefixtures("people")
async def test_only_another_value_or_unit_contradicts(clinic: Clinic, database_url: str) -> None:
    """LO without a number repeats itself; 25 is not 25 in another unit."""
    low = {"code": "glucose", "unit": "mg/dL", "at": TURN, "value": None, "flags": ["below_range"]}
    high = {"code": "glucose", "unit": "mmol/L", "at": TURN + MINUTE, "value": 25}
    async with pipeline(database_url) as running:
        await send(running, telemetry("band", [low, low, high, high]))
        await send(running, telemetry("band", [low, high]))
        assert await clinic.value("select count(*) from conflict") == 0
        await send(running, telemetry("band", [high | {"unit": "mg/dL"}, low | {"value": 30, "flags": []}]))
    conflicts = "select to_ms(at), value, kept_value, unit <> kept_unit from conflict order by at"
    assert await clinic.rows(conflicts) == [(TURN, 30, None, False), (TURN + MINUTE, 25, 25, True)]
    assert await clinic.rows("select value from observation order by at") == [(None,), (25.0,)]


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("beside", [[], [events("box", [opened(START)])]], ids=["alone", "with an event"])
async def test_a_flag_without_a_number_is_stored_without_one(
    clinic: Clinic, database_url: str, beside: list[Outgoing]
) -> None:
    """Null, not NaN: NaN is greater than every number to the database."""
    flagged = {"code": "heart_rate", "unit": "/min", "value": None, "flags": ["off_body"]}
    ats = (TURN, TURN - 1, TURN + 1)  # each way into the store: new, late, new once more
    async with pipeline(database_url) as running:
        for at in ats:
            await send(running, telemetry("band", [flagged | {"at": at}]), *beside)
    assert await clinic.rows("select distinct value is null, flags > 0 from observation") == [(True, True)]
    assert await clinic.stored() == len(ats)


@pytest.mark.usefixtures("people")
async def test_beats_are_stored_once_over_a_restart(clinic: Clinic, database_url: str) -> None:
    """What is stored of a device is asked anew: its last beat, not its first."""
    runs = [telemetry("band", [rr(START + n * HOUR, [800] * 5)]) for n in range(3)]
    for again in (runs, runs[1:], runs[::-1]):
        async with pipeline(database_url) as running:
            for message in again:
                await send(running, message)
    found = "select to_ms(at), cardinality(intervals) from rr_series order by at"
    assert await clinic.rows(found) == [(START + n * HOUR, 5) for n in range(3)]


@pytest.mark.usefixtures("people")
async def test_a_status_of_a_clock_that_is_ahead_is_a_contact_of_now(clinic: Clinic, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(running, status("box", clock=NOW_MS + HOUR))
    stamp = await clinic.value("select to_ms(contact_stamp) from device_status")
    assert START < stamp <= NOW_MS


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("together", [True, False])
async def test_the_first_answer_to_a_command_counts(clinic: Clinic, database_url: str, *, together: bool) -> None:
    """Ids that no command can have are events like others."""
    number = await clinic.value(
        "insert into command (device_key, type, payload, created_at, expires_at)"
        " select key, 'remind', '{}', from_ms(%s), from_ms(%s) from device where id = 'box' returning id",
        START,
        START,
    )
    answer = {"type": "command_done", "at": START, "id": str(number), "ok": True}
    strange = [answer | {"at": START + n, "id": "9" * n} for n in (18, 19, 40)]
    answers = [events("box", [answer, *strange]), events("box", [answer | {"at": START + 1, "ok": False}])]
    async with pipeline(database_url) as running:
        for part in [answers] if together else [[one] for one in answers]:
            await send(running, *part)
    assert await clinic.rows("select to_ms(done_at), ok from command") == [(START, True)]
    assert await clinic.value("select count(*) from pillbox_event") == 5
    assert await clinic.quarantined() == []


# Who wore it, who consented ------------------------------------------------------------------------------------------


async def test_beats_and_events_belong_to_whoever_wore_the_device_then(
    clinic: Clinic, people: People, database_url: str
) -> None:
    """The run before the turn ends with a beat just before it; the one after it begins at the turn itself."""
    async with pipeline(database_url) as running:
        await send(
            running,
            telemetry("band", [heart_rate(TURN + 1), rr(TURN - 900, [800, 800]), rr(TURN, [700, 700])]),
            events("band", [opened(TURN - 1), opened(TURN), opened(TURN + 1)]),
            telemetry("band", [heart_rate(TURN - 1), heart_rate(TURN)]),
        )
    wanted = [(TURN - 1, people.first), (TURN, people.second), (TURN + 1, people.second)]
    assert await clinic.rows("select to_ms(at), patient_id from observation order by at") == wanted
    assert await clinic.rows("select to_ms(at), patient_id from pillbox_event order by at") == wanted
    runs = await clinic.rows("select to_ms(at), patient_id, intervals[1]::int from rr_series order by at")
    assert runs == [(TURN - 900, people.first, 800), (TURN, people.second, 700)]
    windows = await clinic.rows("select to_ms(window_start), patient_id from hrv_dirty order by 1")
    assert windows == [(TURN - 5 * MINUTE, people.first), (TURN, people.second)]


async def test_a_device_that_changes_hands_at_an_instant_has_one_wearer_at_it(
    clinic: Clinic, people: People, database_url: str
) -> None:
    end = datetime.fromtimestamp((TURN + HOUR) / 1000, UTC)
    await clinic.provisioning.unassign("band", end)
    ats = [TURN + HOUR - 1, TURN + HOUR]
    async with pipeline(database_url) as running:
        await send(running, telemetry("band", [heart_rate(at) for at in ats] + [rr(at, [800]) for at in ats]))
        await send(running, events("band", [opened(at) for at in ats]))
    for table in ("observation", "rr_series", "pillbox_event"):
        found = await clinic.rows(f"select to_ms(at), patient_id from {table}")  # noqa: S608 - our names
        assert found == [(ats[0], people.second)], table
    kept = await clinic.rows("select reason, series, patient_id from quarantine order by id")
    assert kept == [
        ("unassigned_device", [1], None),
        ("unassigned_device", [3], None),
        ("unassigned_device", [1], None),
    ]


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("bad", [heart_rate(TURN) | {"code": "mood"}, heart_rate(TURN, 999), {"code": "glucose"}])
@pytest.mark.parametrize("without", [heart_rate(TURN - HOUR), rr(TURN - HOUR, [800, 810])])
async def test_no_byte_is_kept_where_a_part_is_without_consent(
    clinic: Clinic, database_url: str, bad: dict[str, Any], without: dict[str, Any]
) -> None:
    """The wearer consents by now; what was measured before that is theirs alone, whatever is wrong beside it."""
    async with pipeline(database_url) as running:
        await send(running, telemetry("late", [heart_rate(TURN), bad, without]), telemetry("late", [bad]))
    kept = await clinic.rows("select series, payload is null from quarantine order by id")
    assert sorted(kept) == [([0], False), ([1], True)]
    assert await clinic.value("select refused from quarantine_count where reason = 'no_consent'") == 1
    assert await clinic.stored() == 1


async def test_no_byte_of_a_wearer_who_withdrew_is_kept(clinic: Clinic, people: People, database_url: str) -> None:
    async with pipeline(database_url) as running:
        await send(
            running,
            telemetry("left", [heart_rate(TURN - HOUR), heart_rate(TURN - HOUR + 1, 999)]),
            Outgoing("vigil/v1/left/status", b'{"online": 60.5}'),
            events("left", [{"type": "danced", "at": TURN - HOUR}]),
        )
    assert await clinic.stored() == 0
    kept = await clinic.rows("select reason, patient_id, payload from quarantine order by reason")
    assert kept == [(reason, people.leaving, None) for reason in ("malformed", "malformed", "out_of_range")]


async def test_no_byte_is_kept_of_a_device_an_edge_box_may_not_speak_for(
    clinic: Clinic, people: People, database_url: str
) -> None:
    """Its wearer withdrew; the edge box is somebody else's."""
    assert people.wearer("left", TURN) is None
    async with pipeline(database_url) as running:
        for device in ("left", "band", "nobody-knows"):
            await send(running, telemetry("edge", [heart_rate(TURN)], device=device))
    kept = await clinic.rows("select reason, payload is null from quarantine order by id")
    assert kept == [("unknown_device", True), ("unknown_device", False), ("unknown_device", False)]


@pytest.mark.usefixtures("people")
async def test_no_byte_without_consent_is_kept_of_what_the_store_refuses(clinic: Clinic, database_url: str) -> None:
    await clinic.connection.execute("alter table observation add constraint poison check (value <> 66.5)")
    poison = heart_rate(TURN, 66.5)
    async with pipeline(database_url) as running:
        await send(running, telemetry("late", [poison, heart_rate(TURN - HOUR)]), telemetry("late", [poison]))
    kept = await clinic.rows("select reason, device_id, payload is null from quarantine order by id")
    assert kept == [("malformed", "late", True), ("malformed", "late", False)]
    assert await clinic.stored() == 0


@pytest.mark.usefixtures("people")
async def test_one_message_is_refused_by_cause_with_its_own_series(clinic: Clinic, database_url: str) -> None:
    """Of one device: before it was worn, without consent, with consent, and words nobody knows."""
    patient = await clinic.provisioning.add_patient("Newcomer", "UTC", consent=False)
    await clinic.provisioning.add_device("new", "wristband", patient, since=datetime.fromtimestamp(TURN / 1000, UTC))
    await clinic.provisioning.give_consent(patient, datetime.fromtimestamp((TURN + HOUR) / 1000, UTC))
    before, without, fine = TURN - HOUR, TURN + MINUTE, TURN + 2 * HOUR
    series = [heart_rate(fine), heart_rate(before), rr(without, [800]), rr(fine, [900]), heart_rate(without)]
    message = telemetry("new", [*series, heart_rate(before + 1), rr(before, [700]), series[0] | {"code": "mood"}])
    happened = events("new", [opened(fine), {"type": "danced", "at": fine}, opened(before), opened(without)])
    async with pipeline(database_url) as running:
        await send(running, message, happened)
    kept = await clinic.rows(
        "select reason, series, patient_id, detail ~ 'new' from quarantine order by topic, reason, id"
    )
    assert kept == [
        ("malformed", [1], None, False),
        ("unassigned_device", [2], None, False),
        ("unassigned_device", [1, 5], None, False),
        ("unassigned_device", [6], None, False),
        ("unknown_code", [7], None, False),
    ]
    counted = "select reason, refused, kept from quarantine_count order by reason"
    assert await clinic.rows(counted) == [
        ("malformed", 1, 1),
        ("no_consent", 3, 0),
        ("unassigned_device", 3, 3),
        ("unknown_code", 1, 1),
    ]
    assert await clinic.stored() == 1
    assert await clinic.value("select count(*) from rr_series") == 1
    assert await clinic.rows("select to_ms(at) from pillbox_event") == [(fine,)]


# Everything at once, in any batches ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Model:
    """What the store must hold after messages that were sent in order: plain Python, one message after the other."""

    people: People
    observations: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    conflicts: set[tuple[str, int, float]] = field(default_factory=set)
    beats: dict[tuple[str, int], int] = field(default_factory=dict)
    events: dict[tuple[str, int, int], int] = field(default_factory=dict)
    kept: set[tuple[str, str, tuple[int, ...], bool, bytes]] = field(default_factory=set)
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    committed: dict[str, set[int]] = field(default_factory=dict)

    def take(self, message: Outgoing) -> None:
        _, _, sender, kind = message.topic.split("/")
        body = json.loads(message.payload)
        if kind == "status":
            known = self.statuses.setdefault(sender, {"battery": None, "clock": None})
            known |= {name: value for name, value in body.items() if name != "clock"}
            known["clock"] = max(body.get("clock", 0), known["clock"] or 0) or None
            return
        device = body.get("device", sender)
        self.committed.setdefault(sender, set()).add(body["seq"])
        unworn, unknown = self._take_parts(device, body)
        parts = (*body.get("observations", ()), *body.get("events", ()))
        private = device == "left" or any(self.people.wearer(device, part["at"]) is None for part in parts)
        for reason, positions in [("unknown_code", tuple(unknown))] if unknown else []:
            self.kept.add((sender, reason, positions, private, message.payload))
            self._count(sender, reason)
        for _ in range(unworn):
            self._count(device, "no_consent")

    def _take_parts(self, device: str, body: dict[str, Any]) -> tuple[int, list[int]]:
        """Take in the parts; return how many refusals for want of consent there are, and the unknown parts."""
        rows_without = False
        unworn, unknown = 0, []
        for position, part in enumerate(body.get("observations", ())):
            patient = self.people.wearer(device, part["at"])
            if part["code"] == "mood":
                unknown.append(position)
            elif patient is None:
                rows_without |= part["code"] == "heart_rate"
                unworn += part["code"] == "rr_interval"
            elif part["code"] == "heart_rate":
                _, value = self.observations.setdefault((device, part["at"]), (patient, part["value"]))
                if value != part["value"]:
                    self.conflicts.add((device, part["at"], part["value"]))
            else:
                for n in range(len(part["values"])):
                    self.beats.setdefault((device, part["at"] + n * 1000), patient)
        for part in body.get("events", ()):
            patient = self.people.wearer(device, part["at"])
            if patient is None:
                unworn += 1
            else:
                self.events.setdefault((device, part["at"], part["compartment"]), patient)
        return unworn + rows_without, unknown

    def _count(self, device: str, reason: str) -> None:
        self.refused[device, reason] = self.refused.get((device, reason), 0) + 1


def draw(rng: np.random.Generator) -> list[Outgoing]:
    """Messages in the order of their numbers, some of them sent again later; beats lie on whole seconds."""
    senders = [
        ("band", "band"),
        ("left", "left"),
        ("late", "late"),
        ("box", "box"),
        ("edge", "edge"),
        ("edge", "bound"),
    ]
    seqs = dict.fromkeys(("band", "left", "late", "box", "edge"), 0)
    found: list[Outgoing] = []
    for _ in range(150):
        sender, device = senders[int(rng.integers(len(senders)))]
        if rng.random() < 0.15:
            said: dict[str, Any] = {"online": bool(rng.integers(2))}
            said |= {"battery": int(rng.integers(100))} if rng.random() < 0.5 else {}
            said |= {"clock": START + int(rng.integers(HOUR))} if rng.random() < 0.5 else {}
            found.append(status(sender, **said))
            continue
        seqs[sender] += 1
        head: dict[str, Any] = {"seq": seqs[sender]} | ({"device": device} if device != sender else {})
        if device == "edge":
            found.append(telemetry("edge", [], **head))
        elif device == "box" or rng.random() < 0.2:
            happened = [opened(_some(rng), int(rng.integers(1, 3))) for _ in range(int(rng.integers(1, 4)))]
            found.append(events(sender, happened, **head))
        else:
            found.append(telemetry(sender, [_series(rng) for _ in range(int(rng.integers(1, 5)))], **head))
        if rng.random() < 0.2:
            found.append(found[int(rng.integers(len(found)))])
    return found


def _some(rng: np.random.Generator) -> int:
    """A minute within an hour before and after the turn."""
    return TURN + int(rng.integers(-12, 12)) * 5 * MINUTE


def _series(rng: np.random.Generator) -> dict[str, Any]:
    kind = rng.random()
    if kind < 0.4:
        return heart_rate(_some(rng), float(rng.integers(60, 63)))
    if kind < 0.8:
        first = int(rng.integers(20))
        return rr(_some(rng) + first * 1000, [1000] * int(rng.integers(1, 40 - first)))
    return heart_rate(_some(rng)) | {"code": "mood"}


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 60))])
async def test_a_mixed_batch_holds_what_its_messages_hold_one_by_one(
    seed: int, clinic: Clinic, people: People, database_url: str
) -> None:
    rng = np.random.default_rng(seed)
    messages = draw(rng)
    model = Model(people)
    for message in messages:
        model.take(message)
    book = ReceiptBook()
    async with pipeline(database_url, book) as running:
        while messages:
            size = int(rng.choice([1, 1, 3, 10, 40]))
            await send(running, *messages[:size])
            messages = messages[size:]
    await _check(clinic, model)
    keys = dict(await clinic.rows("select key, id from device"))
    receipts = {keys[key]: (receipt.first_seq, receipt.seq) for key, receipt in book.receipts.items()}
    assert receipts == {device: (1, max(seqs)) for device, seqs in model.committed.items()}


async def _check(clinic: Clinic, model: Model) -> None:
    query = "select d.id, to_ms(o.at), o.patient_id, o.value from observation o join device d on d.key = o.device_key"
    observations = {(device, at): (patient, value) for device, at, patient, value in await clinic.rows(query)}
    assert observations == model.observations
    query = "select d.id, to_ms(c.at), c.value from conflict c join device d on d.key = c.device_key"
    assert set(await clinic.rows(query)) == model.conflicts
    query = (
        "select d.id, to_ms(r.at), r.patient_id, cardinality(r.intervals), to_ms(r.ends_at) - to_ms(r.at)"
        " from rr_series r join device d on d.key = r.device_key"
    )
    runs = await clinic.rows(query)
    beats = [((device, at + n * 1000), patient) for device, at, patient, count, _ in runs for n in range(count)]
    assert dict(beats) == model.beats
    assert len(beats) == len(model.beats), "no beat is stored twice"
    assert all(span == (count - 1) * 1000 for *_, count, span in runs)
    windows = {(patient, at // (5 * MINUTE) * 5 * MINUTE) for (_, at), patient in model.beats.items()}
    assert set(await clinic.rows("select patient_id, to_ms(window_start) from hrv_dirty")) == windows
    query = (
        "select d.id, to_ms(e.at), compartment, patient_id from pillbox_event e join device d on d.key = e.device_key"
    )
    happened = {(device, at, compartment): patient for device, at, compartment, patient in await clinic.rows(query)}
    assert happened == model.events
    await _check_refused(clinic, model)
    query = (
        "select d.id, online, battery, to_ms(contact_stamp) from device_status s join device d on d.key = s.device_key"
    )
    said = {device: tuple(known) for device, *known in await clinic.rows(query)}
    assert said == {device: (s["online"], s["battery"], s["clock"]) for device, s in model.statuses.items()}


async def _check_refused(clinic: Clinic, model: Model) -> None:
    rows = await clinic.rows("select device_id, reason, series, payload, payload_bytes from quarantine")
    found = {(device, reason, tuple(series), payload is None, size) for device, reason, series, payload, size in rows}
    wanted = {(device, reason, series, private, len(sent)) for device, reason, series, private, sent in model.kept}
    assert found == wanted
    assert len(rows) == len(model.kept)
    counted = await clinic.rows("select device_id, reason, refused from quarantine_count")
    assert {(device, reason): refused for device, reason, refused in counted} == model.refused


@pytest.mark.usefixtures("people")
async def test_a_last_will_in_the_same_batch_forgets_nothing_of_the_status_before(
    clinic: Clinic, database_url: str
) -> None:
    """As after an absence of the gateway: the broker hands over both at once. The device was heard; now it is gone."""
    said = status("band", battery=50, firmware="1.4.2", clock=START + 1)
    will = Outgoing("vigil/v1/band/status", b'{"online": false}')
    query = "select online, battery, firmware, to_ms(contact_stamp), contact_at is null, status_at is null from device_status"
    async with pipeline(database_url) as running:
        await send(running, said, status("band", clock=START), will)
        assert await clinic.rows(query) == [(False, 50.0, "1.4.2", START + 1, False, False)]
        await send(running, status("box", battery=1), will, Outgoing("vigil/v1/box/status", b'{"online": false}'))
    assert await clinic.value("select bool_and(online) from device_status") is False
    silent = "select d.id from device_status s join device d on d.key = s.device_key where contact_at is null"
    assert await clinic.rows(silent) == []
