"""Every rule about readings through the gateway: any order, any batches, restarts, settings that change; as one fold of all."""

from collections.abc import Sequence

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from devices.vocabulary import Code, DeviceModel
from gateway.clinic.directory import load_directory
from gateway.clinic.provisioning import NewDevice, NewPatient
from streaming.limits.detectors import rules_about
from streaming.limits.patient_fold import fold_patient
from streaming.silence.rest import rest_of
from tests.gateway.clinic import EVER, NOW_MS, Clinic
from tests.gateway.harness import settle_all
from tests.gateway.test_any_order import random_batches
from tests.streaming.nocturnal_reference import Reading
from tests.streaming.series import MINUTE_MS, NIGHTS, ZONES, glucose_series

PATIENTS = 30
HOUR_MS = 60 * MINUTE_MS
Found = tuple[str, str, int, int | None, str]


def wandering(rng: np.random.Generator) -> list[Reading]:
    """One patient's readings in order: glucose that wanders between low and high, gaps, LO and HI, flags."""
    cadence = int(rng.choice([1, 3, 5, 15])) * MINUTE_MS
    at = int(rng.choice(NIGHTS)) - int(rng.integers(0, 4)) * HOUR_MS
    mg, level, found = bool(rng.integers(2)), float(rng.uniform(3.2, 9.0)), []
    for _ in range(int(rng.integers(40, 140))):
        level += float(rng.normal(0, 0.5)) + (0.4 if level < 3 else -0.5 if level > 16 else 0.0)
        flags = ("below_range",) if level < 2.2 else ("above_range",) if level > 18 else ()
        flags = ("artifact",) if rng.random() < 0.02 else flags
        value = None if flags and rng.random() < 0.5 else round(max(level, 1.2) * (18 if mg else 1), 0 if mg else 1)
        found.append(Reading(at, value, "mg/dL" if mg else "mmol/L", flags))
        at += cadence * int(rng.choice([1] * 30 + [3, 12])) + int(rng.choice([0, 0, 1]))
    return found


async def admitted(clinic: Clinic, devices: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Patients of all groups, some with settings of their own that change while readings come, some who rest for hours."""
    groups = ("stable", "new", "fluctuating")
    people = [
        NewPatient(device, ZONES[n % len(ZONES)], group=groups[n % len(groups)]) for n, device in enumerate(devices)
    ]
    ids = await clinic.provisioning.add_patients(people)
    await clinic.provisioning.add_devices(
        [NewDevice(device, DeviceModel.CGM, patient, EVER) for device, patient in zip(devices, ids, strict=True)]
    )
    for patient in ids[::2]:
        at = int(rng.choice(NIGHTS)) + int(rng.integers(0, 10)) * HOUR_MS
        await clinic.connection.execute(
            "insert into pause (patient_id, valid, reason, recorded_at)"
            " values (%s, tstzrange(from_ms(%s), from_ms(%s)), 'hospital', from_ms(%s))",
            (patient, at, at + 3 * HOUR_MS, at),
        )
    for patient in ids[::3]:
        for rule, changes in (
            ("nocturnal_hypoglycaemia", {"limit_mmol": float(rng.choice([3.5, 4.5])), "recovery_minutes": 30}),
            ("hyperglycaemia", {"enabled": True, "limit_mmol": 10.0}),
            ("urgent_low", {"enabled": bool(rng.integers(2))}),
        ):
            at = int(rng.choice(NIGHTS)) + int(rng.integers(0, 8)) * HOUR_MS
            await clinic.connection.execute(
                "insert into rule_setting (patient_id, rule, changes, valid_from) values (%s, %s, %s, from_ms(%s))",
                (patient, rule, Jsonb(changes), at),
            )
    return ids


async def in_the_store(clinic: Clinic, patient: int) -> list[Found]:
    return await clinic.rows(
        "select rule, subject, to_ms(opened_at), to_ms(resolved_at), severity from alert"
        " where patient_id = %s and state <> 'withdrawn' and rule = any(%s) order by 1, 2, 3",
        patient,
        [rule.value for rule in rules_about(Code.GLUCOSE)],
    )


async def check(clinic: Clinic, patients: dict[str, list[Reading]], ids: list[int]) -> set[str]:
    """Compare every patient's alerts with one fold over all readings; return the rules that found something.

    What is open after them is over where the patient rests, or the rule is off, since.
    """
    directory = await load_directory(clinic.connection)
    rules: set[str] = set()
    for patient, readings in zip(ids, patients.values(), strict=True):
        series = glucose_series(readings)
        zone, history = directory.zone(patient), directory.rules_of(patient)
        state, found = fold_patient(Code.GLUCOSE, None, series, zone, history)
        standing = {(*one.key, one.episode.opened_at): one.episode for one in found}
        for one in state.open_episodes() if state is not None else ():
            standing[*one.key, one.episode.opened_at] = one.episode
        rested = {one: rest_of(one[0], one[1], history, one[2], NOW_MS) for one in standing}
        wanted = sorted(
            (
                rule.value,
                subject,
                opened_at,
                episode.resolved_at or rested.get((rule, subject, opened_at)),
                episode.severity.value,
            )
            for (rule, subject, opened_at), episode in standing.items()
        )
        assert await in_the_store(clinic, patient) == wanted
        rules |= {rule for rule, *_ in wanted}
    return rules


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 40))])
async def test_the_store_equals_one_fold_of_all_readings(seed: int, clinic: Clinic, database_url: str) -> None:
    rng = np.random.default_rng(seed)
    patients = {f"cgm-{seed}-{number}": wandering(rng) for number in range(PATIENTS)}
    ids = await admitted(clinic, list(patients), rng)
    batches = random_batches(patients, rng)
    cuts = sorted(rng.integers(0, len(batches), 3).tolist())
    for start, end in zip([0, *cuts], [*cuts, len(batches)], strict=True):
        await settle_all(database_url, batches[start:end])
    found = await check(clinic, patients, ids)
    assert {rule.value for rule in rules_about(Code.GLUCOSE)} - {"hyperglycaemia"} <= found
    told = await clinic.value("select count(*) from outbox")
    await settle_all(database_url, batches[::-1])
    await check(clinic, patients, ids)
    assert await clinic.value("select count(*) from outbox") == told, "nothing is told twice"
