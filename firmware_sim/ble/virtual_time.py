"""An event loop that never waits: its clock jumps to the next timer. Two weeks of a sensor pass in seconds.

Only for events inside the process: while a socket is awaited, time would race ahead of it.
"""

import asyncio
import selectors

_START_S = 1000.0
_IDLE_S = 0.05


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the clock instead of sleeping."""

    now_s = _START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # Without a timer only another thread can wake us: really wait a little.
            timeout = _IDLE_S
        elif timeout > 0:
            self.now_s += timeout
            timeout = 0
        return super().select(timeout)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Use with `asyncio.Runner(loop_factory=VirtualTimeLoop)`."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.now_s
