"""Units of measure: conversion to canonical units, and clinical limits in the unit the sensor used."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from devices.errors import UnitNotAcceptedError
from devices.vocabulary import CODES, Code, Unit

PAIRED_GLUCOSE_LIMITS: Final[Mapping[float, float]] = MappingProxyType(
    {3.0: 54.0, 3.1: 55.0, 3.9: 70.0, 4.0: 72.0, 7.0: 126.0, 10.0: 180.0, 13.9: 250.0}
)
"""mmol/L to mg/dL as paired in the consensus papers (Danne 2017, Battelino 2019): rounded, not computed."""


def glucose_limit(mmol_l: float, unit: Unit) -> float:
    """Return a glucose limit in the unit of the reading it is compared with.

    72 mg/dL is 4.0 mmol/L to the sensor that sent it, but 3.996 after a conversion by molar mass: so limits are
    converted, never readings. Paired limits come from the table; any other one is mmol/L × 18, unrounded.

    Raises:
        UnitNotAcceptedError: the unit is not one of glucose.
    """
    if unit is Unit.MMOL_L:
        return mmol_l
    if unit is Unit.MG_DL:
        return PAIRED_GLUCOSE_LIMITS.get(mmol_l, mmol_l * 18)
    raise UnitNotAcceptedError(Code.GLUCOSE, unit)


def to_canonical(code: Code, unit: Unit, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` of `code`, given in `unit`, in the canonical unit of the code; NaN stays NaN.

    Raises:
        UnitNotAcceptedError: the code is never measured in that unit.
    """
    rule = CODES[code].units.get(unit)
    if rule is None:
        raise UnitNotAcceptedError(code, unit)
    return np.asarray(values, dtype=np.float64) * rule.factor + rule.shift
