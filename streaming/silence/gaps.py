"""Silence: when missing glucose deserves an alert, after days in general and after minutes at night; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from devices.instants import DISTANT_FUTURE_MS
from streaming.episodes import JSON, Episode, Rule, Severity
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.settings import DataSilenceSettings
from streaming.zones import ZoneHistory

VERSION: Final = 1
GLUCOSE: Final = "glucose"
NIGHT: Final = "glucose:night"

Spans = Sequence[tuple[int, int]]
"""[start, end) in ms, ascending, without touching each other."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without a reading that counts, ms.

    `last_at`: the reading before it (`None`: there never was one). `since`: the start of the count, which is that
    reading or when readings were first due. `until`: the reading that ends it (`None`: it lasts).
    """

    last_at: int | None
    since: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time from `start` and before `end` in which a rule watches with the same settings, ms.

    `counted_from`: since when a reading has been due. `ended_by`: what ends it, other than a reading. `same_watch`: the
    patient has been watched since the beginning of the gap, rests aside.
    """

    start: int
    end: int
    settings: Any
    counted_from: int
    ended_by: str | None
    same_watch: bool


def stretches(rule: Rule, rules: RulesHistory, watched: Spans, since: int, until: int) -> Iterator[Stretch]:
    """Yield the times in [since, until) at which the rule watches; the count restarts after a rest or time not watched.

    A rule that is off does not stop the count: when switched on, it alerts at once on a gap that is long enough.
    """
    inner = {start for start, _ in rules.spans} | {edge for span in watched for edge in span}
    edges = [since, *sorted(edge for edge in inner if since < edge < until), until]
    counted_from, same_watch = since, True
    for start, end in pairwise(edges):
        then, seen = rules.at(start), _inside(start, watched)
        if not seen or then.resting:
            counted_from, same_watch = end, same_watch and seen
            continue
        settings = then.of(rule)
        if settings is not None:
            ended_by = None if end == until else _ending(rule, rules.at(end), seen=_inside(end, watched))
            yield Stretch(start, end, settings, counted_from, ended_by, same_watch)


def glucose_silences(gap: Gap, rules: RulesHistory, watched: Spans, now_ms: int) -> list[Episode]:
    """Return the episodes of a gap, by `now_ms`, for the nurse to hear of: subject `glucose`, at most one a stretch."""
    found = []
    for stretch in stretches(Rule.DATA_SILENCE, rules, watched, gap.since, _end(gap)):
        opens = max(stretch.start, stretch.counted_from + stretch.settings.day_ms)
        if opens < stretch.end and opens <= now_ms:
            found.append(_episode(gap, stretch, GLUCOSE, opens, stretch.end, now_ms))
    return _joined(found)


def night_silences(
    gap: Gap, rules: RulesHistory, watched: Spans, zone: ZoneHistory, now_ms: int, known: Sequence[Episode] = ()
) -> list[Episode]:
    """Return the episodes of a gap, by `now_ms`, in which the signal was lost at local night: subject `glucose:night`.

    One opens when no reading came for longer than the setting, or at the beginning of the night if that is later, and
    ends with the night at the latest (`ended_by`: `morning`). None opens inside an episode of `known`. Without a
    reading since the watch began there is no signal to lose.
    """
    found: list[Episode] = []
    if gap.last_at is None:
        return found
    for stretch in stretches(Rule.DATA_SILENCE, rules, watched, gap.since, _end(gap)):
        if not stretch.same_watch:
            break
        lost = max(stretch.start, stretch.counted_from + stretch.settings.night_ms)
        for start, end in _nights(zone, stretch.settings, lost, min(stretch.end, now_ms + 1)):
            opens = max(lost, start)
            if any(episode.covers(opens) for episode in known):
                continue
            over = replace(stretch, ended_by="morning") if end <= stretch.end and end != gap.until else stretch
            episode = _episode(gap, over, NIGHT, opens, min(end, stretch.end), now_ms)
            found.append(replace(episode, evidence={**episode.evidence, "night": True, "night_ends_at": end}))
    return _joined(found)


def at_night(zone: ZoneHistory, settings: DataSilenceSettings, at_ms: int) -> bool:
    """Whether an instant lies in the night of the settings, by the patient's clock."""
    return any(True for _ in _nights(zone, settings, at_ms, at_ms + 1))


def off_since(rules: RulesHistory, since_ms: int, now_ms: int, watches: Callable[[PatientRules], bool]) -> int | None:
    """Return the first instant after `since_ms`, by `now_ms`, at which the rules stopped watching; or None."""
    later = (start for start, then in rules.spans if since_ms < start <= now_ms and not watches(then))
    return next(later, None)


def back_since(rules: RulesHistory, now_ms: int) -> int | None:
    """Return the end of the patient's newest rest that is over by `now_ms`; `None` if there was none."""
    ends = (end for (_, before), (end, then) in pairwise(rules.spans) if before.resting and not then.resting)
    return max((end for end in ends if end <= now_ms), default=None)


def _inside(at_ms: int, spans: Spans) -> bool:
    return any(start <= at_ms < end for start, end in spans)


def _ending(rule: Rule, then: PatientRules, *, seen: bool) -> str:
    if not seen:
        return "not_watched"
    return "settings" if then.of(rule) is not None else "rest"


def _end(gap: Gap) -> int:
    return DISTANT_FUTURE_MS if gap.until is None else max(gap.until, gap.since)


def _episode(gap: Gap, stretch: Stretch, subject: str, opens: int, ends: int, now_ms: int) -> Episode:
    resolved_at = ends if ends <= now_ms or ends == gap.until else None
    evidence: dict[str, JSON] = {"last_at": gap.last_at, "since_at": stretch.counted_from}
    if resolved_at is not None and stretch.ended_by is not None:
        evidence["ended_by"] = stretch.ended_by
    return Episode(opens, resolved_at, Severity.MEDIUM, evidence, subject)


def _joined(episodes: Iterable[Episode]) -> list[Episode]:
    """Return the episodes, merging those that continue under other settings."""
    found: list[Episode] = []
    for one in episodes:
        if found and found[-1].resolved_at == one.opened_at and found[-1].evidence.get("ended_by") == "settings":
            found[-1] = replace(one, opened_at=found[-1].opened_at)
        else:
            found.append(one)
    return found


def _nights(zone: ZoneHistory, settings: DataSilenceSettings, since: int, until: int) -> Iterator[tuple[int, int]]:
    """Yield the local nights that share an instant with [since, until)."""
    day = datetime.combine(zone.local(since).date(), datetime.min.time()) - timedelta(days=1)
    crosses = settings.night_end_minute < settings.night_start_minute
    while True:
        start = zone.instant(day + timedelta(minutes=settings.night_start_minute))
        if start >= until:
            return
        end = zone.instant(day + timedelta(days=int(crosses), minutes=settings.night_end_minute))
        if max(start, since) < min(end, until):
            yield start, end
        day += timedelta(days=1)
