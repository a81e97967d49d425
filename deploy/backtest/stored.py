"""Patients of a back-test from the store: their history, their own zones and their own rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np

from deploy.backtest.cases import Case
from deploy.backtest.trials import Trial
from deploy.recordings import instant
from devices.vocabulary import Code
from gateway.clinic.history import Person, patient_history, people
from gateway.store.connect import connect
from streaming.limits.detectors import detectors_ever
from streaming.zones import DAY_MS

WARM_UP_MS: Final = 7 * DAY_MS
"""Readings from this long before the time that counts: an alarm already open at its start is not one of its alarms."""


class NoPatientError(Exception):
    """The store has no such patient."""


async def stored_cases(
    database_url: str, patients: Sequence[int], begin: str, end: str | None, trials: Sequence[Trial], now: datetime
) -> list[Case]:
    """Return patients with everything that the trials need, from `begin` to `end` (by default now).

    Times without offset are each patient's own local time. Raises `NoPatientError`, `RecordingError` for a malformed
    time, `SettingError` for impossible settings.
    """
    connection = await connect(database_url, "vigil backtest")
    try:
        found = await people(connection, patients)
        if missing := set(patients) - {person.id for person in found}:
            raise NoPatientError(f"there is no patient {min(missing)}")
        cases = []
        for person in found:
            since = instant(begin, person.zone, "--from")
            until = round(now.timestamp() * 1000) if end is None else instant(end, person.zone, "--until")
            history = await patient_history(connection, person.id, _codes(person, trials), since - WARM_UP_MS, until)
            nights = history.nights
            cases.append(
                Case(
                    str(person.id),
                    person.zone,
                    history.readings,
                    person.rules,
                    nights,
                    np.array([night.starts_at for night in nights if night.windows], np.int64),
                    history.doses,
                    since,
                    until,
                    person.night_watch,
                )
            )
        return cases
    finally:
        await connection.close()


def _codes(person: Person, trials: Sequence[Trial]) -> list[Code]:
    """Return the codes that some rule under trial reads; always glucose, which has the reference events."""
    histories = [trial.history(person.rules) for trial in trials]
    watched = (code for code in Code if any(detectors_ever(code, history) for history in histories))
    return list(dict.fromkeys((Code.GLUCOSE, *watched)))
