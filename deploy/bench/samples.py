"""`samples`: rows a second through the gateway at 60 readings a message, beside a raw binary COPY.

The reference is one COPY of as many rows of the same devices and times, encoded beforehand, into a hypertable of the
same shape with the same unique index; both end with the commit.
"""

from collections.abc import Callable
from statistics import median

import numpy as np

from deploy.bench.clinic import SQL, Clinic
from deploy.bench.report import Line
from deploy.bench.workload import MINUTE_OF_SAMPLES, Plan
from devices.vocabulary import Code, Unit
from gateway.runtime import clock
from gateway.store.binary import observation_rows


def measure(clinic: Clinic, messages: int, runs: int, step: Callable[[], None]) -> Line:
    """Run both sides in turn, `runs` times; return the medians."""
    references, figures = [], []
    for _ in range(runs):
        with clinic.warm_gateway() as program:
            plan, workload = clinic.plan("heart_rate", messages)
            clinic.prepare(plan)
            outcome = clinic.publish()
            device, at_ms = workload.last
            last_ms = at_ms + (MINUTE_OF_SAMPLES - 1) * 1_000
            ended = clinic.wait_for_row("heart_rate", device, last_ms, program)
            figures.append(workload.rows / (ended - outcome.started))
            clinic.check_rows("heart_rate", workload.rows)
        step()
        references.append(workload.rows / _copy_seconds(clinic, plan))
        step()
    more = {"messages": messages, "rows": messages * MINUTE_OF_SAMPLES, "figures": figures, "references": references}
    return Line("samples", median(figures), "rows/s", median(references), more)


def _copy_seconds(clinic: Clinic, plan: Plan) -> float:
    """Return how long the raw COPY of the plan's rows takes, its commit included."""
    data = _rows(clinic, plan)
    connection = clinic.connection
    connection.execute(SQL.drop_reference)
    for statement in (SQL.create_reference, SQL.make_reference_hypertable, SQL.index_reference):
        connection.execute(statement)
    try:
        started = clock.monotonic()
        with connection.cursor() as cursor, cursor.copy(SQL.copy_reference) as copy:
            copy.write(data)
        return clock.monotonic() - started
    finally:
        connection.execute(SQL.drop_reference)


def _rows(clinic: Clinic, plan: Plan) -> bytes:
    """Return the rows of the plan's messages, in their order, as COPY wants them."""
    turn, device = np.divmod(np.arange(plan.messages), plan.devices)
    samples = np.arange(MINUTE_OF_SAMPLES) * 1_000
    at = (plan.first_at_ms + turn[:, None] * MINUTE_OF_SAMPLES * 1_000 + samples).ravel().astype(np.int64)
    keys = np.array(clinic.keys, np.int32)[device].repeat(MINUTE_OF_SAMPLES)
    patients = np.array(clinic.patients, np.int32)[device].repeat(MINUTE_OF_SAMPLES)
    count = len(at)
    return observation_rows(
        at,
        plan.sent_at_ms,
        keys,
        patients,
        np.full(count, Code.HEART_RATE, np.int16),
        np.full(count, Unit.PER_MIN, np.int16),
        np.zeros(count, np.int16),
        np.tile(62.0 + np.arange(MINUTE_OF_SAMPLES) % 17, plan.messages),
    )
