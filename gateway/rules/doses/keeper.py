"""Settles patients' doses against the store: when openings arrive (gateway) and when deadlines pass (worker)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from alerts.reconcile import Raise
from devices.instants import DISTANT_FUTURE_MS
from devices.vocabulary import EventType
from gateway.clinic.directory import Directory
from gateway.clinic.doses import OPEN, BoxRow, DoseRow, ScheduleRow, columns, first_contact, rests
from gateway.clinic.patient_rules import rules_of
from gateway.clinic.zones import zone_of
from gateway.rules.doses.low_adherence import BEGINNING, DosesOf, follow_adherence
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.locks import lock_patient, try_lock_patient
from gateway.store.queries import load_queries
from gateway.store.rows import WornEvent
from streaming.doses.calendar import due_doses, with_pauses
from streaming.doses.matching import DoseOutcome, DoseSettings, DoseState, Opening, reach_ms
from streaming.doses.missed import VERSION, missed_episode, settle
from streaming.episodes import Episode, Rule
from streaming.zones import DAY_MS, HOUR_MS

SQL = load_queries("gateway.store", "doses.sql")

Connection = psycopg.AsyncConnection[Any]

PATIENTS_AT_ONCE = 20
AHEAD_MS = 36 * HOUR_MS
RECOMPUTE_AHEAD_MS = 13 * HOUR_MS
REMINDER_LASTS_MS = HOUR_MS
# An opening may be stamped a little ahead of us and counts only then: every time the last day is gone through again.
GO_BACK_MS = DAY_MS
DOSE_EVENTS = frozenset({EventType.COMPARTMENT_OPENED, EventType.DOSE_TAKEN, EventType.DOSE_SKIPPED})
DELIVERED_LATE = "the box delivered late what settles this dose"
TAKEN_AWAY = "late data: what had settled this dose was for another one"
NOT_ASKED_FOR = "this dose is not asked for any more: a schedule, a zone, a pause or a rule changed"


@dataclass(frozen=True, slots=True)
class _DoseFacts:
    """What is to be settled of one patient. Doses and rows begin at `doses_since`; `since` None: from the beginning.

    `reach`: how far from when it is due a dose may be settled.
    """

    whose: DosesOf
    reach: int
    since: int | None
    doses_since: int
    rows: Mapping[tuple[int, int], DoseRow]
    boxes: Sequence[BoxRow]
    openings: Sequence[Opening]

    def is_news(self, outcome: DoseOutcome) -> bool:
        """Whether the store says something else of a dose, or nothing."""
        row = self.rows.get(outcome.dose.key)
        return row is None or not row.says(outcome)

    def was_open(self, outcome: DoseOutcome) -> bool:
        """Whether nothing was known of a dose yet."""
        row = self.rows.get(outcome.dose.key)
        return row is None or row.is_open


class DoseKeeper:
    """Keeps the rows of `dose` and the missed-dose alerts equal to what schedules, openings and contacts say.

    The rows are those of one fold over all the patient's openings. Where it goes on from them, it does so from the
    oldest new opening; where a schedule, a zone or a box changed, a worker folds again from the beginning.
    """

    def __init__(self, contact_grace_ms: int) -> None:
        """Judge with this grace after a box came back."""
        self._settings = DoseSettings(contact_grace_ms=contact_grace_ms)

    async def take_events(
        self, events: Iterable[WornEvent], directory: Directory, writer: AlertWriter, now_ms: int
    ) -> None:
        """Settle the doses of every patient whose box was opened, from the oldest new opening on.

        A patient whose doses are to be computed from the beginning is left to a worker, which does so within a second.
        """
        oldest: dict[int, int] = {}
        for worn in events:
            if worn.event.type in DOSE_EVENTS:
                oldest[worn.patient] = min(worn.event.at, oldest.get(worn.patient, DISTANT_FUTURE_MS))
        for patient in sorted(oldest):
            await lock_patient(writer.connection, patient)
            schedules = await self._schedules(writer.connection, patient)
            if not any(row.stale for row in schedules):
                whose = DosesOf(patient, directory.zone(patient), directory.rules_of(patient), schedules)
                await self._settle(whose, oldest[patient], writer, now_ms)

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, int | None]:
        """Return some patients with something to settle now, each with the oldest dose (its `due_at`) that it is about.

        Whose schedules have to be computed come first, then the oldest dose.
        """
        horizon_ms = now_ms + RECOMPUTE_AHEAD_MS
        cursor = await connection.execute(
            SQL.patients_due,
            {"now": now_ms, "horizon": horizon_ms, "without": list(without), "limit": PATIENTS_AT_ONCE},
        )
        return dict(await cursor.fetchall())

    async def settle(self, patient: int, touched: int | None, writer: AlertWriter) -> bool:
        """Settle a patient's doses anew from the one due at `touched` (ms) on; False: somebody else is at it."""
        now_ms = writer.now_ms
        connection = writer.connection
        if not await try_lock_patient(connection, patient):
            return False
        schedules = await self._schedules(connection, patient)
        zone, rules = await zone_of(connection, patient), await rules_of(connection, patient)
        whose = DosesOf(patient, zone, rules, schedules)
        await self._settle(whose, now_ms if touched is None else touched, writer, now_ms)
        return True

    async def _settle(self, whose: DosesOf, touched_ms: int, writer: AlertWriter, now_ms: int) -> None:
        if not whose.schedules:
            return
        facts = await self._facts(writer.connection, whose, touched_ms, now_ms)
        outcomes = self._outcomes(facts, now_ms)
        removed = await self._write(writer.connection, facts, outcomes, now_ms)
        await self._alert(facts, outcomes, removed, writer, now_ms)
        changed_ms = _changed_since(facts, outcomes, now_ms)
        if changed_ms is not None:
            await follow_adherence(whose, changed_ms, facts.reach, writer)
        await writer.connection.execute(
            SQL.computed,
            {
                "id": [row.id for row in whose.schedules],
                "version": [row.version for row in whose.schedules],
                "until": now_ms + AHEAD_MS,
            },
        )

    @staticmethod
    async def _schedules(connection: Connection, patient: int) -> list[ScheduleRow]:
        async with connection.cursor(row_factory=class_row(ScheduleRow)) as cursor:
            return await (await cursor.execute(SQL.schedules, {"patient": patient})).fetchall()

    async def _facts(self, connection: Connection, whose: DosesOf, touched_ms: int, now_ms: int) -> _DoseFacts:
        """Read what is needed to settle everything that something at `touched_ms` may change."""
        same_act, patient = self._settings.same_act_ms, whose.patient
        reach = reach_ms((row.schedule() for row in whose.schedules), self._settings)
        since: int | None = None
        doses_since = openings_since = BEGINNING
        if not any(row.stale for row in whose.schedules):
            since = min(touched_ms, now_ms - GO_BACK_MS) - same_act
            doses_since = max(BEGINNING, since - reach)
            openings_since = max(BEGINNING, since - same_act)
        async with connection.cursor(row_factory=class_row(DoseRow)) as cursor:
            await cursor.execute(SQL.known_doses, {"patient": patient, "since": doses_since})
            rows = {row.key: row for row in await cursor.fetchall()}
        async with connection.cursor(row_factory=class_row(BoxRow)) as cursor:
            await cursor.execute(SQL.boxes, {"patient": patient, "since": doses_since})
            boxes = await cursor.fetchall()
        events = await connection.execute(SQL.events, {"patient": patient, "since": openings_since})
        openings = [Opening(at, EventType(kind), place, count) for at, kind, place, count in await events.fetchall()]
        return _DoseFacts(whose, reach, since, doses_since, rows, boxes, openings)

    def _outcomes(self, facts: _DoseFacts, now_ms: int) -> list[DoseOutcome]:
        whose = facts.whose
        doses = [
            replace(dose, contact_seen_at=first_contact(dose, facts.rows.get(dose.key), facts.boxes, now_ms))
            for row in whose.schedules
            for dose in due_doses(row.schedule(), whose.zone, facts.doses_since, now_ms + AHEAD_MS)
        ]
        doses = with_pauses(doses, rests(whose.rules))
        known = [facts.rows[dose.key].outcome(dose) for dose in doses if dose.key in facts.rows]
        if facts.since is None:
            known = []
        settled = settle(doses, facts.openings, None, now_ms, self._settings, known=known, since_ms=facts.since)
        return [_with_relevant_contact(outcome, facts.rows.get(outcome.dose.key)) for outcome in settled]

    async def _write(
        self, connection: Connection, facts: _DoseFacts, outcomes: Sequence[DoseOutcome], now_ms: int
    ) -> list[str]:
        """Write what changed; return the subjects of doses that are not due any more."""
        values = columns(outcomes, facts.boxes, self._settings.contact_grace_ms, now_ms)
        about = {"patient": facts.whose.patient, "since": facts.doses_since, "now": now_ms}
        removed: list[str] = []
        if facts.rows.keys() - {outcome.dose.key for outcome in outcomes}:
            gone = await (await connection.execute(SQL.forget, {**about, **values})).fetchall()
            removed = [f"{schedule_id}:{due_at}" for schedule_id, due_at in gone]
        await connection.execute(SQL.write, {**about, **values})
        return removed

    async def _alert(
        self, facts: _DoseFacts, outcomes: Sequence[DoseOutcome], removed: list[str], writer: AlertWriter, now_ms: int
    ) -> None:
        """Bring the alerts in line with doses that are news, or gone; from the beginning: with all of them."""
        whose = facts.whose
        news = {
            outcome.dose.subject: outcome
            for outcome in outcomes
            if outcome.dose.window_end <= now_ms and (facts.since is None or facts.is_news(outcome))
        }
        if not news and not removed:
            return
        context = RuleContext(whose.patient, Rule.MISSED_DOSE, whose.zone, VERSION, whose.rules)
        standing = await writer.standing_subjects(context, [*news, *removed])
        episodes = _missed_episodes(whose, news.values(), {alert.subject for alert in standing})
        missed = {one.subject: one for one in episodes if one.resolved_at is None}
        settled = {one.subject: one for one in episodes if one.resolved_at is not None}
        gone = [alert for alert in standing if alert.subject not in {*missed, *settled}]
        await writer.apply(context, gone, [], note=NOT_ASKED_FOR)
        late = [alert for alert in standing if alert.subject in settled]
        await writer.apply(context, late, list(settled.values()), note=DELIVERED_LATE)
        again = [alert for alert in standing if alert.subject in missed]
        decisions = await writer.apply(context, again, list(missed.values()), note=TAKEN_AWAY)
        await self._remind(whose.patient, [d.episode for d in decisions if isinstance(d, Raise)], writer, now_ms)

    @staticmethod
    async def _remind(patient: int, missed: Sequence[Episode], writer: AlertWriter, now_ms: int) -> None:
        """Let the patient's boxes remind at once of doses that were missed just now."""
        fresh = [episode for episode in missed if now_ms - episode.opened_at < REMINDER_LASTS_MS]
        for episode in fresh:
            payload = Jsonb({"due_at": episode.evidence["due_at"]})
            await writer.connection.execute(
                SQL.remind,
                {"patient": patient, "payload": payload, "now": now_ms, "expires": now_ms + REMINDER_LASTS_MS},
            )
        if fresh:
            await writer.connection.execute(SQL.notify_commands)


