"""Tells when a device that somebody wears is not heard any more, and when it is heard again; the worker's part.

A set query finds the devices about which there is news; each patient's are then judged again, one patient at a time.
Contact is when something came, not when it was measured: that never comes late, so nothing of the past has to be mended.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from alerts.reconcile import StandingAlert
from devices.vocabulary import Code, DeviceModel
from gateway.clinic.directory import UNSET
from gateway.clinic.patient_rules import all_rules, rules_of
from gateway.clinic.zones import zone_of
from gateway.rules.expected import looking_at_all, own_rules, spans, try_lock
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.episodes import JSON, Episode, Rule
from streaming.rules.changes import settings_json
from streaming.rules.history import RulesHistory
from streaming.rules.settings import DeviceOfflineSettings
from streaming.silence.gaps import Spans
from streaming.silence.offline import (
    CONTACT_LAG_MS,
    DOSE_GRACE_MS,
    EDGE_GRACE_MS,
    EXPECTED_INTERVAL_MS,
    FIRST_CONTACT_MS,
    ONLINE_GRACE_MS,
    VERSION,
    DeviceContact,
    offline_episodes,
)
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory

SQL = load_queries("gateway.store", "offline.sql")

Connection = psycopg.AsyncConnection[Any]

RULE: Final = Rule.DEVICE_OFFLINE
# What a model that is to be heard all the time sends; asked of devices behind edge boxes, whose own contact is not kept.
HEARD_BY: Final[Mapping[DeviceModel, Sequence[Code]]] = {
    DeviceModel.WRISTBAND: (Code.HEART_RATE, Code.GLUCOSE, Code.STEP_COUNT, Code.BATTERY),
    DeviceModel.CGM: (Code.GLUCOSE, Code.BATTERY),
    DeviceModel.PILLBOX: (Code.BATTERY,),
}


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A worn device as the store knows it; times in ms."""

    patient_id: int
    device: str
    model: str
    contact_at: int | None
    left_at: int | None
    interval_ms: int | None
    waiting_since: int | None
    grave: bool

    def contact(self) -> DeviceContact:
        """Return what the rule asks for."""
        return DeviceContact(
            self.device,
            DeviceModel(self.model),
            self.contact_at,
            self.left_at,
            self.interval_ms,
            self.waiting_since,
            self.grave,
        )


@dataclass(frozen=True, slots=True)
class _Patient:
    id: int
    rules: RulesHistory
    zone: ZoneHistory
    watched: Mapping[str, Spans]
    """When the patient had each device, once it was known, and consented."""


class OfflineKeeper:
    """Keeps the alerts of devices equal to what is known of their contact; any number of workers may do so at once."""

    async def due(self, connection: Connection, now_ms: int, without: Sequence[int] = ()) -> dict[int, list[str]]:
        """Return the patients with devices about which there is news, and these."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        async with looking_at_all(connection):
            for row in await _rows(connection, None, await all_rules(connection), now_ms):
                found[row.patient_id].append(row.device)
            for patient, device in await (await connection.execute(SQL.left_behind, {"now": now_ms})).fetchall():
                found[patient].append(device)
        return {patient: devices for patient, devices in found.items() if patient not in without}

    async def settle(self, patient: int, touched: Sequence[str], writer: AlertWriter) -> bool:
        """Bring the alerts of some of a patient's devices in line; False: somebody else is at it."""
        connection = writer.connection
        if not await try_lock(connection, patient):
            return False
        rules = await rules_of(connection, patient)
        rows = await _rows(connection, patient, {patient: rules}, writer.now_ms)
        known = {row.device: row.contact() for row in rows}
        zone = await zone_of(connection, patient)
        one = _Patient(patient, rules, zone, await _watched(connection, patient))
        for device in touched:
            await _settle(one, device, known.get(device), writer)
        return True


async def _settle(one: _Patient, device: str, contact: DeviceContact | None, writer: AlertWriter) -> None:
    context = RuleContext(one.id, RULE, one.zone, VERSION)
    watched = one.watched.get(device, ())
    standing = await writer.standing_subjects(context, [device])
    running = next((alert for alert in standing if alert.running), None)
    if contact is None and running is None:
        return
    found: list[Episode] = []
    if contact is not None:
        found = offline_episodes(contact, one.rules, watched, writer.now_ms)
    told = [_ended(running, contact, found, watched, writer.now_ms)] if running else []
    over = not told or told[0].resolved_at is not None
    told += [one for one in found if over and one.resolved_at is None]
    if not told:
        return
    context = RuleContext(one.id, RULE, one.zone, VERSION, settings_json(one.rules.at(told[-1].opened_at).of(RULE)))
    await writer.apply(context, [alert for alert in standing if _concerns(alert, told)], told)


def _concerns(alert: StandingAlert, told: Sequence[Episode]) -> bool:
    """Whether an alert is one of those that the episodes are about; what is over stays as it was."""
    return alert.running or any(alert.opened_at == episode.opened_at for episode in told)


