"""A home with an edge box, and everything behind it for real: broker, gateway, worker, API, database. No radio needed.

The simulated devices live in the test's own process; `vigil ble` reaches them over HCI on a TCP port.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from deploy.stack.embedded import MosquittoServer
from devices.roster import Roster, RosterDevice
from devices.vocabulary import DeviceModel
from firmware_sim.ble.hci_tcp import serve_hci
from firmware_sim.ble.peripherals import Peripherals, start_all
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning import NewDevice, Provisioning
from gateway.runtime import clock
from tests.gateway.clinic import Clinic, open_clinic
from tests.gateway.processes import GatewayProcess, VigilProcess

EDGE_READY = "connected to the broker"
Reading = tuple[str, int, float | None]


@dataclass(slots=True)
class Home:
    """What a test holds of it."""

    folder: Path
    clinic: Clinic
    provisioning: Provisioning
    radio: VirtualRadio
    gateway: GatewayProcess
    worker: VigilProcess
    edges: list[VigilProcess] = field(default_factory=list)
    _database_url: str = ""
    _mqtt_url: str = ""
    _port: int = 0

    async def add_edge(self, name: str, **settings: str) -> VigilProcess:
        """Provision an edge box and return its program, not started yet."""
        secret = await self.provisioning.add_device(name, DeviceModel.EDGE)
        broker = urlsplit(self._mqtt_url)
        edge = VigilProcess(
            self.folder,
            "ble",
            EDGE_READY,
            mqtt_url=f"mqtt://{name}:{secret}@{broker.hostname}:{broker.port}",
            ble_spool=str(self.folder / f"{name}.sqlite"),
            ble_radio=f"tcp-client:127.0.0.1:{self._port}",
            **settings,
        )
        self.edges.append(edge)
        return edge

    async def add_devices(self, edge: str, patient: int, plans: Iterable[BlePlan], since: datetime) -> None:
        """Provision devices that the edge box reads and the patient wears."""
        await self.provisioning.add_devices(
            [NewDevice(plan.id, plan.model, patient, since, plan.address, edge) for plan in plans]
        )

    async def put_on_air(self, plans: Iterable[BlePlan], *, since: datetime) -> Peripherals:
        """Start the devices; they have been measuring since then."""
        return await start_all(self.radio, plans, clock.now_ms, started_ms=round(since.timestamp() * 1000))

    @staticmethod
    def roster(plans: Iterable[BlePlan]) -> Roster:
        """Return what the edge box is told of these devices."""
        return Roster(tuple(RosterDevice(plan.id, plan.model, plan.address, str(plan.traits.zone)) for plan in plans))

    async def stored(self, device: str, code: str) -> list[tuple[int, float | None]]:
        """Return (time in ms, value) of a device's stored readings, in order of time."""
        query = "select to_ms(at), value from readings where device_id = %s and code = %s order by at"
        return await self.clinic.rows(query, device, code)

    async def events(self, device: str) -> list[tuple[str, int]]:
        """Return (type, time in ms) of a pill box's stored events."""
        query = (
            "select e.type, to_ms(e.at) from pillbox_event e join device d on d.key = e.device_key"
            " where d.id = %s order by e.at, e.type"
        )
        return await self.clinic.rows(query, device)

    async def open_alerts(self, patient: int) -> set[str]:
        """Return the rules with an alert that is not withdrawn."""
        return {
            rule
            for (rule,) in await self.clinic.rows(
                "select rule from alert where patient_id = %s and state <> 'withdrawn'", patient
            )
        }


@asynccontextmanager
async def home(folder: Path, database_url: str, broker: MosquittoServer, **settings: str) -> AsyncIterator[Home]:
    """Give a home whose gateway and worker run."""
    radio = VirtualRadio()
    urls = {"database_url": database_url, "mqtt_url": broker.url}
    async with (
        serve_hci(radio) as port,
        open_clinic(database_url) as clinic,
        BrokerAccounts.connect(broker.url) as accounts,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
    ):
        await accounts.ensure_device_role()
        provisioning = Provisioning(connection, accounts, datetime.fromtimestamp(clock.now_ms() / 1000, UTC))
        gateway = GatewayProcess(folder, database_url, broker.url, **settings)
        worker = VigilProcess(folder, "worker", "worker active", **urls, **settings)
        place = Home(
            folder,
            clinic,
            provisioning,
            radio,
            gateway,
            worker,
            _database_url=database_url,
            _mqtt_url=broker.url,
            _port=port,
        )
        try:
            await gateway.start()
            await worker.start()
            yield place
        finally:
            for program in (*place.edges, worker, gateway):
                if program.running:
                    await asyncio.to_thread(program.stop)  # its last words go over our radio
            await radio.close()
