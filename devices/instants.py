"""Two instants that mean "always" and "never": far outside any time a device may send, far inside int64."""

from typing import Final

DISTANT_PAST_MS: Final = -(2**62)
"""Before everything, ms since the epoch: where an interval without beginning starts."""
DISTANT_FUTURE_MS: Final = 2**62
"""After everything, ms since the epoch: where an open-ended interval ends."""
