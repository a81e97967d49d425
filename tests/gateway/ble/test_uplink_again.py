"""What comes again with the next connection, and what is not believed then."""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiomqtt
import pytest

from devices.vocabulary import MAX_PAYLOAD_BYTES
from gateway.ble.spool import Spool
from gateway.ble.uplink import Uplink
from gateway.runtime import clock
from tests.gateway.ble.test_uplink import EDGE, Box, account, keep, running, say
from tests.gateway.processes import until
from tests.gateway.wire import client


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.db") as spool:
        yield spool


async def test_a_command_for_which_there_is_no_room_comes_again_with_the_next_connection(
    mqtt_url: str, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    box, address = Box(), await account(mqtt_url, EDGE)
    long = {"id": "12", "type": "remind", "device": "box-1", "note": "x" * 50_000}
    async with client(mqtt_url) as gateway:
        uplink = box.uplink(address, spool)
        async with running(uplink):
            await until(lambda: uplink.connected, what="it is known to the broker")
            ((pages,),) = spool._db.execute("pragma page_count").fetchall()
            spool._db.execute(f"pragma max_page_count = {pages}")
            await say(gateway, EDGE, "command", long)
            await until(lambda: "no room for what the broker sent" in caplog.messages, what="it does not fit")
        assert box.commands == []
        spool._db.execute("pragma max_page_count = 1073741823")
        async with running(box.uplink(address, spool)):
            await until(lambda: box.commands, what="it comes again")
    assert [json.loads(command.body) for command in box.commands] == [long]
    assert spool.commands("box-1", clock.now_ms()) == box.commands


async def test_a_receipt_for_what_was_kept_while_the_broker_was_away_frees_nothing(mqtt_url: str, spool: Spool) -> None:
    """It was never sent: somebody else has earned that receipt under this box's name."""
    uplink = Box().uplink(await account(mqtt_url, EDGE), spool)
    async with running(uplink):
        await until(lambda: uplink.connected, what="it has had a connection")
    keep(spool, 1, 2, 3, 4, 5)
    async with client(mqtt_url) as gateway:
        await say(gateway, EDGE, "receipt", {"seq": 3}, retain=True)
    async with running(uplink):
        await until(lambda: uplink.connected, what="it has another")
        assert [message.seq for message in spool.waiting(10)] == [4, 5, 6, 7, 8]


class Chance(random.Random):
    """Always the least that chance gives, noting the most it might have given."""

    def __init__(self) -> None:
        super().__init__()
        self.most: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.most.append(b)
        return a


async def test_a_connection_that_did_not_last_begins_no_new_back_off(mqtt_url: str, spool: Spool) -> None:
    address, chance, box = await account(mqtt_url, EDGE), Chance(), Box()
    uplink = Uplink(address, EDGE, spool, clock.now_ms, box.commands.append, box.rosters.append, chance=chance)
    async with running(uplink):
        for times in range(1, 5):
            await until(lambda: uplink.connected, what="it is connected")
            with suppress(aiomqtt.MqttError):  # it is thrown out in its turn
                async with client(f"mqtt://{EDGE}:{address.password}@{address.host}:{address.port}", identifier=EDGE):
                    await until(lambda times=times: len(chance.most) >= times, what="it was thrown out")
    assert chance.most == sorted(set(chance.most)), "each wait may be longer than the one before"


async def test_a_command_over_the_size_of_a_message_is_rubbish_although_it_reads_well(
    mqtt_url: str, spool: Spool
) -> None:
    box, address = Box(), await account(mqtt_url, EDGE)
    uplink = box.uplink(address, spool)
    async with running(uplink), client(mqtt_url) as gateway:
        await until(lambda: uplink.connected, what="it is connected")
        await say(gateway, EDGE, "command", {"id": "1", "type": "remind", "note": "x" * MAX_PAYLOAD_BYTES})
        await say(gateway, EDGE, "command", {"id": "2", "type": "remind"})
        await until(lambda: box.commands, what="the other one comes")
    assert ([command.id for command in box.commands], uplink.counts.rubbish) == (["2"], 1)
