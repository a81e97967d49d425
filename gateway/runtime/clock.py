"""The only module that reads the clock; everything else is handed `now`.

`TEST_VIGIL_CLOCK_OFFSET_MS` moves the time of day by so many ms, for tests only: a whole run at another hour, with the
programs it starts. It is an environment variable of the process and no setting: `.env` cannot hold it, and what hides
`VIGIL_*` from a child does not hide it. On the store of a clinic no program works with it (`deploy.moved_clock`).
"""

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Final

OFFSET_VARIABLE: Final = "TEST_VIGIL_CLOCK_OFFSET_MS"


def _offset_ms(text: str) -> int:
    """Return the offset that a text says, none for an empty one. Raises ValueError that names the variable."""
    try:
        return int(text or 0)
    except ValueError:
        raise ValueError(f"{OFFSET_VARIABLE} is no whole number of ms: {text!r}") from None


OFFSET_MS: Final = _offset_ms(os.environ.get(OFFSET_VARIABLE, ""))
"""How far ahead of the real one this process's time of day is: 0 but in tests."""


def now_ms() -> int:
    """Return the time of day in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000 + OFFSET_MS


def now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC) + timedelta(milliseconds=OFFSET_MS)


def monotonic() -> float:
    """Return seconds on a clock that never jumps; only differences mean anything."""
    return time.monotonic()


def cpu_seconds() -> float:
    """Return the CPU time this process has used, in seconds."""
    return time.process_time()
