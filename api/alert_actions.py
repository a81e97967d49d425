"""Acknowledging and resolving alerts: decided purely, then written in the order that all writers keep."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from alerts.reconcile import Action, AlertState, is_answered
from api.alert_view import Alert
from api.dependencies import Session
from api.problems import ProblemError, not_found
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "alerts.sql")


class Decision(StrEnum):
    """The decision about a request to act."""

    CHANGE = "change"
    ALREADY_SO = "already_so"
    REFUSE = "refuse"


FROM: Mapping[Action, frozenset[AlertState]] = {
    Action.ACKNOWLEDGED: frozenset({AlertState.OPEN, AlertState.SNOOZED}),
    Action.RESOLVED: frozenset({AlertState.OPEN, AlertState.ACKNOWLEDGED, AlertState.SNOOZED}),
}
"""What a person may do, and from which states; it leads to the state of the same name."""


def decide(action: Action, state: AlertState) -> Decision:
    """Return whether an alert in `state` can be acted upon; repeating an action is not an error."""
    if state.value == action.value:
        return Decision.ALREADY_SO
    return Decision.CHANGE if state in FROM[action] else Decision.REFUSE


async def act(session: Session, key: int, action: Action, note: str | None, seen_grade: int | None) -> Alert:
    """Carry out the action and return the updated alert. Raises ProblemError 404, or 409 if the state forbids it.

    `seen_grade`: the grade that the person saw, by default the present one. If the alert is worse by now, the answer is
    kept, and the alert stays open.
    """
    connection = session.connection
    values: dict[str, Any] = {
        "alert": key,
        "actor": session.user_id,
        "now": session.now,
        "action": action.value,
        "note": note,
    }
    row = await _alert_row(connection, SQL.alert_for_update, values)
    values["grade"] = row["grade"] if seen_grade is None else seen_grade
    state = AlertState(row["state"])
    match decide(action, state):
        case Decision.REFUSE:
            detail = f"An alert that is {state} cannot be {action}."
            raise ProblemError(HTTPStatus.CONFLICT, detail, error=f"alert_{state}")
        case Decision.ALREADY_SO:
            if note is not None:
                await connection.execute(SQL.tell, {**values, "action": Action.NOTE.value})
            return Alert.model_validate(row)
        case Decision.CHANGE:
            change = SQL.acknowledge if action is Action.ACKNOWLEDGED else SQL.resolve
            if not is_answered(row["grade"], values["grade"]):
                change = SQL.answer_milder
            changed = await _alert_row(connection, change, values)
            await connection.execute(SQL.tell, values)
            return Alert.model_validate(changed)


async def _alert_row(connection: AsyncConnection, query: LiteralString, values: Mapping[str, Any]) -> dict[str, Any]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        row = await cursor.fetchone()
    if row is None:
        raise not_found()
    return row
