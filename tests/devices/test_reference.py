"""The vectorised decoder against a plain one, series by series and sample by sample; nothing disappears."""

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import CODE_BY_WIRE, CODES, UNIT_BY_UCUM, Reason
from tests.devices.vectors import AT, FIVE_MINUTES, NOW, RELAXED, YEAR_2010, decode, rows_of, runs_of, to_cbor, to_json

Message = dict[str, Any]


def samples_of(series: Message) -> list[float | None]:
    return series["values"] if "values" in series else [series["value"]]


def beat_ends(series: Message, samples: list[float | None]) -> list[float]:
    """When each interval ended: one after another, a missing one as long as its nearest known neighbours' mean."""
    factor = 1000 if series["unit"] == "s" else 1
    known = [i for i, x in enumerate(samples) if x is not None]
    lengths: list[float] = []
    for i, x in enumerate(samples):
        if x is not None:
            lengths.append(x * factor)
            continue
        near = [[k for k in known if k < i][-1:], [k for k in known if k > i][:1]]
        ks = [k for side in near for k in side]
        lengths.append(sum((samples[k] or 0) * factor for k in ks) / len(ks) if ks else math.nan)
    return [series["at"] + sum(lengths[1 : i + 1]) for i in range(len(samples))]


def judge(series: Message) -> tuple[Reason | None, list[float | None]]:
    """Return why a series of the right types is refused, and its samples without the implausible ones.

    One implausible sample costs itself: its position is in `refused_samples`.
    """
    samples = samples_of(series)
    code = CODE_BY_WIRE.get(series["code"])
    if code is None:
        return Reason.UNKNOWN_CODE, samples
    unit = UNIT_BY_UCUM.get(series["unit"])
    if unit is None or unit not in CODES[code].units:
        return Reason.UNIT_MISMATCH, samples
    step = series.get("period_ms", 0) if "values" in series and series["code"] != "rr_interval" else 0
    if series["at"] + step * max(len(samples) - 1, 0) > NOW + FIVE_MINUTES:
        return Reason.CLOCK_AHEAD, samples
    if series["at"] < YEAR_2010:
        return Reason.CLOCK_BEHIND, samples
    limits = CODES[code].units[unit]
    said = {"below_range", "above_range"} & set(series.get("flags", ()))
    wrong = [i for i, x in enumerate(samples) if x is not None and not limits.minimum <= x <= limits.maximum]
    alike = [i for i in wrong if looks_like_another_unit(series["code"], series["unit"], samples[i] or 0.0)]
    known = [x for x in samples if x is not None]
    if wrong and not said:
        if len(alike) >= 3 and len(alike) / len(known) >= 1 / 5:
            return Reason.UNIT_MISMATCH, samples
        if len(wrong) == len(known):
            return Reason.UNIT_MISMATCH if wrong[0] in alike else Reason.OUT_OF_RANGE, samples
    samples = [None if i in wrong else x for i, x in enumerate(samples)]
    if series["code"] == "rr_interval" and any(x is not None for x in samples):
        last = max(i for i, x in enumerate(samples) if x is not None)
        if beat_ends(series, samples)[last] > NOW + FIVE_MINUTES:
            return Reason.CLOCK_AHEAD, samples
    return None, samples


def looks_like_another_unit(code: str, unit: str, x: float) -> bool:
    units = CODES[CODE_BY_WIRE[code]].units
    others = [limits for other, limits in units.items() if other.ucum != unit]
    if not any(limits.minimum <= x <= limits.maximum for limits in others):
        return False
    return x < units[UNIT_BY_UCUM[unit]].minimum or (code == "glucose" and unit == "mmol/L" and x > 60)


def refused_samples(series: Message) -> list[int]:
    """The positions of what a series that is stored loses."""
    limits = CODES[CODE_BY_WIRE[series["code"]]].units[UNIT_BY_UCUM[series["unit"]]]
    if {"below_range", "above_range"} & set(series.get("flags", ())):
        return []
    return [i for i, x in enumerate(samples_of(series)) if x is not None and not limits.minimum <= x <= limits.maximum]


def expected_rows(position: int, series: Message, samples: list[float | None]) -> list[Any]:
    flags = tuple(name for name in FLAGS if name in series.get("flags", ()))
    states = bool({"below_range", "above_range"} & set(flags)) or ("value" in series and bool(flags))
    return [
        (position, series["at"] + i * series.get("period_ms", 0), series["code"], series["unit"], flags, x)
        for i, x in enumerate(samples)
        if x is not None or states
    ]


def expected_runs(position: int, series: Message, samples: list[float | None]) -> list[Any]:
    ends = beat_ends(series, samples)
    runs: list[Any] = []
    previous: float | None = None
    for end, x in zip(ends, samples, strict=True):
        if x is not None and previous is None:
            runs.append((position, end, end, [x]))
        elif x is not None:
            where, start, _, intervals = runs[-1]
            runs[-1] = (where, start, end, [*intervals, x])
        previous = x
    return runs


