"""The demo's edge box: two patients with Bluetooth devices only, read by `vigil ble` over a radio in this process."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg

from deploy.demo.board import Board
from deploy.demo.clinic import DOCTOR, Wearer, provisioning
from deploy.demo.programs import Programs
from deploy.simulated_clinic import GLUCOSE_EVERY, add_doses
from devices.vocabulary import Code, DeviceModel
from firmware_sim.ble.hci_tcp import serve_hci
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.peripherals import start_all
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.stories import MAKERS, Bedside, bedsides
from firmware_sim.scenarios import Scenario, Start
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning
from gateway.runtime import clock

DAYS = 1.25
"""How long the devices have been worn: since before yesterday's first dose, or the last opening would be for today's."""
BEGUN_BEFORE_MS = 15_000
"""So the planned dose is missed before its box is first read; a box is read once a minute, and a visitor may not wait."""
_ASK_EVERY_S = 0.5
_NIGHT = frozenset({DeviceModel.CGM, DeviceModel.WRISTBAND})
_EXTRA = (DeviceModel.GLUCOSE_METER, DeviceModel.BLOOD_PRESSURE)

# The battery level is read from every device, but is in no device's memory.
STORED = """
select device_id, count(*) filter (where code <> 'battery') from (
    select device_id, code from readings where device_id = any(%(ids)s)
    union all
    select d.id, e.type from pillbox_event e join device d on d.key = e.device_key where d.id = any(%(ids)s)
) stored group by device_id
"""


@dataclass(frozen=True, slots=True)
class EdgeBox:
    """The edge box, its account, and the devices near it."""

    id: str
    secret: str
    plans: Sequence[BlePlan]

    def settings(self, mqtt_url: str, port: int, folder: Path) -> dict[str, str]:
        """Return the settings of its program, with an account limited to what an edge box does."""
        broker = urlsplit(mqtt_url)
        address = f"{self.id}:{self.secret}@{broker.hostname}:{broker.port}"
        return {
            "VIGIL_MQTT_URL": broker._replace(netloc=address).geturl(),
            "VIGIL_BLE_SPOOL": str(folder / "spool.sqlite"),
            "VIGIL_BLE_RADIO": f"tcp-client:127.0.0.1:{port}",
        }


async def live_at_the_bedside(
    settings: Mapping[str, str], folder: Path, run: int, programs: Programs, board: Board
) -> None:
    """Admit the patients and have `vigil ble` read their devices' memories, then follow them live, until cancelled."""
    start = Start(clock.now_ms() - BEGUN_BEFORE_MS, DAYS, 2 * run + 1, f"demo{run}-ble")
    async with provisioning(settings, clock.now()) as clinic:
        edge = await _admit(clinic, around_the_box(start), start, board)
    async with _on_air(edge.plans, start.history_from_ms) as (devices, port):
        in_memory = [_catch_up(device) for device in devices]
        spool = folder / "edge"
        shutil.rmtree(spool, ignore_errors=True)  # of the previous run, whose edge box was another one
        began = clock.monotonic()
        programs.start("ble", edge.settings(settings["VIGIL_MQTT_URL"], port, spool))
        try:
            await _stored(settings["VIGIL_DATABASE_URL"], {device.plan.id: len(device.truth) for device in devices})
            board.show_bluetooth(len(devices), sum(in_memory), clock.monotonic() - began)
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(programs.stop, "ble")  # while there is still a radio for it to disconnect on


def around_the_box(start: Start) -> list[Bedside]:
    """Return two patients: a night low that a CGM sees; a missed dose of somebody who also has a meter and a cuff."""
    night, forgetful = bedsides(Scenario.DEMO, 2, start)
    zone = ZoneInfo(forgetful.patient.timezone)
    boxes = [plan for plan in forgetful.devices if plan.model is DeviceModel.PILLBOX]
    extra = [
        BlePlan(f"{start.prefix}-{model.replace('_', '-')}-2", model, (start.seed, 2), MAKERS[model](zone, start))
        for model in _EXTRA
    ]
    return [
        Bedside(replace(night.patient, doses=()), tuple(plan for plan in night.devices if plan.model in _NIGHT)),
        Bedside(forgetful.patient, (*boxes, *extra)),
    ]


async def _admit(clinic: Provisioning, beds: Sequence[Bedside], start: Start, board: Board) -> EdgeBox:
    """Add the patients, their doses, the edge box and the devices it reads."""
    since = datetime.fromtimestamp(start.history_from_ms / 1000, UTC)
    ids = await clinic.add_patients([_new_patient(bed) for bed in beds])
    box = f"{start.prefix}-edge"
    devices = [NewDevice(box, DeviceModel.EDGE)]
    for patient_id, bed in zip(ids, beds, strict=True):
        await add_doses(clinic, patient_id, bed.patient)
        devices += [NewDevice(plan.id, plan.model, patient_id, since, plan.address, box) for plan in bed.devices]
    secrets = await clinic.add_devices(devices)
    await clinic.add_to_care_team(DOCTOR, ids)
    board.admit(
        {
            str(key): Wearer(bed.patient.name, ZoneInfo(bed.patient.timezone), over_bluetooth=True)
            for key, bed in zip(ids, beds, strict=True)
        }
    )
    return EdgeBox(box, secrets[box], [plan for bed in beds for plan in bed.devices])


def _new_patient(bed: Bedside) -> NewPatient:
    one = bed.patient
    watched = any(plan.model is DeviceModel.CGM for plan in bed.devices)
    expected = {Code.GLUCOSE: GLUCOSE_EVERY} if watched else {}
    return NewPatient(one.name, one.timezone, hypoglycaemia_risk=one.hypoglycaemia_risk, expected=expected)


@asynccontextmanager
async def _on_air(plans: Iterable[BlePlan], started_ms: int) -> AsyncIterator[tuple[list[Peripheral], int]]:
    """Put the devices on a radio that other processes reach over HCI at the port."""
    radio = VirtualRadio()
    async with serve_hci(radio) as port:
        try:
            ward = await start_all(radio, plans, clock.now_ms, started_ms=started_ms)
            try:
                yield list(ward), port
            finally:
                await ward.stop()
        finally:
            await radio.close()


def _catch_up(device: Peripheral) -> int:
    """Have a device measure what was due by now; return how many records its memory holds."""
    device.catch_up()
    return len(device.memory.between())


async def _stored(database_url: str, expected: Mapping[str, int]) -> None:
    """Wait until the database has data of each device, and the expected number of measurements and events."""
    values: dict[str, Any] = {"ids": list(expected)}
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        while True:
            stored: dict[str, int] = dict(await (await connection.execute(STORED, values)).fetchall())
            if all(stored.get(name, -1) >= count for name, count in expected.items()):
                return
            await asyncio.sleep(_ASK_EVERY_S)
