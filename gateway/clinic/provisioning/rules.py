"""Which rules watch a patient: settings by rule, groups and pauses, each with who set it, when and why."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg.types.json import Jsonb

from devices.instants import DISTANT_PAST_MS
from gateway.clinic.patient_rules import SQL, Layers, StoredChange, layers_of, own_layers
from gateway.clinic.provisioning.core import Core, check_group, check_instant, check_text
from gateway.clinic.provisioning.errors import AlreadyExistsError, InvalidValueError, NotFoundError
from gateway.clinic.provisioning.records import ChangeRow, PauseRow, RuleRow, RulesInForce
from streaming.episodes import JSON, Rule
from streaming.rules.changes import ENABLED, SettingError, default_rules, settings_json, with_changes
from streaming.rules.history import PatientRules
from streaming.rules.presets import PRESETS, PatientGroup

LONGEST_PAUSE: Final = timedelta(days=366)
MAX_HISTORY: Final = 500
MAX_PAUSES: Final = 100
LIMITS: Final = "limits"


class Rules(Core):
    """The part of Provisioning for rules. `by` is the user who makes a change; None: from the shell.

    Nothing begins in the past: the rules have already been applied to everything measured before now.
    """

    async def set_rule(
        self,
        patient_id: int | None,
        rule: Rule | str,
        changes: Mapping[str, JSON],
        *,
        reset: bool = False,
        by: int | None = None,
        note: str | None = None,
    ) -> None:
        """Change settings of one rule, or `enabled`, for a patient or (None) for the whole clinic, from now on.

        Earlier changes for the same patient (or the clinic) stay in force beside it unless `reset`. Limits of
        `threshold` are always the whole list; they switch the rule on, an empty list switches it off, unless `enabled`
        says otherwise.
        """
        rule = _known_rule(rule)
        note = check_text("note", note)
        async with self._connection.transaction():
            layers, spoiled = await self._begin(patient_id)
            present = _newest(layers.clinic if patient_id is None else layers.own, rule)
            wanted = {**({} if reset else present), **_with_switch(rule, changes)}
            if wanted == present and rule not in spoiled:
                return
            values = {"patient": patient_id, "rule": rule.value, "now": self._instant, "by": by, "note": note}
            at = await self._value(SQL.instant, values)
            change = StoredChange(0, patient_id, rule.value, json.dumps(wanted), _ms(at))
            if patient_id is None:
                await self._check_clinic(layers, change, changes)
            else:
                _check(replace(layers, own=(*layers.own, change)), rule, changes)
            await self._connection.execute(SQL.add_setting, {**values, "at": at, "changes": Jsonb(wanted)})

    async def set_rules(
        self,
        patient_id: int | None,
        changes: Mapping[str, Mapping[str, JSON]],
        *,
        reset: Collection[str] = (),
        by: int | None = None,
        note: str | None = None,
    ) -> None:
        """Change settings of several rules at once, all or none; see `set_rule`."""
        async with self._connection.transaction():
            for rule in dict.fromkeys((*reset, *changes)):
                await self.set_rule(patient_id, rule, changes.get(rule, {}), reset=rule in reset, by=by, note=note)

    async def set_group(
        self, patient_id: int, group: PatientGroup | str, *, by: int | None = None, note: str | None = None
    ) -> None:
        """Have the patient belong to a group from now on; changes nothing if they already do."""
        group = check_group(group)
        note = check_text("note", note)
        async with self._connection.transaction():
            layers, _ = await self._begin(patient_id)
            if layers.groups[-1][1] is group:
                return
            values = {"patient": patient_id, "group": group.value, "now": self._instant, "by": by, "note": note}
            at = await self._value(SQL.instant, values)
            try:
                replace(layers, groups=(*layers.groups, (_ms(at), group))).history()
            except SettingError as error:
                raise InvalidValueError(
                    f"the patient's settings do not go with that group: {error}", "group"
                ) from error
            await self._connection.execute(SQL.add_group, {**values, "at": at})

    async def pause(
        self, patient_id: int, until: datetime, reason: str, *, begin: datetime | None = None, by: int | None = None
    ) -> PauseRow:
        """Have all rules rest, and doses be paused, from `begin` (None: now) on and before `until`."""
        begin, until = (_whole_ms(at) for at in (begin or self._now, until))
        self._check_pause(begin, until)
        text = check_text("reason", reason)
        if text is None:
            raise InvalidValueError("a pause has a reason", "reason")
        values = {
            "patient": patient_id,
            "begin": begin,
            "until": until,
            "reason": text,
            "by": by,
            "now": self._instant,
        }
        async with self._connection.transaction():
            await self._begin(patient_id)
            overlap = await (await self._connection.execute(SQL.overlapping_pause, values)).fetchone()
            if overlap is not None:
                start, end = (at.isoformat(timespec="seconds") for at in overlap)
                raise AlreadyExistsError(f"patient {patient_id} is paused from {start} until {end} already")
            return (await self._rows(PauseRow, SQL.add_pause, values))[0]

    async def end_pause(self, patient_id: int, *, by: int | None = None) -> PauseRow:
        """End the pause that the patient is in, or cancel the next planned one; return it as it was."""
        async with self._connection.transaction():
            await self._begin(patient_id)
            found = await self._rows(PauseRow, SQL.next_pause, {"patient": patient_id, "now": self._instant})
            if not found:
                raise NotFoundError(f"patient {patient_id} is not paused")
            begun = found[0].begin < self._instant
            values = {"pause": found[0].id, "now": self._instant, "by": by}
            await self._connection.execute(SQL.end_pause if begun else SQL.remove_pause, values)
        return found[0]

    async def rules_in_force(self, patient_id: int | None) -> RulesInForce:
        """Return the current rules of a patient or (None) the clinic, with their layers and history."""
        async with self._connection.transaction():
            if patient_id is not None:
                await self._require(patient_id)
            layers, _ = replace(await layers_of(self._connection, patient_id), pauses=()).sound()
            history = await self._rows(ChangeRow, SQL.history, {"patient": patient_id, "limit": MAX_HISTORY})
            pauses = await self._rows(PauseRow, SQL.list_pauses, {"patient": patient_id, "limit": MAX_PAUSES})
        current = [pause.until for pause in pauses if pause.begin <= self._instant < pause.until]
        group = None if patient_id is None else layers.groups[-1][1]
        return RulesInForce(group, current[0] if current else None, _rows(layers), pauses, history)

    @property
    def _instant(self) -> datetime:
        """Now, in whole milliseconds like all times that rules are compared with."""
        return _whole_ms(self._now)

    async def _begin(self, patient_id: int | None) -> tuple[Layers, set[str]]:
        """Lock a patient's rules, or the clinic's, against other changes.

        Returns their layers, and the rules with a stored change that has become impossible.
        """
        if patient_id is None:
            await self._connection.execute(SQL.lock_clinic)
        else:
            await self._require(patient_id)
            await self._connection.execute(SQL.lock_patient, {"patient": patient_id})
        layers, refused = replace(await layers_of(self._connection, patient_id), pauses=()).sound()
        return layers, {change.rule for change, _ in refused if change.patient_id == patient_id}

    async def _require(self, patient_id: int) -> None:
        if not await self._value(SQL.patient_exists, {"patient": patient_id}):
            raise NotFoundError(f"there is no patient {patient_id}")

    async def _check_clinic(self, layers: Layers, change: StoredChange, changes: Mapping[str, JSON]) -> None:
        """Refuse a change that is impossible with some group, or with some patient's own changes."""
        clinic = (*layers.clinic, change)
        for group in PatientGroup:
            _check(Layers(((DISTANT_PAST_MS, group),), clinic), Rule(change.rule), changes)
        for patient_id, theirs in (await own_layers(self._connection)).items():
            if any(own.rule == change.rule for own in theirs.own):
                sound, _ = replace(theirs, pauses=()).sound()
                try:
                    replace(sound, clinic=clinic).history()
                except SettingError as error:
                    raise InvalidValueError(
                        f"patient {patient_id}'s own settings do not go with it: {error}"
                    ) from error

    def _check_pause(self, begin: datetime, until: datetime) -> None:
        for name, at in (("from", begin), ("until", until)):
            check_instant(f"`{name}`", at)
        if begin < self._instant:
            raise InvalidValueError(
                "a pause cannot begin in the past: the rules have been applied already to what was measured", "from"
            )
        if until <= begin:
            raise InvalidValueError("the end of a pause lies after its beginning", "until")
        if until > self._instant + LONGEST_PAUSE:
            raise InvalidValueError(f"a pause ends at most {LONGEST_PAUSE.days} days from now", "until")


