"""Settles patients' doses against the store: when openings arrive (gateway) and when deadlines pass (worker)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from alerts.reconcile import Raise
from devices.vocabulary import EventType
from gateway.directory import EVER, Directory
from gateway.intake import WornEvent
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.doses import (
    Contact,
    DoseOutcome,
    DoseSchedule,
    DoseSettings,
    DoseState,
    Opening,
    due_doses,
    missed_episode,
    settle,
)
from streaming.episodes import Episode, Rule
from streaming.zones import DAY_MS, HOUR_MS, ZoneHistory

SQL = load_queries("gateway.store", "doses.sql")

Connection = psycopg.AsyncConnection[Any]

# What an opening means depends on the openings before it. A month back the chain is broken in practice, and a patient
# with years of history is not read again for every opening.
LOOK_BACK_MS = 30 * DAY_MS
AHEAD_MS = 36 * HOUR_MS
RECOMPUTE_AHEAD_MS = 13 * HOUR_MS
REMINDER_LASTS_MS = HOUR_MS
DOSE_EVENTS = frozenset({EventType.COMPARTMENT_OPENED, EventType.DOSE_TAKEN, EventType.DOSE_SKIPPED})


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of dose_schedule."""

    id: int
    medication: str
    local_times: list[time]
    weekdays: list[int]
    compartment: int | None
    window_before_ms: int
    window_after_ms: int
    valid_from: date
    valid_until: date | None
    critical: bool
    created_at: int

    def schedule(self) -> DoseSchedule:
        """Return the schedule as the matcher knows it."""
        return DoseSchedule(
            id=self.id,
            local_times=tuple(self.local_times),
            valid_from=self.valid_from,
            created_at=self.created_at,
            valid_until=self.valid_until,
            weekdays=frozenset(self.weekdays),
            compartment=self.compartment,
            window_before_ms=self.window_before_ms,
            window_after_ms=self.window_after_ms,
            critical=self.critical,
        )


