"""Judges the readings of one code, of all patients, inside the transaction that stores them.

A patient is in one of three states:

- *nothing remembered*: no episode is open and no rule remembers readings. Nothing is kept; nearly everybody is here.
- *remembered*: `_states` holds what the rules remember after the newest reading (`PatientState`).
- *doubtful* without a state: memory is not to be trusted (a start, a late reading, a change of rules, a transaction
  that failed). The store is asked, and folded again, before the next reading is judged.

Readings in order are folded into the state. Late ones, and those of a time for which rules or zone were set afterwards,
are folded again out of the store (`gateway.rules.readings.refold`), and the alerts brought in line with the result.

`step` only notes what a transaction found (`_touched`, `_seen`, `_eased`); `commit` makes it the state, `roll_back`
makes everybody it touched doubtful. So a state is never ahead of the store. Between `prepare` and `commit` the store
must not be written by anybody else for these patients: one gateway works at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from alerts.reconcile import StandingAlert
from devices.instants import DISTANT_FUTURE_MS
from devices.vocabulary import Code
from gateway.clinic.directory import Directory
from gateway.rules.readings.alerting import write_alerts
from gateway.rules.readings.refold import WatchedPatient, fold_again, shape_before_ms
from gateway.rules.readings.table import WatchTable
from gateway.rules.readings.warm_up import newest_of, warm
from gateway.store.alerts import SQL as ALERTS
from gateway.store.alerts import AlertWriter
from gateway.store.rows import Rows
from streaming.episodes import Key, Rule
from streaming.limits.calm import calmed
from streaming.limits.detectors import counts_for, is_about, rules_about
from streaming.limits.patient_fold import Finding, PatientState
from streaming.readings import ReadingSeries

Connection = psycopg.AsyncConnection[Any]
Transition = tuple[WatchedPatient, PatientState | None, bool]


class ReadingWatch:
    """The rules about one code over all patients. What rules remember lives in memory; everything else is in the store."""

    def __init__(self, code: Code) -> None:
        """Watch readings of this code; nobody yet."""
        self.code = code
        self.table = WatchTable(code)
        self._states: dict[int, PatientState] = {}
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        self._touched: dict[int, Transition | None] = {}
        self._seen: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None
        self._eased: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None

    async def hydrate(self, connection: Connection) -> None:
        """Forget everything; ask the store who has an open episode. States are folded when the next reading comes."""
        self._states.clear()
        self._forget_transaction()
        self.table.forget()
        cursor = await connection.execute(ALERTS.running, {"rules": list(rules_about(self.code))})
        for patient, rule, subject, _ in await cursor.fetchall():
            if is_about(self.code, (Rule(rule), subject)):
                self.table.doubt([patient])

    def adopt(self, directory: Directory) -> None:
        """Take the patients' rules and zones as they are now; for whom they changed is folded from the store when needed."""
        for patient in self.table.adopt(directory):
            self._states.pop(patient, None)

    async def warm(self, connection: Connection, directory: Directory) -> int:
        """Fold what may be open, or is remembered, out of the store in one go; return how many readings that were.

        Not needed for the right result: who is left out is folded with the next reading.
        """
        doubtful = [patient for patient in self.table.doubted() if patient in directory.devices_of]
        patients = [WatchedPatient.of(self.code, patient, directory) for patient in doubtful]
        starts, readings = await warm(connection, patients)
        for watched in patients:
            self.table.newest[watched.patient] = starts[watched.patient].newest
        due = self.table.due()
        for watched in patients:
            found = starts[watched.patient]
            if not (found.cold or watched.patient in due):
                self.table.remember(watched.patient, found.state, watched.rules, complete=True)
                if found.state is not None:
                    self._states[watched.patient] = found.state
        return readings

    async def prepare(self, connection: Connection, rows: Rows, directory: Directory) -> None:
        """Ask the store for the newest reading of patients not seen before. To be called before the rows are stored.

        An episode that goes beyond it is one that a rest ended: what was measured before the rest still belongs to it.
        """
        rows = self._about(rows)
        if not len(rows):
            return
        table = self.table
        table.grow(int(rows.patient.max()))
        unknown = table.unknown(rows.patient)
        if not unknown:
            return
        await self._ask(connection, unknown, directory)

    async def prepare_changed(self, connection: Connection, directory: Directory) -> None:
        """Ask the same of patients whose rules or zones changed, of whom readings may have to be judged again."""
        unknown = [patient for patient in self.table.changed_unknown() if patient in directory.devices_of]
        if unknown:
            await self._ask(connection, unknown, directory)

    async def _ask(self, connection: Connection, unknown: Sequence[int], directory: Directory) -> None:
        table = self.table
        newest = await newest_of(connection, [WatchedPatient.of(self.code, patient, directory) for patient in unknown])
        asked = {"rules": list(rules_about(self.code)), "patient": list(newest), "at": list(newest.values())}
        beyond = await (await connection.execute(ALERTS.beyond, asked)).fetchall()
        table.doubt([patient for (patient,) in beyond])
        table.newest[list(newest)] = list(newest.values())

    def matters(self, rows: Rows) -> bool:
        """Whether anything follows from fresh rows; if not they are only noted, and `step` need not be called."""
        rows, candidates = self._begin(rows)
        if len(rows) and (rows.at <= self.table.newest[rows.patient]).any():
            return True
        return bool(self._to_fold(rows, candidates)) or bool(self.table.due())

    async def step(self, rows: Rows, directory: Directory, writer: AlertWriter) -> None:
        """Fold the fresh readings among `rows`, which are stored in this transaction, and write what follows."""
        rows, candidates = self._begin(rows)
        late = (rows.at <= self.table.newest[rows.patient]) & ~candidates
        if late.any():
            candidates[late] = await self._covered(writer.connection, rows.take(late))
        due = self.table.due()
        for patient, series in self._to_fold(rows, candidates):
            await self._fold(WatchedPatient.of(self.code, patient, directory), series, writer, due.pop(patient, None))
        for patient, since in due.items():
            await self._fold_stored(WatchedPatient.of(self.code, patient, directory), since, DISTANT_FUTURE_MS, writer)

    def advance(self, rows: Rows, directory: Directory) -> list[Finding]:
        """Fold fresh rows as far as memory alone allows, and return what was found; nothing is written.

        A patient who would have to be folded from the store is left as they were.
        """
        found: list[Finding] = []
        for patient, series in self._to_fold(*self._begin(rows)):
            watched = WatchedPatient.of(self.code, patient, directory)
            if self._is_in_order(patient, int(series.at[0])):
                found += self._advance(watched, series)
        return found

    def _begin(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Begin a transaction with the rows among these that are watched; also returns which of them are candidates."""
        self._forget_transaction()
        rows = self._about(rows)
        self._seen = (rows.patient, rows.at)
        return rows, self.table.candidates(rows)

    def _about(self, rows: Rows) -> Rows:
        if not len(rows):
            return rows
        mine = rows.code == self.code
        if not self.table.watches_all:
            mine &= self.table.watched(rows.patient)
        return rows if mine.all() else rows.take(mine)

    def _to_fold(self, rows: Rows, candidates: NDArray[np.bool_]) -> list[tuple[int, ReadingSeries]]:
        """Return the patients that candidates belong to with all their rows in order of time.

        Left out, and noted for the commit, are those whose readings only go on with a recovery.
        """
        if not candidates.any():
            return []
        patients = np.unique(rows.patient[candidates])
        rows = rows.take(np.isin(rows.patient, patients))
        rows = rows.take(np.lexsort((rows.at, rows.patient)))
        starts = np.searchsorted(rows.patient, patients)
        ends = np.append(starts[1:], len(rows))
        calm = counts_for(self.code, rows.value, rows.flags) & ~self.table.beyond(rows)
        first, last = rows.at[starts], rows.at[ends - 1]
        eased, since = self.table.eased(patients, first, last, np.logical_and.reduceat(calm, starts))
        self._eased = (patients[eased], since[eased])
        series = ReadingSeries(rows.at, rows.value, rows.unit, rows.flags)
        return [(int(patients[i]), series.take(slice(starts[i], ends[i]))) for i in np.flatnonzero(~eased)]

    def commit(self) -> None:
        """Keep the states of the transaction, which is committed."""
        for patient, transition in self._touched.items():
            if transition is None:
                continue
            watched, state, complete = transition
            if complete and state is not None:
                self._states[patient] = state
            else:
                self._states.pop(patient, None)
            self.table.remember(patient, state, watched.rules, complete=complete)
        if self._eased is not None:
            self.table.ease(*self._eased)
        if self._seen is not None:
            np.maximum.at(self.table.newest, *self._seen)
        self._forget_transaction()

    def roll_back(self) -> None:
        """Drop the states that the failed transaction touched; they are folded from the store when needed."""
        for patient in self._touched:
            self._states.pop(patient, None)
        self.table.doubt(list(self._touched))
        self._forget_transaction()

    async def _covered(self, connection: Connection, rows: Rows) -> NDArray[np.bool_]:
        """Return which late rows fall into an episode that is known already, or tell what it looks like."""
        covered = np.zeros(len(rows), np.bool_)
        rules, before = list(rules_about(self.code)), shape_before_ms(self.code)
        parameters = {"rules": rules, "patient": rows.patient, "at": rows.at, "before": before}
        cursor = await connection.execute(ALERTS.covered, parameters)
        for (position,) in await cursor.fetchall():
            covered[position] = True
        return covered

    def _is_in_order(self, patient: int, first: int) -> bool:
        """Whether what is in memory is enough to fold readings from `first` on."""
        known = patient in self._states or not self.table.doubtful[patient]
        return known and first > int(self.table.newest[patient])

    def _advance(self, watched: WatchedPatient, series: ReadingSeries) -> list[Finding]:
        """Fold readings in order into what is in memory."""
        state = self._states.get(watched.patient)
        if state is not None and (since := self.table.calm_since(watched.patient)) is not None:
            state = calmed(state, since)
        state, findings = watched.fold(state, series)
        self._touched[watched.patient] = (watched, state, True)
        return findings

    async def _fold(
        self, watched: WatchedPatient, series: ReadingSeries, writer: AlertWriter, changed_from: int | None
    ) -> None:
        """Fold a patient's fresh readings; `changed_from`: what is stored from then on has to be judged again, too."""
        first, last = int(series.at[0]), int(series.at[-1])
        if changed_from is not None:
            await self._fold_stored(watched, min(first, changed_from), DISTANT_FUTURE_MS, writer)
        elif not self._is_in_order(watched.patient, first):
            await self._fold_stored(watched, first, last, writer)
        else:
            self._touched[watched.patient] = None
            findings = self._advance(watched, series)
            await write_alerts(watched, findings, await self._standing(watched, findings, last, writer), writer)

    async def _fold_stored(self, watched: WatchedPatient, first: int, last: int, writer: AlertWriter) -> None:
        """Fold a patient from the store, from what `first` touches to what `last` does (`DISTANT_FUTURE_MS`: to the end)."""
        self._touched[watched.patient] = None
        again = await fold_again(watched, first, last, writer)
        self._touched[watched.patient] = (watched, again.state, again.complete)
        await write_alerts(watched, again.findings, again.standing, writer)

    @staticmethod
    async def _standing(
        watched: WatchedPatient, findings: Sequence[Finding], last: int, writer: AlertWriter
    ) -> list[tuple[Key, StandingAlert]]:
        """Return the alerts that in-order findings may be about: those that touch them."""
        if not findings:
            return []
        first: dict[Key, int] = {}
        for one in findings:
            first[one.key] = min(one.episode.opened_at, first.get(one.key, last))
        rows = await writer.standing_rules(watched.patient, list({rule for rule, _ in first}), min(first.values()))
        return [
            (key, alert)
            for key, alert in rows
            if key in first and alert.opened_at <= last and alert.covers(max(alert.opened_at, first[key]))
        ]
