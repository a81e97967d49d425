"""The rules of patients as the store has them: layers, history, what no longer means anything."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from devices.instants import DISTANT_PAST_MS
from gateway.clinic.directory import load_directory
from gateway.clinic.patient_rules import Layers, StoredChange, all_rules, pauses_of, rules_of
from gateway.clinic.provisioning import NewPatient, Provisioning
from gateway.runtime import clock
from streaming.episodes import JSON, Rule
from streaming.rules.history import RulesHistory
from streaming.rules.presets import PatientGroup, preset

NOW = datetime(2026, 11, 2, 20, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


async def people(connection: Connection, *groups: str) -> list[int]:
    patients = [NewPatient(f"a {group} one", "UTC", group=group) for group in groups]
    return await Provisioning(connection, None, NOW).add_patients(patients)


async def store(connection: Connection, patient: int | None, rule: str, at: datetime, changes: dict[str, JSON]) -> None:
    await connection.execute(
        "insert into rule_setting (patient_id, rule, changes, valid_from) values (%s, %s, %s, %s)",
        (patient, rule, Jsonb(changes), at),
    )


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def limits(history: RulesHistory, rule: Rule, times: Sequence[datetime]) -> list[float | None]:
    """The rule's limit at these times; None where the rule is off."""
    return [getattr(history.at(ms(at)).of(rule), "limit_mmol", None) for at in times]


async def test_the_patients_own_settings_lie_on_the_clinics_and_those_on_the_groups(connection: Connection) -> None:
    (ana,) = await people(connection, "fluctuating")
    await store(connection, None, "urgent_low", NOW, {"limit_mmol": 3.3})
    await store(connection, ana, "urgent_low", NOW + HOUR, {"limit_mmol": 3.5})
    await store(connection, ana, "urgent_low", NOW + 2 * HOUR, {})
    await store(connection, None, "urgent_low", NOW + 3 * HOUR, {"enabled": False})
    history = await rules_of(connection, ana)
    times = [NOW - HOUR, NOW, NOW + HOUR, NOW + 2 * HOUR, NOW + 3 * HOUR]
    assert limits(history, Rule.URGENT_LOW, times) == [3.1, 3.3, 3.5, 3.3, None]
    assert limits(history, Rule.HYPOGLYCAEMIA, times) == [3.9] * 5


async def test_a_rule_that_is_off_keeps_what_the_clinic_says_of_it(connection: Connection) -> None:
    (ana,) = await people(connection, "stable")
    await store(connection, None, "hyperglycaemia", NOW, {"limit_mmol": 16.0})
    await store(connection, ana, "hyperglycaemia", NOW + HOUR, {"enabled": True})
    history = await rules_of(connection, ana)
    assert limits(history, Rule.HYPERGLYCAEMIA, [NOW, NOW + HOUR]) == [None, 16.0]


async def test_groups_and_pauses_have_their_times(connection: Connection) -> None:
    (ana,) = await people(connection, "stable")
    await connection.execute(
        "insert into patient_group_history (patient_id, valid_from, patient_group) values (%s, %s, 'new')", (ana, NOW)
    )
    await connection.execute(
        "insert into pause (patient_id, valid, reason, recorded_at) values (%s, tstzrange(%s, %s), 'holiday', %s)",
        (ana, NOW + HOUR, NOW + 2 * HOUR, NOW),
    )
    history = await rules_of(connection, ana)
    times = [NOW - HOUR, NOW, NOW + HOUR, NOW + 2 * HOUR]
    assert limits(history, Rule.HYPOGLYCAEMIA, times) == [None, 3.9, None, 3.9]
    assert [history.at(ms(at)).resting for at in times] == [False, False, True, False]
    assert [(one.start, one.end) for one in await pauses_of(connection, ana)] == [(ms(times[2]), ms(times[3]))]


