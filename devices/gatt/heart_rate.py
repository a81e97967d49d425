"""Heart Rate Measurement (0x2A37) of the Heart Rate Service 1.0, 3.1."""

from dataclasses import dataclass
from typing import Final

from devices.gatt.fields import UINT8, UINT16, Field, Layout, Says

_RR_RESOLUTION: Final = 1024  # per second


@dataclass(frozen=True, slots=True)
class HeartRateMeasurement:
    """What a strap or wristband sends about once a second."""

    rate: int
    """Beats per minute. Some sensors send 0 without a signal; whether to believe it is decided elsewhere."""
    contact: bool | None = None
    """Whether it touches the skin; None: it cannot tell."""
    energy_expended: int | None = None
    """kJ since the last reset; stays at 65,535."""
    rr_intervals: tuple[int, ...] = ()
    """Units of 1/1024 s, oldest first."""

    @property
    def rr_intervals_ms(self) -> tuple[float, ...]:
        """The RR intervals in ms, exact in binary."""
        return tuple(interval * 1000 / _RR_RESOLUTION for interval in self.rr_intervals)


# There may be no RR intervals although their flag is set: firmware with constant flags sends such a packet in a second
# without a beat.
_MEASUREMENT: Final = Layout(
    "Heart Rate Measurement",
    HeartRateMeasurement,
    Field("rate", UINT8, unless=0x01),
    Field("rate", UINT16, given=0x01),
    Says("contact", value=False, given=0x04, unless=0x02),
    Says("contact", value=True, given=0x06),
    Field("energy_expended", UINT16, given=0x08),
    Field("rr_intervals", UINT16, given=0x10, repeated=True),
)


def decode_heart_rate_measurement(packet: bytes) -> HeartRateMeasurement:
    """Decode a Heart Rate Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _MEASUREMENT.decode(packet)
