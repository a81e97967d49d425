"""A broker that is killed may forget what it acknowledged: the devices keep it until the receipt, so nothing is lost."""

import asyncio
from typing import Any

import pytest

from deploy.stack.embedded import MosquittoServer
from devices.vocabulary import DeviceModel
from firmware_sim.broker import Broker
from firmware_sim.device import Device
from firmware_sim.fleet import Fleet, FleetSettings
from firmware_sim.scenarios import Scenario, Start, patients
from firmware_sim.sensors import Draft
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning
from gateway.runtime import clock
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.processes import GatewayProcess, until

pytestmark = pytest.mark.xdist_group("loads the machine")
DEVICES = 100
HISTORY_DAYS = 0.15
KILLED_AFTER = (40, 110, 180)
"""Messages."""


class Measured:
    """What devices put into flash, taken down before any codec or wire: the truth that must be in the store."""

    def __init__(self) -> None:
        self.samples: list[tuple[str, str, int, float]] = []
        self.beats: list[tuple[str, float]] = []

    def listen_to(self, device: Device) -> None:
        keep = device._keep

        def listening(drafts: list[Draft], due_ms: int) -> None:
            for draft in drafts:
                for item in draft.items:
                    self._take(device.plan.id, dict(item))
            keep(drafts, due_ms)

        device._keep = listening  # type: ignore[method-assign]

    def _take(self, name: str, item: dict[str, Any]) -> None:
        if item["code"] == "rr_interval":
            self.beats += [(name, value) for value in item["values"] if value is not None]
            return
        values = item["values"] if "values" in item else [item["value"]]
        times = range(item["at"], item["at"] + len(values) * item.get("period_ms", 1), item.get("period_ms", 1))
        self.samples += [
            (name, item["code"], at, value) for at, value in zip(times, values, strict=True) if value is not None
        ]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 8))])
async def test_a_broker_that_is_killed_while_100_devices_publish_loses_nothing(
    seed: int, gateway: GatewayProcess, clinic: Clinic, broker: MosquittoServer
) -> None:
    start = Start(now_ms=clock.now_ms(), days=HISTORY_DAYS, seed=seed, prefix=f"sim{seed}")
    plans = patients(Scenario.STEADY, DEVICES, start)
    devices = [(plan, device) for plan in plans for device in plan.devices]
    assert len(devices) == DEVICES
    async with BrokerAccounts.connect(broker.url) as accounts:
        await accounts.ensure_device_role()
        provisioning = Provisioning(clinic.connection, accounts, clock.now())
        people = await provisioning.add_patients([NewPatient(plan.name, plan.timezone) for plan in plans])
        secrets = await provisioning.add_devices(
            [
                NewDevice(device.id, DeviceModel(device.model), person, EVER)
                for (_, device), person in zip(devices, people, strict=True)
            ]
        )
    fleet = Fleet(
        [device for _, device in devices],
        secrets,
        Broker.from_url(broker.url),
        FleetSettings(history_from_ms=start.history_from_ms, connects_per_s=200),
        clock.now_ms,
    )
    measured = Measured()
    for device in fleet._devices:
        measured.listen_to(device)
    running = asyncio.create_task(fleet.run())
    for messages in KILLED_AFTER:
        await until(lambda wanted=messages: fleet.meter.messages >= wanted, every_s=0.001, what="messages are sent")
        assert not fleet.caught_up.is_set(), "there is more to come"
        broker.kill()
        broker.start()
    await until(fleet.caught_up.is_set, within_s=90, what="every message of the history has its receipt")
    fleet.stop()
    summary = await running
    assert summary.resends > 0
    assert summary.overwritten == 0
    stored = await clinic.readings()
    found = sorted((name, code, at, value) for name, code, at, value, _ in stored if code != "rr_interval")
    assert found == sorted(measured.samples)
    beats = sorted((name, value) for name, code, _, value, _ in stored if code == "rr_interval")
    assert beats == sorted(measured.beats)
    assert await clinic.value("select sum(lost) from receipt") == 0
    assert await clinic.quarantined() == []
    assert await clinic.value("select count(*) from conflict") == 0
    assert gateway.running
