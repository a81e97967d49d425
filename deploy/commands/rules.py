"""`vigil patient rules`: the rules of a patient or of the whole clinic, shown and set."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from api.rules_view import Thresholds
from deploy.commands.provisioned import AsJson, run_provisioning
from deploy.output import show, tell
from gateway.clinic.provisioning import InvalidValueError, Provisioning
from streaming.episodes import JSON, Rule
from streaming.rules.changes import ENABLED

_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_LIMIT = re.compile(
    rf"\s*(?P<code>[a-z_0-9]+)\s*(?P<side>[<>])\s*(?P<value>{_NUMBER})"
    rf"(?:\s+for\s+(?P<duration_minutes>{_NUMBER}))?(?:\s+recovery\s+(?P<recovery_minutes>{_NUMBER}))?"
    r"(?:\s+(?P<severity>high|medium|low))?\s*",
    re.ASCII,
)
_SIDES = {"<": "low", ">": "high"}
Changes = dict[str, dict[str, JSON]]


def rules(
    patient_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="The patient.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="RULE.FIELD=VALUE", help="A setting, such as urgent_low.limit_mmol=3.5."),
    ] = None,
    on: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Switch the rule on.")] = None,
    off: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Switch the rule off.")] = None,
    reset: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Remove the earlier settings of the rule.")
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="LIMIT",
            help="All limits of threshold: 'heart_rate>120 for 10 high'; time and severity also of its other side.",
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept in the history.")] = None,
    *,
    clinic: Annotated[bool, typer.Option("--clinic", help="The whole clinic's, instead of a patient's.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set rules from now on; without changes, show what is in force, by which layer, and the history.

    Options can be repeated. All the changes are made, or none.
    """

    async def work(provisioning: Provisioning) -> Thresholds:
        if clinic == (patient_id is not None):
            raise InvalidValueError("give the ID of a patient, or --clinic")
        changes = _changes(settings or [], on or [], off or [], limits or [])
        if changes or reset:
            await provisioning.set_rules(patient_id, changes, reset=reset or [], note=note)
        elif note is not None:
            raise InvalidValueError("a note goes with a change")
        return Thresholds.of(await provisioning.rules_in_force(patient_id))

    found = run_provisioning(work)
    if as_json:
        answer = found.model_dump(mode="json", by_alias=True)
        tell({"id": None if patient_id is None else str(patient_id), **answer}, "", as_json=True)
    else:
        _print(found)


def _changes(settings: Sequence[str], on: Sequence[str], off: Sequence[str], limits: Sequence[str]) -> Changes:
    """Return the changes in the options, by rule; raise InvalidValueError for one that cannot be read."""
    found: Changes = {}
    for text in settings:
        name, equals, value = text.partition("=")
        rule, dot, field = name.strip().partition(".")
        if not (equals and dot and rule and field):
            raise InvalidValueError(f"{text!r} is not RULE.FIELD=VALUE, such as urgent_low.limit_mmol=3.5")
        found.setdefault(rule, {})[field] = _value(value.strip())
    if limits:
        found.setdefault(Rule.THRESHOLD, {})["limits"] = _limits(limits)
    if twice := set(on) & set(off):
        raise InvalidValueError(f"{min(twice)} cannot be switched on and off at once")
    for enabled, names in ((True, on), (False, off)):
        for rule in names:
            found.setdefault(rule, {})[ENABLED] = enabled
    return found


def _value(text: str) -> JSON:
    """Return a number, true, false or a list as its JSON value, anything else as text."""
    try:
        value: JSON = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _limits(texts: Sequence[str]) -> list[JSON]:
    """Return limits in the form of `threshold`; a low and a high one of the same vital sign are one limit."""
    found: dict[str, dict[str, JSON]] = {}
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise InvalidValueError(f"{text!r} is not a limit such as 'heart_rate>120 for 10 high'")
        given = {name: value for name, value in match.groupdict().items() if value is not None}
        side, code, limit = _SIDES[given.pop("side")], given.pop("code"), float(given.pop("value"))
        more = {name: value if name == "severity" else float(value) for name, value in given.items()}
        known = found.setdefault(code, {"code": code})
        if side in known or any(known.get(name, value) != value for name, value in more.items()):
            raise InvalidValueError(f"{text!r} contradicts another limit of {code}")
        known |= {side: limit, **more}
    return list(found.values())


def _print(found: Thresholds) -> None:
    group = "the clinic" if found.group is None else f"group {found.group}"
    pause = "" if found.paused_until is None else f"; paused until {found.paused_until.isoformat(timespec='seconds')}"
    typer.echo(f"{group}{pause}")
    show(
        [
            {"rule": name, "on": rule.enabled, "settings": _words(rule.settings), "layer": rule.layer}
            for name, rule in found.rules.items()
        ],
        as_json=False,
    )
    if found.pauses:
        typer.echo("pauses, the latest first")
        show([pause.model_dump(by_alias=True, exclude={"id"}) for pause in found.pauses], as_json=False)
    if found.history:
        typer.echo("what was set, the latest first")
        show(
            [
                {
                    "from": entry.valid_from,
                    "layer": entry.layer,
                    "rule": entry.rule,
                    "changes": _words(entry.changes) or "reset",
                    "by": entry.changed_by_email or "shell",
                    "note": entry.note,
                }
                for entry in found.history
            ],
            as_json=False,
        )


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(_setting_words(name, value) for name, value in settings.items() if value not in ((), []))


def _setting_words(name: str, value: Any) -> str:
    """Return a setting in the form of `--set`; a rule's switch and limits in the form of their own options."""
    if name == ENABLED:
        return "on" if value is True else "off"
    if name == "limits":
        return f"limits {'; '.join(words for limit in value for words in _limit_words(limit))}"
    return f"{name} {value if isinstance(value, str) else json.dumps(value)}"


def _limit_words(limit: Mapping[str, Any]) -> Iterator[str]:
    """Yield each side of a limit in the form of `--limit`."""
    details = ""
    for word, name in (("for", "duration_minutes"), ("recovery", "recovery_minutes")):
        if limit.get(name) is not None:
            details += f" {word} {limit[name]:g}"
    details += f" {limit['severity']}" if "severity" in limit else ""
    for sign, side in _SIDES.items():
        if limit.get(side) is not None:
            yield f"{limit['code']}{sign}{limit[side]:g}{details}"
