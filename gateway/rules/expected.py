"""When somebody waits for a patient's data: with consent, with a device, by the rules in force; for whoever tells silence."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from gateway.store.locks import try_lock_patient
from gateway.store.queries import load_queries
from streaming.episodes import Rule
from streaming.rules.history import RulesHistory
from streaming.silence.gaps import Spans, back_since

SQL = load_queries("gateway.store", "silence.sql")

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Own:
    """What one rule has in force for patients who are not watched as usual; columns of one length.

    `settings` is None where the rule is off or rests, `back` (ms) when a rest ended, if there was one.
    """

    patients: Sequence[int]
    settings: Sequence[Any]
    back: Sequence[int | None]

    def column(self, of: Callable[[Any], float]) -> list[float | None]:
        """Return one of the settings, None where there are none."""
        return [None if settings is None else of(settings) for settings in self.settings]


def own_rules(histories: Mapping[int, RulesHistory], rule: Rule, now_ms: int) -> Own:
    """Return what is in force now for the patients of `histories`; many share one of these."""
    known: dict[int, tuple[Any, int | None]] = {}
    for history in histories.values():
        if id(history) not in known:
            known[id(history)] = (history.at(now_ms).of(rule), back_since(history, now_ms))
    found = [known[id(history)] for history in histories.values()]
    return Own(list(histories), [settings for settings, _ in found], [back for _, back in found])


@asynccontextmanager
async def looking_at_all(connection: Connection) -> AsyncIterator[None]:
    """Open a transaction for queries over all patients, whose plans are made for the values at hand."""
    async with connection.transaction():
        await connection.execute(SQL.plan_for_values)
        yield


async def try_lock(connection: Connection, patient: int) -> bool:
    """Whether nobody else is at this patient; until the transaction ends nobody will be, and plans are made as above."""
    await connection.execute(SQL.plan_for_values)
    return await try_lock_patient(connection, patient)


def spans(bounds: Iterable[tuple[int | None, int | None]]) -> Spans:
    """Return times by their bounds in ms, as the store gives them; None: without end."""
    return [
        (DISTANT_PAST_MS if since is None else since, DISTANT_FUTURE_MS if until is None else until)
        for since, until in bounds
    ]
