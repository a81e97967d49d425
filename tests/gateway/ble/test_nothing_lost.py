"""From the spool to the store with the real gateway: edge box, broker and gateway are killed, and every record is there once."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.stack.embedded import MosquittoServer
from deploy.stack.processes import before_exec
from devices.vocabulary import Code, DeviceModel, EventType, Unit
from gateway.ble.findings import Happening, Reading, Record, Unreadable
from gateway.ble.spool import Spool
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning import NewDevice, Provisioning
from gateway.runtime import clock
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.processes import GatewayProcess, until

RECORDS = 1_200
MINUTE = 60_000

EDGE = """
import asyncio, sys
from gateway.ble import delivery
from gateway.ble.spool import Spool
from gateway.ble.uplink import Uplink
from gateway.runtime.broker_address import parse_url
from gateway.runtime import clock

delivery.FIRST_PROBE_S = 1.0  # a broker that was killed may come back without the gateway's subscription

async def main(url, edge, path):
    with Spool(path) as spool:
        await Uplink(parse_url(url), edge, spool, clock.now_ms, print, print).run()

asyncio.run(main(*sys.argv[1:]))
"""


class EdgeProcess:
    """An uplink in a process of its own, which can be killed."""

    def __init__(self, url: str, edge: str, spool: Path) -> None:
        self._command = [sys.executable, "-c", EDGE, url, edge, str(spool)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ends_with_us = before_exec(signal.SIGKILL)
        self.process = subprocess.Popen(self._command, preexec_fn=ends_with_us)  # noqa: PLW1509 - two system calls

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, "the edge box ended"
        self.process.kill()
        self.process.wait()


@pytest.fixture
def edges() -> Iterator[list[EdgeProcess]]:
    made: list[EdgeProcess] = []
    yield made
    for edge in made:
        if edge.process is not None:
            edge.process.kill()
            edge.process.wait()


def fill(path: Path, device: str, start: int) -> list[tuple[str, str, int, float]]:
    """Spool records of a device, one a message, and what stands beside them; return the readings."""
    readings = []
    with Spool(path) as spool:
        spool._db.execute("pragma synchronous = off")  # an hour of measuring, not a matter of this test
        for key in range(RECORDS):
            at, value = start + key * MINUTE, 5 + key % 50 / 10
            spool.keep_records(device, "s", [Record(key, (Reading(Code.GLUCOSE, Unit.MMOL_L, at, value),))])
            readings.append((device, "glucose", at, value))
        spool.cover(device, "s", RECORDS - 1)
        spool.keep(device, [Happening(EventType.BUTTON_PRESSED, start)])
        spool.keep(device, [Unreadable(start, "2aa7", b"\xff\xff", "too short")])
    return readings


async def test_everything_spooled_is_stored_once_whoever_is_killed(
    gateway: GatewayProcess, clinic: Clinic, broker: MosquittoServer, tmp_path: Path, edges: list[EdgeProcess]
) -> None:
    start = clock.now_ms() - (RECORDS + 10) * MINUTE
    boxes = {"edge-1": "cgm-1", "edge-2": "cgm-2"}
    async with BrokerAccounts.connect(broker.url) as accounts:
        await accounts.ensure_device_role()
        provisioning = Provisioning(clinic.connection, accounts, clock.now())
        patient = await provisioning.add_patient("Ada", "UTC")
        secrets = await provisioning.add_devices([NewDevice(edge, DeviceModel.EDGE) for edge in boxes])
        await provisioning.add_devices(
            [NewDevice(device, DeviceModel.CGM, patient, EVER, via=edge) for edge, device in boxes.items()]
        )
    spooled = []
    for edge, device in boxes.items():
        spooled += fill(tmp_path / edge, device, start)
        url = f"mqtt://{edge}:{secrets[edge]}@127.0.0.1:{broker.port}"
        edges.append(EdgeProcess(url, edge, tmp_path / edge))
        edges[-1].start()

    async def stored_more_than(rows: int) -> bool:
        return await clinic.stored() > rows

    await until(lambda: stored_more_than(100), every_s=0.005, what="some is stored")
    edges[0].kill()
    broker.kill()
    broker.start()
    edges[0].start()
    await until(lambda: stored_more_than(900), every_s=0.005, what="more is stored")
    gateway.kill()
    edges[1].kill()
    edges[1].start()
    await gateway.start()

    async def all_receipted() -> bool:
        return await clinic.receipts() == dict.fromkeys(boxes, RECORDS + 2)

    await until(all_receipted, what="both boxes are told that everything is stored")
    await asyncio.sleep(0.5)
    for process, (name, device) in zip(edges, boxes.items(), strict=True):
        process.kill()
        with Spool(tmp_path / name) as spool:
            assert len(spool) == 0
            assert spool.committed(device, "s") == RECORDS - 1
    found = [row[:4] for row in await clinic.readings()]
    assert found == sorted(spooled)
    assert await clinic.value("select count(*) from pillbox_event") == 2
    assert set(await clinic.quarantined()) == {(edge, "unknown_code") for edge in boxes}
    assert await clinic.value("select sum(lost) from receipt") == 0
    assert await clinic.value("select count(*) from conflict") == 0
