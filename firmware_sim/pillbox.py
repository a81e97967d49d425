"""The pill box: openings of compartments according to a person's habits, reminders, a regular sign of life."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from devices.vocabulary import Code, CommandType, EventType, Topic, Unit
from firmware_sim.encoding import Wire
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.physiology.local_time import local_day, utc_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from firmware_sim.sensors import Draft, event

LID_OPEN_MS = 20_000
SIGN_OF_LIFE_MS = 5 * MINUTE_MS
EVENTS_A_MESSAGE = 100


@dataclass(frozen=True, slots=True)
class Regimen:
    """The daily doses from one compartment."""

    minutes: tuple[int, ...]
    """Local minutes of the day."""
    compartment: int


@dataclass(frozen=True, slots=True)
class PillBoxTraits:
    """The box, its contents, and the person who opens it."""

    zone: ZoneInfo
    regimens: tuple[Regimen, ...]
    habit: DoseHabit = field(default_factory=DoseHabit)
    counts_pills: bool = False
    """A better box weighs its compartments and sends `dose_taken`; a plain one only knows openings."""
    certain_misses: frozenset[int] = frozenset()
    """Due times (ms) that are missed for certain."""
    certain_since_ms: int | None = None
    """From here on nothing is missed or late by chance."""
    phase_ms: int = 0


class Happening(NamedTuple):
    """One thing that happened to the box; they sort by time."""

    at: int
    kind: EventType
    details: dict[str, Wire]


class PillBox:
    """Turns habits into events."""

    backlog_step_ms = 7 * DAY_MS

    def __init__(self, seed: Sequence[int], traits: PillBoxTraits) -> None:
        """Everything follows from `seed`, the traits and the reminders received."""
        self._seed = [*seed, 20]
        self._traits = traits
        self._reminded: list[tuple[int, int]] = []

    def next_due(self, after_ms: int) -> int:
        """Return the next opening, or the next sign of life if that is earlier."""
        phase = self._traits.phase_ms % SIGN_OF_LIFE_MS
        alive = ((after_ms - phase) // SIGN_OF_LIFE_MS + 1) * SIGN_OF_LIFE_MS + phase
        return min([alive, *(happening.at for happening in self._happenings(after_ms, alive))])

    def measure(self, start_ms: int, end_ms: int, *, live: bool) -> list[Draft]:
        """Return events, and telemetry with the battery as a sign of life (hourly live, daily in history)."""
        events = [event(kind, at, **details) for at, kind, details in self._happenings(start_ms, end_ms)]
        batches = [events[first : first + EVENTS_A_MESSAGE] for first in range(0, len(events), EVENTS_A_MESSAGE)]
        drafts = [Draft(Topic.EVENT, batch, len(batch), end_ms) for batch in batches]
        every = HOUR_MS if live else DAY_MS
        times = range((start_ms // every + 1) * every, end_ms + 1, every)
        series: list[dict[str, Wire]] = [
            {"code": Code.BATTERY.wire, "unit": Unit.PERCENT.ucum, "at": at, "value": self.battery(at)} for at in times
        ]
        if series or (live and not events):
            drafts.append(Draft(Topic.TELEMETRY, series, len(series), end_ms))
        return drafts

    def battery(self, at_ms: int) -> int:
        """Return the charge in %: two AA cells last a year."""
        return 100 - at_ms % (365 * DAY_MS) * 90 // (365 * DAY_MS)

    def command(self, command: Mapping[str, Wire], now_ms: int) -> bool:
        """Remind (and perhaps be answered with an opening), or take a new schedule (the person keeps it anyway)."""
        if command.get("type") == CommandType.REMIND:
            rng = np.random.default_rng([*self._seed, 5, now_ms // MINUTE_MS])
            if rng.random() < self._traits.habit.answers_reminder:
                compartment = command.get("compartment")
                if not isinstance(compartment, int):
                    compartment = self._traits.regimens[0].compartment
                self._reminded.append((now_ms + int(rng.uniform(30_000, 240_000)), compartment))
        return command.get("type") in {CommandType.REMIND, CommandType.SET_SCHEDULE}

    def _happenings(self, start_ms: int, end_ms: int) -> list[Happening]:
        """Return the events in `(start, end]`, in order of time."""
        happened = []
        for at, compartment in self._openings(start_ms - LID_OPEN_MS, end_ms):
            inside: dict[str, Wire] = {"compartment": compartment}
            happened.append(Happening(at, EventType.COMPARTMENT_OPENED, inside))
            if self._traits.counts_pills:
                happened.append(Happening(at + 2_000, EventType.DOSE_TAKEN, {**inside, "count": 1}))
            happened.append(Happening(at + LID_OPEN_MS, EventType.COMPARTMENT_CLOSED, inside))
        return sorted((one for one in happened if start_ms < one.at <= end_ms), key=lambda one: one.at)

    def _openings(self, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
        """Return (time, compartment) of every opening that may matter to this stretch."""
        zone = self._traits.zone
        openings = [one for one in self._reminded if start_ms < one[0] <= end_ms]
        for day in range(local_day(start_ms, zone) - 1, local_day(end_ms, zone) + 2):
            for regimen in self._traits.regimens:
                for minute in regimen.minutes:
                    taken = self._taken_at(utc_ms(day, minute, zone), regimen.compartment)
                    if taken is not None and start_ms < taken <= end_ms:
                        openings.append((taken, regimen.compartment))
        return openings

    def _taken_at(self, due_ms: int, compartment: int) -> int | None:
        if due_ms in self._traits.certain_misses:
            return None
        lateness = self._traits.habit.lateness_ms([*self._seed, compartment], due_ms)
        since = self._traits.certain_since_ms
        if since is not None and due_ms >= since and (lateness is None or lateness > 30 * MINUTE_MS):
            lateness = 5 * MINUTE_MS
        return None if lateness is None else due_ms + lateness
