"""Tells when glucose that is expected does not come, and when it comes again; the worker's part.

Queries over all patients find those about whom there may be news; what the news is, is decided for one patient after
the other from everything stored about them, so that late readings, a restart and other workers change nothing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from devices.vocabulary import Code, DeviceModel
from gateway.clinic.directory import UNSET
from gateway.clinic.patient_rules import all_rules, rules_of
from gateway.clinic.zones import UTC, zone_of, zones_of
from gateway.rules.expected import looking_at_all, own_rules, spans, try_lock
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.episodes import Episode, Rule
from streaming.glucose.values import HI, LO, NEVER_ALARMED
from streaming.rules.changes import settings_json
from streaming.rules.history import RulesHistory
from streaming.rules.settings import DataSilenceSettings
from streaming.silence.gaps import GLUCOSE, NIGHT, VERSION, Gap, Spans, at_night, glucose_silences, night_silences
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory

SQL = load_queries("gateway.store", "silence.sql")

Connection = psycopg.AsyncConnection[Any]

RULE: Final = Rule.DATA_SILENCE
# Models that may send glucose; a wristband passes on that of the sensor it is paired with.
SENDERS: Final = [DeviceModel.CGM.value, DeviceModel.GLUCOSE_METER.value, DeviceModel.WRISTBAND.value]
# Who is expected to send less often has no signal to lose at night.
FAST_MS: Final = 15 * MINUTE_MS
# While readings come and are old ones, more are on their way: nothing is told before none came for this time.
SETTLED_MS: Final = 30_000
# How long a device that was just recorded as worn, perhaps for some time already, has for its first reading.
FIRST_DATA_MS: Final = 2 * MINUTE_MS
# Silence that is over is looked at each time for an hour, then every four hours: each time another share of all of it.
# What comes later than that does not change it any more.
LATELY_MS: Final = HOUR_MS
SHARES: Final = 720
SHARE_MS: Final = 20_000
LATE_MS: Final = 14 * DAY_MS

READINGS: Final[Mapping[str, int]] = {
    "glucose": int(Code.GLUCOSE),
    "never": int(NEVER_ALARMED),
    "sentinels": int(LO | HI),
}


@dataclass(frozen=True, slots=True)
class Touched:
    """An alert of silence about which there is news; without `id`: a silence that is not told yet. Times in ms."""

    id: int | None
    patient_id: int
    subject: str
    last_at: int | None = None
    resolved_at: int | None = None


@dataclass(frozen=True, slots=True)
class _Expectation:
    at_risk: bool
    interval_ms: int | None
    created_at: int
    recorded_at: int | None

    def covers(self, subject: str) -> bool:
        """Whether silence of this kind means anything for the patient."""
        if self.interval_ms is None:
            return False
        return subject == GLUCOSE or (self.at_risk and self.interval_ms <= FAST_MS)


@dataclass(frozen=True, slots=True)
class _SilenceFacts:
    """All that one patient's silence is judged by. `first_due`: from when on the first reading was awaited, ms."""

    patient: int
    expectation: _Expectation
    watched: Spans
    first_due: int
    rules: RulesHistory
    zone: ZoneHistory


class SilenceKeeper:
    """Keeps the alerts of missing glucose equal to what is stored; any number of workers may do so at once."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, list[Touched]]:
        """Return the patients about whose silence there may be news, each with what it may be about."""
        async with looking_at_all(connection):
            histories = await all_rules(connection)
            values = {**READINGS, **_limits(histories, now_ms), **_times(now_ms)}
            found: defaultdict[int, list[Touched]] = defaultdict(list)
            for query in (SQL.silence_may_be_over, SQL.silence_was_filled):
                async with connection.cursor(row_factory=class_row(Touched)) as cursor:
                    for one in await (await cursor.execute(query, values)).fetchall():
                        found[one.patient_id].append(one)
            silent = await (await connection.execute(SQL.fell_silent, values)).fetchall()
            asleep = await _asleep(connection, [patient for patient, _, night in silent if night], histories, now_ms)
            for patient, days, _ in silent:
                if days:
                    found[patient].append(Touched(None, patient, GLUCOSE))
                if patient in asleep:
                    found[patient].append(Touched(None, patient, NIGHT))
        return {patient: news for patient, news in found.items() if patient not in without}

    async def settle(self, patient: int, touched: Sequence[Touched], writer: AlertWriter) -> bool:
        """Bring one patient's alerts in line; False: somebody else is at it."""
        connection = writer.connection
        if not await try_lock(connection, patient):
            return False
        facts = await _facts(connection, patient, writer.now_ms)
        for one in touched:
            if not facts.expectation.covers(one.subject):
                await _nobody_waits(facts, one, writer)
            elif one.id is not None:
                until = None if one.resolved_at is None else await _first_reading(connection, patient, one.resolved_at)
                await _fold(facts, one.subject, one.last_at, until, writer)
            else:
                newest = await _newest_reading(connection, patient, writer.now_ms)
                if not _more_may_come(facts, newest, writer.now_ms):
                    await _fold(facts, one.subject, newest[0] if newest else None, None, writer)
        return True


async def _fold(facts: _SilenceFacts, subject: str, since: int | None, until: int | None, writer: AlertWriter) -> None:
    """Bring the alerts that opened after the reading `since` (None: before all) in line with the gaps until `until`.

    Nobody is told of a silence that was over before anybody looked: nothing can be done about it any more.
    """
    now_ms = writer.now_ms
    context = _context(facts)
    episodes: list[Episode] = []
    for gap in await _gaps(facts, subject, since, until, writer.connection):
        days = glucose_silences(gap, facts.rules, facts.watched, now_ms)
        episodes += (
            days if subject == GLUCOSE else night_silences(gap, facts.rules, facts.watched, facts.zone, now_ms, days)
        )
    after = 0 if since is None else since
    standing = [
        alert
        for alert in await writer.standing(context, after, until)
        if alert.subject == subject and alert.opened_at > after
    ]
    told = [one for one in episodes if one.resolved_at is None or any(alert.overlaps(one) for alert in standing)]
    if told:
        context = replace(context, settings=settings_json(facts.rules.at(told[-1].opened_at).of(RULE)))
    await writer.apply(context, standing, told)


