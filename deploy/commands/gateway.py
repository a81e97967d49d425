"""`vigil gateway`: the ingest process."""

import asyncio

import uvloop

from deploy.logs import configure_logs
from deploy.settings import BrokerSettings, Settings, SettingsError, load_settings
from gateway.broker_address import Address, parse_url
from gateway.main import GatewaySettings, run_gateway


def gateway() -> None:
    """Take in what devices send, store it, detect, alert; acknowledge after the commit. A second one stands by."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    configured = GatewaySettings(
        database_url=settings.database_url,
        broker=broker_address(settings),
        receipt_interval_s=settings.receipt_interval_seconds,
        retrospective_after_ms=round(settings.retrospective_after_minutes * 60_000),
        contact_grace_ms=round(settings.contact_grace_seconds * 1_000),
        metrics_port=settings.metrics_port,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_gateway(configured))


def broker_address(settings: BrokerSettings) -> Address:
    """Return the broker's address with its certificates loaded. Raises SettingsError."""
    try:
        return parse_url(settings.mqtt_url, str(settings.mqtt_ca_file) if settings.mqtt_ca_file else None)
    except (ValueError, OSError) as error:
        raise SettingsError(f"VIGIL_MQTT_URL: {error}") from error
