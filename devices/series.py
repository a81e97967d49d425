"""The series of a batch as columns of numbers, and what makes one refused: caps, codes, units, clocks, plausible limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from typing import Final

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from devices.messages import MessageHeader, Series
from devices.payload import quote
from devices.refusals import Refusals
from devices.vocabulary import (
    CLOCK_AHEAD_MS,
    CODE_BY_WIRE,
    CODES,
    EARLIEST_MS,
    FLAG_BY_WIRE,
    MAX_SAMPLES,
    UNIT_BY_UCUM,
    Code,
    Flag,
    Reason,
    Unit,
)

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

Row = tuple[int, int, int, MessageHeader, Sequence[Series]]
"""A decoded message: number, device, arrival in ms, head, series."""

UNKNOWN: Final = 0
"""No code and no unit has this number."""
LO_OR_HI: Final = int(Flag.BELOW_RANGE | Flag.ABOVE_RANGE)

_CODES: Final[dict[str, int]] = {name: int(code) for name, code in CODE_BY_WIRE.items()}
_UNITS: Final[dict[str, int]] = {name: int(unit) for name, unit in UNIT_BY_UCUM.items()}
_FLAGS: Final[dict[str, int]] = {name: int(flag) for name, flag in FLAG_BY_WIRE.items()}
_RR_INTERVAL: Final = Code.RR_INTERVAL.wire


@dataclass(slots=True)
class Columns:
    """One row per series, n of them, and the samples of all series one after another, m of them.

    `faults` are (series, sentence) of those whose shape or flags are malformed: they have no samples here.
    """

    series: list[Series]
    faults: list[tuple[int, str]]
    message: Int32
    device: Int32
    arrival: Int64
    """ms since the epoch"""
    position: Int16
    """in its message"""
    code: Int16
    unit: Int16
    flags: Int16
    at: Int64
    """of the first sample, ms since the epoch"""
    period: Int64
    """ms between samples; 0 for a single value and for RR intervals"""
    count: Int64
    start: Int64
    """the series' samples are value[start : start + count]"""
    single: Bool
    """it was sent as `value`"""
    value: Float64
    """[m], NaN where null"""
    owner: Index
    """[m] the series of each sample"""


def build_columns(rows: Sequence[Row], positions: dict[int, list[int]]) -> Columns:
    """Turn decoded messages into columns; `positions` by row for messages that have lost some of their series."""
    series = list(chain.from_iterable([row[4] for row in rows]))
    faults: list[tuple[int, str]] = []
    samples, count, single, period = _samples(series, faults)
    per_message = np.array([len(row[4]) for row in rows], dtype=np.int64)
    row_of = np.repeat(np.arange(len(rows)), per_message)
    first = np.cumsum(per_message) - per_message
    position = (np.arange(len(series)) - first[row_of]).astype(np.int16)
    for row, kept in positions.items():
        position[first[row] : first[row] + per_message[row]] = kept
    return Columns(
        series=series,
        faults=faults,
        message=np.array([row[0] for row in rows], dtype=np.int32)[row_of],
        device=np.array([row[1] for row in rows], dtype=np.int32)[row_of],
        arrival=np.array([row[2] for row in rows], dtype=np.int64)[row_of],
        position=position,
        code=np.array([_CODES.get(s.code, UNKNOWN) for s in series], dtype=np.int16),
        unit=np.array([_UNITS.get(s.unit, UNKNOWN) for s in series], dtype=np.int16),
        flags=np.array(
            [_flag_bits(i, s.flags, faults) if s.flags else 0 for i, s in enumerate(series)], dtype=np.int16
        ),
        at=np.array([s.at for s in series], dtype=np.int64),
        period=period,
        count=count,
        start=np.cumsum(count) - count,
        single=single,
        value=np.array(samples, dtype=np.float64),
        owner=np.repeat(np.arange(len(series)), count),
    )


def _samples(series: Sequence[Series], faults: list[tuple[int, str]]) -> tuple[list[float | None], Int64, Bool, Int64]:
    """Return the samples of all series in one list, and for each series: sample count, whether single, period."""
    size = len(series)
    singles = [s.value for s in series]
    if singles.count(UNSET) == 0 and [s.values for s in series].count(UNSET) == size:
        return singles, np.ones(size, np.int64), np.ones(size, np.bool_), np.zeros(size, np.int64)  # type: ignore[return-value]
    samples: list[float | None] = []
    count = np.zeros(size, np.int64)
    single = np.zeros(size, np.bool_)
    period = np.zeros(size, np.int64)
    for i, s in enumerate(series):
        if s.values is UNSET:
            if s.value is UNSET:
                faults.append((i, "neither `value` nor `values`"))
                continue
            samples.append(s.value)
            count[i] = 1
            single[i] = True
        elif s.value is not UNSET:
            faults.append((i, "both `value` and `values`"))
        elif s.code == _RR_INTERVAL:
            samples += s.values
            count[i] = len(s.values)
        elif s.period_ms:
            samples += s.values
            count[i] = len(s.values)
            period[i] = s.period_ms
        else:
            faults.append((i, "`values` without `period_ms`"))
    return samples, count, single, period


