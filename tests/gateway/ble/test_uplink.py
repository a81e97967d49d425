"""The uplink at a real broker: in order, not again once receipted, and whatever is cut, nothing is lost."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deploy.stack.embedded import MosquittoServer
from devices.roster import Roster, RosterDevice, encode_roster
from devices.vocabulary import Code, DeviceModel, EventType, Unit
from gateway.ble import delivery as delivery_module
from gateway.ble import uplink as uplink_module
from gateway.ble.findings import Happening, Reading, Record
from gateway.ble.spool import Command, Spool, SpoolFullError
from gateway.ble.uplink import CLOCK_IS_SET_MS, Uplink, clock_is_set
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.runtime import clock
from gateway.runtime.broker_address import Address, parse_url
from tests.gateway.processes import until
from tests.gateway.proxy import Proxy
from tests.gateway.wire import client

EDGE = "edge-1"
START = 1_763_770_000_000
MINUTE = 60_000
ROSTER = encode_roster([RosterDevice("cgm-1", DeviceModel.CGM, "C4:64:E3:0A:11:01")])


class Desk:
    """The gateway's place at the broker: hears what edge boxes say; says receipts while `answers`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.statuses: list[dict[str, Any]] = []
        self.answers = True
        self.loses: set[int] = set()
        """Numbers that the broker acknowledges and forgets, once each."""
        self._have: dict[str, set[int]] = {}
        self._reached: dict[str, int] = {}
        self._said: dict[str, int] = {}
        self.at_work = asyncio.Event()

    def seqs(self, edge: str = EDGE) -> list[int]:
        return [message["seq"] for message in self.messages.get(edge, ())]

    def keys(self, edge: str = EDGE) -> list[int]:
        """The keys of the records that came, in order of their first arrival."""
        found = [
            round(series["value"] * 10) for message in self.messages.get(edge, ()) for series in message["observations"]
        ]
        return list(dict.fromkeys(found))

    async def run(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with client(self._url) as desk:
                    await desk.subscribe("vigil/v1/+/+", qos=1)
                    self.at_work.set()
                    answering = asyncio.create_task(self._answer(desk))
                    try:
                        async for message in desk.messages:
                            self._take(message)
                    finally:
                        answering.cancel()
            self.at_work.clear()
            await asyncio.sleep(0.05)

    def _take(self, message: aiomqtt.Message) -> None:
        _, _, edge, kind = str(message.topic).split("/")
        if kind == "status":
            self.statuses.append(json.loads(message.payload))
        elif kind in {"telemetry", "event"}:
            heard = json.loads(message.payload)
            if heard["seq"] in self.loses:
                self.loses.remove(heard["seq"])
                return
            self.messages.setdefault(edge, []).append(heard)
            have = self._have.setdefault(edge, set())
            have.add(heard["seq"])
            reached = max(self._reached.get(edge, 0), heard["oldest"] - 1)
            while reached + 1 in have:
                reached += 1
            self._reached[edge] = reached

    async def _answer(self, desk: aiomqtt.Client) -> None:
        """Say the receipts now and then, those that moved, as the gateway does."""
        while True:
            await asyncio.sleep(0.05)
            for edge, seq in list(self._reached.items()):
                if self.answers and self._said.get(edge) != seq:
                    with suppress(aiomqtt.MqttError):
                        await say(desk, edge, "receipt", {"seq": seq}, retain=True)
                        self._said[edge] = seq


async def say(sender: aiomqtt.Client, edge: str, kind: str, body: Any, **options: Any) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    await sender.publish(f"vigil/v1/{edge}/{kind}", payload, qos=1, **options)


@asynccontextmanager
async def running(task: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run beside the block; what goes wrong inside fails the test, not the end by cancellation."""
    made = asyncio.create_task(task.run())
    try:
        yield made
    finally:
        made.cancel()
        with suppress(asyncio.CancelledError):
            await made


@pytest.fixture
async def desk(mqtt_url: str) -> AsyncIterator[Desk]:
    desk = Desk(mqtt_url)
    async with running(desk):
        await desk.at_work.wait()
        yield desk


@pytest.fixture
async def address(mqtt_url: str) -> Address:
    return await account(mqtt_url, EDGE)


async def account(mqtt_url: str, edge: str) -> Address:
    """Make an edge box's account; return where it logs in."""
    async with BrokerAccounts.connect(mqtt_url) as accounts:
        await accounts.ensure_device_role()
        secret = await accounts.create_device_account(edge)
    place = parse_url(mqtt_url)
    return parse_url(f"mqtt://{edge}:{secret}@{place.host}:{place.port}")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.db") as spool:
        yield spool


class Box:
    """What an edge box does with what comes down."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.rosters: list[Roster] = []

    def uplink(
        self, address: Address, spool: Spool, edge: str = EDGE, now_ms: Callable[[], int] = clock.now_ms
    ) -> Uplink:
        return Uplink(address, edge, spool, now_ms, self.commands.append, self.rosters.append)


@pytest.fixture
def box() -> Box:
    return Box()


def keep(spool: Spool, *keys: int, device: str = "cgm-1") -> None:
    """Keep records, each in a message of its own; how durably is not the matter here, and costs minutes."""
    spool._db.execute("pragma synchronous = off")
    for key in keys:
        reading = Reading(Code.GLUCOSE, Unit.MMOL_L, START + key * MINUTE, key / 10)
        spool.keep_records(device, "s", [Record(key, (reading,))])


# Introduction and farewell


async def test_a_box_introduces_itself_and_says_goodbye(
    address: Address, desk: Desk, spool: Spool, box: Box, mqtt_url: str
) -> None:
    before = clock.now_ms()
    async with running(box.uplink(address, spool)):
        await until(lambda: desk.statuses, what="a status comes")
    await until(lambda: desk.statuses[-1] == {"online": False}, what="it says goodbye")
    assert desk.statuses[0]["online"] is True
    assert before <= desk.statuses[0]["clock"] <= clock.now_ms()
    async with client(mqtt_url) as later:
        await later.subscribe(f"vigil/v1/{EDGE}/status", qos=1)
        assert json.loads((await anext(later.messages)).payload) == {"online": False}


async def test_a_box_that_is_cut_off_is_offline_by_its_last_will(
    address: Address, desk: Desk, spool: Spool, box: Box
) -> None:
    proxy = Proxy(address.host, address.port)
    async with proxy.running():
        through = parse_url(f"mqtt://{address.username}:{address.password}@127.0.0.1:{proxy.port}")
        async with running(box.uplink(through, spool)):
            await until(lambda: desk.statuses, what="a status comes")
            proxy.cut()
            await until(lambda: len(desk.statuses) >= 3, what="it comes back")
    assert [status["online"] for status in desk.statuses[:3]] == [True, False, True]


async def test_a_wrong_password_is_said_once_and_tried_until_it_is_right(
    address: Address, desk: Desk, spool: Spool, box: Box, mqtt_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with BrokerAccounts.connect(mqtt_url) as accounts:
        await accounts.disable(EDGE)
        uplink = box.uplink(address, spool)
        with caplog.at_level(logging.INFO, uplink_module.__name__):
            async with running(uplink):
                await until(lambda: uplink.counts.failures >= 4, what="it tries again")
                assert not uplink.connected
                await accounts.enable(EDGE)
                await until(lambda: uplink.connected, what="it is let in")
    assert [record.message for record in caplog.records] == ["the broker refuses this box", "connected to the broker"]
    assert str(address.password) not in caplog.text
    assert desk.statuses[0]["online"] is True


@pytest.mark.parametrize("moment", [0, 946_684_800_000, CLOCK_IS_SET_MS - 1])
def test_a_clock_before_this_was_written_is_not_set(moment: int) -> None:
    assert not clock_is_set(moment)
    assert clock_is_set(CLOCK_IS_SET_MS)


async def test_nothing_is_stamped_before_the_clock_is_set(
    address: Address, desk: Desk, spool: Spool, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "CLOCK_LOOK_S", 0.05)
    now = 946_684_800_000
    keep(spool, 1)
    async with running(box.uplink(address, spool, now_ms=lambda: now)):
        await until(lambda: desk.statuses, what="a status comes")
        await asyncio.sleep(0.3)
        assert desk.statuses == [{"online": True}]
        assert desk.seqs() == []
        now = START
        await until(lambda: desk.seqs() == [1], what="the message comes")
    assert desk.messages[EDGE][0]["sent_at"] == START


# Up


async def test_messages_go_out_in_order_and_are_freed_by_receipts_alone(
    address: Address, desk: Desk, spool: Spool, box: Box, mqtt_url: str
) -> None:
    desk.answers = False
    keep(spool, 1, 2)
    uplink = box.uplink(address, spool)
    async with running(uplink), client(mqtt_url) as gateway:
        await until(lambda: len(desk.seqs()) == 2, what="what waited comes")
        keep(spool, 3)
        spool.keep("box-1", [Happening(EventType.TAMPER, START)])
        await until(lambda: uplink.idle, what="everything is at the broker")
        assert len(spool) == 4
        await say(gateway, EDGE, "receipt", {"seq": 3}, retain=True)
        await until(lambda: len(spool) == 1, what="the receipt frees")
        spool.cover("cgm-1", "s", 3)
        assert spool.committed("cgm-1", "s") == 3
    heard = desk.messages[EDGE]
    assert [(m["seq"], m["oldest"], m["device"]) for m in heard] == [
        (1, 1, "cgm-1"), (2, 1, "cgm-1"), (3, 1, "cgm-1"), (4, 1, "box-1"),
    ]  # fmt: skip
    assert heard[3]["events"] == [{"type": "tamper", "at": START}]
    assert all(0 <= clock.now_ms() - message["sent_at"] < 60_000 for message in heard)
    assert (uplink.counts.messages, uplink.counts.resends, uplink.counts.receipts) == (4, 0, 1)


async def test_a_backlog_arrives_whole_and_in_order(address: Address, desk: Desk, spool: Spool, box: Box) -> None:
    """An hour without a network: 5,000 messages."""
    keep(spool, *range(5_000))
    async with running(box.uplink(address, spool)):
        await until(lambda: len(spool) == 0, what="everything has its receipt")
    assert desk.seqs() == list(range(1, 5_001))
    assert desk.keys() == list(range(5_000))


async def test_messages_that_the_broker_forgets_are_sent_again(
    address: Address, desk: Desk, spool: Spool, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "FIRST_PROBE_S", 0.3)
    desk.loses = {1, 3}
    keep(spool, 1, 2, 3, 4)
    uplink = box.uplink(address, spool)
    async with running(uplink):
        await until(lambda: len(spool) == 0, what="both holes are filled")
    assert desk.seqs()[:3] == [2, 4, 1]
    assert uplink.counts.resends >= 3


async def test_a_disk_that_is_full_for_a_while_ends_nothing(
    address: Address, desk: Desk, spool: Spool, box: Box
) -> None:
    keep(spool, 1)
    uplink = box.uplink(address, spool)
    begin, tries = spool.begin_sending, 0

    def full_at_first() -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise SpoolFullError("the disk is full")
        begin()

    spool.begin_sending = full_at_first  # type: ignore[method-assign]
    async with running(uplink):
        await until(lambda: len(spool) == 0, what="it goes on when there is room")
    assert desk.seqs() == [1]
    assert uplink.counts.failures == 2


async def test_a_receipt_that_is_lost_is_asked_for(
    address: Address, desk: Desk, spool: Spool, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway says it only when it moves; the broker has it and says it to whoever subscribes."""
    monkeypatch.setattr(delivery_module, "FIRST_PROBE_S", 0.3)
    hear = spool.receipt
    lost: list[int] = []

    def hard_of_hearing(seq: int) -> bool:
        if not lost:
            lost.append(seq)
            return False
        return hear(seq)

    monkeypatch.setattr(spool, "receipt", hard_of_hearing)
    uplink = box.uplink(address, spool)
    async with running(uplink):
        await until(lambda: uplink.connected, what="it is connected")
        keep(spool, 1)
        await until(lambda: len(spool) == 0, what="it hears the receipt at last")
    assert lost == [1]
    assert set(desk.seqs()) == {1}


async def test_a_fresh_spool_goes_on_behind_the_receipt_of_its_earlier_life(
    address: Address, desk: Desk, spool: Spool, box: Box, mqtt_url: str
) -> None:
    """Also where commands queued up while the box was away, more than may be under way at once."""
    other = Path(f"{spool._path}.earlier")
    with Spool(other) as earlier:
        async with running(box.uplink(address, earlier)):
            await until(lambda: desk.statuses, what="it is known to the broker")
    async with client(mqtt_url) as gateway:
        await say(gateway, EDGE, "receipt", {"seq": 1_000}, retain=True)
        for number in range(50):
            await say(gateway, EDGE, "command", {"id": str(number), "type": "remind", "device": "box-1"})
        keep(spool, 1, 2)
        async with running(box.uplink(address, spool)):
            await until(lambda: len(spool) == 0, what="everything has its receipt")
            await until(lambda: len(box.commands) == 50, what="every command comes")
    assert desk.seqs() == [1_001, 1_002]
    assert [command.id for command in box.commands] == [str(number) for number in range(50)]


async def test_the_broker_is_killed_and_the_network_cut_while_a_backlog_goes_out(
    address: Address,
    desk: Desk,
    spool: Spool,
    box: Box,
    broker: MosquittoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The desk is no persistent session: what it missed has to be sent again, although the broker acknowledged it."""
    monkeypatch.setattr(delivery_module, "FIRST_PROBE_S", 0.5)
    keep(spool, *range(1_500))
    proxy = Proxy(address.host, address.port)
    async with proxy.running():
        through = parse_url(f"mqtt://{address.username}:{address.password}@127.0.0.1:{proxy.port}")
        uplink = box.uplink(through, spool)
        async with running(uplink):
            for times, place in enumerate((100, 500), 1):
                await until(lambda place=place: len(set(desk.seqs())) > place, every_s=0.002, what="some came")
                broker.kill()
                broker.start()
                await until(lambda times=times: uplink.counts.connects > times, what="it comes back")
            await until(lambda: len(set(desk.seqs())) > 1_000, every_s=0.002, what="some came")
            proxy.cut()
            keep(spool, *range(1_500, 1_600))
            await until(lambda: uplink.counts.connects > 3, what="it comes back")
            await until(lambda: len(spool) == 0, what="everything has its receipt")
    assert uplink.counts.resends > 0
    assert sorted(set(desk.seqs())) == list(range(1, 1_601))
    assert sorted(desk.keys()) == list(range(1_600))


async def test_two_boxes_do_not_hear_each_other(
    address: Address, desk: Desk, spool: Spool, box: Box, mqtt_url: str
) -> None:
    second, second_box = await account(mqtt_url, "edge-2"), Box()
    keep(spool, *range(100))
    with Spool(Path(f"{spool._path}.second")) as other:
        keep(other, *range(200, 230))
        async with (
            running(box.uplink(address, spool)),
            running(second_box.uplink(second, other, "edge-2")),
            client(mqtt_url) as gateway,
        ):
            await say(gateway, "edge-2", "roster", ROSTER, retain=True)
            await until(lambda: second_box.rosters, what="the roster comes")
            await say(gateway, "edge-2", "command", {"id": "1", "type": "remind"})
            await until(lambda: len(spool) == len(other) == 0, what="everything has its receipt")
            await until(lambda: second_box.commands, what="the command comes")
    assert (desk.keys(), desk.keys("edge-2")) == (list(range(100)), list(range(200, 230)))
    assert (box.commands, box.rosters) == ([], [])
    assert second_box.commands[0].device == "edge-2"


# Down


async def test_a_command_is_kept_before_anything_else_and_once(
    address: Address, spool: Spool, box: Box, mqtt_url: str
) -> None:
    uplink = box.uplink(address, spool)
    remind = {"id": "12", "type": "remind", "device": "box-1", "compartment": 3}
    async with client(mqtt_url) as gateway:
        async with running(uplink):
            await until(lambda: uplink.connected, what="it is known to the broker")
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = 3_600
        await say(gateway, EDGE, "command", remind, properties=properties)
        async with running(uplink):
            await until(lambda: box.commands, what="what came while it was away comes")
            await say(gateway, EDGE, "command", remind)
            await say(gateway, EDGE, "command", {"id": "13", "type": "of tomorrow", "device": "box-1"})
            await until(lambda: len(box.commands) == 2, what="the other one comes")
    first, second = box.commands
    assert (first.id, first.type, first.device, json.loads(first.body)) == ("12", "remind", "box-1", remind)
    assert first.expires_ms is not None
    assert 3_500_000 < first.expires_ms - clock.now_ms() <= 3_600_000
    assert (second.id, second.expires_ms) == ("13", None)
    assert spool.commands("box-1", clock.now_ms()) == [first, second]


async def test_the_roster_is_handed_on_once_and_at_a_start_without_the_broker(
    address: Address, spool: Spool, box: Box, mqtt_url: str
) -> None:
    async with client(mqtt_url) as gateway:
        await say(gateway, EDGE, "roster", ROSTER, retain=True)
        for _ in range(2):
            uplink = box.uplink(address, spool)
            async with running(uplink):
                await until(lambda up=uplink: up.connected, what="it is connected")
    assert [[device.id for device in roster.devices] for roster in box.rosters] == [["cgm-1"], ["cgm-1"]]
    nowhere = parse_url("mqtt://edge-1:secret@127.0.0.1:1")
    async with running(box.uplink(nowhere, spool)):
        await until(lambda: len(box.rosters) == 3, what="the stored roster")
    assert box.rosters[2] == box.rosters[0]


RUBBISH = [b"", b"{", b"[]", b"null", b'"x"', b"\xff" * 100, b"[" * 60_000, b"9" * 60_000, b"{}" * 40_000]


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("kind", ["receipt", "command", "roster"])
async def test_rubbish_from_the_broker_is_counted_and_passed_over(
    kind: str, address: Address, spool: Spool, box: Box, mqtt_url: str
) -> None:
    uplink = box.uplink(address, spool)
    worse: dict[str, list[Any]] = {
        "receipt": [{"seq": -1}, {"seq": 2**63}, {"seq": "1"}, {"seq": 1.5}, {"seq": True}],
        "command": [{"id": "a b", "type": "remind"}, {"id": "1"}, {"id": "1", "type": ""}, {"id": 1, "type": "x"}],
        "roster": [{"devices": [{}]}, {"devices": 1}, {"devices": [{"id": "x", "model": "cgm", "address": "no"}]}],
    }
    async with running(uplink), client(mqtt_url) as gateway:
        await until(lambda: uplink.connected, what="it is connected")
        sent = [*RUBBISH, *worse[kind]]
        for body in sent:
            await say(gateway, EDGE, kind, body)
        await until(lambda: uplink.counts.rubbish == len(sent), what="all of it is counted")
        keep(spool, 1)
        await until(lambda: len(spool) == 0, what="it goes on")
    assert uplink.counts.connects == 1
    assert (box.commands, box.rosters, spool.roster()) == ([], [], None)
