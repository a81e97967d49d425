"""Devices on a real broker, with a small gateway as their peer: receipts, resends, wills, commands, whole fleets."""

import asyncio
import math
import resource
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from deploy.stack.embedded import MosquittoServer
from devices.vocabulary import DeviceModel
from firmware_sim.broker import Broker
from firmware_sim.fleet import Fleet, FleetSettings, Progress, TooManyDevices, raise_descriptor_limit
from firmware_sim.physiology.noise import HOUR_MS, MINUTE_MS
from firmware_sim.plan import Coverage, DevicePlan
from firmware_sim.scenarios import Scenario, Start, patients
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.runtime import clock
from tests.firmware_sim.peer import Peer


async def accounts(url: str, plans: list[DevicePlan]) -> dict[str, str]:
    async with BrokerAccounts.connect(url) as broker:
        await broker.ensure_device_role()
        return await broker.create_device_accounts([plan.id for plan in plans])


def plans_of(scenario: Scenario, count: int, *, hours: float = 0.0) -> tuple[list[DevicePlan], FleetSettings]:
    start = Start(clock.now_ms(), hours / 24, seed=5, prefix="sim")
    devices = [device for patient in patients(scenario, count, start) for device in patient.devices]
    return devices, FleetSettings(history_from_ms=start.history_from_ms)


async def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the peer has no event for every condition
            await asyncio.sleep(0.02)


async def test_history_goes_through_in_order_and_is_freed_by_receipts(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.STEADY, 1, hours=48)
    peer = Peer()
    async with peer.running(broker.url):
        fleet = Fleet(plans, await accounts(broker.url, plans), Broker.from_url(broker.url), settings, clock.now_ms)
        summary = await fleet.run(0)
    assert fleet.caught_up.is_set()
    seqs = peer.seqs(plans[0].id)
    assert [seq for index, seq in enumerate(seqs) if seq not in seqs[:index]] == list(range(1, summary.messages + 1))
    assert (summary.unreceipted, summary.overwritten, summary.refusals) == (0, 0, 0)
    now = clock.now_ms()
    assert all(abs(now - message["sent_at"]) < MINUTE_MS for message in peer.messages[plans[0].id])


async def test_what_got_lost_is_sent_again_after_the_next_connection(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.STEADY, 1, hours=48)
    secrets = await accounts(broker.url, plans)
    peer = Peer()
    peer.drop = {(plans[0].id, 3), (plans[0].id, 7)}
    async with peer.running(broker.url) as running:
        fleet = Fleet(plans, secrets, Broker.from_url(broker.url), settings, clock.now_ms)
        running_fleet = asyncio.create_task(fleet.run())
        await until(lambda: len(set(peer.seqs(plans[0].id))) >= 10)
        await until(lambda: running.receipt(plans[0].id) == 2)
        async with BrokerAccounts.connect(broker.url) as admin:
            await admin.disable(plans[0].id)  # cuts it off
            await admin.enable(plans[0].id)
        await until(fleet.caught_up.is_set)
        fleet.stop()
        summary = await running_fleet
    assert summary.resends > 0
    assert summary.unreceipted == 0
    assert set(peer.seqs(plans[0].id)) == set(range(1, summary.messages + 1))


async def test_a_broker_that_is_killed_loses_nothing(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.STEADY, 3, hours=72)
    secrets = await accounts(broker.url, plans)
    peer = Peer()
    peer.silent = True
    async with peer.running(broker.url):
        fleet = Fleet(plans, secrets, Broker.from_url(broker.url), settings, clock.now_ms)
        running_fleet = asyncio.create_task(fleet.run())
        await until(lambda: all(len(peer.seqs(plan.id)) > 5 for plan in plans))
        await asyncio.to_thread(broker.restart)
    peer.silent = False
    async with peer.running(broker.url):
        await until(fleet.caught_up.is_set, 40)
        fleet.stop()
        summary = await running_fleet
    assert summary.connects >= 6
    assert summary.unreceipted == 0
    for plan in plans:
        assert set(peer.seqs(plan.id)) >= set(range(1, peer.receipt(plan.id) + 1))


async def test_a_retained_receipt_is_read_before_anything_is_sent_again(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.OFFLINE, 1, hours=24)
    now = clock.now_ms()
    plan = replace(plans[0], duplicate_probability=0.0, coverage=Coverage(60_000, 1_000, now + 3_000, reboots=True))
    secrets = await accounts(broker.url, [plan])
    peer = Peer()
    async with peer.running(broker.url):
        fleet = Fleet([plan], secrets, Broker.from_url(broker.url), settings, clock.now_ms)
        running_fleet = asyncio.create_task(fleet.run())
        await until(lambda: fleet.progress().waiting == 0 and fleet.caught_up.is_set())
        await until(lambda: fleet.meter.connects == 2)
        await asyncio.sleep(0.5)
        fleet.stop()
        summary = await running_fleet
    assert {"online": False} in peer.statuses[plan.id]
    assert summary.resends == 0


