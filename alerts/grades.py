"""How grave an alert is, as one number: a person's answer holds for the grade they saw, and for nothing worse."""

from typing import Final

from devices.vocabulary import Unit
from streaming.episodes import Episode, Rule, Severity

VERY_LOW: Final = 5
"""Urgent, and below 2.5 mmol/L (45 mg/dL) or LO; the others are 1 low, 2 medium, 3 high, 4 urgent."""
_VERY_LOW_BELOW: Final = {Unit.MMOL_L.ucum: 2.5, Unit.MG_DL.ucum: 45.0}
_LOWS: Final = frozenset({Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.URGENT_LOW})


def grade_of(rule: Rule, episode: Episode) -> int:
    """Return the grade of an alert that stands for an episode: 1 to 5, the gravest that it has been."""
    if rule in _LOWS and episode.severity is Severity.URGENT and _is_very_low(episode):
        return VERY_LOW
    return episode.severity.rank + 1


def is_answered(grade: int, answered_grade: int | None) -> bool:
    """Return whether an answer holds: the alert is no graver than what the person saw who answered it."""
    return answered_grade is not None and answered_grade >= grade


def _is_very_low(episode: Episode) -> bool:
    """Return whether the lowest reading is very low; one without a number is LO."""
    if "lowest_unit" not in episode.evidence:
        return False
    lowest, unit = episode.evidence.get("lowest_value"), episode.evidence["lowest_unit"]
    return lowest is None or (isinstance(lowest, int | float) and lowest < _VERY_LOW_BELOW.get(str(unit), 0.0))
