"""Finds a zone in which it is a given hour now, so that night rules can be shown at any time of the day."""

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

CITIES = (
    "Pacific/Pago_Pago", "Pacific/Honolulu", "Pacific/Gambier", "America/Anchorage", "America/Los_Angeles", "America/Denver",
    "America/Chicago", "America/New_York", "America/Halifax", "America/Sao_Paulo", "America/Noronha",
    "Atlantic/Cape_Verde", "Africa/Abidjan", "Europe/London", "Europe/Berlin", "Europe/Athens", "Africa/Nairobi",
    "Asia/Dubai", "Asia/Karachi", "Asia/Dhaka", "Asia/Bangkok", "Asia/Shanghai", "Asia/Tokyo", "Australia/Brisbane",
    "Pacific/Guadalcanal", "Pacific/Auckland", "Pacific/Tarawa", "Pacific/Tongatapu",
)  # fmt: skip


@lru_cache(maxsize=64)
def zone_where_it_is(hour: float, now_ms: int) -> str:
    """Return the IANA zone of a city where the local time at `now_ms` is nearest to `hour` (within 32 min)."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)

    def minutes_off(city: str) -> float:
        local = now.astimezone(ZoneInfo(city))
        off = abs(local.hour * 60 + local.minute + local.second / 60 - hour * 60) % 1440
        return min(off, 1440 - off)

    return min(CITIES, key=minutes_off)
