"""Local time for whole arrays: bodies live by it, sensors do not."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from firmware_sim.physiology.noise import DAY_MS, HOUR_MS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER_MS = HOUR_MS // 4


def local_ms(times: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """Return wall-clock ms since 1970-01-01T00:00 local for UTC `times`; zones change on quarters of an hour."""
    quarters, where = np.unique(times // QUARTER_MS, return_inverse=True)
    offsets = np.array([_offset_ms(zone, quarter) for quarter in quarters.tolist()], dtype=np.int64)
    return times + offsets[where]


def local_day(at_ms: int, zone: ZoneInfo) -> int:
    """Return the local date at `at_ms` as days since 1970-01-01."""
    return (at_ms + _offset_ms(zone, at_ms // QUARTER_MS)) // DAY_MS


def utc_ms(day: int, minute: int, zone: ZoneInfo) -> int:
    """Return when it is `minute` of the local `day`; of a repeated hour the first, a skipped time moves forward."""
    wall = datetime(1970, 1, 1, tzinfo=zone) + timedelta(days=day, minutes=minute)
    return (wall.astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)


def date_of(day: int) -> date:
    """Return the date that is `day` days after 1970-01-01."""
    return date(1970, 1, 1) + timedelta(days=day)


@lru_cache(maxsize=65_536)
def _offset_ms(zone: ZoneInfo, quarter: int) -> int:
    offset = (EPOCH + timedelta(milliseconds=quarter * QUARTER_MS)).astimezone(zone).utcoffset()
    return (offset or timedelta()) // timedelta(milliseconds=1)
