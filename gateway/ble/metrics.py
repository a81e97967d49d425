"""The Prometheus metrics of an edge box."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class BleMetrics:
    """What an operator watches of `vigil ble`. One object per process (or per test)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register every metric."""
        self.registry = registry or CollectorRegistry()
        self.visits = Counter(
            "vigil_ble_visits",
            "Visits to devices, by model and how they ended",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.records = Counter(
            "vigil_ble_records",
            "Stored records of devices that were new to the spool",
            ["model"],
            registry=self.registry,
        )
        self.unreadable = Counter(
            "vigil_ble_unreadable_packets",
            "Packets no decoder takes, handed on with their bytes",
            registry=self.registry,
        )
        self.lost = Counter(
            "vigil_ble_lost_findings", "Live findings that a full spool could not take", registry=self.registry
        )
        self.links = Gauge("vigil_ble_links", "Devices connected now", registry=self.registry)
        self._spooled = Gauge("vigil_ble_spooled_messages", "Messages that wait for a receipt", registry=self.registry)
        self._broker = Gauge("vigil_ble_broker_connected", "1 while the broker is connected", registry=self.registry)
        self.near = Gauge("vigil_ble_devices_near", "Devices heard lately, strangers included", registry=self.registry)

    def watch(self, spooled: Callable[[], int], connected: Callable[[], bool]) -> None:
        """Read these two values whenever the metrics are scraped."""
        self._spooled.set_function(spooled)
        self._broker.set_function(lambda: float(connected()))
