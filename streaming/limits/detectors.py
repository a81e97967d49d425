"""The rules that fold over readings, and the contract that all of them keep (one test suite finds and checks them)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from devices.vocabulary import CODE_BY_WIRE, Code
from streaming.episodes import Episode, Key, Rule
from streaming.glucose.values import counts
from streaming.limits.highs import FastingHyperglycaemia, Hyperglycaemia
from streaming.limits.lows import Graver, Hypoglycaemia, NocturnalHypoglycaemia, UrgentLow
from streaming.limits.prediction import PredictedLow
from streaming.limits.thresholds import judged_mask, thresholds_of
from streaming.readings import Bool, Float64, Int16, ReadingSeries
from streaming.rules.history import PatientRules, RulesHistory
from streaming.zones import ZoneHistory


class Remembered(Protocol):
    """A detector's state for one patient."""

    @property
    def episode(self) -> Episode | None:
        """The open episode, up to date, if there is one."""

    def closed(self) -> Remembered | None:
        """Return the state as if no episode had opened."""


State = TypeVar("State", bound=Remembered)


class Detector(Protocol[State]):
    """A rule, with its settings, as a fold over one patient's readings of one code.

    Only the arguments decide: no clock, no hidden state. It concludes nothing without readings, never changes its
    arguments, survives missing and flagged values, and gives the same episodes for any batching of the same readings.

    The state of a patient without an open episode depends on no reading older than `memory_ms`; if that is 0, there is
    no state (`None`). So folding from `memory_ms` before `settled_before` is the same as folding everything, if nothing
    may open before that point. Rules are folded in the order of `detectors_of`, and see the episodes that earlier rules
    found in the same readings (`graver`), which count for the settled point too.
    """

    @property
    def rule(self) -> Rule:
        """The rule's name in alerts."""

    @property
    def subject(self) -> str:
        """Distinguishes several detectors of one rule; also the subject of their episodes."""

    @property
    def version(self) -> int:
        """Goes up when the rule concludes differently from the same readings."""

    @property
    def code(self) -> Code:
        """The code of the readings that it folds."""

    @property
    def settings(self) -> Any:
        """The settings it was made with: a dataclass."""

    @property
    def memory_ms(self) -> int:
        """How far back readings matter to a patient without an open episode."""

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits by which readings of one instant are compared, in the code's canonical unit."""

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows, of any patients, could change the state of a patient without state."""

    def fold(
        self, state: State | None, series: ReadingSeries, zone: ZoneHistory, graver: Graver
    ) -> tuple[State | None, list[Episode]]:
        """Fold readings later than all before; return the state and the last version of each changed episode.

        The readings are those that count, in order of time: one per instant for glucose (`merge`), all for other codes
        (`judged_readings`).
        """


AnyDetector = Detector[Any]


@lru_cache(maxsize=4096)
def detectors_of(code: Code, rules: PatientRules) -> tuple[AnyDetector, ...]:
    """Return the detectors for the readings of one code under these rules, the gravest first."""
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
    """Return the detectors for the readings of one code under all rules that ever watched the patient."""
    return tuple(dict.fromkeys(one for _, then in rules.spans for one in detectors_of(code, then)))


def counts_for(code: Code, value: Float64, flags: Int16) -> Bool:
    """Which readings of a code its rules see at all."""
    return counts(value, flags) if code is Code.GLUCOSE else judged_mask(value, flags)


GLUCOSE_RULES: Final = (
    Rule.NOCTURNAL_HYPOGLYCAEMIA,
    Rule.URGENT_LOW,
    Rule.HYPOGLYCAEMIA,
    Rule.PREDICTED_LOW,
    Rule.HYPERGLYCAEMIA,
)
VITAL_SIGN_RULES: Final[Mapping[Rule, Code]] = MappingProxyType({})
"""Rules about one vital sign, each with its code. `threshold` may be about any: the subject of an alert says which."""
READING_RULES: Final = (*GLUCOSE_RULES, *VITAL_SIGN_RULES, Rule.THRESHOLD)
"""All rules that fold over readings."""


def code_of(key: Key) -> Code | None:
    """Return the code whose readings raise the alerts of a rule and subject; None: the rule is not about readings."""
    rule, subject = key
    if rule in GLUCOSE_RULES:
        return Code.GLUCOSE
    return CODE_BY_WIRE.get(subject.partition(":")[0]) if rule is Rule.THRESHOLD else VITAL_SIGN_RULES.get(rule)


def is_about(code: Code, key: Key) -> bool:
    """Whether alerts of a rule and subject come from the readings of a code."""
    return code_of(key) is code


def rules_about(code: Code) -> tuple[Rule, ...]:
    """Return the rules of which some alerts come from the readings of a code; `is_about` says which alerts."""
    if code is Code.GLUCOSE:
        return GLUCOSE_RULES
    return (*(rule for rule, its_code in VITAL_SIGN_RULES.items() if its_code is code), Rule.THRESHOLD)
