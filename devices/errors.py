"""The errors in data from a device.

    DeviceDataError
    ├── UnitNotAcceptedError  a code is never measured in that unit: carries both
    ├── PayloadError          bytes that are no message of ours: carries the reason and a sentence
    └── PacketError           bytes that are no value of their Bluetooth characteristic: carries a sentence

`BatchBuilder` raises none of these to its caller: what a peer got wrong is a `Refusal`, a value.
"""

from dataclasses import dataclass

from devices.vocabulary import Code, Reason, Unit


class DeviceDataError(Exception):
    """The root of the errors of this package."""


class UnitNotAcceptedError(DeviceDataError):
    """A code was combined with a unit it is never measured in."""

    def __init__(self, code: Code, unit: Unit) -> None:
        super().__init__(f"{code.wire} is not measured in {unit.ucum}")
        self.code = code
        self.unit = unit


class PayloadError(DeviceDataError):
    """A payload that is refused as a whole; `detail` is one clear sentence."""

    def __init__(self, detail: str, reason: Reason = Reason.MALFORMED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


class PacketError(DeviceDataError):
    """A value of a Bluetooth characteristic that is refused; `detail` is one clear sentence, printable and short."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message, or some of its series (events), that was refused, and why.

    `message` is the caller's number of the message; `series` the positions within it that were refused, None for all of
    it; `samples` the positions within the one series, None for all of it; `detail` is one clear sentence about the first
    of them.
    """

    message: int
    series: tuple[int, ...] | None
    reason: Reason
    detail: str
    samples: tuple[int, ...] | None = None