class DoseKeeper:
    """Keeps the rows of `dose` and the missed-dose alerts equal to what schedules, openings and contacts say."""

    def __init__(self, contact_grace_ms: int) -> None:
        """Judge with this grace after a box came back."""
        self._settings = DoseSettings(contact_grace_ms=contact_grace_ms)

    async def take_events(
        self, events: Iterable[WornEvent], directory: Directory, writer: AlertWriter, now_ms: int
    ) -> None:
        """Settle the doses of every patient whose box was opened, from the oldest new opening on."""
        oldest: dict[int, int] = {}
        for worn in events:
            if worn.event.type in DOSE_EVENTS:
                oldest[worn.patient] = min(worn.event.at, oldest.get(worn.patient, EVER))
        for patient in sorted(oldest):
            await writer.connection.execute(SQL.lock_patient, {"patient": patient})
            await self.settle_patient(patient, oldest[patient], directory.zone(patient), writer, now_ms)

    async def patients_due(self, connection: Connection, now_ms: int, limit: int) -> list[int]:
        """Return (and lock for the transaction) patients with something to settle now."""
        cursor = await connection.execute(
            SQL.patients_due,
            {
                "now": now_ms,
                "horizon": now_ms + RECOMPUTE_AHEAD_MS,
                "grace": self._settings.contact_grace_ms,
                "limit": limit,
            },
        )
        return [row[0] for row in await cursor.fetchall()]

    async def settle_patient(
        self, patient: int, touched_ms: int, zone: ZoneHistory, writer: AlertWriter, now_ms: int
    ) -> None:
        """Settle a patient's doses anew, as far back as `touched_ms` may reach, and bring the alerts in line."""
        connection = writer.connection
        since = min(touched_ms, now_ms) - LOOK_BACK_MS
        async with connection.cursor(row_factory=class_row(ScheduleRow)) as cursor:
            rows = await (await cursor.execute(SQL.schedules, {"patient": patient})).fetchall()
        if not rows:
            return
        span = {"patient": patient, "since": since}
        openings = [
            Opening(at, EventType(kind), compartment, count)
            for at, kind, compartment, count in await (await connection.execute(SQL.events, span)).fetchall()
        ]
        known = {
            (schedule_id, due_at): (DoseState(state), seen)
            for schedule_id, due_at, state, seen in await (await connection.execute(SQL.known_doses, span)).fetchall()
        }
        contact, missing = await self._contact(connection, patient, now_ms)
        doses = [
            replace(dose, contact_seen_at=None if missing else known.get(dose.key, (None, None))[1])
            for row in rows
            for dose in due_doses(row.schedule(), zone, since, now_ms + AHEAD_MS)
        ]
        outcomes = settle(doses, openings, contact, now_ms, self._settings)
        await self._write(connection, patient, since, outcomes, now_ms)
        medications = {row.id: row.medication for row in rows}
        await self._alert(patient, zone, outcomes, known, medications, writer, now_ms)

    @staticmethod
    async def zone(connection: Connection, patient: int) -> ZoneHistory:
        """Return the zones a patient lives by, from the store."""
        rows = await (await connection.execute(SQL.timezones, {"patient": patient})).fetchall()
        spans = [(-EVER if since is None else since, ZoneInfo(name)) for since, name in rows]
        return ZoneHistory.from_spans(spans) if spans else ZoneHistory.of("UTC")

    @staticmethod
    async def _contact(connection: Connection, patient: int, now_ms: int) -> tuple[Contact | None, bool]:
        """Return the contact of the box that was longest away, and whether messages of a box are missing."""
        rows = await (await connection.execute(SQL.contact, {"patient": patient, "now": now_ms})).fetchall()
        missing = any(gap for *_, gap in rows)
        if not rows or missing or any(stamp is None or seen is None for stamp, seen, _ in rows):
            return None, missing
        stamp, seen, _ = min(rows)
        return Contact(stamp, seen), missing

    @staticmethod
    async def _write(
        connection: Connection, patient: int, since: int, outcomes: Sequence[DoseOutcome], now_ms: int
    ) -> None:
        keys = {"schedule_id": [o.dose.schedule_id for o in outcomes], "due_at": [o.dose.due_at for o in outcomes]}
        # The first doses of the span may be settled by openings before it: those rows stay as they are.
        await connection.execute(SQL.forget, {**keys, "patient": patient, "since": since + DAY_MS})
        settled = [o for o in outcomes if o.dose.due_at >= since + DAY_MS]
        await connection.execute(
            SQL.write,
            {
                "patient": patient,
                "now": now_ms,
                "schedule_id": [o.dose.schedule_id for o in settled],
                "due_at": [o.dose.due_at for o in settled],
                "window_start": [o.dose.window_start for o in settled],
                "window_end": [o.dose.window_end for o in settled],
                "state": [o.state.value for o in settled],
                "taken_at": [o.taken_at for o in settled],
                "contact_seen_at": [o.contact_seen_at for o in settled],
            },
        )
        await connection.execute(SQL.computed, {"patient": patient, "until": now_ms + AHEAD_MS})

    async def _alert(
        self,
        patient: int,
        zone: ZoneHistory,
        outcomes: Sequence[DoseOutcome],
        known: dict[tuple[int, int], tuple[DoseState, int | None]],
        medications: dict[int, str],
        writer: AlertWriter,
        now_ms: int,
    ) -> None:
        before = {key: state for key, (state, _) in known.items()}
        changed = [
            outcome
            for outcome in outcomes
            if outcome.state is not before.get(outcome.dose.key)
            and DoseState.MISSED in (outcome.state, before.get(outcome.dose.key))
        ]
        episodes: list[Episode] = []
        for outcome in changed:
            was_missed = before.get(outcome.dose.key) is DoseState.MISSED
            episode = missed_episode(outcome, was_missed=was_missed)
            if episode is not None:
                medication = medications[outcome.dose.schedule_id]
                episodes.append(replace(episode, evidence={**episode.evidence, "medication": medication}))
        subjects = [outcome.dose.subject for outcome in changed]
        if not subjects:
            return
        context = RuleContext(patient, Rule.MISSED_DOSE, zone)
        standing = await writer.standing_subjects(context, subjects)
        decisions = await writer.apply(
            context, standing, episodes, note="the box delivered late what settles this dose"
        )
        await self._remind(patient, [d.episode for d in decisions if isinstance(d, Raise)], writer, now_ms)

    @staticmethod
    async def _remind(patient: int, missed: Sequence[Episode], writer: AlertWriter, now_ms: int) -> None:
        """Let the patient's boxes remind at once of doses that were missed just now."""
        fresh = [e for e in missed if e.resolved_at is None and now_ms - e.opened_at < REMINDER_LASTS_MS]
        for episode in fresh:
            payload = Jsonb({"due_at": episode.evidence["due_at"]})
            await writer.connection.execute(
                SQL.remind,
                {"patient": patient, "payload": payload, "now": now_ms, "expires": now_ms + REMINDER_LASTS_MS},
            )
        if fresh:
            await writer.connection.execute(SQL.notify_commands)
