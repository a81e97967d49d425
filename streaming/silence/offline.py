"""Offline devices: how often each model is heard when all is well, and when it counts as offline; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from devices.instants import DISTANT_FUTURE_MS
from devices.vocabulary import DeviceModel
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.rules.history import RulesHistory
from streaming.rules.settings import DeviceOfflineSettings
from streaming.silence.gaps import Spans, Stretch, stretches
from streaming.zones import HOUR_MS, MINUTE_MS

VERSION: Final = 1

EXPECTED_INTERVAL_MS: Final[Mapping[DeviceModel, int]] = MappingProxyType(
    {
        DeviceModel.WRISTBAND: 15 * MINUTE_MS,  # worn all day; sends at least as often as the slowest glucose sensor
        DeviceModel.CGM: 15 * MINUTE_MS,  # the longest cadence of a glucose sensor
        DeviceModel.PILLBOX: 24 * HOUR_MS,  # says what happens, and its battery daily; many only wake for that
    }
)
"""How often a device of a model is heard when all is well. Models not listed here send when somebody measures."""

FIRST_CONTACT_MS: Final = HOUR_MS
"""The minimum time to first contact of a device just given to somebody, or whose patient is back from a rest."""
CONTACT_LAG_MS: Final = 10_000
"""Contact is recorded some seconds late: if it is this soon after a last will, the message may be from before it."""
DOSE_GRACE_MS: Final = 2 * MINUTE_MS
"""How long after the end of a dose's window a box may still make contact."""
EDGE_GRACE_MS: Final = 15 * MINUTE_MS
"""The same for a box read by an edge box, which has other devices to read as well."""
ONLINE_GRACE_MS: Final = 2 * HOUR_MS
"""The same for a box whose connection is up: when all is well it reports only that, once an hour."""


@dataclass(frozen=True, slots=True)
class DeviceContact:
    """What is known about a device that a patient wears now, in ms.

    `contact_at`: when it was last heard. `left_at`: when it, or its last will, said that it is offline (`None`: neither
    did). `interval_ms`: how often it should be heard. `waiting_since`: the end of the window of the oldest dose whose
    state is unknown because the box has not been heard since. `grave`: the patient must not be without it.
    """

    device: str
    model: DeviceModel
    contact_at: int | None
    left_at: int | None = None
    interval_ms: int | None = None
    waiting_since: int | None = None
    grave: bool = False


def offline_episodes(contact: DeviceContact, rules: RulesHistory, watched: Spans, now_ms: int) -> list[Episode]:
    """Return the episodes, by `now_ms`, in which the device was offline since last heard: subject the device's id.

    `watched`: when the patient wore it, with consent, and it was enabled. Severity `low`; `medium` for a box with a
    dose waiting, and for a `grave` device.
    """
    found = []
    since = watched[0][0] if watched else DISTANT_FUTURE_MS
    for stretch in stretches(Rule.DEVICE_OFFLINE, rules, watched, since, DISTANT_FUTURE_MS):
        causes = sorted((max(at, stretch.start), cause) for at, cause in _causes(contact, stretch))
        if causes and causes[0][0] < stretch.end and causes[0][0] <= now_ms:
            found.append(_episode(contact, stretch, causes[0][0], causes[0][1], now_ms))
    return found


def severity(contact: DeviceContact) -> Severity:
    """Return the severity of this device being offline."""
    return Severity.MEDIUM if contact.grave or contact.waiting_since is not None else Severity.LOW


def _causes(contact: DeviceContact, stretch: Stretch) -> Iterator[tuple[int, str]]:
    """Yield the instants at which the device became offline, each with its cause."""
    settings: DeviceOfflineSettings = stretch.settings
    heard_at = contact.contact_at
    heard = heard_at is not None and heard_at >= stretch.counted_from
    not_before = stretch.start if heard else stretch.counted_from + FIRST_CONTACT_MS
    if contact.left_at is not None and (heard_at is None or heard_at <= contact.left_at + CONTACT_LAG_MS):
        yield max(not_before, contact.left_at + round(settings.last_will_minutes * MINUTE_MS)), "last_will"
    if contact.interval_ms is not None:
        counted = heard_at if heard and heard_at is not None else stretch.counted_from
        yield max(not_before, counted + round(settings.intervals * contact.interval_ms)), "interval"
    if contact.waiting_since is not None and (heard_at is None or heard_at < contact.waiting_since):
        yield max(not_before, contact.waiting_since), "dose"


def _episode(contact: DeviceContact, stretch: Stretch, opens: int, cause: str, now_ms: int) -> Episode:
    evidence: dict[str, JSON] = {
        "device": contact.device,
        "model": contact.model.value,
        "contact_at": contact.contact_at,
        "cause": cause,
    }
    resolved_at = stretch.end if stretch.end <= now_ms else None
    if resolved_at is not None and stretch.ended_by is not None:
        evidence["ended_by"] = stretch.ended_by
    return Episode(opens, resolved_at, severity(contact), evidence, contact.device)
