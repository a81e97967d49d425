"""Folds fresh glucose into the nocturnal rule and brings the alerts in line, inside the batch's transaction.

In-order readings are folded into the state in memory. A late one drops the state: the patient is folded again from the
newest settled point before it, out of the store, until the new fold and the standing alerts agree again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from alerts.reconcile import Standing
from devices.vocabulary import Code
from gateway.directory import Directory
from gateway.evidence import night_evidence
from gateway.intake import Rows
from gateway.marks import UNKNOWN
from gateway.store.alerts import SQL as ALERTS
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.episodes import Episode, settled_before
from streaming.excursions import Open
from streaming.glucose import GlucoseSeries, counts, merge
from streaming.lows import NocturnalHypoglycaemia

SQL = load_queries("gateway.store", "glucose.sql")
BATCH = load_queries("gateway.store", "batch.sql")

Connection = psycopg.AsyncConnection[Any]
PAGE = 2_000
# Values of `_recovering` beside a time in ms; NO_STATE is before all times, NOT_RECOVERING after them.
NO_STATE = -1
NOT_RECOVERING = 2**62


class GlucoseWatch:
    """The nocturnal rule over all patients. Open episodes live in memory; everything else is in the store.

    `_doubtful` patients are those that may be open: their state is known (`_states`), or must be folded from the store.
    `_newest` is each patient's newest glucose over all devices: what is not later is late. `_recovering` is since when
    an open episode in memory recovers: readings that only go on with that are followed for all patients at once.
    """

    def __init__(self, detector: NocturnalHypoglycaemia | None = None) -> None:
        """Watch with the clinic's settings unless given others."""
        self.detector = detector or NocturnalHypoglycaemia()
        self._states: dict[int, Open] = {}
        self._doubtful: NDArray[np.bool_] = np.zeros(1024, np.bool_)
        self._newest: NDArray[np.int64] = np.full(1024, UNKNOWN, np.int64)
        self._recovering: NDArray[np.int64] = np.full(1024, NO_STATE, np.int64)
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        self._touched: dict[int, Open | None] = {}
        self._seen: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None
        self._eased: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None

    async def hydrate(self, connection: Connection) -> None:
        """Forget everything; ask the store who has an open episode. States are folded when the next reading comes."""
        self._states.clear()
        self._forget_transaction()
        self._doubtful.fill(False)
        self._newest.fill(UNKNOWN)
        self._recovering.fill(NO_STATE)
        cursor = await connection.execute(ALERTS.running, {"rule": self.detector.rule})
        for patient, _ in await cursor.fetchall():
            self._grow(patient)
            self._doubtful[patient] = True

    async def prepare(self, connection: Connection, rows: Rows, directory: Directory) -> None:
        """Ask the store for the newest glucose of patients not seen before. To be called before the rows are stored."""
        patients = rows.patient[rows.code == Code.GLUCOSE]
        if not len(patients):
            return
        self._grow(int(patients.max()))
        unknown = np.unique(patients[self._newest[patients] == UNKNOWN]).tolist()
        if not unknown:
            return
        pairs = [(patient, device) for patient in unknown for device in directory.devices_of[patient]]
        parameters = {"device": [device for _, device in pairs], "code": [int(Code.GLUCOSE)] * len(pairs)}
        cursor = await connection.execute(BATCH.newest, parameters)
        self._newest[unknown] = -1
        for (patient, _), (newest,) in zip(pairs, await cursor.fetchall(), strict=True):
            self._newest[patient] = max(int(self._newest[patient]), newest)

    def matters(self, rows: Rows) -> bool:
        """Whether anything follows from fresh rows; if not they are only noted, and `step` need not be called."""
        self._forget_transaction()
        rows = _glucose(rows)
        if not len(rows):
            return False
        self._seen = (rows.patient, rows.at)
        if (rows.at <= self._newest[rows.patient]).any():
            return True
        return bool(self._to_fold(rows, self._candidates(rows)))

    async def step(self, rows: Rows, directory: Directory, writer: AlertWriter) -> None:
        """Fold the fresh glucose among `rows`, which are stored in this transaction, and write what follows."""
        self._forget_transaction()
        rows = _glucose(rows)
        if not len(rows):
            return
        self._seen = (rows.patient, rows.at)
        candidates = self._candidates(rows)
        late = (rows.at <= self._newest[rows.patient]) & ~candidates
        if late.any():
            candidates[late] = await self._covered(writer.connection, rows.take(late))
        for patient, series in self._to_fold(rows, candidates):
            await self._fold(patient, series, directory, writer)

    def _candidates(self, rows: Rows) -> NDArray[np.bool_]:
        return self.detector.candidates(rows.value, rows.unit, rows.flags) | self._doubtful[rows.patient]

    def _to_fold(self, rows: Rows, candidates: NDArray[np.bool_]) -> list[tuple[int, GlucoseSeries]]:
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
        first, last = rows.at[starts], rows.at[ends - 1]
        since = np.minimum(self._recovering[patients], first)
        calm = counts(rows.value, rows.flags) & ~self.detector.candidates(rows.value, rows.unit, rows.flags)
        eased = (
            (since != NO_STATE)
            & np.logical_and.reduceat(calm, starts)
            & (first > self._newest[patients])
            & (last - since < self.detector.course.recovery_ms)
        )
        self._eased = (patients[eased], since[eased])
        series = GlucoseSeries(rows.at, rows.value, rows.unit, rows.flags)
        return [(int(patients[i]), series.take(slice(starts[i], ends[i]))) for i in np.flatnonzero(~eased)]

    def commit(self) -> None:
        """Keep the states of the transaction, which is committed."""
        for patient, state in self._touched.items():
            self._doubtful[patient] = state is not None
            if state is None:
                self._states.pop(patient, None)
                self._recovering[patient] = NO_STATE
            else:
                self._states[patient] = state
                since = state.recovering_since_ms
                self._recovering[patient] = NOT_RECOVERING if since is None else since
        if self._eased is not None:
            patients, recovering = self._eased
            self._recovering[patients] = recovering
        if self._seen is not None:
            np.maximum.at(self._newest, *self._seen)
        self._forget_transaction()

    def roll_back(self) -> None:
        """Drop the states that the failed transaction touched; they are folded from the store when needed."""
        for patient in self._touched:
            self._states.pop(patient, None)
            self._recovering[patient] = NO_STATE
            self._doubtful[patient] = True
        self._forget_transaction()

    async def _covered(self, connection: Connection, rows: Rows) -> NDArray[np.bool_]:
        """Return which late rows fall into an episode that is known already."""
        covered = np.zeros(len(rows), np.bool_)
        parameters = {"rule": self.detector.rule, "patient": rows.patient, "at": rows.at}
        cursor = await connection.execute(ALERTS.covered, parameters)
        for (position,) in await cursor.fetchall():
            covered[position] = True
        return covered

    async def _fold(self, patient: int, series: GlucoseSeries, directory: Directory, writer: AlertWriter) -> None:
        context = RuleContext(patient, self.detector.rule, directory.zone(patient), self.detector.version)
        devices = directory.devices_of[patient]
        state = self._states.get(patient)
        if state is not None and self._recovering[patient] != NOT_RECOVERING:
            state = replace(state, recovering_since_ms=int(self._recovering[patient]))
        self._touched[patient] = state
        first, last = int(series.at[0]), int(series.at[-1])
        known = state is not None or not self._doubtful[patient]
        in_order = known and first > self._newest[patient]
        if in_order:
            self._touched[patient], episodes = self._advance(state, series, context)
            if not episodes:
                return
            standing = await writer.standing(context, episodes[0].opened_at, last)
        else:
            self._touched[patient], episodes, standing = await self._fold_again(context, devices, first, last, writer)
        raised_before = len(writer.raised)
        await writer.apply(context, standing, episodes)
        for alert_id, opened_at in writer.raised[raised_before:]:
            evidence = await night_evidence(writer.connection, patient, devices, opened_at)
            await writer.add_evidence(alert_id, evidence)

    def _advance(
        self, state: Open | None, series: GlucoseSeries, context: RuleContext
    ) -> tuple[Open | None, list[Episode]]:
        after, found = self.detector.fold(state, merge(series, self.detector.limits), context.zone, {})
        return after if isinstance(after, Open) else None, found

    async def _fold_again(
        self, context: RuleContext, devices: Sequence[int], first: int, last: int, writer: AlertWriter
    ) -> tuple[Open | None, list[Episode], list[Standing]]:
        """Fold from the newest settled point before `first`, out of the store, until fold and alerts agree again."""
        standing = await writer.standing(context, first, None)
        since = settled_before(standing, first)
        state: Open | None = None
        episodes: dict[int, Episode] = {}
        cursor = since
        while True:
            page, complete = await self._page(writer.connection, context.patient_id, devices, cursor)
            if len(page):
                state, found = self._advance(state, page, context)
                episodes.update((episode.opened_at, episode) for episode in found)
                cursor = int(page.at[-1]) + 1
            reached = cursor - 1
            agree = state is None and reached >= last and not any(alert.covers(reached) for alert in standing)
            if complete or agree:
                break
        until = None if complete else reached
        touched = [alert for alert in standing if until is None or alert.opened_at <= until]
        return state, [episodes[opened_at] for opened_at in sorted(episodes)], touched

    async def _page(
        self, connection: Connection, patient: int, devices: Sequence[int], since: int
    ) -> tuple[GlucoseSeries, bool]:
        """Return up to PAGE readings from `since` on, whole instants only, and whether they are the last."""
        cursor = await connection.execute(
            SQL.readings, {"patient": patient, "devices": list(devices), "since": since, "limit": PAGE}
        )
        rows = await cursor.fetchall()
        complete = len(rows) < PAGE
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        at = np.array(columns[0], np.int64)
        series = GlucoseSeries(
            at, np.array(columns[1], np.float64), np.array(columns[2], np.int16), np.array(columns[3], np.int16)
        )
        if not complete and at[0] != at[-1]:
            series = series.take(at < at[-1])
        return series, complete

    def _grow(self, patient: int) -> None:
        if patient >= len(self._doubtful):
            newest = np.full(max(patient + 1, 2 * len(self._newest)), UNKNOWN, np.int64)
            newest[: len(self._newest)] = self._newest
            self._newest = newest
            recovering = np.full(len(newest), NO_STATE, np.int64)
            recovering[: len(self._recovering)] = self._recovering
            self._recovering = recovering
            bigger = np.zeros(max(patient + 1, 2 * len(self._doubtful)), np.bool_)
            bigger[: len(self._doubtful)] = self._doubtful
            self._doubtful = bigger


def _glucose(rows: Rows) -> Rows:
    glucose = rows.code == Code.GLUCOSE
    return rows if glucose.all() else rows.take(glucose)