async def test_status_will_and_farewell(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.DEMO, 2)
    secrets = await accounts(broker.url, plans)
    peer = Peer()
    async with peer.running(broker.url):
        fleet = Fleet(plans, secrets, Broker.from_url(broker.url), settings, clock.now_ms)
        await fleet.run(1.5)
        await until(lambda: all(len(peer.statuses[plan.id]) >= 2 for plan in plans))
    for plan in plans:
        first, last = peer.statuses[plan.id][0], peer.statuses[plan.id][-1]
        assert first["online"] is True
        assert first["firmware"] == plan.firmware
        assert 0 <= first["battery"] <= 100
        assert abs(first["clock"] - clock.now_ms()) < MINUTE_MS
        assert last == {"online": False}


async def test_commands_are_done_and_reported(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.MISSED_DOSE, 1)
    box = next(plan for plan in plans if plan.model is DeviceModel.PILLBOX)
    secrets = await accounts(broker.url, [box])
    peer = Peer()

    def answers() -> list[dict[str, object]]:
        return [event for message in peer.messages[box.id] for event in message.get("events", ())]

    async with peer.running(broker.url):
        fleet = Fleet([box], secrets, Broker.from_url(broker.url), settings, clock.now_ms)
        running_fleet = asyncio.create_task(fleet.run())
        await until(lambda: bool(peer.statuses[box.id]))
        await asyncio.sleep(0.3)
        await peer.command(box.id, id="c1", type="remind", compartment=1)
        await peer.command(box.id, id="c2", type="set_clock", clock=clock.now_ms() - 60_000)
        await until(lambda: len(answers()) >= 2)
        fleet.stop()
        summary = await running_fleet
    assert [(event["type"], event["id"], event["ok"]) for event in answers()] == [
        ("command_done", "c1", True),
        ("command_done", "c2", True),
    ]
    assert summary.commands == 2
    assert peer.messages[box.id][-1]["sent_at"] < clock.now_ms() - 50_000


async def test_two_hundred_bands_in_one_process(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.STEADY, 200, hours=2)
    seen: list[Progress] = []
    peer = Peer()
    async with peer.running(broker.url, receipt_every_s=0.5):
        secrets = await accounts(broker.url, plans)
        fleet = Fleet(plans, secrets, Broker.from_url(broker.url), settings, clock.now_ms, seen.append)
        async with asyncio.timeout(60):
            running_fleet = asyncio.create_task(fleet.run(0.5))
            await fleet.caught_up.wait()
            summary = await running_fleet
    assert summary.devices == summary.connects == 200
    assert (summary.refusals, summary.unreceipted, summary.overwritten) == (0, 0, 0)
    assert max(progress.connected for progress in seen) == 200
    assert all(later.messages >= sooner.messages for sooner, later in pairwise(seen))
    for plan in plans:
        assert sorted(set(peer.seqs(plan.id))) == list(range(1, peer.receipt(plan.id) + 1))
    assert summary.readings > 200 * 2 * HOUR_MS / (5 * MINUTE_MS)


async def test_wrong_secrets_are_refused_and_counted(broker: MosquittoServer) -> None:
    plans, settings = plans_of(Scenario.STEADY, 2)
    fleet = Fleet(
        plans, dict.fromkeys([p.id for p in plans], "no"), Broker.from_url(broker.url), settings, clock.now_ms
    )
    running_fleet = asyncio.create_task(fleet.run())
    await until(lambda: fleet.meter.refusals >= 2)
    fleet.stop()
    summary = await running_fleet
    assert summary.connects == 0
    assert math.isnan(summary.connect_seconds)


def test_too_many_devices_are_refused_with_a_way_out() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this system has no limit on open files")
    with pytest.raises(TooManyDevices, match="ulimit -Hn"):
        raise_descriptor_limit(hard + 1)


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "host:1883", "mqtt://u:p@"])
def test_broker_addresses_are_checked(url: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        Broker.from_url(url)


def test_broker_addresses_unquote_their_account() -> None:
    assert Broker.from_url("mqtt://a%40b:p%2Fw@host") == Broker("host", 1883, None, "a@b", "p/w")
