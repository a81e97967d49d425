"""Everything changes while readings come: settings, groups, pauses, zones, gateways, people at work; as one fold of all."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from devices.vocabulary import Code, DeviceModel
from gateway.clinic.directory import load_directory
from gateway.clinic.provisioning import AlreadyExistsError, NewDevice, NotFoundError
from gateway.ingest.source import Message
from gateway.rules.readings.refold import WatchedPatient as Folded
from gateway.rules.readings.refold import page_of
from streaming.episodes import JSON, Rule
from streaming.limits.detectors import GLUCOSE_RULES
from streaming.limits.patient_fold import fold_patient
from streaming.silence.rest import rest_of
from streaming.zones import MINUTE_MS
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import telemetry

START = at("2026-03-28T21:00Z")
STEP_MS = 5 * MINUTE_MS
STEPS = 110
PATIENTS = 8
ZONES = ("UTC", "Europe/Berlin", "Asia/Shanghai", "America/St_Johns")
WATCHED = {Code.GLUCOSE: GLUCOSE_RULES, Code.HEART_RATE: (Rule.THRESHOLD,)}


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START) as ward:
        yield ward


class Sensor:
    """One device that measures glucose and heart rate, keeps both while nobody hears it, and has a clock of its own."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        self.name = name
        self._rng = rng
        self._mg = bool(rng.integers(2))
        self._ahead = int(rng.choice([0, 0, 17, 4 * MINUTE_MS]))
        self._level, self._pulse = float(rng.uniform(3.5, 6.0)), 80.0
        self._away = 0
        self._kept: list[dict[str, Any]] = []

    def message(self, now: int) -> Message | None:
        """Measure, and send what was kept, in any order, unless nobody hears it for a while."""
        rng = self._rng
        self._level = max(1.6, self._level + float(rng.normal(0, 0.5)) + (0.3 if self._level < 3 else -0.1))
        self._pulse += float(rng.normal(0, 8)) + (80 - self._pulse) * 0.1
        when = now + self._ahead
        value = round(self._level * 18) if self._mg else round(self._level, 1)
        self._kept += [
            {"code": "glucose", "unit": "mg/dL" if self._mg else "mmol/L", "at": when, "value": value},
            {
                "code": "heart_rate",
                "unit": "/min",
                "at": when,
                "value": round(self._pulse),
                **({"flags": ["off_body"]} if rng.random() < 0.1 else {}),
            },
        ]
        self._away = max(0, self._away - 1) if self._away else int(rng.integers(2, 15)) * (rng.random() < 0.1)
        if self._away:
            return None
        sent = [self._kept[row] for row in rng.permutation(len(self._kept))]
        kept = [one for one in sent if rng.random() < 0.1]
        self._kept = kept
        message = telemetry(self.name, [one for one in sent if one not in kept])
        return Message(message.topic, message.payload, None, 1)


async def something_is_set(ward: Ward, patient: int, rng: np.random.Generator) -> None:
    """One change through provisioning, at the present of the test."""
    people, now = ward.provisioning, ward.now
    whom = None if rng.random() < 0.2 else patient
    limit: dict[str, JSON] = {
        "code": "heart_rate",
        "high": float(rng.choice([85, 95, 100])),
        "low": 65.0,
        "recovery_minutes": 15,
    }
    match int(rng.integers(9)):
        case 0:
            await people.set_rule(whom, "nocturnal_hypoglycaemia", {"limit_mmol": float(rng.choice([3.5, 4.0, 4.6]))})
        case 1:
            minutes = float(rng.choice([0, 15, 40]))
            await people.set_rule(whom, "nocturnal_hypoglycaemia", {"recovery_minutes": minutes})
        case 2:
            await people.set_rule(whom, "urgent_low", {"enabled": bool(rng.integers(2))})
        case 3:
            await people.set_rule(whom, "threshold", {"limits": [limit] if rng.random() < 0.8 else []})
        case 4:
            await people.set_group(patient, str(rng.choice(["stable", "new", "fluctuating"])))
        case 5:
            begin = now + int(rng.choice([0, 7, 40])) * MINUTE_MS
            until = moment(begin) + timedelta(minutes=int(rng.choice([10, 60])))
            try:
                await people.pause(patient, until, "hospital", begin=moment(begin))
            except AlreadyExistsError:
                await people.end_pause(patient)
        case 6:
            try:
                await people.end_pause(patient)
            except NotFoundError:
                await people.set_rule(patient, "hyperglycaemia", {"enabled": True, "limit_mmol": 7.5})
        case _:
            since = None if rng.random() < 0.2 else moment(now - int(rng.integers(-60, 240)) * MINUTE_MS)
            await people.set_timezone(patient, str(rng.choice(ZONES)), since)


