"""The lines of `vigil bench detect`: time and memory of the rules about readings, and how quickly they start.

`glucose_step`: batches of one reading of every patient through the watch of glucose, its folds and its commit, without
the database; a second such run has every rule on. The reference is a plain numpy pass over the same arrays: which
readings are below the limit, and the newest time of each patient. `memory`: what Python and numpy hold for all patients
after hours of readings with every rule on and limits for heart rate, against 4 KiB a patient. `hydrate`: a gateway that
starts with every rule on folds the last hours of all patients from the store; the reference only reads and sorts the
same rows.
"""

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from deploy.bench.errors import BenchError
from deploy.bench.report import Line
from devices.vocabulary import Code, DeviceModel, Unit
from gateway.clinic.directory import Directory, load_directory
from gateway.clinic.provisioning import NewDevice, NewPatient, Provisioning
from gateway.ingest.readings import copy_observations
from gateway.rules.readings.one_code import ReadingWatch
from gateway.rules.readings.refold import WatchedPatient
from gateway.rules.readings.warm_up import gather
from gateway.runtime import clock
from gateway.store.connect import connect
from gateway.store.rows import Rows
from streaming.episodes import JSON, Rule
from streaming.glucose.values import NEVER_ALARMED

NAMES: Final = ("glucose_step", "glucose_step_all_rules", "memory", "hydrate")
CADENCE_MS: Final = 5 * 60_000
BATCHES: Final = 144
"""Twelve hours of readings every 5 min."""
BATCHES_ALL_RULES: Final = 24
MEMORY_BATCHES: Final = 36
MEMORY_PATIENTS: Final = 1_000
"""Enough, since every patient needs the same; and tracing makes everything several times slower."""
STORED_BATCHES: Final = 36
MAX_KIB: Final = 4.0
LIMIT_MMOL: Final = 4.0

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Everybody:
    """All patients and devices that are measured, and the rules before and after everything is switched on."""

    patients: NDArray[np.int32]
    devices: NDArray[np.int32]
    plain: Directory
    everything: Directory


async def measure(database_url: str, patients: int, runs: int, step: Callable[[], None]) -> list[Line]:
    """Measure all four lines in an empty database. Raises BenchError if it is not empty."""
    async with await connect(database_url, "vigil bench detect") as connection:
        all_of = await _admit(connection, patients)
        lines = [
            await _step_line(connection, NAMES[0], all_of, all_of.plain, BATCHES, runs, step),
            await _step_line(connection, NAMES[1], all_of, all_of.everything, BATCHES_ALL_RULES, runs, step),
            await _memory_line(connection, all_of),
            await _hydrate_line(connection, all_of, runs, step),
        ]
        step()
        return lines


async def _admit(connection: Connection, patients: int) -> Everybody:
    """Provision patients with a sensor each, half of them where it is night at noon UTC, then switch everything on."""
    provisioning = Provisioning(connection, None, clock.now())
    if await provisioning.list_patients():
        raise BenchError("the database has patients: `vigil bench detect` needs one that nobody uses")
    zones = ("Europe/Berlin", "Pacific/Auckland")
    ids = await provisioning.add_patients([NewPatient(f"patient {n}", zones[n % 2]) for n in range(patients)])
    since = clock.now().replace(year=clock.now().year - 1)
    await provisioning.add_devices([NewDevice(f"detect-{n}", DeviceModel.CGM, one, since) for n, one in enumerate(ids)])
    plain = await load_directory(connection)
    for rule in (Rule.HYPOGLYCAEMIA, Rule.HYPERGLYCAEMIA, Rule.PREDICTED_LOW):
        await provisioning.set_rule(None, rule, {"enabled": True})
    limits: list[JSON] = [{"code": "heart_rate", "low": 40.0, "high": 130.0}]
    await provisioning.set_rule(None, Rule.THRESHOLD, {"enabled": True, "limits": limits})
    everything = await load_directory(connection)
    devices = [plain.keys[f"detect-{n}"] for n in range(patients)]
    return Everybody(np.array(ids, np.int32), np.array(devices, np.int32), plain, everything)


def batches(all_of: Everybody, code: Code, count: int, *, seed: int = 0) -> Iterator[Rows]:
    """Yield batches of one reading of every patient, `CADENCE_MS` apart, in a random order, from now on.

    Glucose wanders around 7.5 mmol/L: about one reading in fifty is below 4. Heart rate stays within its limits.
    """
    rng = np.random.default_rng(seed)
    size = len(all_of.patients)
    level = rng.normal(0.0, 1.0, size)
    begin = clock.now_ms()
    for number in range(count):
        level = 0.97 * level + rng.normal(0.0, 0.243, size)
        order = rng.permutation(size)
        value = np.clip(np.round(7.5 + 1.7 * level, 1), 1.5, 25.0) if code is Code.GLUCOSE else np.round(75 + 8 * level)
        yield Rows(
            message=np.arange(size, dtype=np.int32),
            device=all_of.devices[order],
            patient=all_of.patients[order],
            at=np.full(size, begin + number * CADENCE_MS, np.int64) + rng.integers(0, 60_000, size),
            code=np.full(size, code, np.int16),
            unit=np.full(size, Unit.MMOL_L if code is Code.GLUCOSE else Unit.PER_MIN, np.int16),
            flags=np.zeros(size, np.int16),
            value=value[order],
        )