def _with_relevant_contact(outcome: DoseOutcome, row: DoseRow | None) -> DoseOutcome:
    """Return the outcome with the contact that a verdict rests on; a dose that was settled needs none."""
    if outcome.state in OPEN or outcome.state is DoseState.MISSED:
        return outcome
    return replace(outcome, contact_seen_at=row.contact_seen_at if row is not None else None)


def _missed_episodes(whose: DosesOf, outcomes: Iterable[DoseOutcome], missed_before: Collection[str]) -> list[Episode]:
    """Return the episodes of doses that are missed, or were (by subject) and are settled.

    The rules in force at the end of a dose's window say whether a miss of it is an alert, and how severe.
    """
    episodes: list[Episode] = []
    for outcome in outcomes:
        dose = outcome.dose
        settings = whose.rules.at(dose.window_end).of(Rule.MISSED_DOSE)
        if settings is None:
            continue
        episode = missed_episode(outcome, settings, was_missed=dose.subject in missed_before)
        if episode is not None:
            evidence = {**episode.evidence, "medication": whose.medications[dose.schedule_id]}
            episodes.append(replace(episode, evidence=evidence))
    return episodes


def _changed_since(facts: _DoseFacts, outcomes: Sequence[DoseOutcome], now_ms: int) -> int | None:
    """Return an instant before which no dose stands for anything else than it did; None: no verdict changed.

    It is now where the rule is off, so that what it had opened ends.
    """
    if facts.since is None:
        return BEGINNING
    changed = [
        outcome.dose.due_at
        for outcome in outcomes
        if facts.is_news(outcome) and not (outcome.state in OPEN and facts.was_open(outcome))
    ]
    changed += [due_at for _, due_at in facts.rows.keys() - {outcome.dose.key for outcome in outcomes}]
    if changed:
        return min(changed) - facts.reach
    return now_ms if facts.whose.rules.at(now_ms).of(Rule.LOW_ADHERENCE) is None else None
