"""The patient's local time: zone histories (people travel), local clocks for whole arrays, local times as instants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
MINUTES_PER_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class ZoneHistory:
    """A patient's IANA zones by the instant (ms, ascending) from which they apply; the first also applies before it."""

    spans: tuple[tuple[int, ZoneInfo], ...]

    def __post_init__(self) -> None:
        """Raise `ValueError` for a history that is empty or not ascending."""
        if not self.spans:
            raise ValueError("a zone history needs at least one zone")
        starts = [start for start, _ in self.spans]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError("the zones of a history must begin one after the other")

    @classmethod
    def of(cls, zone: ZoneInfo | str) -> ZoneHistory:
        """Return the history of somebody who always lived in `zone` (`ZoneInfoNotFoundError` for an unknown name)."""
        return cls(((0, ZoneInfo(zone) if isinstance(zone, str) else zone),))

    @classmethod
    def from_spans(cls, spans: Sequence[tuple[int, ZoneInfo]]) -> ZoneHistory:
        """Return the history with the given `(valid_from_ms, zone)` pairs in any order."""
        return cls(tuple(sorted(spans, key=lambda span: span[0])))

    def at(self, at_ms: int) -> ZoneInfo:
        """Return the zone in force at `at_ms`."""
        zone = self.spans[0][1]
        for start, later in self.spans[1:]:
            if start > at_ms:
                break
            zone = later
        return zone

    def local(self, at_ms: int) -> datetime:
        """Return `at_ms` as an aware local date and time, to the millisecond."""
        instant = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
        return instant.astimezone(self.at(at_ms))

    def instant(self, local: datetime) -> int:
        """Return the instant (ms) of a naive local time.

        A local time that never existed (clocks forward, or a journey east) moves forward by the gap; of one that
        occurred twice the first counts.
        """
        gap: int | None = None
        ends = [start for start, _ in self.spans[1:]]
        for index, (_, zone) in enumerate(self.spans):
            at_ms = _first_instant(local, zone)
            starts_before = index == 0 or self.spans[index][0] <= at_ms
            ends_after = index == len(ends) or at_ms < ends[index]
            if starts_before and ends_after:
                return at_ms
            if not ends_after:
                gap = at_ms
        if gap is None:
            raise AssertionError("the first zone has no beginning and the last no end")
        return gap

    def local_ms(self, at: Int64) -> Int64:
        """Return local wall-clock times as ms since a local 1970-01-01 00:00, for instants `at` in ms of any shape."""
        if at.size == 0:
            return at.astype(np.int64)
        if len(self.spans) == 1:
            return at + _offsets(at, self.spans[0][1])
        starts = np.array([start for start, _ in self.spans[1:]], dtype=np.int64)
        span = np.searchsorted(starts, at, side="right")
        local = np.empty_like(at, dtype=np.int64)
        for index, (_, zone) in enumerate(self.spans):
            here = span == index
            if here.any():
                local[here] = at[here] + _offsets(at[here], zone)
        return local

    def minute_of_day(self, at: Int64) -> Int64:
        """Return the local minute of day, 0 to 1439, for instants `at` in ms."""
        return self.local_ms(at) // MINUTE_MS % MINUTES_PER_DAY


def _first_instant(local: datetime, zone: ZoneInfo) -> int:
    """Return the instant (ms) of a naive local time; `fold=0` picks the first of two, moves a skipped one forward."""
    return round(local.replace(tzinfo=zone, fold=0).timestamp() * 1000)


def _offsets(at: Int64, zone: ZoneInfo) -> Int64:
    """Return the zone's offset from UTC in ms at each instant."""
    first, last = (at.item(0), at.item(0)) if at.size == 1 else (at.min(), at.max())
    starts, offsets = _offsets_between(zone, _year(int(first)), _year(int(last)))
    return offsets[np.searchsorted(starts, at, side="right") - 1]


def _year(at_ms: int) -> int:
    return datetime.fromtimestamp(at_ms // 1000, UTC).year


@lru_cache(maxsize=4096)
def _offsets_between(zone: ZoneInfo, first: int, last: int) -> tuple[Int64, Int64]:
    """Return (starts, offsets) as `_year_offsets` does, from one UTC year to another."""
    tables = [_year_offsets(zone, year) for year in range(first, last + 1)]
    return np.concatenate([table[0] for table in tables]), np.concatenate([table[1] for table in tables])


@lru_cache(maxsize=4096)
def _year_offsets(zone: ZoneInfo, year: int) -> tuple[Int64, Int64]:
    """Return (starts, offsets), both in ms: the offset that applies from each start on, within one UTC year.

    The zone is asked once a day; a day whose ends differ is bisected to the second. No zone changes its offset twice
    within a day.
    """
    midnight = round(datetime.combine(date(year, 1, 1), time(), UTC).timestamp())
    days = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    starts, offsets = [midnight], [_offset_seconds(zone, midnight)]
    for day in range(days):
        low, high = midnight + day * 86_400, midnight + (day + 1) * 86_400
        after = _offset_seconds(zone, high)
        if after == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if _offset_seconds(zone, middle) == offsets[-1]:
                low = middle
            else:
                high = middle
        starts.append(high)
        offsets.append(after)
    return np.array(starts, dtype=np.int64) * 1000, np.array(offsets, dtype=np.int64) * 1000


def _offset_seconds(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    if offset is None:
        raise AssertionError("an IANA zone always knows its offset")
    return round(offset.total_seconds())
