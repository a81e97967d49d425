"""Setting rules, groups and pauses: what holds from when on, who did it, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from devices.vocabulary import Code
from gateway.clinic.directory import load_directory
from gateway.clinic.patient_rules import pauses_of, rules_of
from gateway.clinic.provisioning import AlreadyExistsError, InvalidValueError, NotFoundError, Provisioning, RuleRow
from streaming.episodes import JSON, Rule
from streaming.rules.presets import PatientGroup
from streaming.rules.settings import ThresholdSettings

NOW = datetime(2026, 11, 2, 20, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMIT: dict[str, JSON] = {"code": "heart_rate", "high": 120}

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def provisioning(connection: Connection) -> Provisioning:
    return Provisioning(connection, None, NOW)


@pytest.fixture
async def ana(provisioning: Provisioning) -> int:
    return await provisioning.add_patient("Ana", "UTC")


def later(provisioning: Provisioning, by: timedelta) -> Provisioning:
    return Provisioning(provisioning._connection, None, provisioning._now + by)


async def rule(provisioning: Provisioning, patient: int | None, name: Rule) -> RuleRow:
    return next(row for row in (await provisioning.rules_in_force(patient)).rules if row.rule is name)


async def limit(connection: Connection, patient: int, at: datetime, name: Rule = Rule.URGENT_LOW) -> float | None:
    settings = (await rules_of(connection, patient)).at(round(at.timestamp() * 1000)).of(name)
    return None if settings is None else settings.limit_mmol


async def test_a_setting_holds_from_now_on(provisioning: Provisioning, connection: Connection, ana: int) -> None:
    before = (await load_directory(connection)).version
    await provisioning.set_rule(ana, "urgent_low", {"limit_mmol": 3.5})
    directory = await load_directory(connection)
    assert directory.version > before
    assert directory.rules_of(ana) == await rules_of(connection, ana)
    assert await limit(connection, ana, NOW - timedelta(milliseconds=1)) == 3.1
    assert await limit(connection, ana, NOW) == 3.5


async def test_settings_of_a_layer_add_up_until_they_are_reset(
    provisioning: Provisioning, connection: Connection, ana: int
) -> None:
    await provisioning.set_rule(None, "urgent_low", {"recovery_minutes": 20})
    await provisioning.set_rule(ana, "urgent_low", {"limit_mmol": 3.5}, note="falls fast")
    await later(provisioning, HOUR).set_rule(ana, "urgent_low", {"recovery_minutes": 30})
    found = await rule(provisioning, ana, Rule.URGENT_LOW)
    assert found == RuleRow(Rule.URGENT_LOW, enabled=True, settings={"limit_mmol": 3.5, "recovery_minutes": 30.0}, layer="patient")  # fmt: skip
    await later(provisioning, 2 * HOUR).set_rule(ana, "urgent_low", {}, reset=True)
    found = await rule(provisioning, ana, Rule.URGENT_LOW)
    assert found == RuleRow(Rule.URGENT_LOW, enabled=True, settings={"limit_mmol": 3.1, "recovery_minutes": 20.0}, layer="clinic")  # fmt: skip
    await later(provisioning, 3 * HOUR).set_rule(None, "urgent_low", {}, reset=True)
    assert (await rule(provisioning, ana, Rule.URGENT_LOW)).layer == "default"
    history = (await provisioning.rules_in_force(ana)).history
    assert [(row.layer, row.changes, row.note) for row in history] == [
        ("clinic", {}, None),
        ("patient", {}, None),
        ("patient", {"limit_mmol": 3.5, "recovery_minutes": 30}, None),
        ("patient", {"limit_mmol": 3.5}, "falls fast"),
        ("clinic", {"recovery_minutes": 20}, None),
    ]
    assert [await limit(connection, ana, NOW + hours * HOUR) for hours in range(1, 3)] == [3.5, 3.1]


async def test_of_two_changes_at_one_moment_the_later_one_holds(
    provisioning: Provisioning, connection: Connection, ana: int
) -> None:
    for value in (3.2, 3.3, 3.4):
        await provisioning.set_rule(ana, "urgent_low", {"limit_mmol": value})
    for group in ("new", "fluctuating", "stable", "new"):
        await provisioning.set_group(ana, group)
    assert await limit(connection, ana, NOW + HOUR) == 3.4
    assert (await provisioning.list_patients())[0].group == "new"
    assert (await rules_of(connection, ana)).at(2**60).of(Rule.DATA_SILENCE).days == 1.0  # type: ignore[union-attr]


async def test_what_is_so_already_is_not_written_again(
    provisioning: Provisioning, connection: Connection, ana: int
) -> None:
    await provisioning.set_rule(ana, "urgent_low", {"limit_mmol": 3.5})
    await provisioning.set_group(ana, "new")
    before = (await load_directory(connection)).version
    await provisioning.set_rule(ana, "urgent_low", {"limit_mmol": 3.5})
    await provisioning.set_rule(ana, "hyperglycaemia", {}, reset=True)
    await provisioning.set_group(ana, PatientGroup.NEW)
    assert (await load_directory(connection)).version == before


async def test_limits_switch_their_rule_on_and_none_of_them_off(provisioning: Provisioning, ana: int) -> None:
    assert not (await rule(provisioning, ana, Rule.THRESHOLD)).enabled
    await provisioning.set_rule(ana, Rule.THRESHOLD, {"limits": [LIMIT]})
    found = await rule(provisioning, ana, Rule.THRESHOLD)
    assert found.enabled
    assert found.settings["limits"] == ({**LIMIT, "low": None, "duration_minutes": None, "recovery_minutes": None, "severity": "medium"},)  # fmt: skip
    await provisioning.set_rule(ana, Rule.THRESHOLD, {"enabled": False})
    assert not (await rule(provisioning, ana, Rule.THRESHOLD)).enabled
    await provisioning.set_rule(ana, Rule.THRESHOLD, {"limits": []})
    assert (await rule(provisioning, ana, Rule.THRESHOLD)).settings["limits"] == ()
    assert ThresholdSettings() == ThresholdSettings(())


SENSELESS: list[tuple[str, dict[str, JSON], str]] = [
    ("sleepiness", {}, "rule"),
    ("urgent_low", {"limit": 3.3}, "changes.limit"),
    ("urgent_low", {"limit_mmol": "3.3"}, "changes.limit_mmol"),
    ("urgent_low", {"limit_mmol": True}, "changes.limit_mmol"),
    ("urgent_low", {"limit_mmol": None}, "changes.limit_mmol"),
    ("urgent_low", {"limit_mmol": float("nan")}, "changes.limit_mmol"),
    ("urgent_low", {"limit_mmol": 10**400}, "changes.limit_mmol"),
    ("urgent_low", {"limit_mmol": 12}, "changes.limit_mmol"),
    ("urgent_low", {"enabled": "yes"}, "changes.enabled"),
    ("low_adherence", {"least_doses": 2.5}, "changes.least_doses"),
    ("missed_dose", {"severity": "loud"}, "changes.severity"),
    ("nocturnal_hypoglycaemia", {"recovery_minutes": 10, "limit_mmol": 3.0}, "changes.limit_mmol"),
    ("threshold", {"limits": {"code": "heart_rate"}}, "changes.limits"),
    ("threshold", {"limits": [{"high": 120}]}, "changes.limits"),
    ("threshold", {"limits": [{"code": "glucose", "high": 10}]}, "changes.limits"),
    ("threshold", {"limits": [{"code": "heart_rate", "high": 10**400}]}, "changes.limits"),
    ("threshold", {"limits": [LIMIT, LIMIT]}, "changes.limits"),
]


async def test_a_setting_that_means_nothing_is_refused(provisioning: Provisioning, ana: int) -> None:
    for name, changes, field in SENSELESS:
        for patient in (ana, None):
            with pytest.raises(InvalidValueError) as refused:
                await provisioning.set_rule(patient, name, changes)
            assert refused.value.field == field, (name, changes)
    assert (await provisioning.rules_in_force(ana)).history == []


async def test_the_clinic_cannot_make_a_patients_own_setting_meaningless(
    provisioning: Provisioning, connection: Connection, ana: int
) -> None:
    night = "nocturnal_hypoglycaemia"
    await provisioning.set_rule(ana, night, {"urgent_limit_mmol": 3.8})
    with pytest.raises(InvalidValueError, match=f"patient {ana}'s own"):
        await provisioning.set_rule(None, night, {"limit_mmol": 3.5})
    await provisioning.set_rule(ana, night, {}, reset=True)
    await provisioning.set_rule(None, night, {"limit_mmol": 3.5})
    assert await limit(connection, ana, NOW + HOUR, Rule.NOCTURNAL_HYPOGLYCAEMIA) == 3.5
    with pytest.raises(InvalidValueError, match="urgent"):
        await provisioning.set_rule(ana, night, {"urgent_limit_mmol": 3.8})


async def test_a_setting_that_no_longer_means_anything_can_be_set_anew(
    provisioning: Provisioning, connection: Connection, ana: int, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute(
        "insert into rule_setting (patient_id, rule, changes, valid_from) values (%s, 'urgent_low', %s, %s)",
        (ana, Jsonb({"floor": 3}), NOW - HOUR),
    )
    await load_directory(connection)
    assert [record.message for record in caplog.records] == ["a stored setting is left out"]
    assert (await rule(provisioning, ana, Rule.URGENT_LOW)).layer == "default"
    await provisioning.set_rule(ana, "urgent_low", {}, reset=True)
    caplog.clear()
    await load_directory(connection)
    assert caplog.records == []


async def test_a_pause_is_rest_and_can_be_ended(provisioning: Provisioning, connection: Connection, ana: int) -> None:
    await provisioning.pause(ana, NOW + 48 * HOUR, "in hospital")
    await provisioning.pause(ana, NOW + 96 * HOUR, "holiday", begin=NOW + 72 * HOUR)
    assert (await provisioning.rules_in_force(ana)).paused_until == NOW + 48 * HOUR
    assert all(row.enabled for row in (await provisioning.rules_in_force(ana)).rules if row.rule is Rule.URGENT_LOW)
    with pytest.raises(AlreadyExistsError, match="paused from 2026-11-02T20:00:00"):
        await provisioning.pause(ana, NOW + 2 * HOUR, "again", begin=NOW + HOUR)
    tomorrow = later(provisioning, 24 * HOUR)
    assert (await tomorrow.end_pause(ana)).reason == "in hospital"
    assert [await limit(connection, ana, NOW + hours * HOUR) for hours in (-1, 0, 23, 24, 72, 96)] == [
        3.1,
        None,
        None,
        3.1,
        None,
        3.1,
    ]
    assert (await tomorrow.end_pause(ana)).reason == "holiday"
    kept = (await tomorrow.rules_in_force(ana)).pauses
    assert [(row.begin, row.until, row.ended_at) for row in kept] == [(NOW, NOW + 24 * HOUR, NOW + 24 * HOUR)]
    assert len(await pauses_of(connection, ana)) == 1
    with pytest.raises(NotFoundError, match="not paused"):
        await tomorrow.end_pause(ana)


NO_PAUSES = [
    (-HOUR, HOUR, "x", "from"),
    (HOUR, HOUR, "x", "until"),
    (timedelta(0), -HOUR, "x", "until"),
    (timedelta(0), timedelta(days=367), "x", "until"),
    (timedelta(0), HOUR, "  ", "reason"),
    (timedelta(0), HOUR, "x" * 501, "reason"),
    (timedelta(0), HOUR, "a\0b", "reason"),
    (timedelta(0), HOUR, "a\udc00b", "reason"),
]


async def test_a_pause_that_cannot_be_is_refused(provisioning: Provisioning, ana: int) -> None:
    for begin, until, reason, field in NO_PAUSES:
        with pytest.raises(InvalidValueError) as refused:
            await provisioning.pause(ana, NOW + until, reason, begin=NOW + begin)
        assert refused.value.field == field, (begin, until, reason)
    assert (await provisioning.rules_in_force(ana)).pauses == []


async def test_a_pause_begins_and_ends_in_whole_milliseconds_as_everything_it_is_compared_with(
    connection: Connection, ana: int
) -> None:
    tiny = timedelta(microseconds=700)
    found = await Provisioning(connection, None, NOW + tiny).pause(
        ana, NOW + HOUR + tiny, "in hospital", begin=NOW + tiny
    )
    assert (found.begin, found.until) == (NOW, NOW + HOUR)


async def test_a_pause_moves_doses(provisioning: Provisioning, connection: Connection, ana: int) -> None:
    schedule = "insert into dose_schedule (patient_id, medication, local_times, valid_from, created_at, computed_until)"
    await connection.execute(
        f"{schedule} values (%s, 'Metformin', '{{08:00}}', %s, %s, %s)".encode(), [ana, NOW, NOW, NOW]
    )
    await provisioning.pause(ana, NOW + HOUR, "in hospital")
    row = await (await connection.execute("select version, computed_until from dose_schedule")).fetchone()
    assert row == (2, None)


async def test_nobody_is_nobody(provisioning: Provisioning) -> None:
    for change in (
        provisioning.set_rule(99, "urgent_low", {}),
        provisioning.set_group(99, "new"),
        provisioning.pause(99, NOW + HOUR, "x"),
        provisioning.end_pause(99),
        provisioning.expect(99, {}),
    ):
        with pytest.raises(NotFoundError):
            await change


async def test_what_a_patient_should_send_can_change(
    provisioning: Provisioning, connection: Connection, ana: int
) -> None:
    async def expected() -> dict[int, timedelta]:
        return dict(await (await connection.execute("select code, expected_interval from expected_code")).fetchall())

    await provisioning.expect(ana, {Code.GLUCOSE: timedelta(minutes=15), Code.HEART_RATE: timedelta(minutes=1)})
    await provisioning.expect(ana, {Code.GLUCOSE: timedelta(minutes=5)})
    assert await expected() == {Code.GLUCOSE: timedelta(minutes=5)}
    await provisioning.expect(ana, {})
    assert await expected() == {}
    with pytest.raises(InvalidValueError, match="interval"):
        await provisioning.expect(ana, {Code.GLUCOSE: timedelta(0)})


async def test_a_device_says_what_it_measures_with_and_how_often_it_is_heard(provisioning: Provisioning) -> None:
    await provisioning.add_device("strap", "wristband", modality="ecg", expected_interval=timedelta(minutes=10))
    await provisioning.add_device("band", "wristband")
    found = {row.id: (row.modality, row.expected_interval) for row in await provisioning.list_devices()}
    assert found == {"strap": ("ecg", timedelta(minutes=10)), "band": (None, None)}
    with pytest.raises(InvalidValueError, match="modality"):
        await provisioning.add_device("x", "wristband", modality="sonar")
    with pytest.raises(InvalidValueError, match="interval"):
        await provisioning.add_device("x", "wristband", expected_interval=timedelta(0))


async def test_two_who_set_the_same_rule_at_once_both_have_their_way(
    provisioning: Provisioning, connection: Connection, database_url: str, ana: int
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as another:
        changes: list[tuple[Connection, dict[str, JSON]]] = [
            (connection, {"limit_mmol": 3.5}),
            (another, {"recovery_minutes": 30}),
        ]
        for _ in range(5):
            await provisioning.set_rule(ana, "urgent_low", {}, reset=True)
            await asyncio.gather(
                *(Provisioning(one, None, NOW).set_rule(ana, "urgent_low", change) for one, change in changes)
            )
            found = await rule(provisioning, ana, Rule.URGENT_LOW)
            assert found.settings == {"limit_mmol": 3.5, "recovery_minutes": 30.0}