def _flag_bits(i: int, names: Sequence[str], faults: list[tuple[int, str]]) -> int:
    """Return flags as bits; unknown and contradictory ones are faults."""
    bits = 0
    for name in names:
        bit = _FLAGS.get(name)
        if bit is None:
            faults.append((i, "a flag is unknown"))
            return 0
        bits |= bit
    if bits & LO_OR_HI == LO_OR_HI:
        faults.append((i, "both below_range and above_range"))
    return bits


NEVER_SET: Final = "stamped before 2010: the clock was never set"

# By [code, unit]; NaN where the unit is not accepted, so that every comparison is false.
_MINIMUM: Final[Float64] = np.full((max(Code) + 1, max(Unit) + 1), np.nan)
_MAXIMUM: Final[Float64] = _MINIMUM.copy()
for _code, _rule in CODES.items():
    for _unit, _limits in _rule.units.items():
        _MINIMUM[_code, _unit] = _limits.minimum
        _MAXIMUM[_code, _unit] = _limits.maximum
_ACCEPTED: Final[Bool] = ~np.isnan(_MINIMUM)

# By [code, unit]: the unit its numbers may be in when the label is wrong, and above what they cannot be in their own.
_OTHER_UNIT: Final[Int16] = np.zeros_like(_MINIMUM, dtype=np.int16)
_NEVER_ABOVE: Final[Float64] = np.full_like(_MINIMUM, np.inf)
for _code, _rule in CODES.items():
    for _unit, _other in permutations(_rule.units, 2):
        _OTHER_UNIT[_code, _unit] = _other
_NEVER_ABOVE[Code.GLUCOSE, Unit.MMOL_L] = 60

UNIT_ERROR_SAMPLES: Final = 3
UNIT_ERROR_OF: Final = 5
"""The label of a series is wrong if at least three samples, and one in five, look like the code's other unit."""


class Checks:
    """Checks the series of a batch; `good`, bool[n], marks those not refused. The first cause found is reported.

    `refused` are the samples, by their place in `value`, that were refused out of series whose others may be good.
    """

    __slots__ = ("_columns", "_refusals", "good", "refused")

    def __init__(self, columns: Columns, refusals: Refusals) -> None:
        self._columns = columns
        self._refusals = refusals
        self.good: Bool = np.ones(len(columns.series), np.bool_)
        self.refused: Index = np.zeros(0, np.intp)

    def run(self) -> None:
        """Refuse what is wrong. An implausible number becomes NaN; beside LO or HI it is not refused: the flag says all."""
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
        # A stamp near the end of 64 bits wraps around when its samples are added, but the stamp itself is ahead anyway.
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
        if len(beyond):
            self._refuse_values(beyond)

    def _refuse_values(self, beyond: Index) -> None:
        """Refuse implausible samples one by one, or their series: where its unit must be wrong, or no other is left."""
        columns = self._columns
        series, first = np.unique(columns.owner[beyond], return_index=True)
        samples_of = np.split(beyond, first[1:])
        alike_of = np.split(_looks_like_other_unit(columns, beyond), first[1:])
        refused = [
            samples
            for i, samples, alike in zip(series.tolist(), samples_of, alike_of, strict=True)
            if self.good[i] and self._refuse_samples(i, samples, alike)
        ]
        columns.value[beyond] = np.nan
        self.refused = np.concatenate([self.refused, *refused])

    def _refuse_samples(self, i: int, samples: Index, alike: Bool) -> bool:
        """Refuse these samples of series `i`, or all of it; return whether others are left."""
        columns, value = self._columns, self._columns.value
        code, unit = Code(columns.code[i]), Unit(columns.unit[i])
        start, stop = int(columns.start[i]), int(columns.start[i] + columns.count[i])
        known = stop - start - int(np.count_nonzero(np.isnan(value[start:stop])))
        left = len(samples) < known
        like = int(np.count_nonzero(alike))
        if (like >= UNIT_ERROR_SAMPLES and like * UNIT_ERROR_OF >= known) or (alike[0] and not left):
            other = Unit(_OTHER_UNIT[code, unit]).ucum
            sentence = f"{value[samples[alike.argmax()]]:g} cannot be {unit.ucum}, it looks like {other}"
            self.refuse(i, Reason.UNIT_MISMATCH, sentence)
            return False
        limits, number = CODES[code].units[unit], f"{value[samples[0]]:g} {unit.ucum}"
        sentence = f"is not within {limits.minimum:g} – {limits.maximum:g}"
        if not left:
            self.refuse(i, Reason.OUT_OF_RANGE, f"{number} {sentence}")
            return False
        places = (samples - start).tolist()
        more = f", and {len(places) - 1} more," if len(places) > 1 else ""
        self._refusals.refuse_samples(
            int(columns.message[i]),
            int(columns.position[i]),
            places,
            f"{number} at position {places[0]}{more} {sentence}",
        )
        return True


def _looks_like_other_unit(columns: Columns, samples: Index) -> Bool:
    """Return, by sample, whether it must be in the other unit of its code: too small, or far too large, for its own.

    Too large alone says nothing: it may be a broken sensor or a very sick person.
    """
    owner = columns.owner[samples]
    value, code, unit = columns.value[samples], columns.code[owner], columns.unit[owner]
    other = _OTHER_UNIT[code, unit]
    plausible = (value >= _MINIMUM[code, other]) & (value <= _MAXIMUM[code, other])
    alike: Bool = plausible & ((value < _MINIMUM[code, unit]) | (value > _NEVER_ABOVE[code, unit]))
    return alike
