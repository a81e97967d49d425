"""Rosters from provisioning to the edge box: what is in them, and that the broker always holds the present ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt
import pytest

from deploy.stack.embedded import MosquittoServer
from devices.roster import Roster, RosterDevice, decode_roster
from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import NewDevice
from gateway.runtime import clock
from gateway.runtime.broker_address import mqtt_client, parse_url
from gateway.runtime.metrics import WorkerMetrics
from gateway.store.connect import connect
from gateway.worker import rosters as module
from gateway.worker.main import Worker, WorkerSettings
from gateway.worker.rosters import RosterKeeper, rosters
from tests.gateway.clinic import EVER, NOW_MS, Clinic
from tests.gateway.processes import until
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.wire import client

HOUR = 3_600_000
CUFF = "C4:64:E3:0A:11:01"
METER = "C4:64:E3:0A:11:02"
Held = dict[str, Roster]


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, NOW_MS) as ward:
        patient = await ward.provisioning.add_patient("Ada", "Asia/Shanghai")
        await ward.provisioning.add_devices(
            [
                NewDevice("edge-1", DeviceModel.EDGE),
                NewDevice("edge-2", DeviceModel.EDGE),
                NewDevice("cuff", DeviceModel.BLOOD_PRESSURE, patient, EVER, CUFF, "edge-1"),
                NewDevice("meter", DeviceModel.GLUCOSE_METER, patient, EVER, METER, "edge-1"),
                NewDevice("band", DeviceModel.WRISTBAND, patient, EVER, via="edge-1"),
                NewDevice("free", DeviceModel.SCALE, patient, EVER, CUFF),
            ]
        )
        yield ward


async def listed(ward: Ward, at: int | None = None) -> dict[str, list[str]]:
    """The ids in each roster."""
    wanted = await rosters(ward.connection, ward.now if at is None else at)
    return {edge: [device.id for device in decode_roster(payload).devices] for edge, payload in wanted.items()}


# What is in them


async def test_a_roster_says_where_to_find_what_and_the_wearer_s_zone(ward: Ward) -> None:
    found = await rosters(ward.connection, ward.now)
    assert {edge: decode_roster(payload) for edge, payload in found.items()} == {
        "edge-1": Roster(
            (
                RosterDevice("cuff", DeviceModel.BLOOD_PRESSURE, CUFF, "Asia/Shanghai"),
                RosterDevice("meter", DeviceModel.GLUCOSE_METER, METER, "Asia/Shanghai"),
            )
        ),
        "edge-2": Roster(),
    }


async def test_a_device_is_read_only_while_somebody_who_consents_wears_it(ward: Ward) -> None:
    (patient,) = [row.id for row in await ward.provisioning.list_patients()]
    await ward.provisioning.unassign("cuff", moment(ward.now + HOUR))
    await ward.provisioning.withdraw_consent(patient, moment(ward.now + 2 * HOUR))
    await ward.provisioning.give_consent(patient, moment(ward.now + 3 * HOUR))
    hours = [await listed(ward, ward.now + hour * HOUR) for hour in range(4)]
    assert [found["edge-1"] for found in hours] == [["cuff", "meter"], ["meter"], [], ["meter"]]


async def test_a_wearer_who_travels_takes_the_zone_along(ward: Ward) -> None:
    (patient,) = [row.id for row in await ward.provisioning.list_patients()]
    await ward.provisioning.set_timezone(patient, "Europe/Berlin", moment(ward.now + HOUR))
    zones = [
        decode_roster((await rosters(ward.connection, ward.now + hour * HOUR))["edge-1"]).devices[0].timezone
        for hour in (0, 1)
    ]
    assert zones == ["Asia/Shanghai", "Europe/Berlin"]


async def test_what_is_disabled_or_bound_elsewhere_is_not_read(ward: Ward) -> None:
    await ward.provisioning.disable_device("meter")
    assert await listed(ward) == {"edge-1": ["cuff"], "edge-2": []}
    await ward.provisioning.bind("cuff", "edge-2", CUFF)
    assert await listed(ward) == {"edge-1": [], "edge-2": ["cuff"]}
    await ward.provisioning.enable_device("meter")
    await ward.provisioning.disable_device("edge-2")
    assert await listed(ward) == {"edge-1": ["meter"], "edge-2": []}
    await ward.provisioning.unbind("meter")
    assert await listed(ward) == {"edge-1": [], "edge-2": []}


async def test_a_clinic_of_a_thousand_edge_boxes_is_looked_at_quickly(ward: Ward) -> None:
    await ward.provisioning.add_devices([NewDevice(f"e{i}", DeviceModel.EDGE) for i in range(1_000)])
    (patient,) = [row.id for row in await ward.provisioning.list_patients()]
    await ward.provisioning.add_devices(
        [
            NewDevice(
                f"d{i}", DeviceModel.CGM, patient, EVER, f"00:00:00:00:{i // 256:02X}:{i % 256:02X}", f"e{i // 8}"
            )
            for i in range(8_000)
        ]
    )
    await ward.connection.execute("analyze")
    started = clock.monotonic()
    found = await rosters(ward.connection, ward.now)
    assert clock.monotonic() - started < 1.0, "it takes a tenth of that"
    assert sum(len(decode_roster(payload).devices) for payload in found.values()) == 8_002


# At the broker


async def held(url: str) -> Held:
    """What an edge box that connects now would get; an empty payload never shows."""
    found: Held = {}
    async with client(url) as connection:
        await connection.subscribe("vigil/v1/+/roster", qos=1)
        await asyncio.sleep(0.2)
        for _ in range(len(connection.messages)):
            message = await anext(connection.messages)
            assert isinstance(message.payload, bytes)
            if message.retain:
                found[message.topic.value.split("/")[2]] = decode_roster(message.payload)
    return found


async def ids(url: str) -> dict[str, list[str]]:
    return {edge: [device.id for device in roster.devices] for edge, roster in (await held(url)).items()}


@asynccontextmanager
async def working(ward: Ward, url: str, workers: int = 1) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(Worker(WorkerSettings(ward.database_url, parse_url(url)), WorkerMetrics()).run())
        for _ in range(workers)
    ]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def holds(url: str, expected: dict[str, list[str]]) -> None:
    async def as_expected() -> bool:
        return await ids(url) == expected

    await until(as_expected)


async def test_an_edge_box_gets_its_roster_and_every_change_at_once(ward: Ward, mqtt_url: str) -> None:
    heard: list[list[str]] = []

    async def listen(edge: aiomqtt.Client) -> None:
        async for message in edge.messages:
            assert isinstance(message.payload, bytes)
            heard.append([device.id for device in decode_roster(message.payload).devices])

    async with client(mqtt_url) as edge, working(ward, mqtt_url):
        await edge.subscribe("vigil/v1/edge-1/roster", qos=1)
        listening = asyncio.create_task(listen(edge))
        await until(lambda: heard == [["cuff", "meter"]])
        started = clock.monotonic()
        await ward.provisioning.unassign("cuff")
        await until(lambda: heard == [["cuff", "meter"], ["meter"]])
        assert clock.monotonic() - started < 2, "sooner than the next look"
        await ward.provisioning.disable_device("edge-1")
        await until(lambda: heard == [["cuff", "meter"], ["meter"], []])
        listening.cancel()
    assert await ids(mqtt_url) == {"edge-1": [], "edge-2": []}


async def test_several_workers_agree(ward: Ward, mqtt_url: str) -> None:
    async with working(ward, mqtt_url, workers=3):
        await holds(mqtt_url, {"edge-1": ["cuff", "meter"], "edge-2": []})
        for number in range(10):
            await ward.provisioning.bind("cuff", f"edge-{number % 2 + 1}", CUFF)
        await holds(mqtt_url, {"edge-1": ["meter"], "edge-2": ["cuff"]})


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found by looking now and then."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3_600)


@pytest.mark.usefixtures("only_woken")
async def test_a_broker_that_lost_its_disk_gets_all_of_them_again(ward: Ward, broker: MosquittoServer) -> None:
    async with working(ward, broker.url):
        await holds(broker.url, {"edge-1": ["cuff", "meter"], "edge-2": []})
        broker.kill()
        (broker.folder / "mosquitto.db").unlink(missing_ok=True)
        broker.start()
        await holds(broker.url, {"edge-1": ["cuff", "meter"], "edge-2": []})


@pytest.mark.usefixtures("only_woken")
async def test_a_change_while_the_broker_is_away_arrives_when_it_is_back(ward: Ward, broker: MosquittoServer) -> None:
    async with working(ward, broker.url):
        await holds(broker.url, {"edge-1": ["cuff", "meter"], "edge-2": []})
        broker.stop()
        await ward.provisioning.bind("cuff", "edge-2", CUFF)
        broker.start()
        await holds(broker.url, {"edge-1": ["meter"], "edge-2": ["cuff"]})


async def test_what_stands_at_the_broker_already_is_not_published_again(ward: Ward, mqtt_url: str) -> None:
    async with working(ward, mqtt_url):
        await holds(mqtt_url, {"edge-1": ["cuff", "meter"], "edge-2": []})
    heard: list[str] = []

    async def listen(edge: aiomqtt.Client) -> None:
        heard.extend([message.topic.value async for message in edge.messages if not message.retain])

    async with client(mqtt_url) as edge:
        await edge.subscribe("vigil/v1/+/roster", qos=1)
        listening = asyncio.create_task(listen(edge))
        async with working(ward, mqtt_url):
            await asyncio.sleep(module.HELD_WITHIN_S + 0.5)
        listening.cancel()
    assert heard == []


async def test_what_others_left_is_mended_and_time_does_its_part(
    ward: Ward, mqtt_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was slow, an old backup of the broker, what is no edge box any more; a wearer whose time ends."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.2)
    now = ward.now
    await ward.provisioning.unassign("cuff", moment(now + HOUR))
    connection = await connect(ward.database_url, "rosters")
    async with client(mqtt_url) as admin, mqtt_client(parse_url(mqtt_url), "keeper") as sender:
        keeping = asyncio.create_task(RosterKeeper(connection, sender, lambda: now).run())
        await holds(mqtt_url, {"edge-1": ["cuff", "meter"], "edge-2": []})
        for name in ("edge-1", "cuff", "nobody"):
            await admin.publish(f"vigil/v1/{name}/roster", b'{"devices":[]}', qos=1, retain=True)
        await admin.publish("vigil/v1/edge-2/roster", b"", qos=1, retain=True)
        await holds(mqtt_url, {"edge-1": ["cuff", "meter"], "edge-2": []})
        now += HOUR
        await holds(mqtt_url, {"edge-1": ["meter"], "edge-2": []})
        keeping.cancel()
        await asyncio.wait({keeping})
    await connection.close()
