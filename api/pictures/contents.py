"""The contents of a night's picture, as plain values that anybody can fill in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from streaming.readings import Float64, Int16
from streaming.zones import DAY_MS, Int64, ZoneHistory

TARGET_MMOL: Final = (3.9, 10.0)
LONGEST_MS: Final = 2 * DAY_MS


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a rule in mmol/L, and its name beside the line."""

    mmol: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class AlertSpan:
    """An alert from `opened_at` to `resolved_at` in ms (`None`: still open), with its sentence."""

    rule: str
    severity: str
    opened_at: int
    resolved_at: int | None
    summary: str = ""


@dataclass(frozen=True, slots=True)
class DoseMark:
    """A dose: when it was due and, if so, taken (ms), and its state (`taken`, `late`, `missed`, …)."""

    medication: str
    due_at: int
    taken_at: int | None
    state: str


@dataclass(frozen=True, slots=True, eq=False)
class HeartRate:
    """Heart rate: `at` int64 ms ascending, `value` float64 in /min."""

    at: Int64
    value: Float64


@dataclass(frozen=True, slots=True, eq=False)
class NightPicture:
    """One patient's glucose in [start_ms, end_ms), two days at most, with what happened during that time.

    `at` int64 ms, `mmol` float64 mmol/L (NaN: no number) and `flags` int16 (`Flag`) have one length and come in any
    order; for several sensors pass the result of `streaming.glucose.values.merge`. `label` is the patient's name.
    Limits and target are in mmol/L. `now_ms`: later times have not happened yet; `None`: everything has.

    Raises `ValueError` for a time without length or too long, for arrays of different lengths, and for infinite values.
    """

    label: str
    zone: ZoneHistory
    start_ms: int
    end_ms: int
    at: Int64
    mmol: Float64
    flags: Int16
    limits: Sequence[Limit] = ()
    alerts: Sequence[AlertSpan] = ()
    doses: Sequence[DoseMark] = ()
    heart_rate: HeartRate | None = None
    target: tuple[float, float] = TARGET_MMOL
    now_ms: int | None = None
    shown: Int64 = field(init=False, repr=False)
    """The rows inside the picture's time, in order of time."""

    def __post_init__(self) -> None:
        """Check the shape."""
        if not 0 < self.end_ms - self.start_ms <= LONGEST_MS:
            raise ValueError("a picture shows more than nothing and at most two days")
        if not self.at.shape == self.mmol.shape == self.flags.shape == (self.at.size,):
            raise ValueError("times, values and flags must be of one length")
        if np.isinf(self.mmol).any():
            raise ValueError("a value is a number or NaN")
        order = np.argsort(self.at, kind="stable")
        at = self.at[order]
        object.__setattr__(self, "shown", order[(at >= self.start_ms) & (at < self.end_ms)])

    @property
    def known_until_ms(self) -> int:
        """The end of the time that has already happened, within the picture."""
        return self.end_ms if self.now_ms is None else min(max(self.now_ms, self.start_ms), self.end_ms)
