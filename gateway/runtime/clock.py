"""The only module that reads the clock; everything else is handed `now`."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Return the time of day in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return seconds on a clock that never jumps; only differences mean anything."""
    return time.monotonic()


def cpu_seconds() -> float:
    """Return the CPU time this process has used, in seconds."""
    return time.process_time()