async def begun(connection: Connection, code: Code, directory: Directory) -> ReadingWatch:
    """Return a watch as a gateway starts it."""
    watch = ReadingWatch(code)
    await watch.hydrate(connection)
    watch.adopt(directory)
    await watch.warm(connection, directory)
    return watch


async def _step_line(
    connection: Connection,
    name: str,
    all_of: Everybody,
    directory: Directory,
    count: int,
    runs: int,
    step: Callable[[], None],
) -> Line:
    """Measure batch by batch, `count` a run, both sides in turn; medians of all batches."""
    figures: list[float] = []
    references: list[float] = []
    found = 0
    for run in range(runs):
        watch = await begun(connection, Code.GLUCOSE, directory)
        newest = np.zeros(int(all_of.patients.max()) + 1, np.int64)
        for rows in batches(all_of, Code.GLUCOSE, count, seed=run):
            await watch.prepare(connection, rows, directory)
            started = clock.monotonic()
            found += len(watch.advance(rows, directory))
            watch.commit()
            between = clock.monotonic()
            plain_pass(rows, newest)
            ended = clock.monotonic()
            figures.append((between - started) / len(rows) * 1e6)
            references.append((ended - between) / len(rows) * 1e6)
        step()
    more = {"patients": len(all_of.patients), "batches": len(figures), "findings": found, "slowest": max(figures)}
    return Line(name, median(figures), "us/reading", median(references), more)


def plain_pass(rows: Rows, newest: NDArray[np.int64]) -> int:
    """Read the same arrays with plain numpy: return how many readings are low; update each patient's newest."""
    low = (rows.value < LIMIT_MMOL) & ((rows.flags & NEVER_ALARMED) == 0) & ~np.isnan(rows.value)
    np.maximum.at(newest, rows.patient, rows.at)
    return int(np.count_nonzero(low))


async def _memory_line(connection: Connection, all_of: Everybody) -> Line:
    """Measure what is held for every patient with every rule on, and with the default rules."""
    held = []
    some = replace(all_of, patients=all_of.patients[:MEMORY_PATIENTS], devices=all_of.devices[:MEMORY_PATIENTS])
    for directory in (all_of.plain, all_of.everything):
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        watches = []
        for code in (Code.GLUCOSE, Code.HEART_RATE):
            watch = await begun(connection, code, directory)
            for rows in batches(some, code, MEMORY_BATCHES):
                await watch.prepare(connection, rows, directory)
                watch.advance(rows, directory)
                watch.commit()
            watches.append(watch)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        held.append((after - before) / len(some.patients) / 1024)
    plain, everything = held
    return Line("memory", everything, "KiB/patient", MAX_KIB, {"default_rules": plain, "patients": len(some.patients)})


async def _hydrate_line(connection: Connection, all_of: Everybody, runs: int, step: Callable[[], None]) -> Line:
    """Store hours of readings, then start as a gateway does; the reference only reads the same rows."""
    now_ms = clock.now_ms()
    for rows in batches(all_of, Code.GLUCOSE, STORED_BATCHES):
        async with connection.transaction():
            await copy_observations(connection, rows, now_ms)
    watched = [WatchedPatient.of(Code.GLUCOSE, patient, all_of.everything) for patient in all_of.patients.tolist()]
    figures, references, count = [], [], 0
    for _ in range(runs):
        watch = ReadingWatch(Code.GLUCOSE)
        started = clock.monotonic()
        await watch.hydrate(connection)
        watch.adopt(all_of.everything)
        count = await watch.warm(connection, all_of.everything)
        between = clock.monotonic()
        read = (await gather(connection, watched)).readings
        ended = clock.monotonic()
        if read != count or not count:
            raise BenchError(f"{count} readings were folded, {read} read")
        figures.append(count / (between - started))
        references.append(count / (ended - between))
        step()
    more = {"patients": len(all_of.patients), "rows": count, "seconds": count / median(figures)}
    return Line("hydrate", median(figures), "rows/s", median(references), more)


def run(database_url: str, patients: int, runs: int, step: Callable[[], None]) -> list[Line]:
    """Measure; see `measure`."""
    return asyncio.run(measure(database_url, patients, runs, step))
