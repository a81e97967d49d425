"""The vocabulary of the wire as tables: codes, units, flags, events, limits, topics and caps."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from types import MappingProxyType
from typing import Final


class Unit(IntEnum):
    """Units of measure; `ucum` is the wire name (https://ucum.org)."""

    MMOL_L = 1
    MG_DL = 2
    PER_MIN = 3
    MS = 4
    S = 5
    PERCENT = 6
    CEL = 7
    DEGF = 8
    MM_HG = 9
    KPA = 10
    KG = 11
    LB_AV = 12
    STEPS = 13

    @property
    def ucum(self) -> str:
        """The unit as UCUM writes it."""
        return UCUM[self]


class Code(IntEnum):
    """What is measured; the numbers are stored and never change their meaning."""

    GLUCOSE = 1
    HEART_RATE = 2
    RR_INTERVAL = 3
    SPO2 = 4
    BODY_TEMPERATURE = 5
    SYSTOLIC_PRESSURE = 6
    DIASTOLIC_PRESSURE = 7
    BODY_WEIGHT = 8
    STEP_COUNT = 9
    BATTERY = 10

    @property
    def wire(self) -> str:
        """The code as it appears in payloads and in the API."""
        return self.name.lower()

    @property
    def loinc(self) -> tuple[str, ...]:
        """LOINC codes, the usual one first; empty if LOINC has none."""
        return CODES[self].loinc


class Flag(IntFlag):
    """What the sensor says about a sample besides its number."""

    BELOW_RANGE = 1
    """The sensor said LO: counts as low, whatever the number field holds."""
    ABOVE_RANGE = 2
    """The sensor said HI: counts as high, whatever the number field holds."""
    WARMUP = 4
    CALIBRATION = 8
    ARTIFACT = 16
    OFF_BODY = 32

    @property
    def wire(self) -> tuple[str, ...]:
        """The names of the bits that are set, lowest bit first."""
        return tuple(name for bit, name in FLAG_NAMES.items() if bit & self)


class EventType(StrEnum):
    """What happened on a device, mostly a pill box."""

    COMPARTMENT_OPENED = "compartment_opened"
    COMPARTMENT_CLOSED = "compartment_closed"
    DOSE_TAKEN = "dose_taken"
    DOSE_SKIPPED = "dose_skipped"
    BUTTON_PRESSED = "button_pressed"
    LOW_BATTERY = "low_battery"
    TAMPER = "tamper"
    COMMAND_DONE = "command_done"


class CommandType(StrEnum):
    """What a device can be commanded to do."""

    REMIND = "remind"
    SET_CLOCK = "set_clock"
    SET_SCHEDULE = "set_schedule"


class DeviceModel(StrEnum):
    """The kinds of devices that can be provisioned."""

    WRISTBAND = "wristband"
    PILLBOX = "pillbox"
    CGM = "cgm"
    GLUCOSE_METER = "glucose_meter"
    BLOOD_PRESSURE = "blood_pressure"
    THERMOMETER = "thermometer"
    SCALE = "scale"
    OXIMETER = "oximeter"
    EDGE = "edge"


class Modality(StrEnum):
    """How heartbeats are measured; optically it is pulse-rate variability, with electrodes heart-rate variability."""

    ECG = "ecg"
    PPG = "ppg"


class Reason(StrEnum):
    """Why something was refused: stored in the quarantine, counted in metrics, shown by the API."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_DEVICE = "unknown_device"
    UNASSIGNED_DEVICE = "unassigned_device"
    UNKNOWN_CODE = "unknown_code"
    UNIT_MISMATCH = "unit_mismatch"
    OUT_OF_RANGE = "out_of_range"
    CLOCK_AHEAD = "clock_ahead"
    CLOCK_BEHIND = "clock_behind"
    NO_CONSENT = "no_consent"


@dataclass(frozen=True, slots=True)
class UnitRule:
    """How a unit is used with a code: its plausible limits (inclusive) and canonical = value * factor + shift."""

    minimum: float
    maximum: float
    factor: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class CodeRule:
    """One row of the code table: the canonical unit, every accepted unit, the LOINC codes."""

    canonical: Unit
    units: Mapping[Unit, UnitRule]
    loinc: tuple[str, ...]


def _rule(units: dict[Unit, UnitRule], *loinc: str) -> CodeRule:
    """Make a row; the first unit is the canonical one."""
    return CodeRule(next(iter(units)), MappingProxyType(units), loinc)


UCUM: Final[Mapping[Unit, str]] = MappingProxyType(
    {
        Unit.MMOL_L: "mmol/L",
        Unit.MG_DL: "mg/dL",
        Unit.PER_MIN: "/min",
        Unit.MS: "ms",
        Unit.S: "s",
        Unit.PERCENT: "%",
        Unit.CEL: "Cel",
        Unit.DEGF: "[degF]",
        Unit.MM_HG: "mm[Hg]",
        Unit.KPA: "kPa",
        Unit.KG: "kg",
        Unit.LB_AV: "[lb_av]",
        Unit.STEPS: "{steps}",
    }
)

# 1 kPa = 7.500616827 mm[Hg]; 1 [lb_av] = 0.45359237 kg exactly. Glucose is 18 mg/dL to the mmol/L because sensors
# use that themselves (the molar mass would give 18.016). Limits in other units are rounded outwards.
CODES: Final[Mapping[Code, CodeRule]] = MappingProxyType(
    {
        Code.GLUCOSE: _rule(
            {Unit.MMOL_L: UnitRule(1.1, 33.3), Unit.MG_DL: UnitRule(20, 600, factor=1 / 18)},
            "105272-9",  # interstitial fluid
            "14745-4",  # body fluid
        ),
        Code.HEART_RATE: _rule({Unit.PER_MIN: UnitRule(20, 300)}, "8867-4"),
        Code.RR_INTERVAL: _rule({Unit.MS: UnitRule(200, 3000), Unit.S: UnitRule(0.2, 3, factor=1000)}, "8637-1"),
        Code.SPO2: _rule({Unit.PERCENT: UnitRule(50, 100)}, "59408-5"),
        Code.BODY_TEMPERATURE: _rule(
            {Unit.CEL: UnitRule(25, 45), Unit.DEGF: UnitRule(77, 113, factor=5 / 9, shift=-160 / 9)}, "8310-5"
        ),
        Code.SYSTOLIC_PRESSURE: _rule(
            {Unit.MM_HG: UnitRule(30, 300), Unit.KPA: UnitRule(3.99, 40, factor=7.500616827)}, "8480-6"
        ),
        Code.DIASTOLIC_PRESSURE: _rule(
            {Unit.MM_HG: UnitRule(20, 200), Unit.KPA: UnitRule(2.66, 26.67, factor=7.500616827)}, "8462-4"
        ),
        Code.BODY_WEIGHT: _rule(
            {Unit.KG: UnitRule(2, 400), Unit.LB_AV: UnitRule(4.4, 881.9, factor=0.45359237)}, "29463-7"
        ),
        Code.STEP_COUNT: _rule({Unit.STEPS: UnitRule(0, 100_000)}, "55423-8"),
        Code.BATTERY: _rule({Unit.PERCENT: UnitRule(0, 100)}),
    }
)

CODE_BY_WIRE: Final[Mapping[str, Code]] = MappingProxyType({code.wire: code for code in Code})
UNIT_BY_UCUM: Final[Mapping[str, Unit]] = MappingProxyType({ucum: unit for unit, ucum in UCUM.items()})
MODALITY_BY_MODEL: Final[Mapping[DeviceModel, Modality]] = MappingProxyType(
    {DeviceModel.WRISTBAND: Modality.PPG, DeviceModel.OXIMETER: Modality.PPG}
)
"""How a model measures heartbeats unless its device says otherwise; optically if it is not listed."""

FLAG_NAMES: Final[Mapping[Flag, str]] = MappingProxyType({flag: str(flag.name).lower() for flag in Flag})
FLAG_BY_WIRE: Final[Mapping[str, Flag]] = MappingProxyType({name: flag for flag, name in FLAG_NAMES.items()})

# Topics: TOPIC_ROOT/{device_id}/{one of the names below}.
TOPIC_ROOT: Final = "vigil/v1"
DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""A whole device id: use `DEVICE_ID.match`."""


class Topic(StrEnum):
    """The last level of a topic."""

    TELEMETRY = "telemetry"
    EVENT = "event"
    STATUS = "status"
    RECEIPT = "receipt"
    COMMAND = "command"
    ROSTER = "roster"


CONTENT_TYPE_JSON: Final = "application/json"
CONTENT_TYPE_CBOR: Final = "application/cbor"

# Caps: each stops one peer from buying unbounded memory or time with one message.
MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_SERIES: Final = 64
MAX_SAMPLES: Final = 4096
MAX_EVENTS: Final = 256
MAX_NESTING: Final = 16
MAX_INT64: Final = 2**63 - 1

CLOCK_AHEAD_MS: Final = 5 * 60_000
"""A stamp may be this far after its arrival; clocks are never perfect."""
EARLIEST_MS: Final = 1_262_304_000_000
"""2010-01-01T00:00Z: an earlier stamp comes from a clock that was never set."""


def modality_of(model: DeviceModel, recorded: Modality | None = None) -> Modality:
    """Return how a device measures heartbeats: as recorded for it, otherwise as usual for its model."""
    return recorded or MODALITY_BY_MODEL.get(model, Modality.PPG)


def topic(device_id: str, name: Topic) -> str:
    """Return the full topic of a device."""
    return f"{TOPIC_ROOT}/{device_id}/{name}"
