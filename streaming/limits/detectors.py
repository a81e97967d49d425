"""The rules that fold over readings one after the other, and the contract they all keep (a test suite finds them)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol, TypeVar

from devices.vocabulary import Code
from streaming.episodes import Episode, Rule
from streaming.glucose.values import counts
from streaming.limits.highs import FastingHyperglycaemia, Hyperglycaemia
from streaming.limits.lows import Graver, Hypoglycaemia, NocturnalHypoglycaemia, UrgentLow
from streaming.limits.prediction import PredictedLow
from streaming.limits.thresholds import judged_mask, thresholds_of
from streaming.readings import Bool, Float64, Int16, ReadingSeries
from streaming.rules.history import PatientRules, RulesHistory
from streaming.zones import ZoneHistory


class Remembered(Protocol):
    """What a detector remembers of a patient."""

    @property
    def episode(self) -> Episode | None:
        """The open episode, up to date, if one is open."""

    def closed(self) -> Remembered | None:
        """Return what would be remembered had no episode opened."""


State = TypeVar("State", bound=Remembered)


class Detector(Protocol[State]):
    """A rule as a fold over one patient's readings of one code, with its settings.

    Nothing but the arguments decides: no clock, no memory of its own. It says nothing without readings, never changes
    its arguments, survives missing and flagged values, and any batching of the same readings gives the same episodes.

    A closed patient's state depends on no reading older than `memory_ms`; where that is 0 there is none (`None`). So
    folding from `memory_ms` before `settled_before` is folding all, if nothing is let open before that point. Rules are
    folded in the order of `detectors_of`, and hear of the episodes that the ones before found in the same readings
    (`graver`): theirs count as well for what is settled.
    """

    @property
    def rule(self) -> Rule:
        """The rule's name in alerts."""

    @property
    def subject(self) -> str:
        """What tells several detectors of one rule apart; also the subject of their episodes."""

    @property
    def version(self) -> int:
        """Rises when the rule concludes differently from the same readings."""

    @property
    def code(self) -> Code:
        """The readings that the rule is about."""

    @property
    def settings(self) -> Any:
        """The settings it was made with: a dataclass."""

    @property
    def memory_ms(self) -> int:
        """How far back the readings of a closed patient matter."""

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits that readings of one instant are compared by, in the code's canonical unit."""

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows of any patients could change the state of one without state."""

    def fold(
        self, state: State | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[State | None, list[Episode]]:
        """Fold readings later than all before; return the state and the last version of what episodes changed.

        Readings that count, in order of time: of glucose one per instant (`merge`), of others all (`judged_readings`).
        """


AnyDetector = Detector[Any]


@lru_cache(maxsize=4096)
def detectors_of(code: Code, rules: PatientRules) -> tuple[AnyDetector, ...]:
    """Return the detectors that these rules come to for the readings of one code, the gravest first."""
    if code is not Code.GLUCOSE:
        limits = rules.of(Rule.THRESHOLD)
        return thresholds_of(code, limits) if limits is not None else ()
    found: list[AnyDetector] = []
    if (nocturnal := rules.of(Rule.NOCTURNAL_HYPOGLYCAEMIA)) is not None:
        found.append(NocturnalHypoglycaemia(nocturnal))
    if (urgent := rules.of(Rule.URGENT_LOW)) is not None:
        found.append(UrgentLow(urgent))
    if (low := rules.of(Rule.HYPOGLYCAEMIA)) is not None:
        found.append(Hypoglycaemia(low))
    if (predicted := rules.of(Rule.PREDICTED_LOW)) is not None:
        found.append(PredictedLow(predicted))
    if (high := rules.of(Rule.HYPERGLYCAEMIA)) is not None:
        found += [Hyperglycaemia(high), FastingHyperglycaemia(high)]
    return tuple(found)


@lru_cache(maxsize=4096)
def detectors_ever(code: Code, rules: RulesHistory) -> tuple[AnyDetector, ...]:
    """Return the detectors of all the rules that ever watched a patient, for the readings of one code."""
    return tuple(dict.fromkeys(one for _, then in rules.spans for one in detectors_of(code, then)))


def counts_for(code: Code, value: Float64, flags: Int16) -> Bool:
    """Which readings of a code the rules about it hear of at all."""
    return counts(value, flags) if code is Code.GLUCOSE else judged_mask(value, flags)


GLUCOSE_RULES = (
    Rule.NOCTURNAL_HYPOGLYCAEMIA,
    Rule.URGENT_LOW,
    Rule.HYPOGLYCAEMIA,
    Rule.PREDICTED_LOW,
    Rule.HYPERGLYCAEMIA,
)


def rules_about(code: Code) -> tuple[Rule, ...]:
    """Return the rules whose alerts readings of a code can raise."""
    return GLUCOSE_RULES if code is Code.GLUCOSE else (Rule.THRESHOLD,)


def is_about(code: Code, key: tuple[Rule, str]) -> bool:
    """Whether alerts of a rule and subject come from the readings of a code."""
    rule, subject = key
    return rule in rules_about(code) and (rule is not Rule.THRESHOLD or subject.partition(":")[0] == code.wire)
