"""The benchmarks of `vigil bench ingest`, one after the other in one clinic."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from deploy.bench import ingest, latency, samples
from deploy.bench.clinic import Servers, open_clinic
from deploy.bench.errors import BenchError
from deploy.bench.ingest import GROUPS
from deploy.bench.report import Line

NAMES: Final = ("ingest", "samples", "visible", "alert_latency")
FASTEST: Final = 100_000.0
"""Messages a second that no run will reach; event time is reserved for a tenth of it."""
STEPS_A_RUN: Final = 2
LONGEST_MS: Final = 2 * 3_600_000
"""Event time of readings: what is low at night has to stay within the night."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    runs: int = 5
    messages: int = 100_000
    devices: int = 1_000
    sample_messages: int = 5_000
    visible_messages: int = 400
    alert_seconds: float = 10.0

    @property
    def steps(self) -> int:
        """How often the suite reports progress."""
        return len(NAMES) * STEPS_A_RUN * self.runs


def run_suite(servers: Servers, size: Size, step: Callable[[], None]) -> Iterator[Line]:
    """Run all benchmarks; yield each line as soon as it is known. Raises BenchError."""
    if size.devices < GROUPS * size.runs:
        raise BenchError(f"{size.runs} runs need at least {GROUPS * size.runs} devices")
    steps = _steps(size)
    if steps["glucose"] * 1_000 > LONGEST_MS:
        raise BenchError("so many messages of so few devices take more than two hours of event time")
    with open_clinic(servers, size.devices, steps) as clinic:
        line = ingest.measure(clinic, size.messages, size.runs, step)
        yield line
        yield samples.measure(clinic, size.sample_messages, size.runs, step)
        yield latency.visible(clinic, size.visible_messages, size.runs, step)
        yield latency.alert_latency(clinic, line.figure / 10, size.alert_seconds, size.runs, step)


def _steps(size: Size) -> dict[str, int]:
    """Return the maximum number of steps of event time for each code."""

    def rounds(messages: int) -> int:
        return -(-messages // size.devices)

    warm = len(NAMES)
    loaded = round(FASTEST / 10 * size.alert_seconds)
    glucose = warm + rounds(size.messages) + rounds(size.visible_messages) + rounds(loaded)
    return {"glucose": glucose * size.runs, "heart_rate": rounds(size.sample_messages) * size.runs}
