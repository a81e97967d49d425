"""The picture of one night of a back-test: readings, doses, and the alarms under these settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from alerts.words import summary
from deploy.backtest.run import Result, Watched
from devices.instants import DISTANT_FUTURE_MS
from streaming.episodes import Rule
from streaming.glucose.values import mmol_per_l
from streaming.rules.history import PatientRules
from streaming.zones import HOUR_MS

if TYPE_CHECKING:
    from api.pictures.night import Format, Limit, NightPicture

FORMATS: Final = ("svg", "png", "pdf")
_LIMITS: Final = (
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, "limit_mmol", "night"),
    (Rule.NOCTURNAL_HYPOGLYCAEMIA, "urgent_limit_mmol", "urgent"),
    (Rule.URGENT_LOW, "limit_mmol", "urgent"),
    (Rule.HYPOGLYCAEMIA, "limit_mmol", "low"),
    (Rule.HYPERGLYCAEMIA, "limit_mmol", "high"),
)
"""Beside a line there is room for one word."""
_EVENING_MS: Final = 6 * HOUR_MS


class PictureError(ValueError):
    """There is no such picture; says why."""


def format_of(path: Path) -> Format:
    """Return the format by a file name's extension. Raises `PictureError` for an unknown one."""
    for known in FORMATS:
        if path.suffix.lower() == f".{known}":
            return known
    raise PictureError(f"{path.name} must end in {', '.join(f'.{one}' for one in FORMATS)}")


def write_picture(path: Path, result: Result, night: date | None) -> None:
    """Draw a night of the first patient with an alarm; by default that of the first alarm.

    Raises `PictureError` if there is nothing to draw, `OSError` if the file cannot be written.
    """
    from api.pictures.night import draw_night  # noqa: PLC0415 - half a second and 40 MB that no other back-test needs

    path.write_bytes(draw_night(_picture(result, *_chosen(result, night)), format_of(path)))


def _chosen(result: Result, night: date | None) -> tuple[Watched, date]:
    alarmed = [watched for watched in result.watched if any(alarm.rule in result.rules for alarm in watched.alarms)]
    people = alarmed or [watched for watched in result.watched if len(watched.case.glucose)]
    if not people:
        raise PictureError("there is no glucose to draw")
    watched = people[0]
    if night is not None:
        return watched, night
    opened = [alarm.episode.opened_at for alarm in watched.alarms if alarm.rule in result.rules]
    at_ms = opened[0] if opened else int(watched.case.glucose.at[-1])
    # An alarm that opens in the evening belongs to the night that ends the next morning.
    return watched, watched.case.zone.local(at_ms + _EVENING_MS).date()


def _picture(result: Result, watched: Watched, night: date) -> NightPicture:
    from api.pictures.night import AlertSpan, DoseMark, NightPicture, night_span  # noqa: PLC0415 - as above

    case, glucose = watched.case, watched.case.glucose
    start_ms, end_ms = night_span(case.zone, night)
    mmol = mmol_per_l(glucose)
    return NightPicture(
        label=case.patient,
        zone=case.zone,
        start_ms=start_ms,
        end_ms=end_ms,
        at=glucose.at,
        mmol=np.where(np.isfinite(mmol), mmol, np.nan),
        flags=glucose.flags,
        limits=list(_limits(watched.history.at((start_ms + end_ms) // 2), result.rules)),
        alerts=[
            AlertSpan(
                alarm.rule.value,
                alarm.episode.severity.value,
                alarm.episode.opened_at,
                alarm.episode.resolved_at,
                summary(alarm.rule, alarm.episode, case.zone),
            )
            for alarm in watched.alarms
            if alarm.rule in result.rules
        ],
        doses=[
            DoseMark(f"schedule {dose.dose.schedule_id}", dose.dose.due_at, dose.taken_at, dose.state.value)
            for dose in case.doses
        ],
        now_ms=None if case.until == DISTANT_FUTURE_MS else case.until,
    )


def _limits(rules: PatientRules, shown: Sequence[Rule]) -> Iterator[Limit]:
    """Yield the limits of the reported rules, each value once."""
    from api.pictures.night import Limit  # noqa: PLC0415 - as above

    limits = [
        Limit(float(getattr(settings, field)), name)
        for rule, field, name in _LIMITS
        if rule in shown and (settings := rules.of(rule)) is not None
    ]
    yield from {limit.mmol: limit for limit in reversed(limits)}.values()
