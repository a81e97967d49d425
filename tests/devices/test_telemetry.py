"""Telemetry: the vectors in both forms, alone and together, cut short and overlong; envelopes, caps, forms."""

import json
from typing import Any

import pytest

from devices.batch import BatchBuilder
from devices.encode import encode_telemetry
from devices.messages import Series
from devices.payload import Form
from devices.vocabulary import Reason
from tests.devices.vectors import (
    AT,
    FIVE_MINUTES,
    NOW,
    STORED,
    VECTORS,
    Message,
    Vector,
    decode,
    glucose,
    heart,
    lost_of,
    refused_of,
    rows_of,
    runs_of,
    to_cbor,
    to_json,
)

FORMS = {"json": to_json, "cbor": to_cbor}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_vector(vector: Vector, form: str) -> None:
    batch = decode(FORMS[form](vector.message))
    assert rows_of(batch) == vector.rows
    assert runs_of(batch) == vector.runs
    assert refused_of(batch) == vector.refused
    assert lost_of(batch) == vector.lost
    assert batch.missing == vector.missing
    assert batch.headers.seq.tolist() == [1042]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_malformed_neighbour_changes_nothing(vector: Vector) -> None:
    """Beside a malformed series the message is taken apart piece by piece: the rest comes out the same."""
    message = vector.message | {"observations": [*vector.observations, {"code": 5}]}
    batch = decode(to_json(message))
    assert rows_of(batch) == vector.rows
    assert runs_of(batch) == vector.runs
    malformed = (*vector.refused.get(Reason.MALFORMED, ()), len(vector.observations))
    assert refused_of(batch) == vector.refused | {Reason.MALFORMED: malformed}
    assert lost_of(batch) == vector.lost


def test_all_vectors_in_one_batch() -> None:
    payloads = [form(vector.message) for vector in VECTORS for form in FORMS.values()]
    batch = decode(*payloads)
    expected = [
        (number, *row) for number, vector in enumerate(v for v in VECTORS for _ in FORMS) for row in vector.rows
    ]
    assert list(zip(batch.message.tolist(), *zip(*rows_of(batch), strict=True), strict=True)) == expected
    assert [run.message for run in batch.rr] == [
        n for n, v in enumerate(v for v in VECTORS for _ in FORMS) for _ in v.runs
    ]
    assert batch.missing == 2 * sum(vector.missing for vector in VECTORS)
    assert set(batch.device.tolist()) == {7}
    assert batch.headers.message.tolist() == list(range(len(payloads)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vector", STORED, ids=str)
def test_cut_short_at_every_byte(vector: Vector, form: str) -> None:
    payload = FORMS[form](vector.message)
    batch = decode(*(payload[:length] for length in range(len(payload))))
    assert len(batch) == 0
    assert not batch.rr
    assert [(r.message, r.series, r.reason) for r in batch.refusals] == [
        (length, None, Reason.MALFORMED) for length in range(len(payload))
    ]


@pytest.mark.parametrize("tail", [b"\0", b"}", b"{}", b"\xa0", b"x", b",", b"\xff"])
@pytest.mark.parametrize("form", FORMS)
def test_trailing_bytes(form: str, tail: bytes) -> None:
    assert refused_of(decode(FORMS[form](STORED[0].message) + tail)) == {Reason.MALFORMED: None}


def test_white_space_around_json() -> None:
    batch = decode(b" \r\n\t" + json.dumps(STORED[0].message, indent=2).encode() + b"\n")
    assert rows_of(batch) == STORED[0].rows


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "nan", "0x10", "1.", ".5", "+1", "01", "1_0"]
)
def test_numbers_json_does_not_know(number: str) -> None:
    payload = b'{"observations":[{"code":"glucose","unit":"mmol/L","at":%d,"value":%s}]}' % (AT, number.encode())
    batch = decode(payload)
    assert len(batch) == 0
    assert set(refused_of(batch)) == {Reason.MALFORMED}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400])
@pytest.mark.parametrize("series", [glucose(0.125), glucose(5.0, at=0.125), heart([60, 0.125])], ids=str)
def test_a_number_beyond_all_refuses_its_series_alone(series: Message, number: str) -> None:
    payload = to_json({"seq": 3, "observations": [glucose(5.0), series]})
    batch = decode(payload.replace(b"0.125", number.encode()))
    assert len(batch) == 1
    assert refused_of(batch) == {Reason.MALFORMED: (1,)}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_cannot_say_are_malformed_in_cbor(number: float) -> None:
    batch = decode(to_cbor({"observations": [glucose(5.0), glucose(number), heart([60, number])]}))
    assert len(batch) == 1
    assert refused_of(batch) == {Reason.MALFORMED: (1, 2)}


