"""Keeps a patient's low-adherence alerts equal to what the stored doses say, in the transaction that changed these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg.rows import class_row

from gateway.clinic.doses import DoseRow, ScheduleRow
from gateway.store.alerts import AlertWriter, RuleContext
from gateway.store.queries import load_queries
from streaming.doses.low_adherence import VERSION, low_adherence_episodes
from streaming.doses.matching import DoseOutcome
from streaming.episodes import Episode, Rule, settled_before
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory

SQL = load_queries("gateway.store", "doses.sql")

BEGINNING = 0
TASK = "call, or visit"


@dataclass(frozen=True, slots=True)
class DosesOf:
    """A patient with what doses depend on, as far as they are not events: zones, rules, schedules."""

    patient: int
    zone: ZoneHistory
    rules: RulesHistory
    schedules: Sequence[ScheduleRow]

    @property
    def medications(self) -> Mapping[int, str]:
        """The name of the medication of each schedule."""
        return {row.id: row.medication for row in self.schedules}


async def follow_adherence(whose: DosesOf, touched_ms: int, reach_ms: int, writer: AlertWriter) -> None:
    """Bring the alerts in line with the stored doses, of which nothing changed that counted before `touched_ms`.

    Nothing that is read grows with the years: it begins where no alert was open before `touched_ms`, and with the doses
    that the rule looks back on from there. `reach_ms`: how far from when it is due a dose may be settled.
    """
    context = RuleContext(whose.patient, Rule.LOW_ADHERENCE, whose.zone, VERSION, whose.rules)
    spans = [(start, then.of(Rule.LOW_ADHERENCE)) for start, then in whose.rules.spans]
    standing = await writer.standing(context, max(BEGINNING, touched_ms), None)
    memory = max((settings.memory_ms for _, settings in spans if settings is not None), default=None)
    episodes: list[Episode] = []
    if memory is not None:
        since = settled_before(standing, touched_ms)
        outcomes = await _judged(writer, whose.patient, since - memory - reach_ms)
        episodes = low_adherence_episodes(outcomes, spans, since_ms=since, now_ms=writer.now_ms)
    await writer.apply(context, standing, [_named(episode, whose.medications) for episode in episodes])


async def _judged(writer: AlertWriter, patient: int, since_ms: int) -> list[DoseOutcome]:
    async with writer.connection.cursor(row_factory=class_row(DoseRow)) as cursor:
        await cursor.execute(SQL.judged_doses, {"patient": patient, "since": max(BEGINNING, since_ms)})
        return [row.outcome() for row in await cursor.fetchall()]


def _named(episode: Episode, medications: Mapping[int, str]) -> Episode:
    """Return the episode with what the nurse needs to know to act on it."""
    behind = episode.evidence["schedule_ids"]
    names = sorted({medications[one] for one in behind if isinstance(one, int)}) if isinstance(behind, list) else []
    return replace(episode, evidence={**episode.evidence, "medications": names, "task": TASK})
