"""The medical floats of ISO/IEEE 11073-20601, annex F.8, as exact decimals: SFLOAT of 16 bits and FLOAT of 32 bits."""

from decimal import Decimal
from enum import Enum, auto
from types import MappingProxyType
from typing import Final


class Special(Enum):
    """A special value in the place of a number."""

    NAN = auto()
    """Not a number: the sensor has no valid result."""
    NRES = auto()
    """Not at this resolution."""
    POSITIVE_INFINITY = auto()
    NEGATIVE_INFINITY = auto()
    RESERVED = auto()


Medical = Decimal | Special
"""A medical float: an exact number with the digits the sensor sent, or why there is none."""

# The five are the extreme mantissas with exponent 0, and only then: the same mantissas with another exponent are
# numbers (0xF7FF is 204.7; ff ff ff 7f on the wire is −1E+127).
_SPECIAL_SFLOATS: Final = MappingProxyType(
    {
        0x07FE: Special.POSITIVE_INFINITY,
        0x07FF: Special.NAN,
        0x0800: Special.NRES,
        0x0801: Special.RESERVED,
        0x0802: Special.NEGATIVE_INFINITY,
    }
)
_SPECIAL_FLOATS: Final = MappingProxyType(
    {
        0x007FFFFE: Special.POSITIVE_INFINITY,
        0x007FFFFF: Special.NAN,
        0x00800000: Special.NRES,
        0x00800001: Special.RESERVED,
        0x00800002: Special.NEGATIVE_INFINITY,
    }
)


def sfloat(raw: int, power: int = 0) -> Medical:
    """Decode 16 bits, times 10**`power`: exponent of 4 bits, mantissa of 12, both in two's complement."""
    return _SPECIAL_SFLOATS.get(raw) or _exact(_signed(raw & 0xFFF, 12), _signed(raw >> 12, 4) + power)


def float32(raw: int) -> Medical:
    """Decode 32 bits: exponent of 8 bits, mantissa of 24, both in two's complement."""
    return _SPECIAL_FLOATS.get(raw) or _exact(_signed(raw & 0xFFFFFF, 24), _signed(raw >> 24, 8))


def _signed(raw: int, width: int) -> int:
    return raw - (1 << width) if raw >> (width - 1) else raw


def _exact(mantissa: int, exponent: int) -> Decimal:
    # Made from text because only that is never rounded by the caller's decimal context.
    return Decimal(f"{mantissa}E{exponent}")
