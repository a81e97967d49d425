"""Provisioning against a real database and a real broker: who, what, from when to when, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import aiomqtt
import psycopg
import pytest

from devices.vocabulary import Code, DeviceModel
from gateway.clinic.broker_accounts import BrokerAccountError, BrokerAccounts
from gateway.clinic.directory import load_directory
from gateway.clinic.passwords import verify_password
from gateway.clinic.provisioning import (
    AccountMismatch,
    AlreadyExistsError,
    InvalidValueError,
    NewDevice,
    NewPatient,
    NotFoundError,
    Provisioning,
    WornByAnotherError,
)
from gateway.runtime.broker_address import parse_url

NOW = datetime(2026, 11, 2, 20, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
AGREED = AccountMismatch([], [], [], [])

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def provisioning(connection: Connection) -> Provisioning:
    return Provisioning(connection, None, NOW)


@pytest.fixture
async def accounts(mqtt_url: str) -> AsyncIterator[BrokerAccounts]:
    async with BrokerAccounts.connect(mqtt_url) as accounts:
        await accounts.ensure_device_role()
        yield accounts


@pytest.fixture
def with_broker(connection: Connection, accounts: BrokerAccounts) -> Provisioning:
    return Provisioning(connection, accounts, NOW)


async def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()


async def may_log_in(mqtt_url: str, device_id: str, secret: str) -> bool:
    address = parse_url(mqtt_url)
    try:
        async with aiomqtt.Client(address.host, address.port, username=device_id, password=secret):
            return True
    except aiomqtt.MqttError:
        return False


# Patients


async def test_a_patient_has_a_zone_and_consent_since_ever(provisioning: Provisioning, connection: Connection) -> None:
    expected = {Code.GLUCOSE: timedelta(minutes=5), Code.HEART_RATE: timedelta(minutes=1)}
    patient = await provisioning.add_patient(
        "Ana", "Asia/Shanghai", hypoglycaemia_risk=True, group="new", expected=expected
    )
    listed = (await provisioning.list_patients())[0]
    assert (listed.id, listed.name, listed.timezone, listed.group) == (patient, "Ana", "Asia/Shanghai", "new")
    assert listed.consent
    assert listed.hypoglycaemia_risk
    assert dict(await rows(connection, "select code, expected_interval from expected_code")) == expected
    await provisioning.add_device("wb-1", "wristband", patient, since=datetime(2010, 1, 1, tzinfo=UTC))
    directory = await load_directory(connection)
    assert directory.wearer_at(directory.keys["wb-1"], 1_300_000_000_000, 1_300_000_000_000) == patient


async def test_many_patients_come_in_their_order(provisioning: Provisioning, connection: Connection) -> None:
    ids = await provisioning.add_patients([NewPatient(f"p{i}", "UTC", consent=i % 2 == 0) for i in range(500)])
    stored = await rows(
        connection, "select id, name, exists (select from consent where patient_id = p.id) from patient p"
    )
    assert sorted(stored) == [(i, f"p{n}", n % 2 == 0) for n, i in enumerate(ids)]
    assert await provisioning.add_patient("next", "UTC") > max(ids)
    assert await provisioning.add_patients([]) == []


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "UTC+8", "Asia"])
async def test_a_zone_that_is_none_is_refused(provisioning: Provisioning, zone: str) -> None:
    with pytest.raises(InvalidValueError, match="time zone"):
        await provisioning.add_patient("Ana", zone)
    assert await provisioning.list_patients() == []


@pytest.mark.parametrize(
    ("patient", "word"),
    [
        (NewPatient("", "UTC"), "name"),
        (NewPatient("   ", "UTC"), "name"),
        (NewPatient("x" * 201, "UTC"), "name"),
        (NewPatient("Ana", "UTC", group="odd"), "group"),
        (NewPatient("Ana", "UTC", expected={Code.GLUCOSE: timedelta(0)}), "interval"),
    ],
)
async def test_a_patient_that_cannot_be_is_refused(provisioning: Provisioning, patient: NewPatient, word: str) -> None:
    with pytest.raises(InvalidValueError, match=word):
        await provisioning.add_patients([NewPatient("fine", "UTC"), patient])
    assert await provisioning.list_patients() == []


async def test_a_patient_who_travels_has_several_zones(provisioning: Provisioning, connection: Connection) -> None:
    patient = await provisioning.add_patient("Ana", "Asia/Shanghai")
    await provisioning.set_timezone(patient, "Europe/Berlin", NOW - HOUR)
    await provisioning.set_timezone(patient, "Europe/Paris", NOW + HOUR)
    assert (await provisioning.list_patients())[0].timezone == "Europe/Berlin"
    await provisioning.set_timezone(patient, "Europe/Madrid", NOW - HOUR)
    assert (await provisioning.timezone_of(patient)).key == "Europe/Madrid"
    await provisioning.set_timezone(patient, "Asia/Tokyo", None)
    zones = await rows(connection, "select timezone from patient_timezone order by valid_from")
    assert [zone for (zone,) in zones] == ["Asia/Tokyo", "Europe/Madrid", "Europe/Paris"]
    with pytest.raises(NotFoundError, match="no patient 999"):
        await provisioning.set_timezone(999, "UTC", None)


async def test_consent_is_withdrawn_and_given_again(provisioning: Provisioning, connection: Connection) -> None:
    patient = await provisioning.add_patient("Ana", "UTC")

    async def covered() -> list[bool]:
        query = "select exists (select from consent where valid @> %s::timestamptz)"
        return [(await (await connection.execute(query, [NOW + h * HOUR])).fetchall())[0][0] for h in range(-3, 4)]

    await provisioning.withdraw_consent(patient, NOW)
    assert await covered() == [True, True, True, False, False, False, False]
    with pytest.raises(InvalidValueError, match="no consent"):
        await provisioning.withdraw_consent(patient, NOW + HOUR)
    await provisioning.give_consent(patient, NOW + 2 * HOUR)
    await provisioning.give_consent(patient, NOW + 2 * HOUR)
    assert await covered() == [True, True, True, False, False, True, True]
    await provisioning.give_consent(patient, NOW + HOUR)
    assert await covered() == [True, True, True, False, True, True, True]
    await provisioning.withdraw_consent(patient, NOW - 2 * HOUR)
    assert await covered() == [True, False, False, False, False, False, False]
    assert not (await provisioning.list_patients())[0].consent


async def test_a_time_without_an_offset_is_refused(provisioning: Provisioning) -> None:
    patient = await provisioning.add_patient("Ana", "UTC")
    await provisioning.add_device("wb-1", DeviceModel.WRISTBAND)
    naive = datetime(2026, 11, 2)  # noqa: DTZ001
    for change in (
        provisioning.set_timezone(patient, "UTC", naive),
        provisioning.give_consent(patient, naive),
        provisioning.withdraw_consent(patient, naive),
        provisioning.assign("wb-1", patient, naive),
        provisioning.add_device("wb-2", "cgm", patient, naive),
    ):
        with pytest.raises(InvalidValueError, match="offset"):
            await change


# Devices and accounts


async def test_a_device_gets_a_row_a_wearer_and_an_account(with_broker: Provisioning, mqtt_url: str) -> None:
    patient = await with_broker.add_patient("Ana", "UTC")
    await with_broker.add_device("edge-1", "edge")
    secret = await with_broker.add_device("cgm-1", "cgm", patient, address="aa:bb:cc:dd:ee:0f", via="edge-1")
    device = (await with_broker.list_devices())[0]
    assert (device.id, device.model, device.address, device.via) == ("cgm-1", "cgm", "AA:BB:CC:DD:EE:0F", "edge-1")
    assert device.patient_id == patient
    assert await may_log_in(mqtt_url, "cgm-1", secret)
    assert await with_broker.account_mismatch() == AGREED


async def test_adding_a_device_again_changes_nothing_and_says_what_to_do(
    with_broker: Provisioning, mqtt_url: str
) -> None:
    secret = await with_broker.add_device("wb-1", "wristband")
    with pytest.raises(AlreadyExistsError, match=r"wb-1 already.*rotate"):
        await with_broker.add_devices([NewDevice("wb-0", DeviceModel.CGM), NewDevice("wb-1", DeviceModel.CGM)])
    assert await may_log_in(mqtt_url, "wb-1", secret)
    assert [device.id for device in await with_broker.list_devices()] == ["wb-1"]
    assert await with_broker.account_mismatch() == AGREED


@pytest.mark.parametrize(
    ("device", "error", "word"),
    [
        (NewDevice("a/b", DeviceModel.CGM), InvalidValueError, "device id"),
        (NewDevice("", DeviceModel.CGM), InvalidValueError, "device id"),
        (NewDevice("x", DeviceModel.CGM, via="x"), InvalidValueError, "itself"),
        (NewDevice("x", DeviceModel.CGM, address="AA:BB"), InvalidValueError, "AA:BB:CC:DD:EE:FF"),
        (NewDevice("x", DeviceModel.CGM, via="y"), NotFoundError, "no device y of model edge"),
        (NewDevice("x", DeviceModel.CGM, via="wb-1"), NotFoundError, "no device wb-1 of model edge"),
        (NewDevice("x", DeviceModel.CGM, patient_id=77), NotFoundError, "no patient 77"),
        (NewDevice("x", DeviceModel.CGM, since=NOW), InvalidValueError, "no patient"),
        (NewDevice("ok", DeviceModel.CGM), InvalidValueError, "twice"),
    ],
)
async def test_a_device_that_cannot_be_leaves_no_trace(
    with_broker: Provisioning, device: NewDevice, error: type[Exception], word: str
) -> None:
    await with_broker.add_device("wb-1", "wristband")
    with pytest.raises(error, match=word):
        await with_broker.add_devices([NewDevice("ok", DeviceModel.CGM), device])
    assert [row.id for row in await with_broker.list_devices()] == ["wb-1"]
    assert await with_broker.account_mismatch() == AGREED


async def test_a_model_that_is_none_names_those_that_are(provisioning: Provisioning) -> None:
    with pytest.raises(InvalidValueError, match="wristband, pillbox"):
        await provisioning.add_device("x", "toaster")


async def test_many_devices_come_at_once_with_edges_and_wearers(
    with_broker: Provisioning, connection: Connection
) -> None:
    patients = await with_broker.add_patients([NewPatient(f"p{i}", "UTC") for i in range(300)])
    devices = [NewDevice(f"wb-{i:03}", DeviceModel.CGM, p, NOW - HOUR, via="box") for i, p in enumerate(patients)]
    done: list[int] = []
    secrets = await with_broker.add_devices([*devices, NewDevice("box", DeviceModel.EDGE)], done.append)
    assert len(secrets) == sum(done) == 301
    worn = await rows(
        connection,
        "select d.id, a.patient_id, e.id from device d join device e on e.key = d.via "
        "join assignment a on a.device_key = d.key order by d.id",
    )
    assert worn == [(device.id, device.patient_id, "box") for device in devices]
    assert await with_broker.account_mismatch() == AGREED


async def test_a_store_that_fails_leaves_no_account(
    with_broker: Provisioning, accounts: BrokerAccounts, connection: Connection
) -> None:
    await connection.execute("alter table device add constraint no_more check (id <> 'wb-2') not valid")
    with pytest.raises(psycopg.errors.CheckViolation):
        await with_broker.add_devices([NewDevice("wb-1", DeviceModel.CGM), NewDevice("wb-2", DeviceModel.CGM)])
    assert await accounts.accounts() == []
    assert await with_broker.list_devices() == []


async def test_a_broker_that_fails_leaves_no_device(with_broker: Provisioning, mqtt_url: str) -> None:
    admin = parse_url(mqtt_url).username
    assert admin is not None
    with pytest.raises(BrokerAccountError, match="not a device's"):
        await with_broker.add_devices([NewDevice("wb-1", DeviceModel.CGM), NewDevice(admin, DeviceModel.CGM)])
    assert await with_broker.list_devices() == []
    assert await with_broker.account_mismatch() == AGREED


async def test_an_account_without_a_device_is_seen_and_healed_by_adding_the_device(
    with_broker: Provisioning, accounts: BrokerAccounts, mqtt_url: str
) -> None:
    await accounts.create_device_account("wb-1")
    assert (await with_broker.account_mismatch()).without_device == ["wb-1"]
    assert await may_log_in(mqtt_url, "wb-1", await with_broker.add_device("wb-1", "wristband"))
    assert await with_broker.account_mismatch() == AGREED


async def test_a_device_without_an_account_is_seen_and_healed_by_a_new_secret(
    with_broker: Provisioning, accounts: BrokerAccounts, mqtt_url: str
) -> None:
    await with_broker.add_device("wb-1", "wristband")
    await accounts.delete(["wb-1"])
    assert (await with_broker.account_mismatch()).without_account == ["wb-1"]
    assert await may_log_in(mqtt_url, "wb-1", await with_broker.rotate_secret("wb-1"))
    assert await with_broker.account_mismatch() == AGREED


async def test_two_who_add_the_same_device_do_not_take_its_account_away(
    database_url: str, mqtt_url: str, with_broker: Provisioning
) -> None:
    async def add() -> str | None:
        async with (
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
            BrokerAccounts.connect(mqtt_url) as accounts,
        ):
            try:
                return await Provisioning(connection, accounts, NOW).add_device("wb-1", "wristband")
            except AlreadyExistsError:
                return None

    secrets = [secret for secret in await asyncio.gather(*(add() for _ in range(4))) if secret is not None]
    assert len(secrets) == 1
    assert await may_log_in(mqtt_url, "wb-1", secrets[0])
    assert await with_broker.account_mismatch() == AGREED


async def test_a_disabled_device_is_refused_until_it_is_enabled(
    with_broker: Provisioning, accounts: BrokerAccounts, mqtt_url: str
) -> None:
    secret = await with_broker.add_device("wb-1", "wristband")
    await with_broker.disable_device("wb-1")
    assert (await with_broker.list_devices())[0].disabled_at == NOW
    assert not await may_log_in(mqtt_url, "wb-1", secret)
    with pytest.raises(InvalidValueError, match="disabled"):
        await with_broker.rotate_secret("wb-1")
    await accounts.enable("wb-1")
    assert (await with_broker.account_mismatch()).wrongly_enabled == ["wb-1"]
    await with_broker.enable_device("wb-1")
    assert await may_log_in(mqtt_url, "wb-1", secret)
    await accounts.disable("wb-1")
    assert (await with_broker.account_mismatch()).wrongly_disabled == ["wb-1"]
    for change in (with_broker.disable_device("x"), with_broker.enable_device("x"), with_broker.rotate_secret("x")):
        with pytest.raises(NotFoundError, match="no device x"):
            await change


# Assignments


async def intervals(connection: Connection) -> list[tuple[Any, ...]]:
    return await rows(connection, "select patient_id, lower(valid), upper(valid) from assignment order by lower(valid)")


async def test_a_new_wearer_ends_the_running_assignment(provisioning: Provisioning, connection: Connection) -> None:
    ana, bob = await provisioning.add_patients([NewPatient("Ana", "UTC"), NewPatient("Bob", "UTC")])
    await provisioning.add_device("wb-1", "wristband", ana, since=NOW - HOUR)
    await provisioning.assign("wb-1", ana, NOW)
    assert await intervals(connection) == [(ana, NOW - HOUR, None)]
    await provisioning.assign("wb-1", bob)
    assert await intervals(connection) == [(ana, NOW - HOUR, NOW), (bob, NOW, None)]
    await provisioning.unassign("wb-1", NOW + HOUR)
    assert (await intervals(connection))[1] == (bob, NOW, NOW + HOUR)
    with pytest.raises(InvalidValueError, match="not worn"):
        await provisioning.unassign("wb-1")


async def test_a_device_may_be_lent_for_a_while(provisioning: Provisioning, connection: Connection) -> None:
    ana, bob = await provisioning.add_patients([NewPatient("Ana", "UTC"), NewPatient("Bob", "UTC")])
    await provisioning.add_device("wb-1", "wristband", ana, since=NOW - HOUR)
    await provisioning.assign("wb-1", bob, NOW, NOW + HOUR)
    await provisioning.assign("wb-1", ana, NOW + HOUR)
    assert await intervals(connection) == [(ana, NOW - HOUR, NOW), (bob, NOW, NOW + HOUR), (ana, NOW + HOUR, None)]


@pytest.mark.parametrize(("start", "end"), [(-3, None), (-3, -1), (-2, None), (-2, 1), (-3, 5)])
async def test_an_overlap_is_refused_and_names_the_wearer_and_the_times(
    provisioning: Provisioning, connection: Connection, start: int, end: int | None
) -> None:
    ana, bob = await provisioning.add_patients([NewPatient("Ana", "UTC"), NewPatient("Bob", "UTC")])
    await provisioning.add_device("wb-1", "wristband")
    await provisioning.assign("wb-1", ana, NOW - 2 * HOUR, NOW + 2 * HOUR)
    before = await intervals(connection)
    until = None if end is None else NOW + end * HOUR
    with pytest.raises(
        WornByAnotherError, match=rf"worn by patient {ana} \(Ana\) from .*T18:00:00.* until .*T22:00"
    ) as caught:
        await provisioning.assign("wb-1", bob, NOW + start * HOUR, until)
    assert (caught.value.since, caught.value.until) == (NOW - 2 * HOUR, NOW + 2 * HOUR)
    assert await intervals(connection) == before


async def test_an_assignment_that_cannot_be_is_refused(provisioning: Provisioning) -> None:
    ana = await provisioning.add_patient("Ana", "UTC")
    await provisioning.add_device("wb-1", "wristband")
    with pytest.raises(NotFoundError, match="no device x"):
        await provisioning.assign("x", ana)
    with pytest.raises(NotFoundError, match="no patient 99"):
        await provisioning.assign("wb-1", 99)
    with pytest.raises(InvalidValueError, match="after its beginning"):
        await provisioning.assign("wb-1", ana, NOW, NOW)


# Doses


async def test_a_dose_begins_today_where_the_patient_lives(provisioning: Provisioning) -> None:
    patient = await provisioning.add_patient("Ana", "Asia/Shanghai")  # 04:00 on the next day there
    dose = await provisioning.add_dose(patient, "Metformin", [time(20), time(8)], weekdays=[5, 1], compartment=3)
    await provisioning.add_dose(
        await provisioning.add_patient("Bob", "UTC"),
        "Warfarin",
        [time(9)],
        window_before=0,
        window_after=30,
        valid_from=date(2026, 1, 1),
        valid_until=date(2026, 1, 1),
        critical=True,
    )
    (first,) = await provisioning.list_doses(patient)
    assert (first.id, first.local_times, first.weekdays) == (dose, [time(8), time(20)], [1, 5])
    assert (first.valid_from, first.valid_until, first.compartment) == (date(2026, 11, 3), None, 3)
    assert first.window_before == first.window_after == HOUR
    second = (await provisioning.list_doses())[1]
    assert (second.window_before, second.window_after, second.critical) == (timedelta(0), timedelta(minutes=30), True)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"medication": ""}, "medication"),
        ({"local_times": []}, "times a day"),
        ({"local_times": [time(8), time(8)]}, "once"),
        ({"local_times": [time(8, tzinfo=UTC)]}, "local"),
        ({"weekdays": [0]}, "weekdays"),
        ({"weekdays": []}, "weekdays"),
        ({"compartment": -1}, "compartment"),
        ({"window_after": 721}, "window"),
        ({"window_before": -1}, "window"),
        ({"valid_from": date(2026, 2, 2), "valid_until": date(2026, 2, 1)}, "last day"),
    ],
)
async def test_a_dose_that_cannot_be_is_refused(provisioning: Provisioning, wrong: dict[str, Any], word: str) -> None:
    patient = await provisioning.add_patient("Ana", "UTC")
    with pytest.raises(InvalidValueError, match=word):
        await provisioning.add_dose(**{"patient_id": patient, "medication": "x", "local_times": [time(8)], **wrong})
    assert await provisioning.list_doses() == []


async def test_a_dose_needs_its_patient(provisioning: Provisioning) -> None:
    with pytest.raises(NotFoundError, match="no patient 5"):
        await provisioning.add_dose(5, "x", [time(8)])


# Users


async def test_a_user_has_a_hashed_password_and_patients(provisioning: Provisioning, connection: Connection) -> None:
    ids = await provisioning.add_patients([NewPatient("Ana", "UTC"), NewPatient("Bob", "UTC")])
    user = await provisioning.add_user("Doc@Clinic.example", "doctor", "correct horse battery", ids[:1])
    await provisioning.add_to_care_team("doc@clinic.example", ids)
    (listed,) = await provisioning.list_users()
    assert (listed.id, listed.email, listed.role, listed.patient_ids) == (user, "doc@clinic.example", "doctor", ids)
    password_hash = (await rows(connection, "select password_hash from app_user"))[0][0]
    assert password_hash.startswith("$argon2id$")
    assert verify_password(password_hash, "correct horse battery")
    assert not verify_password(password_hash, "correct horse batter")
    assert not verify_password("damaged", "correct horse battery")
    with pytest.raises(AlreadyExistsError, match=r"doc@clinic\.example"):
        await provisioning.add_user("doc@clinic.EXAMPLE", "nurse", "correct horse battery")
    await provisioning.disable_user("doc@clinic.example")
    assert (await provisioning.list_users())[0].disabled_at == NOW


@pytest.mark.parametrize(
    ("email", "role", "password", "word"),
    [
        ("nobody", "doctor", "correct horse battery", "e-mail"),
        ("a@b", "king", "correct horse battery", "role"),
        ("a@b", "doctor", "eleven char", "at least 12"),
        ("a@b", "doctor", "x" * 1025, "at most"),
    ],
)
async def test_a_user_that_cannot_be_is_refused(
    provisioning: Provisioning, email: str, role: str, password: str, word: str
) -> None:
    with pytest.raises(InvalidValueError, match=word) as caught:
        await provisioning.add_user(email, role, password)
    assert password not in str(caught.value)


async def test_unknown_people_are_named(provisioning: Provisioning) -> None:
    with pytest.raises(NotFoundError, match="no patient 7, 9"):
        await provisioning.add_user("a@b", "doctor", "correct horse battery", [9, 7])
    assert await provisioning.list_users() == []
    with pytest.raises(NotFoundError, match="no user a@b"):
        await provisioning.disable_user("a@b")
    with pytest.raises(NotFoundError, match="no user a@b"):
        await provisioning.add_to_care_team("a@b", [])


# Edge boxes

ADDRESS = "C4:64:E3:0A:11:{:02X}"
UUID_END = "-C36C-495A-93FC-0C247A3E6E5F"


async def test_a_device_is_bound_to_one_edge_box_at_a_time(provisioning: Provisioning) -> None:
    for name, model in (("edge-1", "edge"), ("edge-2", "edge"), ("cgm-1", "cgm"), ("meter", "glucose_meter")):
        await provisioning.add_device(name, model)

    async def bound() -> list[tuple[str | None, str | None]]:
        return [(row.via, row.address) for row in await provisioning.list_devices() if row.model != "edge"]

    assert await provisioning.bind("cgm-1", "edge-1", ADDRESS.format(1).lower()) == ADDRESS.format(1)
    await provisioning.bind("cgm-1", "edge-1", ADDRESS.format(2))
    await provisioning.bind("meter", "edge-1", ADDRESS.format(1))
    await provisioning.bind("cgm-1", "edge-2", ADDRESS.format(1))
    assert await bound() == [("edge-2", ADDRESS.format(1)), ("edge-1", ADDRESS.format(1))]
    await provisioning.unbind("meter")
    assert await bound() == [("edge-2", ADDRESS.format(1)), (None, ADDRESS.format(1))]
    with pytest.raises(InvalidValueError, match="no edge box reads device meter"):
        await provisioning.unbind("meter")


@pytest.mark.parametrize(
    ("device", "via", "address", "error", "word"),
    [
        ("cgm-1", "edge-1", "", InvalidValueError, "AA:BB:CC:DD:EE:FF"),
        ("cgm-1", "meter", ADDRESS.format(9), NotFoundError, "no device meter of model edge"),
        ("cgm-1", "nobody", ADDRESS.format(9), NotFoundError, "no device nobody of model edge"),
        ("edge-1", "edge-1", ADDRESS.format(9), InvalidValueError, "edge-1 is an edge box"),
        ("nobody", "edge-1", ADDRESS.format(9), NotFoundError, "no device nobody"),
        ("cgm-1", "edge-1", ADDRESS.format(1), AlreadyExistsError, "same address"),
    ],
)
async def test_a_binding_that_cannot_be_is_refused(
    provisioning: Provisioning, device: str, via: str, address: str, error: type[Exception], word: str
) -> None:
    await provisioning.add_devices(
        [
            NewDevice("cgm-1", DeviceModel.CGM),
            NewDevice("edge-1", DeviceModel.EDGE),
            NewDevice("meter", DeviceModel.GLUCOSE_METER, address=ADDRESS.format(1), via="edge-1"),
        ]
    )
    before = await provisioning.list_devices()
    with pytest.raises(error, match=word):
        await provisioning.bind(device, via, address)
    assert await provisioning.list_devices() == before


async def test_two_new_devices_cannot_share_an_address_or_overfill_an_edge_box(with_broker: Provisioning) -> None:
    await with_broker.add_device("edge-1", "edge")
    twins = [NewDevice(name, DeviceModel.CGM, address=ADDRESS.format(1), via="edge-1") for name in ("one", "two")]
    with pytest.raises(AlreadyExistsError, match="same address"):
        await with_broker.add_devices(twins)
    many = [NewDevice(f"m{i}", DeviceModel.CGM, address=f"{i:08X}{UUID_END}", via="edge-1") for i in range(257)]
    with pytest.raises(InvalidValueError, match="at most 256"):
        await with_broker.add_devices(many)
    assert [row.id for row in await with_broker.list_devices()] == ["edge-1"]
    assert await with_broker.account_mismatch() == AGREED
