"""Collects the refusals of a batch while it is checked."""

from collections.abc import Sequence

from devices.errors import Refusal
from devices.vocabulary import Reason


class Refusals:
    """Refusals by message: a series is refused once, whatever else is wrong.

    A refused message absorbs its parts, and a refused series its samples.
    """

    __slots__ = ("_parts", "_samples", "_whole")

    def __init__(self) -> None:
        self._whole: dict[int, tuple[Reason, str]] = {}
        self._parts: dict[int, dict[int, tuple[Reason, str]]] = {}
        self._samples: dict[int, dict[int, tuple[tuple[int, ...], str]]] = {}

    def refuse_message(self, message: int, reason: Reason, detail: str) -> None:
        """Refuse a message with everything in it."""
        self._whole.setdefault(message, (reason, detail))

    def refuse_part(self, message: int, position: int, reason: Reason, detail: str) -> None:
        """Refuse one series or event of a message."""
        self._parts.setdefault(message, {}).setdefault(position, (reason, detail))

    def refuse_samples(self, message: int, position: int, samples: Sequence[int], detail: str) -> None:
        """Refuse implausible samples of a series that holds others."""
        self._samples.setdefault(message, {}).setdefault(position, (tuple(samples), detail))

    def collect(self) -> list[Refusal]:
        """Return the refusals in the order of the messages.

        One for each message and reason, with the first part's sentence, and one for each series that lost samples.
        """
        found: list[Refusal] = []
        for message in sorted(self._whole.keys() | self._parts.keys() | self._samples.keys()):
            if message in self._whole:
                found.append(Refusal(message, None, *self._whole[message]))
                continue
            reasons: dict[Reason, list[int]] = {}
            parts = self._parts.get(message, {})
            for position in sorted(parts):
                reasons.setdefault(parts[position][0], []).append(position)
            found += [
                Refusal(message, tuple(positions), reason, parts[positions[0]][1])
                for reason, positions in reasons.items()
            ]
            found += [
                Refusal(message, (position,), Reason.OUT_OF_RANGE, detail, samples)
                for position, (samples, detail) in sorted(self._samples.get(message, {}).items())
                if position not in parts
            ]
        return found
