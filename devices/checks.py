"""What makes a series refused, checked over a whole batch at once: caps, codes, units, clocks, plausible limits."""

from typing import Final

import numpy as np

from devices.columns import LO_OR_HI, UNKNOWN, Bool, Columns, Float64
from devices.payload import quote
from devices.refusals import Refusals
from devices.vocabulary import CLOCK_AHEAD_MS, CODES, EARLIEST_MS, MAX_SAMPLES, Code, Reason, Unit

NEVER_SET: Final = "stamped before 2010: the clock was never set"

# By [code, unit]; NaN where the unit is not accepted, so that every comparison with it is false.
_MINIMUM: Final[Float64] = np.full((max(Code) + 1, max(Unit) + 1), np.nan)
_MAXIMUM: Final[Float64] = _MINIMUM.copy()
for _code, _rule in CODES.items():
    for _unit, _limits in _rule.units.items():
        _MINIMUM[_code, _unit] = _limits.minimum
        _MAXIMUM[_code, _unit] = _limits.maximum
_ACCEPTED: Final[Bool] = ~np.isnan(_MINIMUM)


class Checks:
    """Checks the series of a batch; `good`, bool[n], says which are left. The first cause found is the one told."""

    __slots__ = ("_columns", "_refusals", "good")

    def __init__(self, columns: Columns, refusals: Refusals) -> None:
        self._columns = columns
        self._refusals = refusals
        self.good: Bool = np.ones(len(columns.series), np.bool_)

    def run(self) -> None:
        """Refuse what is wrong. An implausible number beside LO or HI becomes NaN instead: the flag says it all."""
        self._check_sizes()
        self._check_words()
        self._check_clocks()
        self._check_values()

    def refuse(self, i: int, reason: Reason, sentence: str) -> None:
        """Refuse series `i` unless it already is."""
        if self.good[i]:
            self.good[i] = False
            columns = self._columns
            self._refusals.refuse_part(int(columns.message[i]), int(columns.position[i]), reason, sentence)

    def refuse_ahead(self, i: int, at: float) -> None:
        """Refuse series `i` because its sample of `at` (ms since the epoch) is ahead of its arrival."""
        ahead = (at - float(self._columns.arrival[i])) / 1000
        self.refuse(i, Reason.CLOCK_AHEAD, f"stamped {ahead:.0f} s after its arrival")

    def _check_sizes(self) -> None:
        columns = self._columns
        if len(columns.value) <= MAX_SAMPLES:
            return
        begins = np.flatnonzero(np.diff(columns.message, prepend=-1))
        samples = np.add.reduceat(columns.count, begins)
        for group in np.flatnonzero(samples > MAX_SAMPLES):
            message = int(columns.message[begins[group]])
            sentence = f"{samples[group]} samples, at most {MAX_SAMPLES} are taken"
            self._refusals.refuse_message(message, Reason.TOO_LARGE, sentence)
            self.good[columns.message == message] = False

    def _check_words(self) -> None:
        columns = self._columns
        for i in np.flatnonzero(columns.code == UNKNOWN).tolist():
            self.refuse(i, Reason.UNKNOWN_CODE, f"the code {quote(columns.series[i].code)} is unknown")
        for i, sentence in columns.faults:
            self.refuse(i, Reason.MALFORMED, sentence)
        for i in np.flatnonzero(self.good & ~_ACCEPTED[columns.code, columns.unit]).tolist():
            series = columns.series[i]
            self.refuse(i, Reason.UNIT_MISMATCH, f"{series.code} is not measured in {quote(series.unit)}")

    def _check_clocks(self) -> None:
        # A stamp near the end of 64 bits wraps around with its samples added, but is itself ahead all the same.
        columns = self._columns
        newest = np.maximum(columns.at, columns.at + columns.period * np.maximum(columns.count - 1, 0))
        for i in np.flatnonzero(newest > columns.arrival + CLOCK_AHEAD_MS).tolist():
            self.refuse_ahead(i, float(newest[i]))
        for i in np.flatnonzero(columns.at < EARLIEST_MS).tolist():
            self.refuse(i, Reason.CLOCK_BEHIND, NEVER_SET)

    def _check_values(self) -> None:
        columns = self._columns
        value, owner = columns.value, columns.owner
        minimum = _MINIMUM[columns.code, columns.unit][owner]
        maximum = _MAXIMUM[columns.code, columns.unit][owner]
        implausible = ((value < minimum) | (value > maximum)).nonzero()[0]
        if not len(implausible):
            return
        flagged = (columns.flags[owner[implausible]] & LO_OR_HI) != 0
        value[implausible[flagged]] = np.nan
        beyond = implausible[~flagged]
        which, first = np.unique(owner[beyond], return_index=True)
        for i, sample in zip(which.tolist(), beyond[first].tolist(), strict=True):
            if self.good[i]:
                self.refuse(i, *_judge(Code(columns.code[i]), Unit(columns.unit[i]), float(value[sample])))


def _judge(code: Code, unit: Unit, value: float) -> tuple[Reason, str]:
    """Tell why a value outside the limits of its unit is refused.

    Too small here and plausible in another unit of the code: the label is wrong (5.5 "mg/dL"). Anything else may be
    a broken sensor, and too large may be a very sick person: out of range.
    """
    units = CODES[code].units
    if value < units[unit].minimum:
        for other, limits in units.items():
            if limits.minimum <= value <= limits.maximum:
                return Reason.UNIT_MISMATCH, f"{value:g} cannot be {unit.ucum}, it looks like {other.ucum}"
    limits = units[unit]
    return Reason.OUT_OF_RANGE, f"{value:g} {unit.ucum} is not within {limits.minimum:g} – {limits.maximum:g}"
