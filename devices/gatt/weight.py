"""Weight Measurement (0x2A9D) of the Weight Scale Service 1.0.1, 3.2."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from devices.gatt.clock import DATE_TIME
from devices.gatt.fields import Field, Kind, Layout, Says, unless_equal
from devices.vocabulary import Unit

_UNSUCCESSFUL: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class WeightMeasurement:
    """A weight, in `unit`."""

    weight: Decimal | None
    """None: the measurement failed."""
    unit: Unit
    timestamp: datetime | None = None
    """By the scale's clock; None if it has none, or does not know the time."""
    user_id: int | None = None
    """None: not sent, or not known."""
    bmi: Decimal | None = None
    """kg/m²"""
    height_m: Decimal | None = None
    height_in: Decimal | None = None


def _steps(thousandths: int) -> Kind:
    """Return the kind of a number whose unit is this many thousandths."""
    return Kind("H", lambda raw: Decimal(f"{raw * thousandths}E-3"))


def _weight(thousandths: int) -> Kind:
    return Kind("H", lambda raw: None if raw == _UNSUCCESSFUL else Decimal(f"{raw * thousandths}E-3"))


_MEASUREMENT: Final = Layout(
    "Weight Measurement",
    WeightMeasurement,
    Field("weight", _weight(5), unless=0x01),
    Says("unit", Unit.KG, unless=0x01),
    Field("weight", _weight(10), given=0x01),
    Says("unit", Unit.LB_AV, given=0x01),
    Field("timestamp", DATE_TIME, given=0x02),
    Field("user_id", unless_equal(0xFF, "B"), given=0x04),
    Field("bmi", _steps(100), given=0x08),
    Field("height_m", _steps(1), given=0x08, unless=0x01),
    Field("height_in", _steps(100), given=0x09),
)


def decode_weight_measurement(packet: bytes) -> WeightMeasurement:
    """Decode a Weight Measurement.

    Raises:
        PacketError: the packet is not one.
    """
    return _MEASUREMENT.decode(packet)
