"""Who is connected to, and who is bonded with: nothing protected is asked for in plain text, lost bonds heal."""

import asyncio
import logging
from pathlib import Path

import pytest
from bumble.att import ATT_INSUFFICIENT_ENCRYPTION_ERROR, ATT_Error_Response
from bumble.device import Device

from devices.roster import Roster
from devices.vocabulary import DeviceModel
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.stories import MAKERS
from gateway.ble.session import Stage
from tests.gateway.ble.bedside import HOUR_MS, Bedside, bedside, in_virtual_time, plan

BONDED_FIRST = (DeviceModel.CGM, DeviceModel.GLUCOSE_METER, DeviceModel.PILLBOX)


class Doorman:
    """Counts, at the device's side, who connects, who pairs, and what is refused for want of encryption."""

    def __init__(self, peripheral: Peripheral) -> None:
        self.connections = self.pairings = self.refused = 0
        server = peripheral.device.gatt_server
        answer = server.send_response

        def send_response(connection: object, response: object) -> None:
            if isinstance(response, ATT_Error_Response):
                self.refused += response.error_code == ATT_INSUFFICIENT_ENCRYPTION_ERROR
            answer(connection, response)  # type: ignore[arg-type]

        server.send_response = send_response  # type: ignore[method-assign,assignment]
        peripheral.device.on(Device.EVENT_CONNECTION, self._on_connection)

    def _on_connection(self, connection: object) -> None:
        self.connections += 1
        connection.on("pairing", self._on_pairing)  # type: ignore[attr-defined]

    def _on_pairing(self, *_: object) -> None:
        self.pairings += 1


def says(caplog: pytest.LogCaptureFixture, sentence: str) -> int:
    return sum(sentence in record.message for record in caplog.records)


def has_told(room: Bedside, one: BlePlan) -> bool:
    told = room.told(one.id)
    return bool(told.samples or told.events)


@pytest.mark.parametrize("model", MAKERS)
def test_what_is_protected_is_asked_for_over_an_encrypted_link(tmp_path: Path, model: DeviceModel) -> None:
    """The models that always want a bond are never asked before; the others are bonded with at their first refusal."""

    async def main() -> None:
        one = plan(model)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            doorman = Doorman(room.device(one.id))
            room.arrive()
            await asyncio.sleep(10)
            room.device(one.id).lose_link()
            await asyncio.sleep(60)
            assert has_told(room, one)
            assert doorman.connections >= 2
            assert doorman.pairings == 1
            assert doorman.refused == 0 if model in BONDED_FIRST else 1 <= doorman.refused <= doorman.connections

    in_virtual_time(main)


@pytest.mark.parametrize("model", MAKERS)
@pytest.mark.parametrize("side", ["device", "box"])
def test_a_forgotten_bond_heals_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: DeviceModel, side: str
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        one = plan(model)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            device = room.device(one.id)
            room.arrive()
            await room.until(lambda: has_told(room, one))
            doorman = Doorman(device)
            if side == "device":
                await device.forget_bonds()
            else:
                keys = room.radio.devices[0].keystore
                assert keys is not None
                await keys.delete_all()
            device.lose_link()
            await room.until(lambda: doorman.pairings == 1, within_s=400)
            before = one.id, len(room.told(one.id).samples)
            await asyncio.sleep(400)
            assert doorman.pairings == 1
            if model in {DeviceModel.CGM, DeviceModel.WRISTBAND, DeviceModel.PILLBOX}:
                assert (one.id, len(room.told(one.id).samples)) > before
            assert says(caplog, "bonding anew") == (side == "device")

    in_virtual_time(main)


def test_a_device_that_refuses_to_bond_is_tried_ever_more_seldom(tmp_path: Path) -> None:
    async def main() -> None:
        one = plan(DeviceModel.CGM)
        async with bedside(tmp_path, [one], absent_ms=HOUR_MS) as room:
            device = room.device(one.id)
            device.faults.refuses_bonding = True
            doorman = Doorman(device)
            room.arrive()
            await asyncio.sleep(3500)
            assert 4 < doorman.connections < 40
            assert not has_told(room, one)
            device.faults.refuses_bonding = False
            await room.until(lambda: has_told(room, one), within_s=700)

    in_virtual_time(main)


def test_a_stranger_is_seen_and_never_connected_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        ours, stranger = plan(DeviceModel.CGM), plan(DeviceModel.CGM, name="stranger")
        async with bedside(tmp_path, [ours], strangers=[stranger]) as room:
            doorman = Doorman(room.device(stranger.id))
            room.arrive()
            await asyncio.sleep(300)
            assert doorman.connections == 0
            seen = room.collector.near.get(stranger.address)
            assert seen is not None
            assert seen.name == stranger.id
            assert {sighting.address for sighting in room.collector.near.everybody()} == {
                ours.address,
                stranger.address,
            }
            assert says(caplog, "a stranger is near") == 1
            assert {message.device for message in room.spool.waiting(1000)} == {ours.id}

    in_virtual_time(main)


def test_a_device_that_leaves_the_roster_is_left(tmp_path: Path) -> None:
    """In the middle of its stream at once; of a long report when that has ended. It is not visited again."""

    async def main() -> None:
        streaming, reporting = plan(DeviceModel.CGM, name="streaming"), plan(DeviceModel.CGM, name="reporting")
        async with bedside(tmp_path, [streaming, reporting], absent_ms=20 * HOUR_MS) as room:
            room.device(reporting.id).faults.pace_s = 0.5
            room.arrive()
            await asyncio.sleep(60)
            assert [session.stage for session in room.collector.sessions.values()] == [Stage.READING] * 2
            room.collector.set_roster(Roster())
            await asyncio.sleep(5)
            assert room.device(streaming.id).idle.is_set()
            await asyncio.sleep(120)
            assert room.device(reporting.id).idle.is_set()
            doormen = [Doorman(room.device(one.id)) for one in (streaming, reporting)]
            await asyncio.sleep(300)
            assert [doorman.connections for doorman in doormen] == [0, 0]

    in_virtual_time(main)
