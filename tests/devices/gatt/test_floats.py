"""SFLOAT and FLOAT against decoders that were written another way, and that nothing rounds them."""

import struct
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.gatt.floats import Medical, Special, float32, sfloat

SPECIALS = {
    2046: Special.POSITIVE_INFINITY, 2047: Special.NAN, -2048: Special.NRES, -2047: Special.RESERVED,
    -2046: Special.NEGATIVE_INFINITY,
}  # fmt: skip


def reference(raw: int) -> Fraction | Special:
    """SFLOAT by arithmetic shifts of signed C integers and by fractions."""
    (word,) = struct.unpack("<h", struct.pack("<H", raw))
    (shifted,) = struct.unpack("<h", struct.pack("<H", raw << 4 & 0xFFFF))
    exponent, mantissa = word >> 12, shifted >> 4
    return SPECIALS.get(mantissa, Fraction(0)) if exponent == 0 and mantissa in SPECIALS else mantissa * power(exponent)


def power(exponent: int) -> Fraction:
    return Fraction(10) ** exponent


def exact(value: Medical) -> Fraction | Special:
    return Fraction(value) if isinstance(value, Decimal) else value


def test_every_sfloat() -> None:
    assert all(exact(sfloat(raw)) == reference(raw) for raw in range(0x10000))
    assert sum(isinstance(sfloat(raw), Special) for raw in range(0x10000)) == 5


@pytest.mark.parametrize("shift", [3, 5, 6])
def test_every_sfloat_in_a_smaller_unit(shift: int) -> None:
    for raw in range(0x10000):
        plain, scaled = sfloat(raw), sfloat(raw, shift)
        assert exact(scaled) == (exact(plain) if isinstance(plain, Special) else Fraction(plain) * power(shift))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (0x0072, "114"), (0xF072, "11.4"), (0xF014, "2.0"), (0xE0C8, "2.00"), (0x1002, "2E+1"), (0x0B2E, "-1234"),
        (0xF7FF, "204.7"), (0x0000, "0"), (0x8001, "1E-8"), (0x7801, "-2.047E+10"),
    ],
)  # fmt: skip
def test_the_digits_stay_as_they_were_sent(raw: int, text: str) -> None:
    assert str(sfloat(raw)) == text


@given(st.integers(-(2**23), 2**23 - 1), st.integers(-128, 127))
def test_any_float(mantissa: int, exponent: int) -> None:
    (raw,) = struct.unpack("<I", (mantissa & 0xFFFFFF).to_bytes(3, "little") + struct.pack("b", exponent))
    extremes = {2**23 - 2, 2**23 - 1, -(2**23), -(2**23) + 1, -(2**23) + 2}
    value = float32(raw)
    if exponent == 0 and mantissa in extremes:
        assert isinstance(value, Special)
    else:
        assert exact(value) == mantissa * power(exponent)


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("ffff7f00", Special.NAN),
        ("00008000", Special.NRES),
        ("feff7f00", Special.POSITIVE_INFINITY),
        ("02008000", Special.NEGATIVE_INFINITY),
        ("01008000", Special.RESERVED),
        ("6c0100ff", Decimal("36.4")),
        ("710e00fe", Decimal("36.97")),
        ("ffffff7f", Decimal("-1E+127")),  # taken for +infinity by some; by the standard a number like any other
        ("ffff7f01", Decimal(83886070)),
    ],
)
def test_floats(octets: str, value: Medical) -> None:
    assert float32(int.from_bytes(bytes.fromhex(octets), "little")) == value


def test_no_context_rounds() -> None:
    with localcontext(prec=1, Emax=1, Emin=-1):
        assert exact(sfloat(0xF4D2)) == Fraction(1234, 10)
        assert exact(sfloat(0x04D2, 5)) == 123_400_000
        assert exact(float32(0x0612D687)) == 1_234_567 * 10**6