def _ended(
    running: StandingAlert, contact: DeviceContact | None, found: Sequence[Episode], watched: Spans, now_ms: int
) -> Episode:
    """Return the episode of a running alert as it is now: it goes on, or ended with contact or the watch."""

    def over(at_ms: int, evidence: Mapping[str, JSON]) -> Episode:
        return Episode(running.opened_at, max(running.opened_at, at_ms), running.severity, evidence, running.subject)

    if contact is None:
        until = max((end for start, end in watched if start <= running.opened_at), default=now_ms)
        return over(min(until, now_ms), {**running.finding, "ended_by": "not_watched"})
    if contact.contact_at is not None and contact.contact_at > running.opened_at:
        return over(contact.contact_at, {**running.finding, "heard_at": contact.contact_at})
    last = next(
        (one for one in reversed(found) if one.resolved_at is None or one.resolved_at >= running.opened_at), None
    )
    if last is None:
        return over(now_ms, {**running.finding, "ended_by": "not_expected"})
    if last.resolved_at is not None:
        return over(last.resolved_at, last.evidence)
    return Episode(running.opened_at, None, last.severity, last.evidence, running.subject)


async def _rows(
    connection: Connection, patient: int | None, histories: Mapping[int, RulesHistory], now_ms: int
) -> list[DeviceRow]:
    """Return the devices of which there is news, or all of one patient's."""
    values = {**_limits(histories, now_ms), "patient": patient}
    heard = await _heard_behind(connection, values)
    values |= {"behind": list(heard), "behind_heard": list(heard.values())}
    async with connection.cursor(row_factory=class_row(DeviceRow)) as cursor:
        return await (await cursor.execute(SQL.devices, values)).fetchall()


async def _watched(connection: Connection, patient: int) -> dict[str, Spans]:
    found: defaultdict[str, list[tuple[int | None, int | None]]] = defaultdict(list)
    for device, *bounds in await (await connection.execute(SQL.watched, {"patient": patient})).fetchall():
        found[device].append((bounds[0], bounds[1]))
    return {device: spans(bounds) for device, bounds in found.items()}


async def _heard_behind(connection: Connection, values: Mapping[str, Any]) -> dict[int, int]:
    """Return when devices behind edge boxes were heard, in ms: most of them lately, the others as long ago as it matters."""
    rows = await (await connection.execute(SQL.behind_edge_boxes, values)).fetchall()
    models = {key: DeviceModel(model) for key, model, _ in rows}
    now_ms = values["now"]
    longest = max((interval for *_, interval in rows if interval), default=0)
    most = max((one for one in (values["usual_intervals"], *values["intervals"]) if one), default=0)
    heard: dict[int, int] = {}
    for since in (now_ms - HOUR_MS, now_ms - round(longest * most) - DAY_MS):
        pairs = [(key, code) for key, model in models.items() if key not in heard for code in HEARD_BY.get(model, ())]
        asked = {"device": [key for key, _ in pairs], "code": [int(code) for _, code in pairs], "since": since}
        if pairs:
            heard.update(await (await connection.execute(SQL.heard_behind, asked)).fetchall())
    boxes = [key for key, model in models.items() if model is DeviceModel.PILLBOX]
    if boxes:
        for key, at in await (await connection.execute(SQL.boxes_heard_behind, {"device": boxes})).fetchall():
            heard[key] = max(at, heard.get(key, at))
    return heard


def _limits(histories: Mapping[int, RulesHistory], now_ms: int) -> dict[str, Any]:
    """Return how long a device may not be heard: as usual, and for patients with rules of their own."""
    usual: DeviceOfflineSettings | None = UNSET.at(now_ms).of(RULE)
    own = own_rules(histories, RULE, now_ms)
    return {
        "now": now_ms,
        "usual_intervals": usual.intervals if usual else None,
        "usual_will_ms": _will_ms(usual) if usual else None,
        "patients": own.patients,
        "intervals": own.column(lambda settings: settings.intervals),
        "will_ms": own.column(_will_ms),
        "back": own.back,
        "models": [model.value for model in EXPECTED_INTERVAL_MS],
        "model_ms": list(EXPECTED_INTERVAL_MS.values()),
        "heard_by": [model.value for model, codes in HEARD_BY.items() for _ in codes],
        "heard_code": [int(code) for codes in HEARD_BY.values() for code in codes],
        "lag_ms": CONTACT_LAG_MS,
        "first_ms": FIRST_CONTACT_MS,
        "dose_grace_ms": DOSE_GRACE_MS,
        "edge_grace_ms": EDGE_GRACE_MS,
        "online_grace_ms": ONLINE_GRACE_MS,
    }


def _will_ms(settings: DeviceOfflineSettings) -> int:
    return round(settings.last_will_minutes * MINUTE_MS)
