"""`vigil patient | device | dose | user`: provisioning from the shell, by the same rules as everywhere."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Any, TypeVar

import psycopg
import typer

from deploy.commands.output import show, tell
from deploy.settings import DatabaseSettings, Settings, load_settings
from devices.vocabulary import CODE_BY_WIRE, Code, DeviceModel
from gateway.broker_accounts import BrokerAccountError, BrokerAccounts
from gateway.provisioning import InvalidValueError, Provisioning, ProvisioningError
from gateway.runtime import clock

_Result = TypeVar("_Result")
_WEEKDAYS = {name: number for number, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), start=1)}


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


patient = _group("Patients: who is watched, in which time zone, with which consent.")
device = _group("Devices, their secrets, and who wears them.")
dose = _group("Schedules of doses.")
user = _group("Users of the API, and the patients they look after.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PatientId = Annotated[int, typer.Option("--patient", metavar="ID", min=1, help="The patient.")]
DeviceId = Annotated[str, typer.Argument(metavar="ID", help="The device.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address.")]
Begin = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="RFC 3339; without an offset, the patient's local time. Now if not given."
    ),
]


@patient.command("add")
def add_patient(
    name: Annotated[str, typer.Option(help="The patient's name.")],
    timezone: Annotated[str, typer.Option(help="The IANA time zone the patient lives by, such as Asia/Shanghai.")],
    group: Annotated[str, typer.Option(help="new, fluctuating or stable.")] = "stable",
    expected: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE=MINUTES", help="What the patient should send, how often: glucose=5. Repeatable."),
    ] = None,
    *,
    hypoglycaemia_risk: Annotated[bool, typer.Option("--hypoglycaemia-risk", help="Watch nights closely.")] = False,
    no_consent: Annotated[bool, typer.Option("--no-consent", help="Refuse data until consent is given.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a patient, with consent since ever unless told otherwise."""

    async def change(provisioning: Provisioning) -> int:
        return await provisioning.add_patient(
            name,
            timezone,
            hypoglycaemia_risk=hypoglycaemia_risk,
            group=group,
            expected=_expected(expected or []),
            consent=not no_consent,
        )

    patient_id = _run(change)
    tell({"id": str(patient_id)}, f"patient {patient_id}: {name}", as_json=as_json)


@patient.command("list")
def list_patients(*, as_json: AsJson = False) -> None:
    """List the patients."""
    rows = _run(lambda provisioning: provisioning.list_patients())
    show([{**asdict(row), "id": str(row.id)} for row in rows], as_json=as_json)


