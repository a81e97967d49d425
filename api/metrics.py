"""The API's Prometheus metrics: its own counters, and figures read from the database for the operator."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from api.database import Database, fetch_all
from gateway.store.errors import UNAVAILABLE
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "operations.sql")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HELP = {
    "vigil_alerts_standing": "Alerts that nobody has closed yet.",
    "vigil_quarantine_refused": "Messages and series refused, kept or only counted.",
    "vigil_quarantine_kept": "Messages and series kept in the quarantine.",
    "vigil_conflicts": "Readings that contradict a stored one.",
    "vigil_devices": "Devices by whether they are online, as they last said.",
    "vigil_messages_lost": "Messages that devices no longer held when they were asked to resend.",
    "vigil_outbox_last_id": "The newest entry of the alert stream.",
}


@dataclass(frozen=True, slots=True)
class _Figure:
    name: str
    labels: dict[str, str]
    value: Decimal


class _Readout(Collector):
    """The figures read from the database at one scrape."""

    def __init__(self, figures: Iterable[_Figure]) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}
        for figure in figures:
            names = sorted(figure.labels)
            fresh = GaugeMetricFamily(figure.name, _HELP[figure.name], labels=names)
            family = self._families.setdefault(figure.name, fresh)
            family.add_metric([figure.labels[name] for name in names], float(figure.value))

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


class ApiMetrics:
    """The counters of one API process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "vigil_http_requests", "Requests answered.", ["operation", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "vigil_http_request_seconds",
            "Request to first byte.",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge("vigil_alert_streams", "Open alert streams.", registry=self.registry)
        self.logins = Counter(
            "vigil_logins", "Requests for tokens by how they ended.", ["grant", "result"], registry=self.registry
        )
        self.database_up = Gauge("vigil_database_up", "1 when the database answered.", registry=self.registry)

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one response. The label is the operation's id: clients choose paths freely, without end."""
        operation = getattr(scope.get("route"), "name", "unknown")
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    async def exposition(self, database: Database) -> bytes:
        """Return all metrics in the text format, including the database's figures while it answers."""
        figures: list[_Figure] = []
        try:
            async with database.as_operator() as connection:
                figures = await fetch_all(connection, _Figure, SQL.operator_figures)
            self.database_up.set(1)
        except UNAVAILABLE:
            self.database_up.set(0)
        readout = CollectorRegistry()
        readout.register(_Readout(figures))
        return generate_latest(self.registry) + generate_latest(readout)
