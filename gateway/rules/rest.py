"""Ends the alerts of rules that were switched off, or whose patient rests, when that begins; the worker's part.

The fold over readings says the same as soon as the next one comes; but none may come.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from alerts.reconcile import StandingAlert
from gateway.clinic.patient_rules import all_rules, rules_of
from gateway.clinic.zones import zone_of
from gateway.rules.expected import try_lock
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.episodes import Episode, Rule
from streaming.limits.detectors import READING_RULES
from streaming.silence.rest import rest_of

SQL = load_queries("gateway.store", "rest.sql")

Connection = psycopg.AsyncConnection[Any]

RULES: Final = (*READING_RULES, Rule.HRV_DRIFT)
NOTE: Final = "the rule was switched off, or the patient began to rest"


@dataclass(frozen=True, slots=True)
class Running:
    """An alert that goes on in the data; `opened_at` in ms."""

    id: int
    patient_id: int
    rule: str
    subject: str
    opened_at: int


class RestKeeper:
    """Ends what a rest ends; any number of workers may do so at once."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, list[Running]]:
        """Return the patients with running alerts that a rest ended by now, and these."""
        histories = {patient: rules for patient, rules in (await all_rules(connection)).items() if len(rules.spans) > 1}
        found: defaultdict[int, list[Running]] = defaultdict(list)
        if not histories:
            return found
        values = {"rules": [rule.value for rule in RULES], "patients": list(histories)}
        async with connection.cursor(row_factory=class_row(Running)) as cursor:
            for one in await (await cursor.execute(SQL.running, values)).fetchall():
                if rest_of(Rule(one.rule), one.subject, histories[one.patient_id], one.opened_at, now_ms) is not None:
                    found[one.patient_id].append(one)
        return {patient: running for patient, running in found.items() if patient not in without}

    async def settle(self, patient: int, touched: Sequence[Running], writer: AlertWriter) -> bool:
        """End some of a patient's alerts; False: somebody else is at it."""
        connection = writer.connection
        if not await try_lock(connection, patient):
            return False
        rules = await rules_of(connection, patient)
        zone = await zone_of(connection, patient)
        for one in touched:
            rule = Rule(one.rule)
            context = RuleContext(patient, rule, zone)
            for alert in await writer.standing_subjects(context, [one.subject]):
                began = rest_of(rule, alert.subject, rules, alert.opened_at, writer.now_ms)
                if alert.running and began is not None:
                    await writer.apply(context, [alert], [_ended(alert, began)], note=NOTE)
        return True


def _ended(alert: StandingAlert, began: int) -> Episode:
    return Episode(alert.opened_at, began, alert.severity, {**alert.finding, "ended_by": "rest"}, alert.subject)
