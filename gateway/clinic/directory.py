"""Who wears which device, where patients live and what they consented to: a versioned cache of the store."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from gateway.clinic.patient_rules import all_rules
from gateway.clinic.zones import UTC, all_zones
from gateway.store.queries import load_queries
from streaming.rules.history import RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "directory.sql")

# Open ends of intervals, in ms; far outside any time a device may send, far inside int64.
UNSET = RulesHistory.of(preset(PatientGroup.STABLE))
UNASSIGNED = 0
WITHOUT_CONSENT = -1


@dataclass(frozen=True, slots=True)
class Interval:
    """A patient, from when (inclusive) to when (exclusive), in ms since the epoch."""

    patient_id: int
    since_ms: int
    until_ms: int


@dataclass(slots=True)
class Directory:
    """Devices by id, wearers by device and time. Arrays are indexed by device key or patient id."""

    version: int
    keys: dict[str, int]
    names: dict[int, str]
    models: dict[int, str]
    via: NDArray[np.int32]
    wearer: NDArray[np.int32]  # of the newest assignment of each device
    since: NDArray[np.int64]
    until: NDArray[np.int64]
    consents: NDArray[np.bool_]  # patients whose consent is open-ended
    assignments: Mapping[int, Sequence[Interval]]
    partial_consents: Mapping[int, Sequence[Interval]]
    devices_of: Mapping[int, Sequence[int]]
    zones: Mapping[int, ZoneHistory]
    rules: Mapping[int, RulesHistory] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The largest device key plus one."""
        return len(self.wearer)

    def zone(self, patient_id: int) -> ZoneHistory:
        """Return the zones a patient lives by; UTC if none is recorded."""
        return self.zones.get(patient_id, UTC)

    def rules_of(self, patient_id: int) -> RulesHistory:
        """Return the rules that watch a patient; those of the stable group if nobody has set any."""
        return self.rules.get(patient_id, UNSET)

    def worn_from(self, device: int, patient_id: int) -> int:
        """Return when (ms) a patient first had a device."""
        held = self.assignments.get(device, ())
        return min((one.since_ms for one in held if one.patient_id == patient_id), default=DISTANT_PAST_MS)

    def wearers(self, device: NDArray[np.int32], at: NDArray[np.int64], now_ms: int) -> NDArray[np.int32]:
        """Return who wore each device at each time: int32[n], UNASSIGNED or WITHOUT_CONSENT where nobody may count.

        Consent counts that held at the time, and holds when it is stored, now.
        """
        patient = self.wearer[device]
        outside = (at < self.since[device]) | (at >= self.until[device])
        if outside.any():
            for i in np.flatnonzero(outside):
                patient[i] = _holder(self.assignments.get(int(device[i]), ()), int(at[i]))
        doubtful = (patient > 0) & ~self.consents[patient]
        if doubtful.any():
            for i in np.flatnonzero(doubtful):
                if not self._consents(int(patient[i]), int(at[i]), now_ms):
                    patient[i] = WITHOUT_CONSENT
        return patient

    def wearer_at(self, device: int, at: int, now_ms: int) -> int:
        """Return who wore one device at one time, as in `wearers`."""
        patient = _holder(self.assignments.get(device, ()), at)
        if patient <= 0 or self.consents[patient] or self._consents(patient, at, now_ms):
            return patient
        return WITHOUT_CONSENT

    def changes_hands(self, device: int, since_ms: int, until_ms: int) -> bool:
        """Return whether who counts as the wearer of a device may change after `since_ms`, until `until_ms`."""
        held = self.assignments.get(device, ())
        given = (one for patient in {one.patient_id for one in held} for one in self.partial_consents.get(patient, ()))
        return any(since_ms < edge <= until_ms for one in chain(held, given) for edge in (one.since_ms, one.until_ms))

    def _consents(self, patient_id: int, at: int, now_ms: int) -> bool:
        given = self.partial_consents.get(patient_id, ())
        return _holder(given, at) > 0 and _holder(given, now_ms) > 0

    def has_consented(self, patient_id: int, at: NDArray[np.int64]) -> bool:
        """Return whether a patient consents at each of these times."""
        if self.consents[patient_id]:
            return True
        covered = np.zeros(len(at), np.bool_)
        for consent in self.partial_consents.get(patient_id, ()):
            covered |= (at >= consent.since_ms) & (at < consent.until_ms)
        return bool(covered.all())

    def spoken_for(self, sender: int, name: str) -> int:
        """Return the device that a message of `sender` names: itself or one bound to it; UNASSIGNED for any other."""
        key = self.keys.get(name, UNASSIGNED)
        return key if key == sender or (key != UNASSIGNED and self.via[key] == sender) else UNASSIGNED


def _holder(intervals: Iterable[Interval], at: int) -> int:
    return next((i.patient_id for i in intervals if i.since_ms <= at < i.until_ms), UNASSIGNED)


def _bound(ms: float) -> int:
    return int(math.copysign(DISTANT_FUTURE_MS, ms)) if math.isinf(ms) else round(ms)


async def load_directory(connection: psycopg.AsyncConnection[Any]) -> Directory:
    """Read the whole directory (10,000 patients: some tens of ms), consistently with its version."""
    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")
        version = await (await connection.execute(SQL.version)).fetchone()
        devices = await (await connection.execute(SQL.devices)).fetchall()
        assignments = await (await connection.execute(SQL.assignments)).fetchall()
        zones = await all_zones(connection)
        consents = await (await connection.execute(SQL.consents)).fetchall()
        rules = await all_rules(connection)
    return _build(version[0] if version else 0, devices, assignments, zones, consents, rules)


def _build(
    version: int,
    devices: Sequence[tuple[int, str, str, int]],
    assignments: Sequence[tuple[int, int, float, float]],
    zones: Mapping[int, ZoneHistory],
    consents: Sequence[tuple[int, float, float]],
    rules: Mapping[int, RulesHistory],
) -> Directory:
    size = max((key for key, *_ in devices), default=0) + 1
    patients = max((row[1] for row in assignments), default=0) + 1
    via = np.zeros(size, np.int32)
    wearer = np.zeros(size, np.int32)
    since = np.full(size, DISTANT_FUTURE_MS, np.int64)
    until = np.full(size, DISTANT_PAST_MS, np.int64)
    consented = np.zeros(patients, np.bool_)
    for key, _, _, edge in devices:
        via[key] = edge
    held: dict[int, list[Interval]] = {}
    devices_of: dict[int, list[int]] = {}
    for key, patient_id, start, end in assignments:
        interval = Interval(patient_id, _bound(start), _bound(end))
        held.setdefault(key, []).append(interval)
        wearer[key], since[key], until[key] = patient_id, interval.since_ms, interval.until_ms
        of_patient = devices_of.setdefault(patient_id, [])
        if key not in of_patient:
            of_patient.append(key)
    given: dict[int, list[Interval]] = {}
    for patient_id, start, end in consents:
        if patient_id >= patients:
            continue
        interval = Interval(patient_id, _bound(start), _bound(end))
        if interval.since_ms == DISTANT_PAST_MS and interval.until_ms == DISTANT_FUTURE_MS:
            consented[patient_id] = True
        else:
            given.setdefault(patient_id, []).append(interval)
    return Directory(
        version=version,
        keys={name: key for key, name, *_ in devices},
        names={key: name for key, name, *_ in devices},
        models={key: model for key, _, model, _ in devices},
        via=via,
        wearer=wearer,
        since=since,
        until=until,
        consents=consented,
        assignments=held,
        partial_consents=given,
        devices_of=devices_of,
        zones=zones,
        rules=rules,
    )
