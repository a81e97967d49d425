"""Collects the refusals of a batch while it is checked."""

from devices.errors import Refusal
from devices.vocabulary import Reason


class Refusals:
    """Refusals by message: a series is refused once, whatever else is wrong; a refused message absorbs its parts."""

    __slots__ = ("_parts", "_whole")

    def __init__(self) -> None:
        self._whole: dict[int, tuple[Reason, str]] = {}
        self._parts: dict[int, dict[int, tuple[Reason, str]]] = {}

    def refuse_message(self, message: int, reason: Reason, detail: str) -> None:
        """Refuse a message with everything in it."""
        self._whole.setdefault(message, (reason, detail))

    def refuse_part(self, message: int, position: int, reason: Reason, detail: str) -> None:
        """Refuse one series or event of a message."""
        self._parts.setdefault(message, {}).setdefault(position, (reason, detail))

    def collect(self) -> list[Refusal]:
        """Return one refusal per message and reason, in the order of the messages, with the first part's sentence."""
        found: list[Refusal] = []
        for message in sorted(self._whole.keys() | self._parts.keys()):
            if message in self._whole:
                found.append(Refusal(message, None, *self._whole[message]))
                continue
            reasons: dict[Reason, list[int]] = {}
            parts = self._parts[message]
            for position in sorted(parts):
                reasons.setdefault(parts[position][0], []).append(position)
            found += [
                Refusal(message, tuple(positions), reason, parts[positions[0]][1])
                for reason, positions in reasons.items()
            ]
        return found
