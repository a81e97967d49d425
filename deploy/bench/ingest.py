"""`ingest`: how fast everything is stored and judged, beside a subscriber that only acknowledges.

Both take the same kind of messages from the same broker, in turn. The rate is messages ÷ (first publish → end). The end
is, for the subscriber, when it has written its last acknowledgement; for the gateway, when the last message's row is
committed. One connection delivers in order and batches commit in order, so with the last row all are there; it is
queried by the unique index every 2 ms, which costs the gateway's side up to 2 ms and a little processor time. That no
row and no alert is missing is checked after the clock has stopped. Before it starts, every device has sent one reading,
so that neither side is measured while it meets a thousand new devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from deploy.bench.clinic import SQL, Clinic
from deploy.bench.errors import BenchError
from deploy.bench.link import forget_session
from deploy.bench.null_subscriber import CLIENT_ID, Acknowledged, Task
from deploy.bench.programs import Program, cpu_seconds
from deploy.bench.report import Line
from deploy.bench.workload import LATE, REPEATS, Plan
from gateway.runtime import clock

LOWS_EVERY: Final = 1_000
"""One message in this many is a low: 0.1 %."""
GROUPS: Final = 4
"""Devices by number modulo this: 0 has lows at night, 1 by day, 2 those of `alert_latency`, 3 none."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of either side: messages a second, and processor time a message in µs (None: not known)."""

    rate: float
    cpu_us: float
    postgres_cpu_us: float | None
    broker_cpu_us: float | None


class Ingest:
    """Runs either side in the clinic; expected alerts add up from run to run."""

    def __init__(self, clinic: Clinic, messages: int) -> None:
        self._clinic = clinic
        self._messages = messages
        self._lows = 0
        self._alerted: set[int] = set()

    def reference(self) -> Run:
        """Run the subscriber that only acknowledges."""
        clinic = self._clinic
        address = clinic.address
        forget_session(address, CLIENT_ID)
        with Program.module("deploy.bench.null_subscriber") as program:
            total = len(clinic.keys) + self._messages
            program.tell(Task(clinic.servers.mqtt_url, total, clinic.servers.ca_file))
            clinic.prepare(_throwaway(clinic, len(clinic.keys)), wait=True)
            clinic.publish()
            clinic.prepare(_throwaway(clinic, self._messages))
            meter = Meter(clinic, program)
            outcome = clinic.publish()
            ended = program.hear(Acknowledged).ended
            run = meter.read(self._messages, ended - outcome.started)
        forget_session(address, CLIENT_ID)
        return run

    def gateway(self) -> Run:
        """Run the gateway with everything on; check what it stored and raised."""
        clinic = self._clinic
        with clinic.warm_gateway() as program:
            lows = self._next_lows()
            plan, workload = clinic.plan(
                "glucose", self._messages, late=LATE, repeats=REPEATS, lows=lows, seed=len(self._alerted)
            )
            clinic.prepare(plan)
            meter = Meter(clinic, program)
            outcome = clinic.publish()
            ended = clinic.wait_for_row("glucose", *workload.last, program)
            run = meter.read(self._messages, ended - outcome.started)
            clinic.check_rows("glucose", workload.rows)
            self._alerted |= {index % plan.devices for index in lows if index % plan.devices % GROUPS == 0}
            self._check_alerts()
        return run

    def _next_lows(self) -> list[int]:
        """Return which messages are low: alternately of a patient who has night and of one who has day."""
        devices, found = len(self._clinic.keys), []
        for turn in range(self._messages // LOWS_EVERY):
            pair, by_day = divmod(self._lows, 2)
            device = GROUPS * pair % (devices - devices % GROUPS) + by_day
            index = turn * LOWS_EVERY // devices * devices + device
            self._lows += 1
            if index < self._messages:
                found.append(index)
        return found

    def _check_alerts(self) -> None:
        patients = self._clinic.patients
        rows = self._clinic.connection.execute(SQL.nocturnal_alerts, {"patients": patients}).fetchall()
        raised, expected = {int(patient) for (patient,) in rows}, {patients[device] for device in self._alerted}
        if raised != expected:
            raise BenchError(f"{len(expected)} patients should have an alert, {len(raised)} have")


def _throwaway(clinic: Clinic, messages: int) -> Plan:
    """Return messages of the same kind that nobody stores: they use up no event time and no `seq`."""
    begin = clinic.clocks["glucose"]
    return Plan(
        clinic.prefix, "glucose", messages, begin, clock.now_ms(), list(clinic.next_seq), late=LATE, repeats=REPEATS
    )


class Meter:
    """Processor times since its creation."""

    def __init__(self, clinic: Clinic, program: Program) -> None:
        self._now: Callable[[], tuple[float, float | None, float | None]] = lambda: (
            cpu_seconds(program.pid),
            clinic.postgres_cpu(),
            clinic.broker_cpu(),
        )
        self._before = self._now()

    def read(self, messages: int, elapsed_s: float) -> Run:
        """Return the run that ends now."""
        used = [
            None if before is None or now is None else (now - before) / messages * 1e6
            for before, now in zip(self._before, self._now(), strict=True)
        ]
        return Run(messages / elapsed_s, used[0] or 0.0, used[1], used[2])


def measure(clinic: Clinic, messages: int, runs: int, step: Callable[[], None]) -> Line:
    """Run both sides in turn, `runs` times; return the medians."""
    ingest = Ingest(clinic, messages)
    references, figures = [], []
    for _ in range(runs):
        references.append(ingest.reference())
        step()
        figures.append(ingest.gateway())
        step()
    more: dict[str, object] = {
        "gateway_cpu_us": median(run.cpu_us for run in figures),
        "subscriber_cpu_us": median(run.cpu_us for run in references),
    }
    if all(run.postgres_cpu_us is not None for run in figures):
        more["postgres_cpu_us"] = median(run.postgres_cpu_us or 0.0 for run in figures)
        more["broker_cpu_us"] = median(run.broker_cpu_us or 0.0 for run in figures)
    more |= {
        "messages": messages,
        "devices": len(clinic.keys),
        "figures": [run.rate for run in figures],
        "references": [run.rate for run in references],
    }
    return Line("ingest", median(run.rate for run in figures), "msg/s", median(run.rate for run in references), more)
