"""`vigil gateway`: the ingest process."""

import asyncio

import uvloop

from deploy.broker import broker_address
from deploy.logs import configure_logs
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import Settings, load_settings
from gateway.ingest.main import GatewaySettings, run_gateway


def gateway() -> None:
    """Take in what devices send, store it, detect, alert; acknowledge after the commit. A second one stands by."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    refuse_moved_clock(settings.database_url)
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
