"""The gateway's and the worker's Prometheus metrics, and the small HTTP server that shows them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
BATCH_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 8192)


class GatewayMetrics:
    """What an operator watches of the ingest process. One object per process (or per test)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register every metric."""
        self.registry = registry or CollectorRegistry()
        self.messages = Counter("vigil_messages", "Messages committed and acknowledged", registry=self.registry)
        self.readings = Counter("vigil_readings", "Readings by what became of them", ["result"], registry=self.registry)
        self.quarantined = Counter(
            "vigil_quarantined", "Messages or series refused, by reason", ["reason"], registry=self.registry
        )
        self.lost = Counter(
            "vigil_lost_messages", "Messages that devices numbered and never delivered", registry=self.registry
        )
        self.alert_latency = Histogram(
            "vigil_alert_latency_seconds",
            "From the arrival of a message to the commit of the alert it raised",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.commit = Histogram(
            "vigil_commit_seconds",
            "From taking a batch to its commit",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "vigil_batch_messages", "Messages in a batch", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.connected = Gauge("vigil_broker_connected", "1 while the broker is connected", registry=self.registry)
        self.database_up = Gauge("vigil_database_up", "1 while the database answers", registry=self.registry)
        self.retries = Counter(
            "vigil_batch_retries", "Batches done again after a failure, by cause", ["cause"], registry=self.registry
        )


class WorkerMetrics:
    """What an operator watches of a worker."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register every metric."""
        self.registry = registry or CollectorRegistry()
        self.steps = Counter("vigil_worker_steps", "Steps done, by duty", ["duty"], registry=self.registry)
        self.failures = Counter("vigil_worker_failures", "Steps that failed, by duty", ["duty"], registry=self.registry)
        self.alerts = Counter("vigil_worker_alerts", "Alerts raised by deadlines", registry=self.registry)
