"""`visible` and `alert_latency`: how long until a reading is seen, beside a bare round trip through the broker.

The bare round trip is publish → own subscription on one connection, 200 times a second, with nothing else going on.

`visible`: 200 messages a second; from each publish until another connection finds its row, asking for one row after the
other every 0.2 ms (PostgreSQL's own pg_sleep counts in whole ms). Beside it `commit`: how long one small row takes to be
committed at the same rate with nothing else going on, which no durable row can be quicker than. `alert_latency`: lows at
night among ordinary readings, at a tenth of the rate that the gateway reached in `ingest`; from each publish until the
alert is read off the API's live stream.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

from deploy.bench.clinic import Clinic
from deploy.bench.ingest import GROUPS, LOWS_EVERY
from deploy.bench.link import Link
from deploy.bench.live_stream import live_stream
from deploy.bench.programs import Program
from deploy.bench.report import Line, percentile
from deploy.bench.workload import Workload

LIGHT_LOAD: Final = 200.0
"""Messages a second."""
BARE_TRIPS: Final = 400
ASK_EVERY_S: Final = 0.000_2
_LOW_GROUP: Final = 2
_MS: Final = 1_000.0


def visible(clinic: Clinic, messages: int, runs: int, step: Callable[[], None]) -> Line:
    """Return publish → row visible at light load in ms: the median over all messages of all runs."""
    waits: list[float] = []
    bare: list[float] = []
    commits: list[float] = []
    for _ in range(runs):
        bare += _bare_round_trips(clinic)
        commits += clinic.bare_commits(BARE_TRIPS, LIGHT_LOAD)
        step()
        with clinic.warm_gateway() as program, ThreadPoolExecutor(1) as watcher:
            plan, workload = clinic.plan("glucose", messages)
            clinic.prepare(plan, rate=LIGHT_LOAD)
            watching = watcher.submit(_watch, clinic, workload, program)
            outcome = clinic.publish()
            waits += [seen - left for seen, left in zip(watching.result(), outcome.at, strict=True)]
            clinic.check_rows("glucose", workload.rows)
        step()
    return _line("visible", waits, bare, {"messages": len(waits), "rate": LIGHT_LOAD, "commit": median(commits) * _MS})


def alert_latency(clinic: Clinic, rate: float, seconds: float, runs: int, step: Callable[[], None]) -> Line:
    """Return publish → alert on the live stream in ms, at `rate` messages a second for `seconds` a run: p50 of all.

    One message in a thousand is a low, each of a patient who had none before; they are a quarter of all patients.
    """
    messages = max(2, round(rate * seconds))
    fresh = list(range(_LOW_GROUP, len(clinic.keys), GROUPS))
    a_run = max(1, min(len(fresh) // runs, messages // LOWS_EVERY))
    waits: list[float] = []
    bare: list[float] = []
    for run in range(runs):
        bare += _bare_round_trips(clinic)
        step()
        with clinic.warm_gateway() as program, live_stream(clinic) as stream:
            lows = list(_lows(fresh[run * a_run : (run + 1) * a_run], messages, len(clinic.keys)))
            plan, workload = clinic.plan("glucose", messages, lows=lows)
            clinic.prepare(plan, rate=rate)
            outcome = clinic.publish()
            for index in lows:
                patient = str(clinic.patients[index % len(clinic.keys)])
                waits.append(stream.wait_for(patient) - outcome.at[index])
            clinic.wait_for_row("glucose", *workload.last, program)
            clinic.check_rows("glucose", workload.rows)
        step()
    return _line("alert_latency", waits, bare, {"alerts": len(waits), "rate": rate})


def _lows(devices: list[int], messages: int, in_turn: int) -> Iterator[int]:
    """Yield an index of a message for each of these devices, spread over all messages."""
    for number, device in enumerate(devices):
        index = number * (messages // len(devices)) // in_turn * in_turn + device
        if index < messages - 1:
            yield index


def _watch(clinic: Clinic, workload: Workload, program: Program) -> list[float]:
    """Return when each row was seen, in the order of the messages."""
    return [
        clinic.wait_for_row("glucose", index % len(clinic.keys), at, program, ASK_EVERY_S)
        for index, at in enumerate(workload.at_ms)
    ]


def _bare_round_trips(clinic: Clinic) -> list[float]:
    with Link(clinic.address, "vigil-bench-echo") as link:
        payload = b"x" * 120
        return link.round_trips(f"{clinic.prefix}/echo", payload, BARE_TRIPS, LIGHT_LOAD)


def _line(name: str, waits: list[float], bare: list[float], more: dict[str, Any]) -> Line:
    tails = {"p99": percentile(waits, 0.99) * _MS, "reference_p99": percentile(bare, 0.99) * _MS}
    return Line(name, median(waits) * _MS, "ms", median(bare) * _MS, {**tails, **more})
