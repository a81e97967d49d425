"""The rules that watch patients, with their settings over time, as stored."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from devices.instants import DISTANT_PAST_MS
from gateway.store.queries import load_queries
from streaming.episodes import JSON, Rule
from streaming.rules.changes import RuleChange, SettingError
from streaming.rules.history import Pause, RulesHistory
from streaming.rules.presets import PatientGroup, build_history, preset

SQL = load_queries("gateway.store", "rules.sql")
log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]

NOBODY: Final = 0


@dataclass(frozen=True, slots=True)
class StoredChange:
    """A row of `rule_setting`: one rule's settings from `since_ms` on, as JSON; without a patient, the clinic's."""

    id: int
    patient_id: int | None
    rule: str
    json: str
    since_ms: int

    @property
    def changes(self) -> dict[str, JSON]:
        """The settings, by name."""
        found: dict[str, JSON] = json.loads(self.json)
        return found

    @property
    def content(self) -> "Content":
        """The change itself, without whose it is."""
        return self.rule, self.json, self.since_ms


Content = tuple[str, str, int]
Groups = tuple[tuple[int, PatientGroup], ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers that the rules of one patient come from. Changes are in the order in which they were made."""

    groups: Groups
    clinic: tuple[StoredChange, ...] = ()
    own: tuple[StoredChange, ...] = ()
    pauses: tuple[Pause, ...] = ()

    def history(self) -> RulesHistory:
        """Return the resulting rules; raise `SettingError` for an impossible change."""
        contents = (tuple(change.content for change in layer) for layer in (self.clinic, self.own))
        return _built(self.groups, *contents, self.pauses)

    def sound(self) -> "tuple[Layers, list[tuple[StoredChange, SettingError]]]":
        """Return the layers without the changes that are impossible on top of earlier ones; and those, with reasons."""
        try:
            self.history()
        except SettingError:
            return self._sifted()
        return self, []

    def _sifted(self) -> "tuple[Layers, list[tuple[StoredChange, SettingError]]]":
        found, refused = replace(self, clinic=(), own=()), list[tuple[StoredChange, SettingError]]()
        for change in (*self.clinic, *self.own):
            layer = "own" if change.patient_id is not None else "clinic"
            more = replace(found, **{layer: (*getattr(found, layer), change)})
            try:
                more.since(change.since_ms).history()
            except SettingError as error:
                refused.append((change, error))
            else:
                found = more
        return found, refused

    def since(self, at_ms: int) -> "Layers":
        """Return what applies from a time on: work for the rules of one time, not for all that were ever set."""
        known = [pair for pair in self.groups if pair[0] <= at_ms]
        groups = (*known[-1:], *self.groups[len(known) :])
        return replace(self, groups=groups, clinic=_since(self.clinic, at_ms), own=_since(self.own, at_ms))


def _since(layer: Sequence[StoredChange], at_ms: int) -> tuple[StoredChange, ...]:
    known = {change.rule: change for change in layer if change.since_ms <= at_ms}
    later = (change for change in layer if change.since_ms > at_ms)
    return (*(replace(change, since_ms=at_ms) for change in known.values()), *later)


# The directory is reloaded with every change of one patient: only new histories are built again.
@lru_cache(maxsize=16384)
def _built(
    groups: Groups, clinic: tuple[Content, ...], own: tuple[Content, ...], pauses: tuple[Pause, ...]
) -> RulesHistory:
    return build_history(groups, [*map(_parsed, clinic)], [*map(_parsed, own)], pauses)


def _parsed(content: Content) -> RuleChange:
    rule, changes, since_ms = content
    if rule not in set(Rule):
        raise SettingError(f"there is no rule {rule!r}")
    return RuleChange(since_ms, Rule(rule), json.loads(changes))


async def rules_of(connection: Connection, patient_id: int) -> RulesHistory:
    """Return the rules that watch one patient. Changes that have become impossible are left out, and logged."""
    return _history(await layers_of(connection, patient_id), set())


async def pauses_of(connection: Connection, patient_id: int) -> list[Pause]:
    """Return the pauses of a patient, oldest first."""
    return list((await _pauses(connection, patient_id)).get(patient_id, ()))


async def layers_of(connection: Connection, patient_id: int | None) -> Layers:
    """Return all stored layers of a patient's rules; without a patient, those of a stable one with no own changes."""
    key = NOBODY if patient_id is None else patient_id
    clinic, own = await _changes(connection, key)
    groups = await _groups(connection, key)
    pauses = await _pauses(connection, key)
    known = groups.get(key, ((DISTANT_PAST_MS, PatientGroup.STABLE),))
    return Layers(known, clinic, own.get(key, ()), pauses.get(key, ()))