async def somebody_acts(ward: Ward, rng: np.random.Generator) -> None:
    """Resolve, snooze or acknowledge by hand as the API does, or let the worker end what rests."""
    if rng.random() < 0.3:
        await ward.worker.do("rest", ward.connection, ward.now)
    state = str(rng.choice(["resolved", "snoozed", "acknowledged"]))
    await ward.clinic.connection.execute(
        "update alert set state = %s, answered_grade = grade, resolved_at = case when %s = 'resolved' then greatest(opened_at, %s) end"
        " where id = (select min(id) from alert where state = 'open')",
        (state, state, moment(ward.now)),
    )


UNHEARD = """
select id, state, grade, answered_grade, unanswered from alert
where state <> 'withdrawn' and (running and state <> 'open' and grade > coalesce(answered_grade, 0)
    or unanswered <> (not running and grade > coalesce(answered_grade, 0)))
"""
"""Alerts that go on, worse than they were answered, and ask nobody; and those that end without saying so."""


async def check(ward: Ward, ids: list[int]) -> int:
    """Compare every patient's alerts with one fold over what is stored; return how many there are."""
    await ward.worker.do("rest", ward.connection, ward.now)
    assert await ward.clinic.rows(UNHEARD) == []
    directory = await load_directory(ward.clinic.connection)
    count = 0
    for patient in ids:
        wanted = []
        for code in WATCHED:
            folded = Folded.of(code, patient, directory)
            series, complete = await page_of(ward.connection, folded, 0)
            assert complete
            state, found = fold_patient(code, None, series, folded.zone, folded.rules)
            everything = [*found, *(state.open_episodes() if state else ())]
            episodes = {(*one.key, one.episode.opened_at): one.episode for one in everything}
            for (rule, subject, opened_at), one in episodes.items():
                ended = one.resolved_at or rest_of(rule, subject, folded.rules, opened_at, ward.now)
                wanted.append((rule.value, subject, opened_at, ended, one.severity.value))
        alerts = await ward.clinic.rows(
            "select rule, subject, to_ms(opened_at), case when not running then to_ms(resolved_at) end, severity from alert"
            " where patient_id = %s and state <> 'withdrawn' and rule = any(%s)",
            patient,
            [rule.value for rules in WATCHED.values() for rule in rules],
        )
        assert sorted(alerts, key=str) == sorted(wanted, key=str)
        count += len(alerts)
    return count


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 40))])
async def test_the_store_equals_one_fold_whatever_changes(seed: int, ward: Ward) -> None:
    rng = np.random.default_rng(seed)
    ids = await ward.clinic.wearers([f"cgm-{number}" for number in range(PATIENTS)], ZONES)
    await ward.clinic.provisioning.add_devices(
        [NewDevice(f"more-{number}", DeviceModel.CGM, patient, EVER) for number, patient in enumerate(ids[::2])]
    )
    names = [f"cgm-{number}" for number in range(PATIENTS)] + [f"more-{number}" for number in range(len(ids[::2]))]
    sensors = [Sensor(name, rng) for name in names]
    sent: list[Message] = []
    for step in range(STEPS):
        ward.now = START + step * STEP_MS
        if rng.random() < 0.3:
            await something_is_set(ward, int(rng.choice(ids)), rng)
        elif rng.random() < 0.15:
            await somebody_acts(ward, rng)
        elif rng.random() < 0.1:
            await ward.close()
            await ward.open()
        batch = [message for sensor in sensors if (message := sensor.message(ward.now)) is not None]
        for part in (batch[::2], batch[1::2]) if rng.random() < 0.5 else (batch,):
            await ward.hear(*part)
        sent += batch
        if step % 10 == 0:
            await check(ward, ids)
    assert await check(ward, ids) > PATIENTS
    told = await ward.clinic.value("select count(*) from outbox")
    await ward.hear(*sent)
    await check(ward, ids)
    assert await ward.clinic.value("select count(*) from outbox") == told, "nothing is told twice"
    twice = "select alert_id from alert_history where action = 'raised' group by alert_id having count(*) > 1"
    assert await ward.clinic.rows(twice) == []
