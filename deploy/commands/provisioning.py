"""`vigil device | dose | user`: provisioning from the shell, by the same rules as everywhere."""

import sys
from dataclasses import asdict
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any

import typer

from deploy.commands.provisioned import AsJson, Begin, group_of_commands, instant, run_provisioning
from deploy.output import show, tell
from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import InvalidValueError, Provisioning

_WEEKDAYS = {name: number for number, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), start=1)}


device = group_of_commands("Devices, their secrets, and who wears them.")
dose = group_of_commands("Schedules of doses.")
user = group_of_commands("Users of the API, and the patients they look after.")

PatientId = Annotated[int, typer.Option("--patient", metavar="ID", min=1, help="The patient.")]
DeviceId = Annotated[str, typer.Argument(metavar="ID", help="The device.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address.")]


@device.command("add")
def add_device(
    device_id: Annotated[str, typer.Option("--id", help="1 to 64 letters, digits, '-' and '_'; also its user name.")],
    model: Annotated[DeviceModel, typer.Option(help="What kind of device it is.")],
    patient_id: Annotated[int | None, typer.Option("--patient", metavar="ID", min=1, help="Who wears it.")] = None,
    begin: Begin = None,
    address: Annotated[str | None, typer.Option(help="Its Bluetooth address, such as AA:BB:CC:DD:EE:FF.")] = None,
    via: Annotated[str | None, typer.Option(metavar="EDGE_ID", help="The edge box that reads it.")] = None,
    modality: Annotated[
        str | None, typer.Option(help="How it measures the heart, ecg or ppg; by default as its model does.")
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--expected-interval", metavar="MINUTES", help="How often it is heard; by default as its model is."
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Add a device and its account at the broker. The secret is shown once, here."""

    async def change(provisioning: Provisioning) -> str:
        since = None if begin is None else await instant(provisioning, begin, patient_id)
        every = None if interval is None else _minutes(interval)
        return await provisioning.add_device(device_id, model, patient_id, since, address, via, modality, every)

    secret = run_provisioning(change, broker=True)
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
        since = await instant(provisioning, begin, patient_id)
        end = None if until is None else await instant(provisioning, until, patient_id)
        await provisioning.assign(device_id, patient_id, since, end)
        return {"id": device_id, "patient_id": str(patient_id), "from": since, "until": end}

    answer = run_provisioning(change)
    sentence = f"patient {patient_id} wears device {device_id} from {answer['from'].isoformat()}"
    tell(answer, sentence, as_json=as_json)


@device.command("unassign")
def unassign_device(
    device_id: DeviceId,
    until: Annotated[str | None, typer.Option("--at", metavar="TIME", help="RFC 3339 with offset; else now.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """End the running assignment of the device."""

    async def change(provisioning: Provisioning) -> datetime:
        at = await instant(provisioning, until, None)
        await provisioning.unassign(device_id, at)
        return at

    at = run_provisioning(change)
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
    stored = run_provisioning(lambda provisioning: provisioning.bind(device_id, via, address))
    answer = {"id": device_id, "via": via, "address": stored}
    tell(answer, f"edge box {via} reads device {device_id} at {stored}", as_json=as_json)


@device.command("unbind")
def unbind_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Have no edge box read the device any more."""
    run_provisioning(lambda provisioning: provisioning.unbind(device_id))
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
            every = None if row.expected_interval is None else row.expected_interval.total_seconds() / 60
            items.append({**asdict(row), "patient_id": wearer, "expected_interval": every, "account": account})
        return items, odd.without_device

    items, strangers = run_provisioning(read, broker=True)
    show(items, as_json=as_json, accounts_without_device=strangers)
    if strangers and not as_json:
        typer.echo(
            f"accounts without a device: {', '.join(strangers)} (adding the device takes its account over)", err=True
        )


@device.command("disable")
def disable_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Refuse the device at the broker, now."""
    run_provisioning(lambda provisioning: provisioning.disable_device(device_id), broker=True)
    tell({"id": device_id, "disabled": True}, f"device {device_id} is disabled", as_json=as_json)


@device.command("enable")
def enable_device(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Let a disabled device log in again."""
    run_provisioning(lambda provisioning: provisioning.enable_device(device_id), broker=True)
    tell({"id": device_id, "disabled": False}, f"device {device_id} is enabled", as_json=as_json)


@device.command("rotate")
def rotate_secret(device_id: DeviceId, *, as_json: AsJson = False) -> None:
    """Give the device a new secret, shown once, here; the old one ends now."""
    secret = run_provisioning(lambda provisioning: provisioning.rotate_secret(device_id), broker=True)
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

    schedule_id = run_provisioning(change)
    tell({"id": str(schedule_id)}, f"schedule {schedule_id}: {medication}", as_json=as_json)


@dose.command("list")
def list_doses(
    patient_id: Annotated[int | None, typer.Option("--patient", metavar="ID", help="Only this patient's.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the schedules."""
    names = {number: name for name, number in _WEEKDAYS.items()}
    items = []
    for row in run_provisioning(lambda provisioning: provisioning.list_doses(patient_id)):
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
    user_id = run_provisioning(lambda provisioning: provisioning.add_user(email, role, password, patients or []))
    tell({"id": str(user_id)}, f"user {user_id}: {email.lower()}, {role}", as_json=as_json)


@user.command("list")
def list_users(*, as_json: AsJson = False) -> None:
    """List the users."""
    rows = run_provisioning(lambda provisioning: provisioning.list_users())
    items = [{**asdict(row), "id": str(row.id), "patient_ids": [str(i) for i in row.patient_ids]} for row in rows]
    show(items, as_json=as_json)


@user.command("disable")
def disable_user(email: Email, *, as_json: AsJson = False) -> None:
    """End a user's access, now."""
    run_provisioning(lambda provisioning: provisioning.disable_user(email))
    tell({"email": email.lower(), "disabled": True}, f"user {email.lower()} is disabled", as_json=as_json)


def _minutes(number: float) -> timedelta:
    try:
        return timedelta(minutes=number)
    except (OverflowError, ValueError):
        raise InvalidValueError(f"{number} is not a number of minutes") from None


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