@patient.command("timezone")
def set_timezone(
    patient_id: Annotated[int, typer.Argument(metavar="ID", help="The patient.")],
    timezone: Annotated[str, typer.Argument(metavar="ZONE", help="IANA time zone.")],
    begin: Begin = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Have the patient live by another zone from a time on."""

    async def change(provisioning: Provisioning) -> datetime:
        since = await _instant(provisioning, begin, patient_id)
        await provisioning.set_timezone(patient_id, timezone, since)
        return since

    since = _run(change)
    told = {"id": str(patient_id), "timezone": timezone, "from": since}
    tell(told, f"patient {patient_id} lives by {timezone} from {since.isoformat()}", as_json=as_json)


@patient.command("consent")
def set_consent(
    patient_id: Annotated[int, typer.Argument(metavar="ID", help="The patient.")],
    *,
    give: Annotated[bool, typer.Option("--give/--withdraw", help="Accept, or refuse, data measured from then on.")],
    begin: Begin = None,
    as_json: AsJson = False,
) -> None:
    """Give or withdraw the patient's consent from a time on."""

    async def change(provisioning: Provisioning) -> datetime:
        at = await _instant(provisioning, begin, patient_id)
        await (provisioning.give_consent if give else provisioning.withdraw_consent)(patient_id, at)
        return at

    at = _run(change)
    word = "given" if give else "withdrawn"
    told = {"id": str(patient_id), "consent": give, "from": at}
    tell(told, f"patient {patient_id}: consent {word} from {at.isoformat()}", as_json=as_json)


@device.command("add")
def add_device(
    device_id: Annotated[str, typer.Option("--id", help="1 to 64 letters, digits, '-' and '_'; also its user name.")],
    model: Annotated[DeviceModel, typer.Option(help="What kind of device it is.")],
    patient_id: Annotated[int | None, typer.Option("--patient", metavar="ID", min=1, help="Who wears it.")] = None,
    begin: Begin = None,
    address: Annotated[str | None, typer.Option(help="Its Bluetooth address, such as AA:BB:CC:DD:EE:FF.")] = None,
    via: Annotated[str | None, typer.Option(metavar="EDGE_ID", help="The edge box that reads it.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Add a device and its account at the broker. The secret is shown once, here."""

    async def change(provisioning: Provisioning) -> str:
        since = None if begin is None else await _instant(provisioning, begin, patient_id)
        return await provisioning.add_device(device_id, model, patient_id, since, address, via)

    secret = _run(change, broker=True)
    tell({"id": device_id, "secret": secret}, f"device {device_id}, secret {secret}", as_json=as_json)


@device.command("assign")
def assign_device(
    device_id: DeviceId,
    patient_id: PatientId,
    begin: Begin = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until further notice if not given.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Have a patient wear the device; a running assignment ends then."""

    async def change(provisioning: Provisioning) -> dict[str, Any]:
        since = await _instant(provisioning, begin, patient_id)
        end = None if until is None else await _instant(provisioning, until, patient_id)
        await provisioning.assign(device_id, patient_id, since, end)
        return {"id": device_id, "patient_id": str(patient_id), "from": since, "until": end}

    told = _run(change)
    sentence = f"patient {patient_id} wears device {device_id} from {told['from'].isoformat()}"
    tell(told, sentence, as_json=as_json)


@device.command("unassign")
def unassign_device(
    device_id: DeviceId,
    until: Annotated[str | None, typer.Option("--at", metavar="TIME", help="RFC 3339 with offset; else now.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """End the running assignment of the device."""

    async def change(provisioning: Provisioning) -> datetime:
        at = await _instant(provisioning, until, None)
        await provisioning.unassign(device_id, at)
        return at

    at = _run(change)
    tell({"id": device_id, "until": at}, f"nobody wears device {device_id} from {at.isoformat()}", as_json=as_json)


@device.command("bind")
def bind_device(
    device_id: DeviceId,
    via: Annotated[str, typer.Option(metavar="EDGE_ID", help="The edge box that reads it.")],
    address: Annotated[str, typer.Option(help="Its Bluetooth address, such as AA:BB:CC:DD:EE:FF.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Have an edge box read the device over Bluetooth, or another one, or by another address."""
    stored = _run(lambda provisioning: provisioning.bind(device_id, via, address))
    told = {"id": device_id, "via": via, "address": stored}
    tell(told, f"edge box {via} reads device {device_id} at {stored}", as_json=as_json)


@device.command("unbind")
def unbind_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Have no edge box read the device any more."""
    _run(lambda provisioning: provisioning.unbind(device_id))
    tell({"id": device_id, "via": None}, f"no edge box reads device {device_id}", as_json=as_json)


@device.command("list")
def list_devices(*, as_json: AsJson = False) -> None:
    """List the devices, their wearers, and whether the broker's accounts agree."""

    async def read(provisioning: Provisioning) -> tuple[list[dict[str, Any]], list[str]]:
        rows = await provisioning.list_devices()
        odd = await provisioning.account_mismatch()
        words = dict.fromkeys(odd.without_account, "missing")
        words |= dict.fromkeys(odd.wrongly_enabled, "enabled")
        words |= dict.fromkeys(odd.wrongly_disabled, "disabled")
        items = []
        for row in rows:
            account = words.get(row.id, "enabled" if row.disabled_at is None else "disabled")
            wearer = None if row.patient_id is None else str(row.patient_id)
            items.append({**asdict(row), "patient_id": wearer, "account": account})
        return items, odd.without_device

    items, strangers = _run(read, broker=True)
    show(items, as_json=as_json, accounts_without_device=strangers)
    if strangers and not as_json:
        typer.echo(
            f"accounts without a device: {', '.join(strangers)} (adding the device takes its account over)", err=True
        )


@device.command("disable")
def disable_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Refuse the device at the broker, now."""
    _run(lambda provisioning: provisioning.disable_device(device_id), broker=True)
    tell({"id": device_id, "disabled": True}, f"device {device_id} is disabled", as_json=as_json)


@device.command("enable")
def enable_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Let a disabled device log in again."""
    _run(lambda provisioning: provisioning.enable_device(device_id), broker=True)
    tell({"id": device_id, "disabled": False}, f"device {device_id} is enabled", as_json=as_json)


@device.command("rotate")
def rotate_secret(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Give the device a new secret, shown once, here; the old one ends now."""
    secret = _run(lambda provisioning: provisioning.rotate_secret(device_id), broker=True)
    tell({"id": device_id, "secret": secret}, f"device {device_id}, secret {secret}", as_json=as_json)


@dose.command("add")
def add_dose(
    patient_id: PatientId,
    medication: Annotated[str, typer.Option(help="The medication's name.")],
    at: Annotated[list[str], typer.Option(metavar="HH:MM", help="The patient's local time. Repeatable.")],
    days: Annotated[str, typer.Option(metavar="mon,…", help="Days of the week.")] = ",".join(_WEEKDAYS),
    compartment: Annotated[int | None, typer.Option(help="Compartment of the pill box.")] = None,
    window_before: Annotated[int, typer.Option(metavar="MINUTES", help="How early it may be taken.")] = 60,
    window_after: Annotated[int, typer.Option(metavar="MINUTES", help="How late it may be taken.")] = 60,
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day; today if not given.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day, inclusive.")] = None,
    *,
    critical: Annotated[bool, typer.Option("--critical", help="A first miss is of high severity.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a schedule of doses."""

    async def change(provisioning: Provisioning) -> int:
        return await provisioning.add_dose(
            patient_id,
            medication,
            [_time_of_day(text) for text in at],
            weekdays=_weekdays(days),
            compartment=compartment,
            window_before=window_before,
            window_after=window_after,
            valid_from=_date(first),
            valid_until=_date(last),
            critical=critical,
        )

    schedule_id = _run(change)
    tell({"id": str(schedule_id)}, f"schedule {schedule_id}: {medication}", as_json=as_json)


@dose.command("list")
def list_doses(
    patient_id: Annotated[int | None, typer.Option("--patient", metavar="ID", help="One patient's only.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the schedules."""
    names = {number: name for name, number in _WEEKDAYS.items()}
    items = []
    for row in _run(lambda provisioning: provisioning.list_doses(patient_id)):
        item = asdict(row)
        item |= {"id": str(row.id), "patient_id": str(row.patient_id), "weekdays": [names[day] for day in row.weekdays]}
        item |= {name: int(item[name].total_seconds() // 60) for name in ("window_before", "window_after")}
        items.append(item)
    show(items, as_json=as_json)


@user.command("add")
def add_user(
    email: Annotated[str, typer.Option(help="The address to log in with.")],
    role: Annotated[str, typer.Option(help="admin, doctor, nurse, patient or integration.")],
    patients: Annotated[
        list[int] | None, typer.Option("--patient", metavar="ID", help="A patient they look after. Repeatable.")
    ] = None,
    *,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a user. The password has at least 12 characters."""
    password = _password(from_stdin=password_stdin)
    user_id = _run(lambda provisioning: provisioning.add_user(email, role, password, patients or []))
    tell({"id": str(user_id)}, f"user {user_id}: {email.lower()}, {role}", as_json=as_json)


@user.command("list")
def list_users(*, as_json: AsJson = False) -> None:
    """List the users."""
    rows = _run(lambda provisioning: provisioning.list_users())
    items = [{**asdict(row), "id": str(row.id), "patient_ids": [str(i) for i in row.patient_ids]} for row in rows]
    show(items, as_json=as_json)


@user.command("disable")
def disable_user(email: Email, *, as_json: AsJson = False) -> None:
    """End a user's access, now."""
    _run(lambda provisioning: provisioning.disable_user(email))
    tell({"email": email.lower(), "disabled": True}, f"user {email.lower()} is disabled", as_json=as_json)


def _run(work: Callable[[Provisioning], Awaitable[_Result]], *, broker: bool = False) -> _Result:
    """Do the work and return its result; a refusal is one line on stderr and exit code 1, wrong usage 2."""

    async def run() -> _Result:
        async with _provisioning(broker=broker) as provisioning:
            return await work(provisioning)

    try:
        return asyncio.run(run())
    except (ProvisioningError, BrokerAccountError) as error:
        sys.stderr.write("".join(f"vigil: {line}\n" for line in (str(error), *getattr(error, "__notes__", ()))))
        raise typer.Exit(2 if isinstance(error, InvalidValueError) else 1) from None


@asynccontextmanager
async def _provisioning(*, broker: bool) -> AsyncIterator[Provisioning]:
    async with AsyncExitStack() as stack:
        accounts = None
        if broker:
            settings = load_settings(Settings)
            ca_file = None if settings.mqtt_ca_file is None else str(settings.mqtt_ca_file)
            accounts = await stack.enter_async_context(BrokerAccounts.connect(settings.mqtt_url, ca_file))
            await accounts.ensure_device_role()
        url = load_settings(DatabaseSettings).database_url
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        yield Provisioning(await stack.enter_async_context(connection), accounts, clock.now())


async def _instant(provisioning: Provisioning, text: str | None, patient_id: int | None) -> datetime:
    """Return the time the text says; one without an offset is the patient's local one; none is now."""
    if text is None:
        return clock.now()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValueError(f"{text!r} is not a time such as 2026-11-02T08:00+08:00") from None
    if at.tzinfo is not None:
        return at
    zone: tzinfo = UTC
    if patient_id is not None:
        zone = await provisioning.timezone_of(patient_id)
    return at.replace(tzinfo=zone).astimezone(UTC)


def _expected(pairs: Sequence[str]) -> dict[Code, timedelta]:
    found = {}
    for pair in pairs:
        name, _, minutes = pair.partition("=")
        code = CODE_BY_WIRE.get(name)
        if code is None or not minutes.isdecimal():
            raise InvalidValueError(f"{pair!r} is not a code and minutes, such as glucose=5")
        found[code] = timedelta(minutes=int(minutes))
    return found


def _time_of_day(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise InvalidValueError(f"{text!r} is not a time of day such as 08:00") from None


def _weekdays(text: str) -> list[int]:
    names = [name.strip().lower() for name in text.split(",")]
    unknown = [name for name in names if name not in _WEEKDAYS]
    if unknown:
        raise InvalidValueError(f"{unknown[0]!r} is not a day: {', '.join(_WEEKDAYS)}")
    return [_WEEKDAYS[name] for name in names]


def _date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidValueError(f"{text!r} is not a date such as 2026-11-02") from None


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody to ask for the password: give --password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
