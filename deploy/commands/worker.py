"""`vigil worker`: deadlines, HRV and commands."""

import asyncio

from deploy.broker import broker_address
from deploy.logs import configure_logs
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import Settings, load_settings
from gateway.worker.main import WorkerSettings, run_worker


def worker() -> None:
    """Settle doses whose time is over, assess HRV nights, send commands and rosters. Any number of workers may run."""
    settings = load_settings(Settings)
    configure_logs(settings.log_level)
    refuse_moved_clock(settings.database_url)
    asyncio.run(
        run_worker(
            WorkerSettings(
                database_url=settings.database_url,
                broker=broker_address(settings),
                contact_grace_ms=round(settings.contact_grace_seconds * 1_000),
                retrospective_after_ms=round(settings.retrospective_after_minutes * 60_000),
                metrics_port=settings.metrics_port,
            )
        )
    )