FLAGS = ["below_range", "above_range", "warmup", "calibration", "artifact", "off_body"]
PAIRS = [(code.wire, unit.ucum) for code, rule in CODES.items() for unit in rule.units]
STAMPS = st.sampled_from(
    [AT, NOW, NOW + FIVE_MINUTES, NOW + FIVE_MINUTES + 1, NOW + FIVE_MINUTES - 1500, YEAR_2010, YEAR_2010 - 1, 0]
) | st.integers(AT - 10**9, AT)


@st.composite
def series_messages(draw: st.DrawFn) -> Message:
    code, unit = draw(st.sampled_from(PAIRS))
    limits = CODES[CODE_BY_WIRE[code]].units[UNIT_BY_UCUM[unit]]
    usual = st.floats(limits.minimum, limits.maximum)
    sample = st.none() | usual | usual.map(round).filter(lambda x: limits.minimum <= x <= limits.maximum)
    if draw(st.integers(0, 5)) == 0:
        sample |= st.sampled_from(
            [0.0, limits.minimum / 2, limits.maximum * 2, limits.maximum * 60, 5.5, 12.0, 70.0, -1.0]
        )
    series: Message = {"code": code, "unit": unit, "at": draw(STAMPS if draw(st.integers(0, 3)) == 0 else st.just(AT))}
    if draw(st.integers(0, 9)) == 0:
        series |= draw(st.sampled_from([{"code": "mood"}, {"unit": "furlong"}, {"unit": "mm[Hg]"}]))
    if draw(st.booleans()):
        series["value"] = draw(sample)
    else:
        series["values"] = draw(st.lists(sample, max_size=draw(st.sampled_from([6, 18]))))
        if series["code"] != "rr_interval":
            series["period_ms"] = draw(st.sampled_from([1, 1000, 300_000]))
    if draw(st.integers(0, 2)) == 0:
        flags = draw(st.sets(st.sampled_from(FLAGS)))
        series["flags"] = sorted(flags - {"above_range"} if "below_range" in flags else flags)
    return series


@settings(RELAXED, max_examples=400)
@given(st.lists(st.lists(series_messages(), max_size=6), min_size=1, max_size=4))
def test_equals_the_plain_decoder(messages: list[list[Message]]) -> None:
    batch = decode(*(to_json({"observations": series}) for series in messages))
    rows: list[Any] = []
    runs: list[Any] = []
    refused: dict[tuple[int, int], Reason] = {}
    lost_samples: dict[tuple[int, int], list[int]] = {}
    for number, message in enumerate(messages):
        for position, series in enumerate(message):
            reason, samples = judge(series)
            if reason is not None:
                refused[number, position] = reason
                continue
            if lost := refused_samples(series):
                lost_samples[number, position] = lost
            if series["code"] == "rr_interval":
                runs += [(number, *run) for run in expected_runs(position, series, samples)]
            else:
                rows += [(number, *row) for row in expected_rows(position, series, samples)]
    assert [(m, *row) for m, row in zip(batch.message.tolist(), rows_of(batch), strict=True)] == rows
    found = [(run.message, *values) for run, values in zip(batch.rr, runs_of(batch), strict=True)]
    assert [(r[:2], r[4]) for r in found] == [(r[:2], r[4]) for r in runs]
    for run, expected in zip(found, runs, strict=True):
        assert math.isclose(run[2], expected[2], abs_tol=0.01)
        assert math.isclose(run[3], expected[3], abs_tol=0.01)
    assert {(r.message, p): r.reason for r in batch.refusals if not r.samples for p in r.series or ()} == refused
    assert {(r.message, *(r.series or ())): list(r.samples) for r in batch.refusals if r.samples} == lost_samples
    assert all(r.reason is Reason.OUT_OF_RANGE for r in batch.refusals if r.samples)
    everything = sum(len(samples_of(series)) for message in messages for series in message)
    turned_away = sum(len(samples_of(messages[number][position])) for number, position in refused)
    turned_away += sum(map(len, lost_samples.values()))
    assert len(batch) + sum(len(run[4]) for run in runs) + batch.missing + turned_away == everything


@RELAXED
@given(st.lists(series_messages(), max_size=6), st.booleans())
def test_json_and_cbor_say_the_same(series: list[Message], spoiled: bool) -> None:  # noqa: FBT001
    message = {"seq": 1, "observations": [*series, {"at": "x"}] if spoiled else series}
    text, binary = decode(to_json(message)), decode(to_cbor(json.loads(to_json(message))))
    assert rows_of(text) == rows_of(binary)
    assert runs_of(text) == runs_of(binary)
    assert text.missing == binary.missing
    assert [(r.series, r.reason, r.detail) for r in text.refusals] == [
        (r.series, r.reason, r.detail) for r in binary.refusals
    ]


@RELAXED
@given(st.lists(series_messages(), min_size=1, max_size=8))
def test_batching_changes_nothing(series: list[Message]) -> None:
    payloads = [to_json({"observations": [one]}) for one in series]
    together = decode(*payloads)
    alone = [decode(payload) for payload in payloads]
    assert rows_of(together) == [row for batch in alone for row in rows_of(batch)]
    assert [r.reason for r in together.refusals] == [r.reason for batch in alone for r in batch.refusals]
    assert [run[3] for run in runs_of(together)] == [run[3] for batch in alone for run in runs_of(batch)]