async def _nobody_waits(facts: _SilenceFacts, touched: Touched, writer: AlertWriter) -> None:
    """End a silence that means nothing any more: it is not known since when it does not."""
    standing = [
        alert
        for alert in await writer.standing_subjects(_context(facts), [touched.subject])
        if alert.running and alert.id == touched.id
    ]
    ended = [
        Episode(
            alert.opened_at, writer.now_ms, alert.severity, {**alert.finding, "ended_by": "not_expected"}, alert.subject
        )
        for alert in standing
    ]
    await writer.apply(_context(facts), standing, ended)


def _context(facts: _SilenceFacts) -> RuleContext:
    return RuleContext(facts.patient, RULE, facts.zone, VERSION)


def _more_may_come(facts: _SilenceFacts, newest: tuple[int, int] | None, now_ms: int) -> bool:
    """Whether what is stored is a part of what is on its way."""
    if newest is None:
        recorded_at = facts.expectation.recorded_at
        return recorded_at is not None and recorded_at > now_ms - FIRST_DATA_MS
    return newest[1] > now_ms - SETTLED_MS


async def _facts(connection: Connection, patient: int, now_ms: int) -> _SilenceFacts:
    values = {**READINGS, "patient": patient, "models": SENDERS}
    async with connection.cursor(row_factory=class_row(_Expectation)) as cursor:
        expectation = await (await cursor.execute(SQL.expectation, values)).fetchone()
    if expectation is None:
        raise LookupError(f"there is no patient {patient}")
    watched = spans(await (await connection.execute(SQL.watched, values)).fetchall())
    begun = [start for start, end in watched if start <= now_ms < end]
    return _SilenceFacts(
        patient,
        expectation,
        watched,
        max(0, begun[0]) or expectation.created_at if begun else now_ms,
        await rules_of(connection, patient),
        await zone_of(connection, patient),
    )


async def _newest_reading(connection: Connection, patient: int, now_ms: int) -> tuple[int, int] | None:
    """Return when a patient's newest reading was measured and when it came; it is seldom an old one."""
    for since in (now_ms - LATE_MS, 0):
        values = {**READINGS, "patient": patient, "since": since}
        row = await (await connection.execute(SQL.newest_reading, values)).fetchone()
        if row is not None:
            return int(row[0]), int(row[1])
    return None


async def _first_reading(connection: Connection, patient: int, since: int) -> int | None:
    row = await (
        await connection.execute(SQL.first_reading, {**READINGS, "patient": patient, "since": since})
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


async def _gaps(
    facts: _SilenceFacts, subject: str, since: int | None, until: int | None, connection: Connection
) -> list[Gap]:
    """Return the gaps that are long enough to matter to any settings the patient ever had."""
    ever: list[DataSilenceSettings] = [
        settings for _, then in facts.rules.spans if (settings := then.of(RULE)) is not None
    ]
    shortest = min((one.day_ms if subject == GLUCOSE else one.night_ms for one in ever), default=DAY_MS)
    values = {**READINGS, "patient": facts.patient, "since": since, "until": until, "longer_ms": shortest}
    rows = await (await connection.execute(SQL.gaps, values)).fetchall()
    return [Gap(last, facts.first_due if last is None else last, following) for last, following in rows]


async def _asleep(
    connection: Connection, patients: Sequence[int], histories: Mapping[int, RulesHistory], now_ms: int
) -> set[int]:
    """Return those of the patients for whom it is night."""
    if not patients:
        return set()
    zones = await zones_of(connection, patients)
    known: dict[tuple[ZoneHistory, DataSilenceSettings], bool] = {}
    found = set()
    for patient in patients:
        settings: DataSilenceSettings | None = histories.get(patient, UNSET).at(now_ms).of(RULE)
        if settings is None:
            continue
        key = (zones.get(patient, UTC), settings)
        if key not in known:
            known[key] = at_night(*key, now_ms)
        if known[key]:
            found.add(patient)
    return found


def _limits(histories: Mapping[int, RulesHistory], now_ms: int) -> dict[str, Any]:
    """Return how long silence may last: as usual, and for patients with rules of their own."""
    usual: DataSilenceSettings | None = UNSET.at(now_ms).of(RULE)
    own = own_rules(histories, RULE, now_ms)
    settings: list[DataSilenceSettings] = [one for one in {usual, *own.settings} if one is not None]
    return {
        "usual_day_ms": usual.day_ms if usual else None,
        "usual_night_ms": usual.night_ms if usual else None,
        "patients": own.patients,
        "day_ms": own.column(lambda settings: settings.day_ms),
        "night_ms": own.column(lambda settings: settings.night_ms),
        "back": own.back,
        "oldest": now_ms - max((one.day_ms for one in settings), default=0),
        "recent": now_ms - min((one.night_ms for one in settings), default=0),
    }


def _times(now_ms: int) -> dict[str, Any]:
    return {
        "now": now_ms,
        "models": SENDERS,
        "fast_ms": FAST_MS,
        "settled": now_ms - SETTLED_MS,
        "lately": now_ms - LATELY_MS,
        "late": now_ms - LATE_MS,
        "share": now_ms // SHARE_MS % SHARES,
    }
