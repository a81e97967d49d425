"""Recorded nights over the wire end with the alerts a plain program expects, in whatever order the readings come."""

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.gateway.clinic import Clinic, Span, expected
from tests.gateway.processes import GatewayProcess, until
from tests.gateway.wire import Outgoing, publish, readings_message
from tests.recordings import RECORDINGS
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import synthetic_nights

IN_A_MESSAGE = 50
FOLDERS = {
    "cgm_shanghai_t1dm": ("Asia/Shanghai", 37),
    "cgm_cgmanalyzer_zhang2018": ("UTC", 12),
    "cgm_cgmanalysis_vigers": ("UTC", 7),
}
SYNTHETIC_START = int(datetime(2026, 3, 20, 9, 0, tzinfo=UTC).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Subject:
    """One wearer: readings in order of time, and the alerts they must end with."""

    name: str
    timezone: str
    readings: list[Reading]
    alerts: list[Span]


def _instant(local: str, timezone: str) -> int:
    return round(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(timezone)).timestamp() * 1000)


def recorded_subjects() -> Iterator[Subject]:
    """Every subject of the three folders; of repeated time stamps the first line counts, as `vigil replay` does."""
    for folder, (timezone, count) in FOLDERS.items():
        readings: dict[str, dict[int, Reading]] = {}
        with gzip.open(RECORDINGS / folder / "cgm_normalised.csv.gz", "rt", newline="") as lines:
            for row in csv.DictReader(lines):
                at = _instant(row["timestamp_local"], timezone)
                readings.setdefault(row["subject"], {}).setdefault(
                    at, Reading(at, float(row["glucose_raw"]), row["unit"])
                )
        alerts: dict[str, list[Span]] = {name: [] for name in readings}
        with (RECORDINGS / folder / "night_alerts_expected.csv").open(newline="") as lines:
            for row in csv.DictReader(lines):
                resolved = _instant(row["resolved_at"], timezone) if row["resolved_at"] else None
                alerts[row["subject"]].append((_instant(row["opened_at"], timezone), resolved))
        assert sum(map(len, alerts.values())) == count
        for name, found in readings.items():
            yield Subject(name, timezone, [found[at] for at in sorted(found)], alerts[name])


def synthetic_subjects() -> Iterator[Subject]:
    """A seeded twin of the recordings for machines without them, across a change to summer time."""
    for seed, (timezone, cadence) in enumerate(
        [("Europe/Berlin", 5), ("Asia/Shanghai", 15), ("America/St_Johns", 5), ("UTC", 3)]
    ):
        readings = synthetic_nights(seed, 12, cadence, SYNTHETIC_START)
        yield Subject(f"twin-{seed}", timezone, readings, [span[:2] for span in expected(readings, timezone)])


def in_order(subjects: Sequence[Subject], rng: np.random.Generator) -> list[Outgoing]:
    return _interleaved([_messages(subject.name, subject.readings) for subject in subjects], rng)


def newest_first(subjects: Sequence[Subject], rng: np.random.Generator) -> list[Outgoing]:
    return _interleaved([_messages(subject.name, subject.readings[::-1]) for subject in subjects], rng)


def shuffled_twice(subjects: Sequence[Subject], rng: np.random.Generator) -> list[Outgoing]:
    queues = []
    for subject in subjects:
        mixed = [subject.readings[row] for row in rng.permutation(len(subject.readings)).tolist()]
        queues.append([message for message in _messages(subject.name, mixed) for _ in range(2)])
    return _interleaved(queues, rng)


Order = Callable[[Sequence[Subject], np.random.Generator], list[Outgoing]]
ORDERS: list[Order] = [in_order, shuffled_twice, newest_first]


def _messages(device: str, readings: Sequence[Reading]) -> list[Outgoing]:
    starts = range(0, len(readings), IN_A_MESSAGE)
    return [readings_message(device, readings[start : start + IN_A_MESSAGE]) for start in starts]


def _interleaved(queues: Sequence[list[Outgoing]], rng: np.random.Generator) -> list[Outgoing]:
    turns = [number for number, queue in enumerate(queues) for _ in queue]
    rng.shuffle(turns)
    iterators = [iter(queue) for queue in queues]
    return [next(iterators[number]) for number in turns]


@pytest.mark.parametrize("order", ORDERS)
async def test_recorded_nights_end_with_exactly_the_expected_alerts(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str, order: Order
) -> None:
    if not RECORDINGS.is_dir():
        pytest.skip("the recordings are not here")
    await _replayed(list(recorded_subjects()), gateway, clinic, mqtt_url, order)


@pytest.mark.parametrize("order", ORDERS)
async def test_synthetic_nights_end_with_exactly_the_alerts_of_the_reference(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str, order: Order
) -> None:
    subjects = list(synthetic_subjects())
    assert sum(len(subject.alerts) for subject in subjects) > 20
    await _replayed(subjects, gateway, clinic, mqtt_url, order)


async def _replayed(
    subjects: list[Subject], gateway: GatewayProcess, clinic: Clinic, mqtt_url: str, order: Order
) -> None:
    patients: dict[str, int] = {}
    for timezone in {subject.timezone for subject in subjects}:
        names = [subject.name for subject in subjects if subject.timezone == timezone]
        patients |= dict(zip(names, await clinic.wearers(names, [timezone]), strict=True))
    messages = order(subjects, np.random.default_rng(20261122))
    await publish(mqtt_url, messages)
    plausible = sum(1.1 <= _mmol(reading) <= 33.3 for subject in subjects for reading in subject.readings)
    await until(lambda: _stored(clinic, plausible), what=f"{plausible} readings are stored")
    found = {subject.name: await clinic.spans(patients[subject.name]) for subject in subjects}
    assert found == {subject.name: subject.alerts for subject in subjects}
    assert {alert.running for alert in await clinic.alerts(withdrawn=True)} <= {False}
    assert {reason for _, reason in await clinic.quarantined()} <= {"out_of_range", "unit_mismatch"}
    assert await clinic.value("select count(*) from conflict") == 0
    assert gateway.running


def _mmol(reading: Reading) -> float:
    if reading.value is None:
        return 5.0
    return reading.value if reading.unit == "mmol/L" else reading.value / 18


async def _stored(clinic: Clinic, rows: int) -> bool:
    return await clinic.stored() >= rows