async def own_layers(connection: Connection) -> dict[int, Layers]:
    """Return all stored layers of the rules of every patient who has changes of their own."""
    clinic, own = await _changes(connection, None)
    groups, pauses = await _groups(connection, None), await _pauses(connection, None)
    return {
        patient: Layers(groups[patient], clinic, changes, pauses.get(patient, ())) for patient, changes in own.items()
    }


async def all_rules(connection: Connection) -> dict[int, RulesHistory]:
    """Return the rules of every patient whose rules were ever other than the stable group's, or paused.

    Equal histories are one object. Changes that have become impossible are left out, and logged.
    """
    clinic, own = await _changes(connection, None)
    pauses = await _pauses(connection, None)
    alone = own.keys() | pauses.keys()
    shared: dict[RulesHistory, RulesHistory] = {}
    reported: set[int] = set()
    found: dict[int, RulesHistory] = {}

    def history(layers: Layers) -> RulesHistory:
        made = _history(layers, reported)
        return shared.setdefault(made, made)

    for groups, patients in await _shares(connection):
        found |= dict.fromkeys(patients, history(Layers(groups, clinic)))
        for patient in alone.intersection(patients):
            found[patient] = history(Layers(groups, clinic, own.get(patient, ()), pauses.get(patient, ())))
    stable = preset(PatientGroup.STABLE)
    usual = {id(made) for made in shared if len(made.spans) == 1 and made.spans[0][1] == stable}
    return {patient: made for patient, made in found.items() if id(made) not in usual}


def _history(layers: Layers, reported: set[int]) -> RulesHistory:
    """Return the rules that result from the layers; one bad change must stop neither the others nor the gateway."""
    try:
        return layers.history()
    except SettingError:
        sound, refused = layers.sound()
    newest = {(change.patient_id, change.rule): change.id for change in (*layers.clinic, *layers.own)}
    for change, error in refused:
        # A change that has been replaced since no longer matters.
        if change.id == newest[change.patient_id, change.rule] and change.id not in reported:
            reported.add(change.id)
            details = {"setting": change.id, "patient": change.patient_id, "rule": change.rule, "error": str(error)}
            log.error("a stored setting is left out", extra=details)
    return sound.history()


async def _groups(connection: Connection, patient: int | None) -> dict[int, Groups]:
    rows = await (await connection.execute(SQL.groups, {"patient": patient})).fetchall()
    return {patient_id: _spans(sinces, groups) for patient_id, sinces, groups in rows}


async def _shares(connection: Connection) -> list[tuple[Groups, list[int]]]:
    """Return all patients, grouped by the history of their groups."""
    rows = await (await connection.execute(SQL.shares)).fetchall()
    return [(_spans(sinces, groups), patients) for sinces, groups, patients in rows]


def _spans(sinces: Sequence[int | None], groups: Sequence[str]) -> Groups:
    pairs = zip(sinces, groups, strict=True)
    return tuple((DISTANT_PAST_MS if since is None else since, PatientGroup(group)) for since, group in pairs)


async def _changes(
    connection: Connection, patient: int | None
) -> tuple[tuple[StoredChange, ...], dict[int, tuple[StoredChange, ...]]]:
    """Return the clinic's changes, and each patient's own."""
    async with connection.cursor(row_factory=class_row(StoredChange)) as cursor:
        rows = await (await cursor.execute(SQL.changes, {"patient": patient})).fetchall()
    return tuple(row for row in rows if row.patient_id is None), _by_patient(row for row in rows if row.patient_id)


def _by_patient(rows: Iterable[StoredChange]) -> dict[int, tuple[StoredChange, ...]]:
    ordered: Sequence[StoredChange] = sorted(rows, key=attrgetter("patient_id"))
    return {patient_id: tuple(changes) for patient_id, changes in groupby(ordered, key=attrgetter("patient_id"))}


async def _pauses(connection: Connection, patient: int | None) -> dict[int, tuple[Pause, ...]]:
    rows = await (await connection.execute(SQL.pauses, {"patient": patient})).fetchall()
    found: defaultdict[int, list[Pause]] = defaultdict(list)
    for patient_id, start, end in rows:
        found[patient_id].append(Pause(start, end))
    return {patient_id: tuple(pauses) for patient_id, pauses in found.items()}