def test_below_zero_zero_is_a_number() -> None:
    payload = to_json({"observations": [{"code": "battery", "unit": "%", "at": AT, "value": -0.0}]})
    assert decode(payload).value.tolist() == [0.0]


ENVELOPES: list[Any] = [
    {},
    {"seq": 5},
    {"seq": 5, "observations": None},
    {"seq": 5, "observations": {}},
    {"seq": 5, "observations": "none"},
    {"seq": 5, "events": []},
    {"seq": 5, "observations": [], "sent_at": "now"},
    {"seq": 5, "observations": [], "sent_at": 1.0},
    {"seq": 5, "observations": [], "sent_at": -1},
    {"seq": 5, "observations": [], "sent_at": None},
    {"seq": 5, "observations": [], "oldest": -1},
    {"seq": 5, "observations": [], "device": "a b"},
    {"seq": 5, "observations": [], "device": "band\n"},
    {"seq": 5, "observations": [], "device": ""},
    {"seq": 5, "observations": [], "device": "x" * 65},
    {"seq": -5, "observations": []},
    {"seq": "5", "observations": []},
    {"seq": 5.0, "observations": []},
    {"seq": True, "observations": []},
    {"seq": None, "observations": []},
    {"seq": 2**63, "observations": []},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("envelope", ENVELOPES, ids=str)
def test_bad_envelope(envelope: dict[str, Any], form: str) -> None:
    batch = decode(FORMS[form](envelope))
    assert refused_of(batch) == {Reason.MALFORMED: None}
    known = envelope.get("seq")
    assert batch.headers.seq.tolist() == [5 if known == 5 and type(known) is int else -1], "the receipt can pass it"


@pytest.mark.parametrize("form", FORMS)
def test_heads(form: str) -> None:
    encode = FORMS[form]
    batch = decode(
        encode({"seq": 9, "sent_at": 12, "oldest": 4, "device": "band-7", "observations": []}),
        encode({"observations": [glucose(5.0)]}),
        b"?",
    )
    headers = batch.headers
    assert headers.seq.tolist() == [9, -1, -1]
    assert headers.sent_at.tolist() == [12, -1, -1]
    assert headers.oldest.tolist() == [4, -1, -1]
    assert headers.device_named == ["band-7", None, None]
    assert headers.device.tolist() == [7, 7, 7]


TAILS: list[list[Any]] = [[], [{}]]


@pytest.mark.parametrize("form", FORMS)
def test_sent_ahead_refuses_the_message_and_keeps_its_head(form: str) -> None:
    encode = FORMS[form]
    payloads = [
        encode({"seq": 9, "sent_at": NOW + FIVE_MINUTES + late, "observations": [glucose(5.0), *more]})
        for late in (0, 1)
        for more in TAILS
    ]
    batch = decode(*payloads)
    assert [(r.message, r.series, r.reason) for r in batch.refusals] == [
        (1, (1,), Reason.MALFORMED),
        (2, None, Reason.CLOCK_AHEAD),
        (3, None, Reason.CLOCK_AHEAD),
    ]
    assert batch.message.tolist() == [0, 1]
    assert batch.headers.sent_at.tolist()[3] == NOW + FIVE_MINUTES + 1


@pytest.mark.parametrize("form", FORMS)
def test_caps(form: str) -> None:
    encode = FORMS[form]
    batch = decode(
        encode({"seq": 1, "observations": [glucose(5.0, at=AT + i) for i in range(64)]}),
        encode({"seq": 2, "observations": [glucose(5.0, at=AT + i) for i in range(65)]}),
        encode({"seq": 3, "observations": [heart([60] * 2048, period_ms=1), heart([60] * 2048, AT + 2048, 1)]}),
        encode({"seq": 4, "observations": [heart([60] * 2048, period_ms=1), heart([60] * 2049, AT + 2048, 1)]}),
    )
    assert [(r.message, r.series, r.reason) for r in batch.refusals] == [
        (1, None, Reason.TOO_LARGE),
        (3, None, Reason.TOO_LARGE),
    ]
    assert len(batch) == 64 + 4096
    assert batch.headers.seq.tolist() == [1, 2, 3, 4]


def test_size_counts_before_anything_is_decoded() -> None:
    payload = to_json({"seq": 1, "observations": []})
    fits, too_large = payload.ljust(64 * 1024), payload.ljust(64 * 1024 + 1)
    batch = decode(fits, too_large)
    assert [(r.message, r.reason) for r in batch.refusals] == [(1, Reason.TOO_LARGE)]
    assert batch.headers.seq.tolist() == [1, 1]


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON "])
def test_content_type_json(content_type: str) -> None:
    message = STORED[0].message
    assert rows_of(decode(to_json(message), content_type=content_type)) == STORED[0].rows
    assert refused_of(decode(to_cbor(message), content_type=content_type)) == {Reason.MALFORMED: None}


@pytest.mark.parametrize("content_type", ["application/cbor", "APPLICATION/CBOR;x=y"])
def test_content_type_cbor(content_type: str) -> None:
    message = STORED[0].message
    assert rows_of(decode(to_cbor(message), content_type=content_type)) == STORED[0].rows
    assert refused_of(decode(to_json(message), content_type=content_type)) == {Reason.MALFORMED: None}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/xml", "json", ";application/json"])
def test_content_type_of_somebody_else(content_type: str) -> None:
    assert refused_of(decode(to_json(STORED[0].message), content_type=content_type)) == {Reason.MALFORMED: None}


def test_each_series_is_refused_for_its_first_cause_and_reasons_are_grouped() -> None:
    batch = decode(
        to_json({"observations": [glucose(0), glucose(5), glucose(5.5, "mg/dL"), glucose(0, at=AT + 1), {}]}),
        to_json({"observations": [glucose(0, at=0)]}),
    )
    assert [(r.message, r.series, r.reason) for r in batch.refusals] == [
        (0, (0, 3), Reason.OUT_OF_RANGE),
        (0, (2,), Reason.UNIT_MISMATCH),
        (0, (4,), Reason.MALFORMED),
        (1, (0,), Reason.CLOCK_BEHIND),
    ]
    assert batch.refusals[0].detail == "0 mmol/L is not within 1.1 – 33.3"
    assert batch.refusals[1].detail == "5.5 cannot be mg/dL, it looks like mmol/L"


def test_the_sentence_of_lost_samples_names_the_first_and_counts_the_others() -> None:
    batch = decode(to_json({"observations": [heart([60, 301]), heart([60, 19, 61, 0, 301])]}))
    assert [(r.series, r.samples, r.detail) for r in batch.refusals] == [
        ((0,), (1,), "301 /min at position 1 is not within 20 – 300"),
        ((1,), (1, 3, 4), "19 /min at position 1, and 2 more, is not within 20 – 300"),
    ]


@pytest.mark.parametrize("word", ["\0" * 50, "x" * 5000, "a\nb", "\U0001f480", "'\"\\"])
def test_a_sentence_is_short_and_printable_whatever_the_peer_sent(word: str) -> None:
    bad = [{"code": word, "unit": "1", "at": AT, "value": 1}, glucose(5, word), glucose(5, flags=[word]), {word: 1}]
    for payload in (to_json({"observations": bad}), to_json({"observations": bad, "seq": word}), to_cbor({word: bad})):
        for refusal in decode(payload).refusals:
            assert refusal.detail
            assert refusal.detail.isprintable()
            assert len(refusal.detail) <= 300


def test_an_empty_batch() -> None:
    batch = BatchBuilder().finish()
    assert len(batch) == 0
    assert batch.at.dtype == "int64"
    assert batch.message.dtype == batch.device.dtype == "int32"
    assert batch.series.dtype == batch.code.dtype == batch.unit.dtype == batch.flags.dtype == "int16"
    assert batch.value.dtype == "float64"
    assert not batch.refusals


@pytest.mark.parametrize("form", Form)
def test_encoders_write_what_decoders_read(form: Form) -> None:
    series = [
        Series("glucose", "mg/dL", AT, value=72.0, flags=("calibration",)),
        Series("heart_rate", "/min", AT, values=[60.0, None, 62.0], period_ms=1000),
        Series("rr_interval", "ms", AT, values=[800.0, 810.0]),
        Series("spo2", "%", AT, value=None),
    ]
    batch = decode(encode_telemetry(series, seq=3, sent_at=NOW, oldest=1, device="band", form=form))
    assert rows_of(batch) == [
        (0, AT, "glucose", "mg/dL", ("calibration",), 72.0),
        (1, AT, "heart_rate", "/min", (), 60.0),
        (1, AT + 2000, "heart_rate", "/min", (), 62.0),
    ]
    assert runs_of(batch) == [(2, AT, AT + 810, [800.0, 810.0])]
    assert batch.missing == 2
    assert (batch.headers.seq[0], batch.headers.sent_at[0], batch.headers.oldest[0]) == (3, NOW, 1)
    assert batch.headers.device_named == ["band"]


def test_absent_fields_are_not_written() -> None:
    assert encode_telemetry([]) == b'{"observations":[]}'