async def test_a_bad_setting_is_left_out_and_the_others_hold(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ana, ben = await people(connection, "stable", "stable")
    await store(connection, None, "urgent_low", NOW, {"limit_mmol": "low"})
    await store(connection, None, "nocturnal_hypoglycaemia", NOW, {"limit_mmol": 4.5})
    await store(connection, ana, "sleepiness", NOW, {"enabled": True})
    await store(connection, ana, "low_adherence", NOW, {"misses": 3})
    await store(connection, ana, "urgent_low", NOW, {"limit": 3.3})
    await store(connection, ana, "urgent_low", NOW + HOUR, {"limit_mmol": 3.4})
    found = await all_rules(connection)
    assert {one: limits(found[one], Rule.URGENT_LOW, [NOW, NOW + HOUR]) for one in (ana, ben)} == {
        ana: [3.1, 3.4],
        ben: [3.1, 3.1],
    }
    assert limits(found[ben], Rule.NOCTURNAL_HYPOGLYCAEMIA, [NOW]) == [4.5]
    assert found[ana] == await rules_of(connection, ana)
    assert {record.message for record in caplog.records} == {"a stored setting is left out"}
    # The patient's own urgent low was set anew since: that is nobody's concern.
    reported = {(record.__dict__["patient"], record.__dict__["rule"]) for record in caplog.records}
    assert reported == {(None, "urgent_low"), (ana, "sleepiness"), (ana, "low_adherence")}


async def test_the_directory_has_the_rules_of_those_who_differ(connection: Connection) -> None:
    ana, ben, cleo, dan = await people(connection, "new", "new", "stable", "stable")
    await store(connection, dan, "urgent_low", NOW, {"limit_mmol": 3.3})
    directory = await load_directory(connection)
    assert set(directory.rules) == {ana, ben, dan}
    assert directory.rules_of(ana) is directory.rules_of(ben)
    assert directory.rules_of(ana).at(0) == preset(PatientGroup.NEW)
    assert directory.rules_of(cleo).at(0) == preset(PatientGroup.STABLE)


@pytest.mark.parametrize(
    "change",
    [
        "insert into rule_setting (rule, changes, valid_from) values ('urgent_low', '{}', '2026-11-02T20:00Z')",
        "insert into patient_group_history select id, '2026-11-02T20:00Z', 'new' from patient",
        "insert into pause overriding system value select 1, id, '[2026-11-02T20:00Z,2026-11-03T20:00Z)', 'holiday', '2026-11-02' from patient",
    ],
)
async def test_every_change_is_a_new_directory(connection: Connection, change: str) -> None:
    await people(connection, "stable")
    before = (await load_directory(connection)).version
    await connection.execute(change.encode())
    assert (await load_directory(connection)).version > before


async def test_ten_thousand_patients_are_read_in_no_time(connection: Connection) -> None:
    groups = ("new", "fluctuating", "stable")
    ids = await people(connection, *(groups[i % 3] for i in range(10_000)))
    await store(connection, None, "urgent_low", NOW, {"limit_mmol": 3.3})
    for patient in ids[:20]:
        await store(connection, patient, "urgent_low", NOW + HOUR, {"limit_mmol": 3.5})
    started = clock.monotonic()
    found = await all_rules(connection)
    assert clock.monotonic() - started < 2  # some tens of ms; a noisy machine has its share
    assert len(found) == len(ids)
    assert len({id(history) for history in found.values()}) == 6


@pytest.mark.parametrize("bad", [(), (7, 8, 500)])
def test_a_patient_whose_settings_changed_often_is_looked_at_in_no_time(bad: Sequence[int]) -> None:
    """Whoever may set a rule could otherwise have everybody wait who looks at the patient."""
    changes = [{"limit": 3} if number in bad else {"limit_mmol": 3 + number % 20 / 20} for number in range(800)]
    own = tuple(
        StoredChange(number, 1, "urgent_low", json.dumps(change), ms(NOW) + number)
        for number, change in enumerate(changes)
    )
    started = clock.monotonic()
    found, refused = Layers(((DISTANT_PAST_MS, PatientGroup.STABLE),), (), own).sound()
    assert clock.monotonic() - started < 3  # a tenth of a second; a build of all for each change takes half a minute
    assert [change.id for change, _ in refused] == list(bad)
    assert found.own == tuple(change for change in own if change.id not in bad)


def test_a_change_is_judged_by_what_holds_beside_it() -> None:
    """The urgent limit was taken back before the clinic's came: they never met. Set again, they do."""
    rule = "nocturnal_hypoglycaemia"
    clinic = (StoredChange(1, None, rule, '{"limit_mmol": 3.5}', 3000),)
    own = [
        StoredChange(number, 1, rule, json.dumps(changes), at)
        for number, changes, at in ((2, {"urgent_limit_mmol": 3.8}, 1000), (3, {}, 2000))
    ]
    layers = Layers(((DISTANT_PAST_MS, PatientGroup.STABLE),), clinic, tuple(own))
    assert layers.sound() == (layers, [])
    again = StoredChange(4, 1, rule, '{"urgent_limit_mmol": 3.8}', 4000)
    met = Layers(layers.groups, clinic, (*own, again))
    assert [change.id for change, _ in met.sound()[1]][-1] == 4
