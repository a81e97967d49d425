"""The rules that fold over readings one after the other, and the contract they all keep (a test suite finds them)."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from devices.vocabulary import Code
from streaming.episodes import Episode, Rule
from streaming.glucose import Bool, Float64, GlucoseSeries, Int16, NocturnalHypoglycaemia
from streaming.zones import ZoneHistory


class OpenState(Protocol):
    """What a detector remembers of a patient while an episode is open."""

    @property
    def episode(self) -> Episode:
        """The open episode, up to date."""


State = TypeVar("State", bound=OpenState)


class Detector(Protocol[State]):
    """A rule as a fold over one patient's readings of one code.

    Nothing but the arguments decides: no clock, no memory of its own. It says nothing without readings, never changes
    its arguments, survives missing and flagged values, and any batching of the same readings gives the same episodes. A
    closed patient has no state (`None`) and the closed state no memory, so folding from `settled_before` is folding all.
    """

    @property
    def rule(self) -> Rule:
        """The rule's name in alerts."""

    @property
    def version(self) -> int:
        """Rises when the rule concludes differently from the same readings."""

    @property
    def code(self) -> Code:
        """The readings that the rule is about."""

    def candidates(self, value: Float64, unit: Int16, flags: Int16) -> Bool:
        """Which rows of any patients could open an episode; without one a closed patient stays closed."""

    def fold(self, state: State | None, series: GlucoseSeries, zone: ZoneHistory) -> tuple[State | None, list[Episode]]:
        """Fold readings later than all before; returns the state and the last version of each episode that changed."""


DETECTORS: Final[tuple[Detector[Any], ...]] = (NocturnalHypoglycaemia(),)
