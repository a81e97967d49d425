"""The rows below the curve of a picture, one for each alert or dose: its words, and a mark on the time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from api.pictures.contents import AlertSpan, DoseMark, NightPicture
from api.pictures.timescale import TimeScale
from streaming.episodes import Severity

MAX_ALERTS: Final = 50
MAX_DOSES: Final = 50
HATCHES: Final = MappingProxyType(
    {Severity.URGENT: "xxxxxx", Severity.HIGH: "//////", Severity.MEDIUM: r"\\\\", Severity.LOW: "|||"}
)
COLOURS: Final = MappingProxyType(
    {Severity.URGENT: "#8b0000", Severity.HIGH: "#b04a00", Severity.MEDIUM: "#6b5900", Severity.LOW: "#33556b"}
)
"""All dark enough to stand on white without colour."""
MARKERS: Final = MappingProxyType(
    {
        "taken": ("o", True),
        "early": ("<", True),
        "late": (">", True),
        "missed": ("X", True),
        "doubled": ("P", True),
        "skipped": ("s", False),
        "paused": ("D", False),
        "due": ("o", False),
        "unknown": ("d", False),
    }
)
"""Shape, and whether it is filled, by the state of a dose; its words give the state too."""
OTHER_MARKER: Final = ("h", False)


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert on the axis; `runs_on`: still open. `words` is what happened, `sentence` its summary, from outside."""

    begins: int
    ends: int
    severity: str
    runs_on: bool
    words: str
    sentence: str


@dataclass(frozen=True, slots=True)
class DoseRow:
    """A dose on the axis; its medication comes from outside, its other words do not."""

    due_at: int
    taken_at: int | None
    state: str
    medication: str
    clock: str
    fate: str


def alert_rows(night: NightPicture, time: TimeScale) -> list[AlertRow]:
    """Return the alerts that touch the picture, by their beginning; if there are too many, the gravest."""
    touching = [alert for alert in night.alerts if _touches(alert, night)]
    gravest = sorted(touching, key=lambda alert: (-_rank(alert.severity), alert.opened_at))[:MAX_ALERTS]
    return [_alert_row(alert, night, time) for alert in sorted(gravest, key=lambda alert: alert.opened_at)]


def dose_rows(night: NightPicture, time: TimeScale) -> list[DoseRow]:
    """Return the doses due or taken within the picture, by due time; if there are too many, the first."""
    touching = [
        dose for dose in night.doses if any(time.shows(at) for at in (dose.due_at, dose.taken_at) if at is not None)
    ]
    first = sorted(touching, key=lambda dose: (dose.due_at, dose.medication))[:MAX_DOSES]
    return [_dose_row(dose, time) for dose in first]


def left_out(night: NightPicture, alerts: Sequence[AlertRow], doses: Sequence[DoseRow]) -> list[str]:
    """Return sentences about alerts and doses that did not fit."""
    more_alerts = sum(_touches(alert, night) for alert in night.alerts) - len(alerts)
    more_doses = len(night.doses) - len(doses)
    said = [(more_alerts, "alert"), (more_doses if len(doses) == MAX_DOSES else 0, "dose")]
    return [f"{more} more {what}{'s' if more > 1 else ''} not shown" for more, what in said if more > 0]


def _touches(alert: AlertSpan, night: NightPicture) -> bool:
    ends = night.known_until_ms if alert.resolved_at is None else alert.resolved_at
    return alert.opened_at < night.end_ms and max(ends, alert.opened_at) >= night.start_ms


def _rank(severity: str) -> int:
    return Severity(severity).rank if severity in set(Severity) else -1


def _alert_row(alert: AlertSpan, night: NightPicture, time: TimeScale) -> AlertRow:
    runs_on = alert.resolved_at is None
    ends = max(night.known_until_ms, alert.opened_at) if alert.resolved_at is None else alert.resolved_at
    if alert.resolved_at is None:
        when = f"since {time.clock(alert.opened_at)}, still open"
    else:
        when = f"{time.clock(alert.opened_at)}–{time.clock(alert.resolved_at)}"
    words = f"{alert.rule.replace('_', ' ')}, {alert.severity}: {when}"
    return AlertRow(alert.opened_at, ends, alert.severity, runs_on, words, alert.summary)


def _dose_row(dose: DoseMark, time: TimeScale) -> DoseRow:
    fate = dose.state
    if dose.taken_at is not None:
        at = time.clock(dose.taken_at)
        fate = f"taken {at}" if dose.state == "taken" else f"{dose.state}, taken {at}"
    return DoseRow(dose.due_at, dose.taken_at, dose.state, dose.medication, time.clock(dose.due_at), fate)
