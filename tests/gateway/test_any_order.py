"""Any arrival order, any batching, any restarts in between: the alerts are those of the readings in order."""

import numpy as np
import pytest

from tests.gateway.clinic import Clinic, expected
from tests.gateway.harness import messages_of, pipeline, settle_all
from tests.gateway.wire import Outgoing, readings_message
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import MINUTE_MS, NIGHTS, ZONES

PATIENTS = 40
MG = (20.0, 53.0, 54.0, 54.9, 55.0, 56.0, 70.0, 71.9, 72.0, 73.0, 110.0, 200.0)
MMOL = (1.1, 2.9, 3.09, 3.1, 3.5, 3.99, 3.996, 4.0, 4.01, 5.5, 8.0, 12.0)
FLAGS = ((), (), (), (), (), (), (), ("below_range",), ("above_range",), ("warmup",), ("artifact",), ("off_body",))


def random_readings(rng: np.random.Generator) -> list[Reading]:
    """One patient's readings in order: two units, flags, missing numbers, gaps, never twice at one instant."""
    at = int(rng.choice(NIGHTS)) + int(rng.integers(0, 6 * 60)) * MINUTE_MS
    cadence = int(rng.choice([1, 3, 5, 15])) * MINUTE_MS
    low = rng.random() < 0.5
    found = []
    for _ in range(int(rng.integers(5, 90))):
        mg = bool(rng.integers(2))
        if rng.random() < 0.2:
            low = not low
        values = (MG if mg else MMOL)[: 8 if low else 12][(0 if low else 6) :]
        flags = FLAGS[int(rng.integers(len(FLAGS)))]
        numberless = bool(flags) and rng.random() < 0.5
        value = None if numberless else float(rng.choice(values))
        found.append(Reading(at, value, "mg/dL" if mg else "mmol/L", flags))
        at += cadence * int(rng.choice([1, 1, 1, 1, 1, 1, 2, 4])) + int(rng.choice([0, 0, 0, 1]))
    return found


def random_batches(patients: dict[str, list[Reading]], rng: np.random.Generator) -> list[list[Outgoing]]:
    """Messages of 1 to 9 readings, repeats among them, in batches of 1 to 40 messages; `disorder` from none to total."""
    disorder = float(rng.choice([0.0, 5.0, 1e9]))
    messages: list[tuple[float, Outgoing]] = []
    for device, readings in patients.items():
        keyed = sorted((n + float(rng.random()) * disorder, reading) for n, reading in enumerate(readings))
        mixed = [reading for _, reading in keyed]
        row = 0
        while row < len(mixed):
            part = mixed[row : row + int(rng.integers(1, 10))]
            row += len(part)
            place = row / len(mixed)
            times = place + 0.05 * rng.random(1 + (rng.random() < 0.1))
            messages += [(when, readings_message(device, part)) for when in times.tolist()]
    messages.sort(key=lambda keyed: keyed[0])
    batches = []
    while messages:
        size = int(rng.integers(1, 41))
        batches.append([message for _, message in messages[:size]])
        messages = messages[size:]
    return batches


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 60))])
async def test_alerts_equal_the_fold_in_order(seed: int, clinic: Clinic, database_url: str) -> None:
    rng = np.random.default_rng(seed)
    patients = {f"cgm-{seed}-{number}": random_readings(rng) for number in range(PATIENTS)}
    ids = await clinic.wearers(list(patients), ZONES)
    batches = random_batches(patients, rng)
    restart = int(rng.integers(0, len(batches)))
    await settle_all(database_url, batches[:restart])
    await settle_all(database_url, batches[restart:])
    await _check(clinic, patients, ids)
    again = await clinic.value("select count(*) from outbox")
    await settle_all(database_url, batches[::-1])
    await _check(clinic, patients, ids)
    assert await clinic.value("select count(*) from outbox") == again, "nothing is told twice"


async def test_every_step_on_the_way_equals_the_fold_so_far(clinic: Clinic, database_url: str) -> None:
    """Not only in the end: after each batch the alerts are those of what is stored by then."""
    rng = np.random.default_rng(99)
    readings = random_readings(rng) + [
        Reading(r.at + 7 * 24 * 60 * MINUTE_MS, r.value, r.unit, r.flags) for r in random_readings(rng)
    ]
    patient = await clinic.wearer("cgm", "Europe/Berlin")
    readings = [*{reading.at: reading for reading in readings}.values()]
    order = rng.permutation(len(readings)).tolist()
    stored: list[Reading] = []
    async with pipeline(database_url) as running:
        for start in range(0, len(order), 3):
            part = [readings[row] for row in order[start : start + 3]]
            await running.commit(messages_of([readings_message("cgm", part)]))
            stored += part
            found = [(*alert.span, alert.severity) for alert in await clinic.alerts(patient)]
            assert found == expected(sorted(stored, key=lambda reading: reading.at), "Europe/Berlin")


async def _check(clinic: Clinic, patients: dict[str, list[Reading]], ids: list[int]) -> None:
    sent = sum(r.value is not None or bool(r.flags) for readings in patients.values() for r in readings)
    assert await clinic.stored() == sent
    for number, (patient, readings) in enumerate(zip(ids, patients.values(), strict=True)):
        found = [(*alert.span, alert.severity) for alert in await clinic.alerts(patient)]
        assert found == expected(readings, ZONES[number % len(ZONES)])
    assert await clinic.quarantined() == []
