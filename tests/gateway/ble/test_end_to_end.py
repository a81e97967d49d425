"""The whole way: devices over real GATT, the edge program, broker, gateway, database, and the alerts at the API."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from deploy.commands.simulate import new_start
from deploy.simulated_clinic import add_doses
from deploy.stack.embedded import MosquittoServer
from deploy.stack.processes import free_port
from devices.vocabulary import Code, EventType
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.stories import bedsides
from firmware_sim.ble.truth import Happened, Measured
from firmware_sim.scenarios import Scenario
from gateway.clinic.provisioning import NewPatient
from tests.gateway.ble.home import Home, home
from tests.gateway.processes import VigilProcess, until

SECOND_MS = 1_000
DOCTOR = ("doctor@clinic.example", "correct horse battery staple")


async def test_a_low_and_a_missed_dose_reach_the_doctor_over_bluetooth(
    tmp_path: Path, database_url: str, broker: MosquittoServer
) -> None:
    start = new_start(days=0.4, seed=5)
    (night,), (forgetful,) = (
        bedsides(scenario, 1, start, advertising_interval_ms=100)
        for scenario in (Scenario.NIGHT_LOW, Scenario.MISSED_DOSE)
    )
    box = [plan for plan in forgetful.devices if plan.model == "pillbox"]
    worn = [plan for plan in night.devices if plan.model in {"cgm", "wristband"}]
    since = datetime.fromtimestamp(start.history_from_ms / 1000, UTC)
    async with home(tmp_path, database_url, broker, contact_grace_seconds="1") as place:
        low, missed = await place.provisioning.add_patients(
            [
                NewPatient(one.patient.name, one.patient.timezone, expected={Code.GLUCOSE: timedelta(minutes=5)})
                for one in (night, forgetful)
            ]
        )
        await add_doses(place.provisioning, missed, forgetful.patient)
        await place.provisioning.add_user(DOCTOR[0], "doctor", DOCTOR[1], patient_ids=[low, missed])
        edge = await place.add_edge("edge-1")
        await place.add_devices("edge-1", low, worn, since)
        await place.add_devices("edge-1", missed, box, since)
        ward = await place.put_on_air([*worn, *box], since=since)
        api, url = await _api(tmp_path, database_url)
        try:
            await edge.start()
            await until(lambda: _told(url, {"nocturnal_hypoglycaemia", "missed_dose"}), within_s=100, every_s=0.5)
            await until(lambda: _heart_rates(place, worn), within_s=100, every_s=0.5)
        finally:
            api.stop()
        sensor = next(plan.id for plan in worn if plan.model == "cgm")
        truth = [one for one in ward[sensor].truth if isinstance(one, Measured)]
        stored = await place.stored(sensor, "glucose")
        assert len(truth) - 1 <= len(stored) <= len(truth)  # the last one may be on its way
        for (at_ms, value), one in zip(stored, truth, strict=False):
            assert value == one.value
            assert abs(at_ms - one.at_ms) < 2 * SECOND_MS  # a start to the second, a crystal that drifts
        opened = [one for one in ward[box[0].id].truth if isinstance(one, Happened)]
        told = [kind for kind, _ in await place.events(box[0].id) if kind != EventType.COMMAND_DONE]  # it reminded, too
        assert told == [one.type for one in opened]


async def _heart_rates(place: Home, plans: list[BlePlan]) -> bool:
    band = next(plan for plan in plans if plan.model == "wristband")
    return len(await place.stored(band.id, "heart_rate")) >= 10


async def _api(folder: Path, database_url: str) -> tuple[VigilProcess, str]:
    port = free_port()
    api = VigilProcess(
        folder, "api", "", database_url=database_url, secret_key="k" * 32, api_host="127.0.0.1", api_port=str(port)
    )
    api.launch()
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await until(ready)
    return api, url


async def _told(url: str, rules: set[str]) -> bool:
    """Whether the doctor sees open alerts of all these rules."""
    async with httpx.AsyncClient(base_url=f"{url}/api/v1") as client:
        granted = await client.post("/auth/token", data={"username": DOCTOR[0], "password": DOCTOR[1]})
        headers = {"Authorization": f"Bearer {granted.json()['access_token']}"}
        alerts: list[dict[str, Any]] = (await client.get("/alerts?state=open", headers=headers)).json()["items"]
    return rules <= {alert["rule"] for alert in alerts}
