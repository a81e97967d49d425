"""Who could not be settled, and when they are tried again: so that they keep nobody else waiting."""

from typing import Final

LONGEST_PAUSE_MS: Final = 15 * 60_000


class Setbacks:
    """The patients of one duty who could not be settled; each is tried ever more seldom until it succeeds."""

    def __init__(self, first_pause_ms: int) -> None:
        """Pause so long after a first failure, twice as long after each further one, up to a quarter of an hour."""
        self._first_pause_ms = first_pause_ms
        self._failed: dict[int, tuple[int, int]] = {}  # patient: how often, and when to try again (ms)

    def waiting(self, now_ms: int) -> list[int]:
        """Return who is not to be tried now."""
        return [patient for patient, (_, again_ms) in self._failed.items() if now_ms < again_ms]

    def failed(self, patient: int, now_ms: int) -> None:
        """Note that a patient could not be settled."""
        times = self._failed[patient][0] + 1 if patient in self._failed else 1
        pause_ms = min(self._first_pause_ms << min(times - 1, 30), LONGEST_PAUSE_MS)
        self._failed[patient] = times, now_ms + pause_ms

    def settled(self, patient: int) -> None:
        """Note that a patient was settled."""
        self._failed.pop(patient, None)
