"""`vigil patient`: patients, their time zones, expected data, groups and pauses."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

import typer

from deploy.commands.provisioned import AsJson, Begin, group_of_commands, instant, run_provisioning
from deploy.commands.rules import rules
from deploy.output import show, tell
from devices.vocabulary import CODE_BY_WIRE, Code
from gateway.clinic.provisioning import InvalidValueError, PauseRow, Provisioning

patient = group_of_commands("Patients: who is watched, in which time zone, with which consent, by which rules.")
patient.command("rules")(rules)

ThePatient = Annotated[int, typer.Argument(metavar="ID", help="The patient.")]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept in the history.")]


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

    patient_id = run_provisioning(change)
    tell({"id": str(patient_id)}, f"patient {patient_id}: {name}", as_json=as_json)


@patient.command("list")
def list_patients(*, as_json: AsJson = False) -> None:
    """List the patients."""
    rows = run_provisioning(lambda provisioning: provisioning.list_patients())
    show([{**asdict(row), "id": str(row.id)} for row in rows], as_json=as_json)


@patient.command("timezone")
def set_timezone(
    patient_id: ThePatient,
    timezone: Annotated[str, typer.Argument(metavar="ZONE", help="IANA time zone.")],
    begin: Begin = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Have the patient live by another zone from a time on."""

    async def change(provisioning: Provisioning) -> datetime:
        since = await instant(provisioning, begin, patient_id)
        await provisioning.set_timezone(patient_id, timezone, since)
        return since

    since = run_provisioning(change)
    answer = {"id": str(patient_id), "timezone": timezone, "from": since}
    tell(answer, f"patient {patient_id} lives by {timezone} from {since.isoformat()}", as_json=as_json)


@patient.command("consent")
def set_consent(
    patient_id: ThePatient,
    *,
    give: Annotated[bool, typer.Option("--give/--withdraw", help="Accept, or refuse, data measured from then on.")],
    begin: Begin = None,
    as_json: AsJson = False,
) -> None:
    """Give or withdraw the patient's consent from a time on."""

    async def change(provisioning: Provisioning) -> datetime:
        at = await instant(provisioning, begin, patient_id)
        await (provisioning.give_consent if give else provisioning.withdraw_consent)(patient_id, at)
        return at

    at = run_provisioning(change)
    word = "given" if give else "withdrawn"
    answer = {"id": str(patient_id), "consent": give, "from": at}
    tell(answer, f"patient {patient_id}: consent {word} from {at.isoformat()}", as_json=as_json)


@patient.command("expect")
def expect(
    patient_id: ThePatient,
    expected: Annotated[
        list[str] | None,
        typer.Argument(metavar="CODE=MINUTES", help="What the patient should send, how often: glucose=5."),
    ] = None,
    *,
    none: Annotated[bool, typer.Option("--none", help="Expect nothing from now on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say all that the patient should send; what is not named is not expected any more."""

    async def change(provisioning: Provisioning) -> dict[Code, timedelta]:
        if none == bool(expected):
            raise InvalidValueError("give what the patient should send, such as glucose=5, or --none")
        codes = _expected(expected or [])
        await provisioning.expect(patient_id, codes)
        return codes

    found = {code.wire: every.total_seconds() / 60 for code, every in run_provisioning(change).items()}
    words = ", ".join(f"{code} every {minutes:g} min" for code, minutes in found.items()) or "nothing"
    tell({"id": str(patient_id), "expected": found}, f"patient {patient_id} should send {words}", as_json=as_json)


@patient.command("group")
def set_group(
    patient_id: ThePatient,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="new, fluctuating or stable.")],
    note: Note = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Have the patient belong to another group, from now on."""
    run_provisioning(lambda provisioning: provisioning.set_group(patient_id, group, note=note))
    tell({"id": str(patient_id), "group": group}, f"patient {patient_id} is in the group {group}", as_json=as_json)


@patient.command("pause")
def pause(
    patient_id: ThePatient,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="When the rules watch again.")] = None,
    begin: Begin = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, such as: in hospital.")] = None,
    *,
    end: Annotated[bool, typer.Option("--end", help="End the pause now, or cancel the next planned one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have all rules of the patient rest: data are kept, doses are paused."""

    async def change(provisioning: Provisioning) -> PauseRow:
        if end and (until, begin, reason) == (None, None, None):
            return await provisioning.end_pause(patient_id)
        if end or until is None or reason is None:
            raise InvalidValueError("give --until and --reason, or --end alone")
        start = None if begin is None else await instant(provisioning, begin, patient_id)
        last = await instant(provisioning, until, patient_id)
        return await provisioning.pause(patient_id, last, reason, begin=start)

    found = run_provisioning(change)
    span = f"from {found.begin.isoformat(timespec='seconds')} until {found.until.isoformat(timespec='seconds')}"
    answer = {"id": str(patient_id), "from": found.begin, "until": found.until, "reason": found.reason, "ended": end}
    words = f"the pause {span} has ended" if end else f"paused {span}: {found.reason}"
    tell(answer, f"patient {patient_id}: {words}", as_json=as_json)


def _expected(pairs: Sequence[str]) -> dict[Code, timedelta]:
    found = {}
    for pair in pairs:
        name, _, minutes = pair.partition("=")
        code = CODE_BY_WIRE.get(name)
        if code is None or not minutes.isdecimal():
            raise InvalidValueError(f"{pair!r} is not a code and minutes, such as glucose=5")
        try:
            found[code] = timedelta(minutes=int(minutes))
        except (OverflowError, ValueError):
            raise InvalidValueError(f"{pair!r} has too many minutes") from None
    return found
