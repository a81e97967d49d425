"""Whose turn it is when more devices are near than there are links: who connects next, who is asked to leave. Pure.

The device whose turn was longest ago comes first, and a device that has held a link for a slice gives it up when
another one waits. So nobody starves: with D devices and L links each has its turn within ceil(D / L) slices and
connects. A device that fails waits longer and longer before it may try again, so it cannot hold up the others.

Times are ms on one clock that never jumps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from devices.vocabulary import DeviceModel

SLICE_MS: Final = 60_000
"""How long a device may keep its link while others wait."""
IN_SIGHT_MS: Final = 30_000
"""A device that has not been heard for this long is not tried: advertisements show that it is near and listening."""
FIRST_BACK_OFF_MS: Final = 2000
LONGEST_BACK_OFF_MS: Final = 10 * 60_000


@dataclass(frozen=True, slots=True)
class Policy:
    """How often devices of one model are visited: `every_ms` from one turn's end to the next; 0: they want to stay."""

    every_ms: int

    @property
    def stays(self) -> bool:
        """Whether the device keeps its link until another one wants it."""
        return self.every_ms == 0


# A device that measures now and then advertises only when it has something, so a sighting is reason enough. The pause
# after a turn is for those that go on advertising for a while although they were just read.
_ON_SIGHT: Final = Policy(15_000)

POLICIES: Final[Mapping[DeviceModel, Policy]] = MappingProxyType(
    {
        DeviceModel.WRISTBAND: Policy(0),
        DeviceModel.CGM: Policy(0),
        DeviceModel.PILLBOX: Policy(60_000),
        DeviceModel.GLUCOSE_METER: _ON_SIGHT,
        DeviceModel.BLOOD_PRESSURE: _ON_SIGHT,
        DeviceModel.THERMOMETER: _ON_SIGHT,
        DeviceModel.SCALE: _ON_SIGHT,
        DeviceModel.OXIMETER: _ON_SIGHT,
    }
)


@dataclass(frozen=True, slots=True)
class TurnState:
    """The state of one device; its methods return the next state."""

    id: str
    model: DeviceModel
    seen_ms: int | None = None
    """When it was last heard advertising."""
    turn_ms: int | None = None
    """When its last turn ended, successful or not."""
    linked_ms: int | None = None
    """When its present turn began: it holds a link, or is connecting."""
    leaving: bool = False
    """It was asked to give up its link."""
    urgent: bool = False
    """A command waits for it: its next turn is due at once."""
    failures: int = 0
    """In a row."""
    not_before_ms: int = 0

    def seen(self, now_ms: int) -> "TurnState":
        """Return the state after the device was heard."""
        return replace(self, seen_ms=now_ms)

    def begun(self, now_ms: int) -> "TurnState":
        """Return the state at the beginning of a turn."""
        return replace(self, linked_ms=now_ms, leaving=False)

    def asked(self) -> "TurnState":
        """Return the state after the device was asked to leave."""
        return replace(self, leaving=True)

    def ended(self, now_ms: int, *, failed: bool, chance: float = 1.0) -> "TurnState":
        """Return the state after a turn; `chance` from [0, 1) spreads the retries of devices that failed."""
        failures = self.failures + 1 if failed else 0
        pause = back_off_ms(failures, chance)
        return replace(
            self, turn_ms=now_ms, linked_ms=None, leaving=False, failures=failures, not_before_ms=now_ms + pause
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """Ids of the devices to connect now, in order of priority, and of those to ask to leave."""

    connect: tuple[str, ...] = ()
    release: tuple[str, ...] = ()


def back_off_ms(failures: int, chance: float) -> int:
    """Return the pause after this many failures in a row: exponential with full jitter, at most 10 min; 0 for none."""
    if failures == 0:
        return 0
    return round(chance * min(LONGEST_BACK_OFF_MS, FIRST_BACK_OFF_MS << min(failures - 1, 16)))


def waits(device: TurnState, now_ms: int) -> bool:
    """Return whether the device wants a turn and can have one: near, due, not backing off, without a link."""
    if device.linked_ms is not None or device.seen_ms is None or now_ms - device.seen_ms > IN_SIGHT_MS:
        return False
    if now_ms < device.not_before_ms:
        return False
    every_ms = POLICIES[device.model].every_ms
    return device.urgent or device.turn_ms is None or now_ms - device.turn_ms >= every_ms


def decide(devices: Iterable[TurnState], links: int, now_ms: int) -> Decision:
    """Decide who is connected and who is asked to leave, with `links` links in all."""
    everybody = sorted(devices, key=lambda device: device.id)
    waiting = sorted((d for d in everybody if waits(d, now_ms)), key=_longest_without)
    linked = [d for d in everybody if d.linked_ms is not None]
    connect = waiting[: max(links - len(linked), 0)]
    # A link whose holder was asked to leave is as good as free: nobody else need be asked for it.
    wanted = len(waiting) - len(connect) - sum(d.leaving for d in linked)
    tired = [(d.linked_ms, d.id) for d in linked if not d.leaving and _had_its_slice(d, now_ms)]
    release = sorted(tired)[: max(wanted, 0)]
    return Decision(tuple(d.id for d in connect), tuple(name for _, name in release))


def _longest_without(device: TurnState) -> tuple[bool, int]:
    return device.turn_ms is not None, device.turn_ms or 0


def _had_its_slice(device: TurnState, now_ms: int) -> bool:
    return device.linked_ms is not None and now_ms - device.linked_ms >= SLICE_MS
