"""Converts device time to real time (ms since the Unix epoch), for clocks without a zone, wrong or set meanwhile. Pure.

A stamped measurement is never made again, so its stamp must convert to the same real time whoever reads it and
whenever. A shift is therefore picked from a small set of likely ones, or from the device's own notes, rather than
measured to the millisecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from devices.gatt.pillbox import LogEntry, LogType
from devices.vocabulary import EARLIEST_MS

AGREES_MS: Final = 2 * 60_000
"""Clocks set by people agree to within this; stamps out of order by no more than this mean nothing."""
BOX_AGREES_MS: Final = 2000
"""Clocks set by programs agree to within this."""

_MINUTE_MS: Final = 60_000
_QUARTER_MS: Final = 15 * _MINUTE_MS
"""Every zone in use is a multiple of this away from UTC."""
_DRIFT: Final = 10_000
"""A sensor's clock may be wrong by one part in this many: five times a watch crystal."""
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - a device's wall clock has no zone either
_MS: Final = timedelta(milliseconds=1)


class TimeSource(Enum):
    """How the real time of a record was found."""

    ZONE = "zone"
    """The device's clock shows the wearer's local time, or is assumed to."""
    UTC = "utc"
    """The device's clock shows the real time (pill box)."""
    SHIFTED = "shifted"
    """The device's clock is off by a known shift."""
    BEFORE_JUMP = "before_jump"
    """The clock has jumped since, nobody knows by how much; the stamp as it stands contradicts nothing."""
    UNKNOWN = "unknown"
    """The stamp as it stands cannot be right: the record has no known time."""


class RealTime(NamedTuple):
    """When a record was made, in ms since the Unix epoch, and how that is known."""

    at_ms: int
    source: TimeSource


class CgmStart(NamedTuple):
    """When a CGM session began; `should_write`: the sensor does not know it, or has it wrong."""

    start_ms: int
    should_write: bool


class _Span(NamedTuple):
    """A stamp in real time: the reading that counts, and the earliest and latest it could mean (clock changes)."""

    at_ms: int
    earliest_ms: int
    latest_ms: int


@dataclass(frozen=True, slots=True)
class WallClock:
    """What a device's wall clock shows: local time of `zone`, or UTC plus a fixed `ahead_ms`."""

    zone: ZoneInfo
    ahead_ms: int | None = None

    def real_ms(self, stamp: datetime) -> int:
        """Return the real time of a naive stamp.

        Of a local time that comes twice, the first counts; one that a clock change skips moves forward by the gap.
        """
        return _span(self, stamp).at_ms


