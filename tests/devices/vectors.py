"""One list of telemetry vectors, and the helpers that show a batch as plain values."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import cbor2
from hypothesis import HealthCheck, settings

from devices.batch import BatchBuilder, ObservationBatch
from devices.vocabulary import Code, Flag, Reason, Unit

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
"""Examples are bounded by their number, not by how busy the machine is."""

NOW = 1_763_770_000_500
AT = 1_763_769_900_000
FIVE_MINUTES = 300_000
EARLIER = AT - 24 * FIVE_MINUTES
YEAR_2010 = 1_262_304_000_000

Message = dict[str, Any]
Row = tuple[int, int, str, str, tuple[str, ...], float | None]
"""series, at, code, unit, flags, value"""
Run = tuple[int, float, float, list[float]]
"""series, at, ends_at, intervals"""


@dataclass(frozen=True)
class Vector:
    name: str
    observations: list[Any]
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    refused: dict[Reason, tuple[int, ...]] = field(default_factory=dict)
    missing: int = 0
    lost: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """series to the positions of its samples that were refused"""

    def __str__(self) -> str:
        return self.name

    @property
    def message(self) -> Message:
        return {"seq": 1042, "sent_at": NOW - 400, "observations": self.observations}


def to_json(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def to_cbor(message: Any) -> bytes:
    return cbor2.dumps(message)


def decode(*payloads: bytes, content_type: str | None = None, now: int = NOW) -> ObservationBatch:
    builder = BatchBuilder()
    for number, payload in enumerate(payloads):
        builder.add_telemetry(number, 7, payload, content_type, now)
    return builder.finish()


def decode_events(*payloads: bytes, content_type: str | None = None, now: int = NOW) -> ObservationBatch:
    builder = BatchBuilder()
    for number, payload in enumerate(payloads):
        builder.add_event(number, 7, payload, content_type, now)
    return builder.finish()


def rows_of(batch: ObservationBatch) -> list[Row]:
    return [
        (series, at, Code(code).wire, Unit(unit).ucum, Flag(flags).wire, None if math.isnan(value) else value)
        for series, at, code, unit, flags, value in zip(
            batch.series.tolist(),
            batch.at.tolist(),
            batch.code.tolist(),
            batch.unit.tolist(),
            batch.flags.tolist(),
            batch.value.tolist(),
            strict=True,
        )
    ]


def runs_of(batch: ObservationBatch) -> list[Run]:
    return [(run.series, run.at, run.ends_at, run.intervals.tolist()) for run in batch.rr]


def refused_of(batch: ObservationBatch) -> dict[Reason, tuple[int, ...] | None]:
    """What was refused whole: messages and series."""
    return {refusal.reason: refusal.series for refusal in batch.refusals if refusal.samples is None}


def lost_of(batch: ObservationBatch) -> dict[int, tuple[int, ...]]:
    """What was refused of series that are stored."""
    return {refusal.series[0]: refusal.samples for refusal in batch.refusals if refusal.series and refusal.samples}


def glucose(value: Any, unit: str = "mmol/L", at: Any = AT, **more: Any) -> Message:
    return {"code": "glucose", "unit": unit, "at": at, "value": value, **more}


def heart(values: list[Any], at: Any = AT, period_ms: Any = 1000, **more: Any) -> Message:
    return {"code": "heart_rate", "unit": "/min", "at": at, "period_ms": period_ms, "values": values, **more}


def sugar(values: list[Any], unit: str = "mg/dL") -> Message:
    return {"code": "glucose", "unit": unit, "at": EARLIER, "period_ms": FIVE_MINUTES, "values": values}


def beats(values: list[Any], unit: str = "ms", at: Any = AT, **more: Any) -> Message:
    return {"code": "rr_interval", "unit": unit, "at": at, "values": values, **more}


def row(series: int, at: int, code: str, unit: str, value: float | None, *flags: str) -> Row:
    return (series, at, code, unit, flags, value)


def _every(step_ms: int, code: str, unit: str, values: list[Any], *without: int) -> list[Row]:
    """The rows of one series but for some positions."""
    start = EARLIER if code == "glucose" else AT
    return [row(0, start + i * step_ms, code, unit, float(x)) for i, x in enumerate(values) if i not in without]


def _contract() -> Vector:
    """The example of the published contract, whole."""
    return Vector(
        "contract",
        [
            glucose(3.8),
            glucose(None, "mg/dL", AT - 300_000, flags=["below_range"]),
            heart([71, 72, None, 73]),
            beats([812, 805, 799]),
        ],
        rows=[
            row(0, AT, "glucose", "mmol/L", 3.8),
            row(1, AT - 300_000, "glucose", "mg/dL", None, "below_range"),
            row(2, AT, "heart_rate", "/min", 71.0),
            row(2, AT + 1000, "heart_rate", "/min", 72.0),
            row(2, AT + 3000, "heart_rate", "/min", 73.0),
        ],
        runs=[(3, AT, AT + 805 + 799, [812.0, 805.0, 799.0])],
        missing=1,
    )


def _single(name: str, code: str, unit: str, value: float) -> Vector:
    series = {"code": code, "unit": unit, "at": AT, "value": value}
    return Vector(name, [series], rows=[row(0, AT, code, unit, float(value))])


def _refused(name: str, reason: Reason, *bad: Any) -> Vector:
    """Between two good series, each bad one is refused alone."""
    return Vector(
        name,
        [glucose(5.0), *bad, glucose(6.0, at=AT + 1)],
        rows=[row(0, AT, "glucose", "mmol/L", 5.0), row(len(bad) + 1, AT + 1, "glucose", "mmol/L", 6.0)],
        refused={reason: tuple(range(1, len(bad) + 1))},
    )


STORED = [
    _contract(),
    Vector("keep-alive", []),
    _single("heart rate", "heart_rate", "/min", 60),
    _single("oxygen", "spo2", "%", 97),
    _single("Celsius", "body_temperature", "Cel", 36.6),
    _single("Fahrenheit", "body_temperature", "[degF]", 98.6),
    _single("systolic", "systolic_pressure", "mm[Hg]", 120),
    _single("diastolic in kPa", "diastolic_pressure", "kPa", 10.6),
    _single("weight in pounds", "body_weight", "[lb_av]", 154),
    _single("steps", "step_count", "{steps}", 0),
    _single("battery", "battery", "%", 87),
    Vector("null value", [glucose(None)], missing=1),
    Vector("null value with any flag", [glucose(None, flags=["warmup"])],
           [row(0, AT, "glucose", "mmol/L", None, "warmup")]),
    Vector("two flags", [glucose(5.0, flags=["artifact", "calibration"])],
           [row(0, AT, "glucose", "mmol/L", 5.0, "calibration", "artifact")]),
    Vector("LO keeps a plausible number", [glucose(2.2, flags=["below_range"])],
           [row(0, AT, "glucose", "mmol/L", 2.2, "below_range")]),
    Vector("LO drops a sentinel", [glucose(0, flags=["below_range"])],
           [row(0, AT, "glucose", "mmol/L", None, "below_range")]),
    Vector("HI drops a sentinel", [glucose(65535, flags=["above_range"])],
           [row(0, AT, "glucose", "mmol/L", None, "above_range")]),
    Vector("LO without numbers", [heart([None, None], flags=["below_range"])],
           [row(0, AT, "heart_rate", "/min", None, "below_range"),
            row(0, AT + 1000, "heart_rate", "/min", None, "below_range")]),
    Vector("nulls off body", [heart([60, None], flags=["off_body"])],
           [row(0, AT, "heart_rate", "/min", 60.0, "off_body")], missing=1),
    Vector("no samples", [heart([])]),
    Vector("unknown keys", [glucose(5.0, trend="rising", nested={"a": [1, {"b": None}]})],
           [row(0, AT, "glucose", "mmol/L", 5.0)]),
    Vector("beats in seconds", [beats([0.8, 1.0], "s")], runs=[(0, AT, AT + 1000, [0.8, 1.0])]),
    Vector("one beat", [{"code": "rr_interval", "unit": "ms", "at": AT, "value": 800}], runs=[(0, AT, AT, [800.0])]),
    Vector("no beat", [{"code": "rr_interval", "unit": "ms", "at": AT, "value": None}], missing=1),
    Vector("beats ignore the period", [beats([800, 900], period_ms=5)], runs=[(0, AT, AT + 900, [800.0, 900.0])]),
    Vector("a null ends a run", [beats([800, 900, None, 700, 600])], missing=1,
           runs=[(0, AT, AT + 900, [800.0, 900.0]), (0, AT + 900 + 800 + 700, AT + 3000, [700.0, 600.0])]),
    Vector("nulls at the start", [beats([None, None, 600, 700])], missing=2,
           runs=[(0, AT + 1200, AT + 1900, [600.0, 700.0])]),
    Vector("nulls at the end", [beats([800, 900, None, None])], missing=2, runs=[(0, AT, AT + 900, [800.0, 900.0])]),
    Vector("nothing but nulls", [beats([None, None])], missing=2),
    Vector("newest stamp that is taken", [glucose(5.0, at=NOW + FIVE_MINUTES)],
           [row(0, NOW + FIVE_MINUTES, "glucose", "mmol/L", 5.0)]),
    Vector("oldest stamp that is taken", [glucose(5.0, at=YEAR_2010)], [row(0, YEAR_2010, "glucose", "mmol/L", 5.0)]),
]  # fmt: skip

NIGHT = [100, 95, 88, 80, 70, 62, 55, 50, 48, 12, 52, 60]

LOST = [
    Vector("an error code in a night", [sugar(NIGHT)], _every(FIVE_MINUTES, "glucose", "mg/dL", NIGHT, 9), lost={0: (9,)}),
    Vector("a fall", [sugar([60, 48, 40, 33, 27])], _every(FIVE_MINUTES, "glucose", "mg/dL", [60, 48, 40, 33, 27])),
    Vector("two of another unit", [sugar([100, 5.5, 90, 6.1])],
           _every(FIVE_MINUTES, "glucose", "mg/dL", [100, 5.5, 90, 6.1], 1, 3), lost={0: (1, 3)}),
    Vector("three of another unit among sixteen", [sugar([5.5, 5.6, 5.7, *[100] * 13])],
           _every(FIVE_MINUTES, "glucose", "mg/dL", [5.5, 5.6, 5.7, *[100] * 13], 0, 1, 2), lost={0: (0, 1, 2)}),
    Vector("too high for anybody's glucose", [sugar([5, 34, 60, 61], "mmol/L")],
           _every(FIVE_MINUTES, "glucose", "mmol/L", [5, 34, 60, 61], 1, 2, 3), lost={0: (1, 2, 3)}),
    Vector("an oximeter that slips", [{"code": "spo2", "unit": "%", "at": AT, "period_ms": 1000,
                                      "values": [86, 80, 60, 49, 49]}],
           _every(1000, "spo2", "%", [86, 80, 60, 49, 49], 3, 4), lost={0: (3, 4)}),
    Vector("one heartbeat of nothing", [heart([60, 0, None, 61])], _every(1000, "heart_rate", "/min", [60, 0, None, 61], 1, 2),
           missing=1, lost={0: (1,)}),
    Vector("an interval that cannot be ends a run", [beats([800, 900, 5000, 700, 600])], lost={0: (2,)},
           runs=[(0, AT, AT + 900, [800.0, 900.0]), (0, AT + 900 + 800 + 700, AT + 3000, [700.0, 600.0])]),
    Vector("intervals of another unit", [beats([800, 0.8, 900])], lost={0: (1,)},
           runs=[(0, AT, AT, [800.0]), (0, AT + 1750, AT + 1750, [900.0])]),
    Vector("what lost samples may be refused later", [beats([800, 3001, 900], at=NOW + FIVE_MINUTES - 100)],
           refused={Reason.CLOCK_AHEAD: (0,)}),
    Vector("each series loses its own", [heart([60, 0]), glucose(5.0), heart([0, 61])],
           [row(0, AT, "heart_rate", "/min", 60.0), row(1, AT, "glucose", "mmol/L", 5.0),
            row(2, AT + 1000, "heart_rate", "/min", 61.0)], lost={0: (1,), 2: (0,)}),
]  # fmt: skip

REFUSED = [
    _refused("unknown code", Reason.UNKNOWN_CODE, {"code": "mood", "unit": "1", "at": AT, "value": 3},
             {"code": "", "unit": "mmol/L", "at": AT, "values": []}),
    _refused("unit of another code", Reason.UNIT_MISMATCH, glucose(5.0, "kPa"), glucose(5.0, "mmol/l"),
             glucose(5.0, "")),
    _refused("number of another unit", Reason.UNIT_MISMATCH, glucose(5.5, "mg/dL"), beats([0.8, 0.9]),
             sugar([100, 5.5, 6.1, 7.0]), sugar([5.5, *[100] * 12, 5.6, 5.7]), sugar([5.5, None, None]),
             sugar([100, 61, 62, 63], "mmol/L"), sugar([*[5.0] * 12, 90, 72, 126], "mmol/L"),
             {"code": "body_temperature", "unit": "[degF]", "at": AT, "value": 36.6},
             {"code": "systolic_pressure", "unit": "mm[Hg]", "at": AT, "value": 16}),
    _refused("implausible", Reason.OUT_OF_RANGE, glucose(0), glucose(1.09), glucose(33.4), glucose(601, "mg/dL"),
             glucose(50), heart([19, 301]), heart([19, None]), beats([3001]), beats([199, 3001]),
             beats([3.1], "s"), sugar([34, 60], "mmol/L"), glucose(1e300), glucose(-0.0), glucose(0, flags=["warmup"])),
    _refused("ahead", Reason.CLOCK_AHEAD, glucose(5.0, at=NOW + FIVE_MINUTES + 1), glucose(5.0, at=2**63 - 1),
             heart([60, 60], at=NOW + FIVE_MINUTES), heart([60, 60], at=2**63 - 500),
             heart([60, 60], period_ms=2**40), beats([800, 900], at=NOW + FIVE_MINUTES),
             beats([800, None, 900], at=NOW + FIVE_MINUTES - 100)),
    _refused("behind", Reason.CLOCK_BEHIND, glucose(5.0, at=YEAR_2010 - 1), glucose(5.0, at=0),
             glucose(5.0, at=-(2**63)), heart([60, 60], at=YEAR_2010 - 1)),
    _refused("wrong types", Reason.MALFORMED, glucose("3.8"), glucose(True), glucose([3.8]), glucose({}),
             glucose(5.0, at=float(AT)), glucose(5.0, at=str(AT)), glucose(5.0, at=None), glucose(5.0, at=2**63),
             glucose(5.0, at=-(2**63) - 1), heart([60, "61"]),
             heart([60, False]), heart([60, [61]]), heart([60], period_ms=1000.0), heart([60], period_ms="1000"),
             glucose(5.0, flags="warmup"), glucose(5.0, flags=[1]), glucose(5.0, flags=None),
             {"code": 1, "unit": "mmol/L", "at": AT, "value": 5}, {"code": "glucose", "unit": 1, "at": AT, "value": 5},
             "glucose", 5, None, [], True),
    _refused("wrong shape", Reason.MALFORMED, {}, {"code": "glucose", "unit": "mmol/L", "at": AT},
             {"code": "glucose", "unit": "mmol/L", "value": 5.0}, {"code": "glucose", "at": AT, "value": 5.0},
             {"unit": "mmol/L", "at": AT, "value": 5.0}, heart([60], value=60), heart([60], value=None),
             heart([60], period_ms=0), heart([60], period_ms=-1000), heart([60], period_ms=2**41),
             {"code": "heart_rate", "unit": "/min", "at": AT, "values": [60, 61]},
             glucose(5.0, values=None), beats([800], value=800)),
    _refused("wrong flags", Reason.MALFORMED, glucose(5.0, flags=["tired"]), glucose(5.0, flags=["WARMUP"]),
             glucose(5.0, flags=["warmup", ""]), glucose(5.0, flags=["below_range", "above_range"])),
]  # fmt: skip

VECTORS = STORED + LOST + REFUSED
