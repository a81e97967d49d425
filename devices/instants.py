"""The two instants that stand for "always" and "never": far outside any time a device may send, far inside int64."""

from typing import Final

DISTANT_PAST_MS: Final = -(2**62)
"""Before everything, ms since the epoch: an interval without beginning starts here."""
DISTANT_FUTURE_MS: Final = 2**62
"""After everything, ms since the epoch: an interval without end stops here."""
