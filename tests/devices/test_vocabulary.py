"""The tables: complete, consistent with each other and with the published contract; conversions and limits."""

import math

import numpy as np
import pytest

from devices.errors import UnitNotAcceptedError
from devices.units import PAIRED_GLUCOSE_LIMITS, glucose_limit, to_canonical
from devices.vocabulary import (
    CODE_BY_WIRE,
    CODES,
    DEVICE_ID,
    FLAG_BY_WIRE,
    UNIT_BY_UCUM,
    Code,
    EventType,
    Flag,
    Reason,
    Topic,
    Unit,
    topic,
)

# code: canonical unit, limits, other units (with limits where the contract names them), LOINC
Limits = tuple[float, float]
CONTRACT: dict[str, tuple[str, Limits, dict[str, Limits | None], tuple[str, ...]]] = {
    "glucose": ("mmol/L", (1.1, 33.3), {"mg/dL": (20, 600)}, ("105272-9", "14745-4")),
    "heart_rate": ("/min", (20, 300), {}, ("8867-4",)),
    "rr_interval": ("ms", (200, 3000), {"s": (0.2, 3)}, ("8637-1",)),
    "spo2": ("%", (50, 100), {}, ("59408-5",)),
    "body_temperature": ("Cel", (25, 45), {"[degF]": (77, 113)}, ("8310-5",)),
    "systolic_pressure": ("mm[Hg]", (30, 300), {"kPa": None}, ("8480-6",)),
    "diastolic_pressure": ("mm[Hg]", (20, 200), {"kPa": None}, ("8462-4",)),
    "body_weight": ("kg", (2, 400), {"[lb_av]": None}, ("29463-7",)),
    "step_count": ("{steps}", (0, 100_000), {}, ("55423-8",)),
    "battery": ("%", (0, 100), {}, ()),
}


def test_the_table_is_the_contract() -> None:
    assert {code.wire for code in Code} == set(CONTRACT)
    for name, (canonical, limits, others, loinc) in CONTRACT.items():
        rule = CODES[CODE_BY_WIRE[name]]
        assert rule.canonical.ucum == canonical
        assert {unit.ucum for unit in rule.units} == {canonical, *others}
        for ucum, expected in {canonical: limits, **others}.items():
            unit = rule.units[UNIT_BY_UCUM[ucum]]
            if expected is not None:
                assert (unit.minimum, unit.maximum) == expected
        assert CODE_BY_WIRE[name].loinc == loinc


def test_every_word_has_its_name_and_back() -> None:
    assert {UNIT_BY_UCUM[unit.ucum] for unit in Unit} == set(Unit)
    assert {name: int(flag) for name, flag in FLAG_BY_WIRE.items()} == {
        "below_range": 1,
        "above_range": 2,
        "warmup": 4,
        "calibration": 8,
        "artifact": 16,
        "off_body": 32,
    }
    assert (Flag.WARMUP | Flag.BELOW_RANGE).wire == ("below_range", "warmup")
    assert len(EventType) == 8
    assert len(Reason) == 10


@pytest.mark.parametrize("code", Code)
def test_limits_of_one_code_agree_in_every_unit(code: Code) -> None:
    """Rounded outwards, and by little: what is plausible in one unit is plausible in the other."""
    rule = CODES[code]
    canonical = rule.units[rule.canonical]
    assert (canonical.factor, canonical.shift) == (1, 0)
    for unit, limits in rule.units.items():
        low, high = to_canonical(code, unit, [limits.minimum, limits.maximum])
        assert low == pytest.approx(canonical.minimum, rel=0.011)
        assert high == pytest.approx(canonical.maximum, rel=0.0015)


@pytest.mark.parametrize(
    ("code", "unit", "value", "canonical"),
    [
        (Code.GLUCOSE, Unit.MG_DL, 72, 4.0),
        (Code.GLUCOSE, Unit.MMOL_L, 4.0, 4.0),
        (Code.RR_INTERVAL, Unit.S, 0.812, 812),
        (Code.BODY_TEMPERATURE, Unit.DEGF, 98.6, 37.0),
        (Code.BODY_TEMPERATURE, Unit.DEGF, 32, 0.0),
        (Code.SYSTOLIC_PRESSURE, Unit.KPA, 16, 120.00986923),
        (Code.BODY_WEIGHT, Unit.LB_AV, 100, 45.359237),
    ],
)
def test_conversion(code: Code, unit: Unit, value: float, canonical: float) -> None:
    assert to_canonical(code, unit, value) == pytest.approx(canonical, rel=1e-9, abs=1e-9)


def test_conversion_of_arrays_keeps_gaps() -> None:
    result = to_canonical(Code.GLUCOSE, Unit.MG_DL, [18, math.nan, 36])
    np.testing.assert_array_equal(result, [1.0, math.nan, 2.0])
    assert result.dtype == np.float64


def test_conversion_between_strangers() -> None:
    with pytest.raises(UnitNotAcceptedError, match=r"glucose is not measured in kPa"):
        to_canonical(Code.GLUCOSE, Unit.KPA, 1)
    with pytest.raises(UnitNotAcceptedError):
        glucose_limit(4.0, Unit.MS)


@pytest.mark.parametrize(
    ("mmol_l", "mg_dl"), [(4.0, 72), (3.9, 70), (3.1, 55), (3.0, 54), (7.0, 126), (10.0, 180), (13.9, 250)]
)
def test_paired_limits(mmol_l: float, mg_dl: float) -> None:
    assert glucose_limit(mmol_l, Unit.MG_DL) == mg_dl
    assert glucose_limit(mmol_l, Unit.MMOL_L) == mmol_l
    assert mmol_l in PAIRED_GLUCOSE_LIMITS


def test_other_limits_are_not_rounded() -> None:
    assert glucose_limit(4.4, Unit.MG_DL) == 4.4 * 18
    assert glucose_limit(3.25, Unit.MG_DL) == 58.5


@pytest.mark.parametrize("device_id", ["a", "Band-7_x", "0" * 64])
def test_device_id(device_id: str) -> None:
    assert DEVICE_ID.match(device_id)
    assert topic(device_id, Topic.TELEMETRY) == f"vigil/v1/{device_id}/telemetry"


@pytest.mark.parametrize("device_id", ["", "a b", "a/b", "+", "#", "ä", "0" * 65, "a\n", "a\0"])
def test_no_device_id(device_id: str) -> None:
    assert not DEVICE_ID.match(device_id)
