"""Writes decisions about alerts: the row, its history, the outbox; always inside the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row, tuple_row
from psycopg.types.json import Jsonb

from alerts.reconcile import (
    Action,
    AlertState,
    Change,
    Decision,
    Raise,
    StandingAlert,
    Withdraw,
    grade_of,
    reconcile,
    state_of,
)
from alerts.words import TECHNICAL, summary
from gateway.store.queries import load_queries
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.rules.changes import settings_json
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "alerts.sql")

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class RuleContext:
    """The patient, and the rule with its version, for which alerts are written."""

    patient_id: int
    rule: Rule
    zone: ZoneHistory
    version: int = 1
    settings: Mapping[str, JSON] | RulesHistory = field(default_factory=dict)

    def settings_at(self, at_ms: int) -> Mapping[str, JSON]:
        """Return the rule's settings for an episode that opened at `at_ms`."""
        if isinstance(self.settings, RulesHistory):
            return settings_json(self.settings.at(at_ms).of(self.rule))
        return self.settings


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """Something that happened to an alert, for its history and for the listeners."""

    alert_id: int
    action: Action
    note: str | None
    detail: Mapping[str, JSON] | None


@dataclass(slots=True)
class AlertWriter:
    """Writes the alerts of one transaction; `finish` writes history and outbox last, in the order of commits."""

    connection: psycopg.AsyncConnection[Any]
    now_ms: int
    retrospective_after_ms: int = 30 * MINUTE_MS
    events: list[AlertEvent] = field(default_factory=list)
    raised: list[tuple[int, int]] = field(default_factory=list)  # (alert id, opened_at), oldest first

    async def standing(self, context: RuleContext, since_ms: int, until_ms: int | None) -> list[StandingAlert]:
        """Return (and lock) the alerts that touch a span of event time, ends included; None: open-ended."""
        return await self._standing(
            SQL.standing,
            {"patient": context.patient_id, "rule": context.rule, "since": since_ms, "until": until_ms},
        )

    async def standing_subjects(self, context: RuleContext, subjects: Sequence[str]) -> list[StandingAlert]:
        """Return (and lock) the alerts with these subjects."""
        return await self._standing(
            SQL.standing_subjects,
            {"patient": context.patient_id, "rule": context.rule, "subjects": list(subjects)},
        )

    async def standing_rules(
        self, patient: int, rules: Sequence[Rule], since_ms: int
    ) -> list[tuple[tuple[Rule, str], StandingAlert]]:
        """Return (and lock) the alerts of several rules that reach beyond an instant, each with rule and subject."""
        parameters = {"patient": patient, "rules": list(rules), "since": since_ms}
        async with self.connection.cursor(row_factory=tuple_row) as cursor:
            rows = await (await cursor.execute(SQL.standing_rules, parameters)).fetchall()
        return [((Rule(rule), row[1]), _StandingRow(*row).standing()) for rule, *row in rows]

    async def apply(
        self,
        context: RuleContext,
        standing: Sequence[StandingAlert],
        episodes: Sequence[Episode],
        *,
        note: str | None = None,
    ) -> list[Decision]:
        """Bring the standing alerts in line with the episodes; return the decisions.

        `note` is the sentence that the history of changed alerts shows.
        """
        decisions = reconcile(context.rule, standing, episodes)
        for decision in decisions:
            match decision:
                case Raise(episode):
                    await self._raise(context, episode)
                case Change():
                    await self._change(context, decision, note)
                case Withdraw(alert, survivor):
                    await self._withdraw(alert, survivor, note)
        return decisions

    async def add_evidence(self, alert_id: int, evidence: Mapping[str, JSON]) -> None:
        """Store evidence that a doctor will want to see beside the finding."""
        await self.connection.execute(SQL.add_evidence, {"id": alert_id, "evidence": Jsonb(evidence)})

    async def set_data(self, alert_ids: Sequence[int], action: Action) -> None:
        """Mark the data behind running episodes as unknown (readings stopped) or current again."""
        data = "unknown" if action is Action.DATA_UNKNOWN else "current"
        cursor = await self.connection.execute(SQL.set_data, {"ids": list(alert_ids), "data": data, "now": self.now_ms})
        for alert_id, _ in await cursor.fetchall():
            self._tell(alert_id, action)

    async def finish(self) -> None:
        """Write history and outbox and wake the listeners, in one round trip. The last thing before the commit."""
        if not self.events:
            return
        columns = {
            "alerts": [event.alert_id for event in self.events],
            "actions": [event.action.value for event in self.events],
            "notes": [event.note for event in self.events],
            "details": [Jsonb(event.detail) if event.detail else None for event in self.events],
            "now": self.now_ms,
        }
        await self.connection.execute(SQL.tell, columns)

    async def _standing(self, query: str, parameters: Mapping[str, Any]) -> list[StandingAlert]:
        async with self.connection.cursor(row_factory=class_row(_StandingRow)) as cursor:
            await cursor.execute(query, parameters)
            return [row.standing() for row in await cursor.fetchall()]

    async def _raise(self, context: RuleContext, episode: Episode) -> None:
        running = episode.resolved_at is None
        cursor = await self.connection.execute(
            SQL.insert,
            {
                "patient": context.patient_id,
                "rule": context.rule,
                "subject": episode.subject,
                "severity": episode.severity,
                "grade": grade_of(context.rule, episode),
                "unanswered": not running,
                "technical": context.rule in TECHNICAL,
                "state": state_of(running=running, answered=False),
                "opened_at": episode.opened_at,
                "resolved_at": episode.resolved_at,
                "running": running,
                "now": self.now_ms,
                "retrospective": self.now_ms - episode.opened_at > self.retrospective_after_ms,
                "summary": summary(context.rule, episode, context.zone),
                "evidence": Jsonb({"finding": episode.evidence}),
                "rule_version": context.version,
                "settings": Jsonb(context.settings_at(episode.opened_at)),
            },
        )
        row = await cursor.fetchone()
        if row is None:
            raise LookupError("the insert returned no id")
        self.raised.append((row[0], episode.opened_at))
        self._tell(row[0], Action.RAISED)

    async def _change(self, context: RuleContext, change: Change, note: str | None) -> None:
        after = change.after
        await self.connection.execute(
            SQL.change,
            {
                "id": after.id,
                "severity": after.severity,
                "state": after.state,
                "opened_at": after.opened_at,
                "resolved_at": after.resolved_at,
                "running": after.running,
                "now": self.now_ms,
                "summary": summary(context.rule, change.episode, context.zone),
                "evidence": Jsonb({"finding": change.episode.evidence}),
                "retrospective_after": self.retrospective_after_ms,
                "acknowledged_by": after.acknowledged_by,
                "acknowledged_at": after.acknowledged_at,
                "grade": after.grade,
                "answered_grade": after.answered_grade,
                "unanswered": after.unanswered,
            },
        )
        detail: dict[str, list[JSON]] = {
            "opened_at": [change.before.opened_at, after.opened_at],
            "resolved_at": [change.before.resolved_at, after.resolved_at],
            "severity": [change.before.severity.value, after.severity.value],
            "grade": [change.before.grade, after.grade],
        }
        moved: dict[str, JSON] = {name: pair for name, pair in detail.items() if pair[0] != pair[1]}
        for action in change.actions:
            self._tell(after.id, action, note=note, detail=moved)

    async def _withdraw(self, alert: StandingAlert, survivor: int | None, note: str | None) -> None:
        await self.connection.execute(SQL.withdraw, {"id": alert.id, "survivor": survivor, "now": self.now_ms})
        if note is None:
            note = "late data: merged into another episode" if survivor else "late data: the episode is gone"
        self._tell(alert.id, Action.WITHDRAWN, note=note)

    def _tell(
        self, alert_id: int, action: Action, *, note: str | None = None, detail: Mapping[str, JSON] | None = None
    ) -> None:
        self.events.append(AlertEvent(alert_id, action, note, detail))


@dataclass(frozen=True, slots=True)
class _StandingRow:
    id: int
    subject: str
    severity: str
    state: str
    opened_at: int
    resolved_at: int | None
    running: bool
    acknowledged_by: int | None
    acknowledged_at: int | None
    grade: int
    answered_grade: int | None
    finding: Mapping[str, JSON]

    def standing(self) -> StandingAlert:
        return StandingAlert(
            id=self.id,
            subject=self.subject,
            severity=Severity(self.severity),
            state=AlertState(self.state),
            opened_at=self.opened_at,
            resolved_at=self.resolved_at,
            running=self.running,
            acknowledged_by=self.acknowledged_by,
            acknowledged_at=self.acknowledged_at,
            grade=self.grade,
            answered_grade=self.answered_grade,
            finding=self.finding or {},
        )
