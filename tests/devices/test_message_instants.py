"""The instants of a message: all that the strict decoder takes and those of what it refuses; nothing makes it raise."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.message_instants import FURTHEST_MS, instants_of
from devices.runs import beat_times
from devices.units import to_canonical
from devices.vocabulary import Code, Unit
from tests.devices.vectors import (
    AT,
    RELAXED,
    VECTORS,
    Vector,
    beats,
    decode,
    glucose,
    heart,
    refused_of,
    to_cbor,
    to_json,
)

PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["rr_interval", "ms", "s", "heart_rate"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["code", "unit", "at", "value", "values", "period_ms", "flags"]), inner)
    ),
    max_leaves=20,
)


def told(*parts: Any, **head: Any) -> tuple[list[int], bool]:
    found = instants_of(to_json({**head, "observations": list(parts)}), None)
    assert found is not None
    return found.at.tolist(), found.complete


@pytest.mark.parametrize("encode", [to_json, to_cbor])
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_instant_that_is_stored_is_told(vector: Vector, encode: Any) -> None:
    payload = encode(vector.message)
    batch = decode(payload)
    stored = set(batch.at.tolist())
    for run in batch.rr:
        intervals = to_canonical(Code.RR_INTERVAL, Unit(run.unit), run.intervals)
        stored |= set(beat_times(run.at, intervals).astype(np.int64).tolist())
    found = instants_of(payload, None)
    if found is None:
        assert refused_of(batch)
        assert not stored
    else:
        assert stored <= set(found.at.tolist())


def test_a_series_tells_each_of_its_samples() -> None:
    assert told(heart([60, None, 61], period_ms=1000)) == ([AT, AT + 1000, AT + 2000], True)
    assert told(glucose(5.0), glucose(5.1)) == ([AT], True)
    assert told(beats([800, None, 900])) == ([AT, AT + 850, AT + 1750], True)
    assert told(beats([0.8, 0.9], unit="s")) == ([AT, AT + 900], True)


@pytest.mark.parametrize(
    "part",
    [
        {"value": 5},
        glucose(5.0, at="now"),
        glucose(5.0, at=1.5),
        glucose(5.0, at=True),
        heart([60, 61], period_ms=0),
        heart([60, 61], period_ms=2**61),
        beats([800, 900], unit="min"),
        beats([800, "900"]),
        beats([800, 10**400]),
        beats([1e308, 1e308, 1e308]),
        {"at": AT, "values": "60, 61"},
        7,
    ],
)
def test_a_part_that_does_not_tell_all_of_its_instants_is_told_apart(part: Any) -> None:
    _, complete = told(part, glucose(5.0))
    assert not complete


def test_what_is_no_list_of_parts_tells_nothing() -> None:
    found = instants_of(b'{"device": "meter-3", "observations": {"at": 1}, "events": 7}', None)
    assert found is not None
    assert (found.device, found.at.tolist(), found.complete) == ("meter-3", [1], False)


def test_more_parts_than_any_message_may_have_are_not_looked_through() -> None:
    assert told(*[glucose(5.0)] * 256) == ([AT], True)
    assert told(*[glucose(5.0)] * 257) == ([], False)


def test_stamps_beyond_all_measure_stay_within_64_bits() -> None:
    assert told(heart([60, 61], at=2**63 - 1, period_ms=1000)) == ([FURTHEST_MS, FURTHEST_MS + 1000], True)
    assert told(glucose(5.0, at=-(10**30))) == ([-FURTHEST_MS], True)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"device": 7, "observations": []}', b'{"device": "no id"}'])
def test_what_cannot_be_read_tells_nothing(payload: bytes) -> None:
    assert instants_of(payload, "application/json") is None


@RELAXED
@given(st.dictionaries(st.sampled_from(["device", "observations", "events", "seq"]), PARTS | st.lists(PARTS)))
def test_nothing_makes_it_raise(message: dict[str, Any]) -> None:
    for payload in (json.dumps(message).encode(), to_cbor(message)):
        found = instants_of(payload, None)
        assert found is None or (np.diff(found.at) > 0).all()
