"""Marks open glucose alerts whose data stopped as unknown, and those whose data came back as current."""

from typing import Final

from alerts.reconcile import Action
from gateway.store.alerts import AlertWriter
from gateway.store.queries import load_queries
from streaming.limits.detectors import GLUCOSE_RULES

SQL = load_queries("gateway.store", "worker.sql")

# Twice the longest cadence of a glucose sensor (15 min): one lost reading is not silence.
DATA_STOPPED_AFTER_MS: Final = 30 * 60_000


async def mark_stopped_data(writer: AlertWriter) -> None:
    """Mark the alerts in the writer's open transaction: silence clears no alarm."""
    values = {"since": writer.now_ms - DATA_STOPPED_AFTER_MS, "rules": [rule.value for rule in GLUCOSE_RULES]}
    changed = await (await writer.connection.execute(SQL.silent, values)).fetchall()
    for action, wanted in ((Action.DATA_UNKNOWN, True), (Action.DATA_CURRENT, False)):
        ids = [alert_id for alert_id, stopped in changed if stopped is wanted]
        if ids:
            await writer.set_data(ids, action)
