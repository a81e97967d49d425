"""`vigil alerts`: the alerts, in the terminal."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.alert_view import Alert
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import DatabaseSettings, load_settings
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "alerts.sql")
_COLOURS = {"urgent": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


class _State(StrEnum):
    """The states of an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    RESOLVED = "resolved"
    WITHDRAWN = "withdrawn"


class _Severity(StrEnum):
    """The severities of an alert."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


def alerts(
    state: Annotated[list[_State] | None, typer.Option(help="Repeatable; all but withdrawn if not given.")] = None,
    severity: Annotated[list[_Severity] | None, typer.Option(help="Repeatable; any if not given.")] = None,
    patient_id: Annotated[int | None, typer.Option("--patient", metavar="ID", help="Only this patient's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many; all if not given.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one Alert a line, as the API shows it.")] = False,
) -> None:
    """Show alerts, the latest raised first."""
    values = {
        "states": _plain(state),
        "severities": _plain(severity),
        "patient": patient_id,
        "limit": limit,
        "after": None,
    }
    found = [Alert.model_validate(row) for row in _rows(values)]
    if as_json:
        for alert in found:
            typer.echo(alert.model_dump_json())
    elif found:
        Console().print(_table(found))
    else:
        typer.echo("no alerts")


def _plain(names: Sequence[StrEnum] | None) -> list[str] | None:
    return [name.value for name in names] if names else None


def _rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    url = load_settings(DatabaseSettings).database_url
    refuse_moved_clock(url)
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(SQL.alerts, values).fetchall()


def _table(alerts: list[Alert]) -> Table:
    table = Table("id", "patient", "severity", "rule", "state", "opened", "resolved", "summary")
    for alert in alerts:
        table.add_row(
            alert.id,
            alert.patient_id,
            f"[{_COLOURS[alert.severity]}]{alert.severity}[/]",
            alert.rule + (" (late data)" if alert.retrospective else ""),
            alert.state + (" (data unknown)" if alert.data == "unknown" else ""),
            alert.opened_at.isoformat(timespec="seconds"),
            "" if alert.resolved_at is None else alert.resolved_at.isoformat(timespec="seconds"),
            Text(alert.summary),
        )
    return table