def _known_rule(name: str) -> Rule:
    try:
        return Rule(name)
    except ValueError:
        raise InvalidValueError(f"{name!r} is not a rule: {', '.join(Rule)}", "rule") from None


def _with_switch(rule: Rule, changes: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the changes; a list of limits switches its rule on, an empty one switches it off."""
    if rule is Rule.THRESHOLD and LIMITS in changes and ENABLED not in changes:
        return {**changes, ENABLED: bool(changes[LIMITS])}
    return dict(changes)


def _newest(layer: Sequence[StoredChange], rule: Rule) -> Mapping[str, JSON]:
    """Return a layer's current changes to a rule; {} if there are none."""
    return next((change.changes for change in reversed(layer) if change.rule == rule), {})


def _check(layers: Layers, rule: Rule, changes: Mapping[str, JSON]) -> None:
    """Refuse a change, the newest of the layers, that is impossible; the error names the setting if one is at fault."""
    try:
        layers.history()
    except SettingError as error:
        raise InvalidValueError(str(error), _at_fault(rule, changes)) from error


def _at_fault(rule: Rule, changes: Mapping[str, JSON]) -> str:
    for name, value in changes.items():
        try:
            with_changes(default_rules(), rule, {name: value})
        except SettingError:
            return f"changes.{name}" if name.isascii() and name.isidentifier() else "changes"
    return "changes"


def _rows(layers: Layers) -> list[RuleRow]:
    """Return every rule as the layers have it now, including the settings of rules that are off."""
    rules = layers.history().spans[-1][1]
    return [_row(rule, rules, layers) for rule in Rule]


def _row(rule: Rule, rules: PatientRules, layers: Layers) -> RuleRow:
    said: list[tuple[str, Mapping[str, Any]]] = [
        ("group", PRESETS[layers.groups[-1][1]].get(rule, {})),
        ("clinic", _newest(layers.clinic, rule)),
        ("patient", _newest(layers.own, rule)),
    ]
    merged = {name: value for _, changes in said for name, value in changes.items()} | {ENABLED: True}
    layer = next((name for name, changes in reversed(said) if changes), "default")
    settings = with_changes(default_rules(), rule, merged).of(rule)
    return RuleRow(rule, rules.of(rule) is not None, settings_json(settings), layer)


def _whole_ms(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
