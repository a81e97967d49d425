"""How long to wait before retrying something that is down."""

import random
from typing import Final

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 30.0


def full_jitter(attempt: int, chance: random.Random) -> float:
    """Return the seconds to wait before attempt number `attempt` (0 is the first retry).

    Full jitter (Brooker 2015, "Exponential Backoff And Jitter"): clients that lost the same server must not return to
    it in step.
    """
    return chance.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 20)))
