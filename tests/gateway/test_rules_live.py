"""What a doctor is promised, over the wire: at once, at night, in the sensor's own unit, once."""

from datetime import UTC, datetime

import pytest

from tests.gateway.clinic import Clinic
from tests.gateway.processes import GatewayProcess, until
from tests.gateway.wire import publish, readings_message
from tests.streaming.nocturnal_reference import Reading

NIGHT = int(datetime(2026, 3, 10, 3, 0, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000


async def test_72_mg_per_dl_never_alarms_and_71_does(gateway: GatewayProcess, clinic: Clinic, mqtt_url: str) -> None:
    await clinic.wearers(["floor", "below"])
    await publish(
        mqtt_url,
        [
            readings_message("floor", [Reading(NIGHT + i * 5 * MINUTE, 72.0, "mg/dL") for i in range(20)]),
            readings_message("below", [Reading(NIGHT, 72.0, "mg/dL"), Reading(NIGHT + MINUTE, 71.0, "mg/dL")]),
        ],
    )
    await until(lambda: _stored(clinic, 22))
    alerts = await clinic.alerts()
    assert [(alert.opened_at, alert.state, alert.severity) for alert in alerts] == [(NIGHT + MINUTE, "open", "high")]
    assert gateway.running


@pytest.mark.parametrize(
    ("value", "unit", "severity"), [(3.9, "mmol/L", "high"), (3.09, "mmol/L", "urgent"), (54.0, "mg/dL", "urgent")]
)
async def test_a_low_at_night_is_there_with_its_severity(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str, value: float, unit: str, severity: str
) -> None:
    patient = await clinic.wearer("cgm", "Asia/Shanghai")
    at = NIGHT - 8 * 60 * MINUTE
    await publish(mqtt_url, [readings_message("cgm", [Reading(at, value, unit)])])
    await until(lambda: _stored(clinic, 1))
    alert = (await clinic.alerts(patient))[0]
    assert (alert.opened_at, alert.resolved_at, alert.severity, alert.running) == (at, None, severity, True)
    history = await clinic.rows("select action from alert_history where alert_id = %s", alert.id)
    assert history == [("raised",)]
    assert await clinic.rows("select alert_id, action from outbox") == [(alert.id, "raised")]
    assert gateway.running


async def _stored(clinic: Clinic, rows: int) -> bool:
    return await clinic.stored() == rows