def wall_clock(device_now: datetime | None, now_ms: int, zone: ZoneInfo, held_ms: int | None = None) -> WallClock:
    """Return what a wall clock shows that read `device_now` at `now_ms`; if it was not read, local time.

    A clock within 2 min of local time shows local time: its owner set it by another clock. One within 2 min of another
    multiple of 15 min from UTC shows another zone's time (the wearer travelled, or nobody put it forward in spring),
    and is ahead by exactly that much. Any other clock is wrong, by a whole number of minutes, since seconds differ
    between readings. `held_ms`, the `ahead_ms` found before, stays while the clock is within 2 min of it, so that a
    drift does not become a new shift with every minute.
    """
    if device_now is None:
        return WallClock(zone)
    ahead_ms = _as_utc_ms(device_now) - now_ms
    local = _offset_ms(datetime.fromtimestamp(now_ms // 1000, UTC).astimezone(zone))
    if abs(ahead_ms - local) <= AGREES_MS:
        return WallClock(zone)
    if held_ms is not None and abs(ahead_ms - held_ms) <= AGREES_MS:
        return WallClock(zone, held_ms)
    zonal = _nearest(ahead_ms, _QUARTER_MS)
    return WallClock(zone, zonal if abs(ahead_ms - zonal) <= AGREES_MS else _nearest(ahead_ms, _MINUTE_MS))


def wall_times(records: Sequence[tuple[int, datetime]], clock: WallClock, now_ms: int) -> list[RealTime]:
    """Return the real time of each `(sequence, stamp)`, read by `now_ms` with the clock as it was then.

    Sequence numbers rise with real time, so from the newest record to older ones time cannot rise, and none is later
    than now. The first record that breaks this was stamped before the clock jumped. From there on, stamps are read as
    local time as long as they fit. One that does not fit has no known time and keeps its stamp as local time, for the
    gateway to refuse and the clinic to see. A jump forward breaks no order and cannot be seen.
    """
    found: dict[int, RealTime] = {}
    ceiling = now_ms
    source = TimeSource.ZONE if clock.ahead_ms is None else TimeSource.SHIFTED
    for i in sorted(range(len(records)), key=lambda i: records[i][0], reverse=True):
        stamp = records[i][1]
        span = _span(clock, stamp)
        if source is not TimeSource.BEFORE_JUMP and not _fits(span, ceiling):
            clock, source = WallClock(clock.zone), TimeSource.BEFORE_JUMP
            span = _span(clock, stamp)
        if _fits(span, ceiling):
            ceiling = min(ceiling, span.latest_ms)
            found[i] = RealTime(span.at_ms, source)
        else:
            found[i] = RealTime(span.at_ms, TimeSource.UNKNOWN)
    return [found[i] for i in range(len(records))]


def cgm_start(
    stamp: datetime | None,
    utc_offset: timedelta | None,
    minutes: int,
    now_ms: int,
    held_ms: int | None = None,
) -> CgmStart:
    """Return when the session began whose status said `minutes` at `now_ms`; a record was made at start + its minutes.

    The sensor's session start time (`stamp` at `utc_offset`) counts if it agrees with its own count of minutes, within
    2 min and what a crystal drifts in the meantime. Otherwise the session began `minutes` ago, to the minute. That
    depends slightly on when one asks, so write it to the sensor, read back what it made of it, and ask again.
    `held_ms`, the start found before, stays while it agrees: the session keeps its name.
    """
    counted = now_ms - minutes * _MINUTE_MS
    most = AGREES_MS + minutes * _MINUTE_MS // _DRIFT
    told = None if stamp is None or utc_offset is None else _as_utc_ms(stamp) - utc_offset // _MS
    right = told is not None and abs(told - counted) <= most
    if held_ms is not None and abs(held_ms - counted) <= most:
        return CgmStart(held_ms, not right)
    if told is not None and right:
        return CgmStart(told, should_write=False)
    return CgmStart(counted // _MINUTE_MS * _MINUTE_MS, should_write=True)


def box_times(entries: Sequence[LogEntry], clock_ms: int | None, now_ms: int) -> list[RealTime]:
    """Return the real time of each entry of a pill box whose clock read `clock_ms` at `now_ms` (None: not read).

    The box logs each step of its clock as a pair (reading before, reading after). So from the newest entry to older
    ones the shift changes by known steps, and stamps convert to the same time at every reading: exactly so if the clock
    was set first and the log read then. Entries from before a lost clock, or before a pair of which one half is
    missing, keep their own stamps if these fit (they come from a clock that was set); otherwise their time is unknown.
    """
    walk = _BoxWalk(entries, clock_ms, now_ms)
    return [walk.found[entry.sequence] for entry in entries]


class _BoxWalk:
    """One pass over a box's log, from the newest entry to the oldest."""

    def __init__(self, entries: Sequence[LogEntry], clock_ms: int | None, now_ms: int) -> None:
        ahead = 0 if clock_ms is None else clock_ms - now_ms
        self.found: dict[int, RealTime] = {}
        self._shift_ms = -ahead if abs(ahead) >= BOX_AGREES_MS else 0
        self._lost = False
        """The shift is not known: 0 is a guess."""
        self._ceiling = now_ms
        newer: LogEntry | None = None
        for entry in sorted(entries, key=lambda entry: entry.sequence, reverse=True):
            self._cross(entry, newer)
            self.found[entry.sequence] = self._time(entry, newer)
            newer = entry

    def _cross(self, entry: LogEntry, newer: LogEntry | None) -> None:
        """Enter the frame of `entry`, coming from the entry after it."""
        if _is_pair(entry, newer):
            if entry.time_ms is None or newer is None or newer.time_ms is None:
                self._lose()
            else:
                self._shift_ms += newer.time_ms - entry.time_ms
        elif entry.type == LogType.CLOCK_BEFORE or (newer is not None and newer.type == LogType.CLOCK_AFTER):
            self._lose()

    def _lose(self) -> None:
        self._shift_ms, self._lost = 0, True

    def _time(self, entry: LogEntry, newer: LogEntry | None) -> RealTime:
        if entry.time_ms is None:
            # Both halves of a pair belong to one moment.
            if newer is not None and _is_pair(entry, newer):
                return self.found[newer.sequence]
            return RealTime(0, TimeSource.UNKNOWN)
        at_ms = entry.time_ms + self._shift_ms
        if not self._lost and not _fits(_Span(at_ms, at_ms, at_ms), self._ceiling):
            self._lose()  # entries are missing, and maybe a step with them
            at_ms = entry.time_ms
        if not _fits(_Span(at_ms, at_ms, at_ms), self._ceiling):
            return RealTime(entry.time_ms, TimeSource.UNKNOWN)
        self._ceiling = min(self._ceiling, at_ms)
        if self._lost:
            return RealTime(at_ms, TimeSource.BEFORE_JUMP)
        return RealTime(at_ms, TimeSource.SHIFTED if self._shift_ms else TimeSource.UTC)


def _is_pair(entry: LogEntry, newer: LogEntry | None) -> bool:
    return (
        newer is not None
        and (entry.type, newer.type) == (LogType.CLOCK_BEFORE, LogType.CLOCK_AFTER)
        and newer.sequence == entry.sequence + 1
    )


def _span(clock: WallClock, stamp: datetime) -> _Span:
    if clock.ahead_ms is not None:
        at_ms = _as_utc_ms(stamp) - clock.ahead_ms
        return _Span(at_ms, at_ms, at_ms)
    first, second = (_as_utc_ms(stamp) - _offset_ms(stamp.replace(tzinfo=clock.zone, fold=fold)) for fold in (0, 1))
    return _Span(first, min(first, second), max(first, second))


def _fits(span: _Span, ceiling: int) -> bool:
    """Return whether a stamp is from a clock that was ever set, and not later than the records that follow it."""
    return span.at_ms >= EARLIEST_MS and span.earliest_ms <= ceiling + AGREES_MS


def _as_utc_ms(stamp: datetime) -> int:
    return (stamp - _EPOCH) // _MS


def _offset_ms(local: datetime) -> int:
    offset = local.utcoffset()
    if offset is None:
        raise AssertionError("an IANA zone always knows its offset")
    return offset // _MS


def _nearest(value: int, step: int) -> int:
    return (value + step // 2) // step * step
