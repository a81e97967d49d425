"""Which rules watched a patient at what time, and when the patient rested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeVar

import numpy as np

from devices.instants import DISTANT_PAST_MS
from streaming.episodes import Rule
from streaming.zones import Int64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PatientRules:
    """The rules that watch one patient at one time, each with its settings; a rule that is missing is off.

    `resting`: the patient is paused; then all rules are off.
    """

    settings: tuple[tuple[Rule, Any], ...]
    resting: bool = False
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Hash once: rules are looked up with every fold."""
        object.__setattr__(self, "_hash", hash((self.settings, self.resting)))

    def __hash__(self) -> int:
        """Return the hash of the settings."""
        return self._hash

    def of(self, rule: Rule) -> Any | None:
        """Return a rule's settings (an instance of its class in `SETTINGS`), or None if it is off."""
        return next((settings for one, settings in self.settings if one is rule), None)


RESTING: Final = PatientRules((), resting=True)


@dataclass(frozen=True, slots=True)
class RulesHistory:
    """A patient's rules by the instant (ms, ascending) from which they apply; the first entry also applies before."""

    spans: tuple[tuple[int, PatientRules], ...]

    @classmethod
    def of(cls, rules: PatientRules) -> RulesHistory:
        """Return the history of a patient whose rules never changed."""
        return cls(((0, rules),))

    def at(self, at_ms: int) -> PatientRules:
        """Return the rules in force at `at_ms`."""
        found = self.spans[0][1]
        for start, rules in self.spans[1:]:
            if start > at_ms:
                break
            found = rules
        return found

    def parts(self, at: Int64) -> Iterator[tuple[slice, PatientRules]]:
        """Yield the rows of ascending instants to which each of the entries applies."""
        if len(self.spans) == 1:
            yield slice(0, at.size), self.spans[0][1]
            return
        starts = [0, *np.searchsorted(at, [start for start, _ in self.spans[1:]], side="left").tolist(), at.size]
        for index, (_, rules) in enumerate(self.spans):
            if starts[index] < starts[index + 1]:
                yield slice(starts[index], starts[index + 1]), rules


@lru_cache(maxsize=1024)
def differ_from(before: tuple[tuple[int, T], ...], after: tuple[tuple[int, T], ...]) -> int | None:
    """Return the instant (ms, or `DISTANT_PAST_MS`) from which two histories first differ; `None` if they never do.

    Each entry applies from its instant on, ascending; the first one also applies before it.
    """
    edges = sorted({start for spans in (before, after) for start, _ in spans[1:]})
    return next((at for at in (DISTANT_PAST_MS, *edges) if _held(before, at) != _held(after, at)), None)


def _held(spans: Sequence[tuple[int, T]], at_ms: int) -> T:
    return next((value for start, value in reversed(spans) if start <= at_ms), spans[0][1])


@dataclass(frozen=True, slots=True)
class Pause:
    """A patient's rest from doses and rules (hospital, holiday), from `start` on and before `end` (ms).

    A pause that is added, or whose end moves, changes what openings meant: match the doses again from the beginning.
    """

    start: int
    end: int
