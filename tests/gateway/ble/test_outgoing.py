"""What a device said arrives at the gateway as it was said: every body goes through the gateway's own decoder."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.batch import BatchBuilder, ObservationBatch
from devices.vocabulary import MAX_PAYLOAD_BYTES, Code, EventType, Flag, Reason, Topic, Unit
from gateway.ble.findings import NO_FLAGS, BeatRun, Finding, Happening, RateRun, Reading, Record, Unreadable
from gateway.ble.outgoing import JOIN_WITHIN_MS, Body, Outgoing, pack, pack_records

NOW = 1_763_770_000_000
MINUTE = 60_000
ARRIVAL = NOW + 400 * 24 * 60 * MINUTE


def glucose(at: int, value: float | None = 5.5, flags: Flag = NO_FLAGS) -> Reading:
    return Reading(Code.GLUCOSE, Unit.MMOL_L, at, value, flags)


def items(body: Body) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body.items)
    return found


def receive(bodies: Sequence[Body]) -> ObservationBatch:
    """Decode the bodies as the gateway does: everything has to be taken."""
    builder = BatchBuilder()
    for number, body in enumerate(bodies):
        payload = Outgoing(number + 1, "cgm-1", body).payload("edge-1", sent_at=NOW, oldest=1)
        assert len(payload) <= MAX_PAYLOAD_BYTES
        add = builder.add_telemetry if body.topic is Topic.TELEMETRY else builder.add_event
        head = add(number, 1, payload, None, ARRIVAL)
        assert (head.seq, head.sent_at, head.oldest, head.device) == (number + 1, NOW, 1, "cgm-1")
    return builder.finish()


def test_evenly_spaced_readings_are_one_series() -> None:
    (body,) = pack([glucose(NOW + i * 5 * MINUTE, 5.0 + i) for i in range(4)])
    assert body.topic is Topic.TELEMETRY
    assert items(body) == [
        {"code": "glucose", "unit": "mmol/L", "at": NOW, "values": [5.0, 6.0, 7.0, 8.0], "period_ms": 300_000}
    ]


def test_a_single_reading_is_a_value_and_a_message_says_whom_it_speaks_for() -> None:
    (body,) = pack([glucose(NOW, 3.8)])
    assert items(body) == [{"code": "glucose", "unit": "mmol/L", "at": NOW, "value": 3.8}]
    message = Outgoing(7, "cgm-1", body)
    assert json.loads(message.payload("edge-1", sent_at=NOW + 1, oldest=5)) == {
        "seq": 7, "sent_at": NOW + 1, "oldest": 5, "device": "cgm-1", "observations": items(body),
    }  # fmt: skip
    assert "device" not in json.loads(message.payload("cgm-1", sent_at=NOW, oldest=5))


@pytest.mark.parametrize(
    ("second", "third"),
    [
        (glucose(NOW + MINUTE), glucose(NOW + 3 * MINUTE)),  # not evenly
        (glucose(NOW + MINUTE), glucose(NOW + MINUTE)),  # the same time again
        (glucose(NOW + MINUTE), glucose(NOW - MINUTE)),  # backwards
        (glucose(NOW + MINUTE), glucose(NOW + 2 * MINUTE, flags=Flag.CALIBRATION)),  # said otherwise
        (glucose(NOW + MINUTE), Reading(Code.GLUCOSE, Unit.MG_DL, NOW + 2 * MINUTE, 90.0)),
        (glucose(NOW + MINUTE), Reading(Code.SPO2, Unit.PERCENT, NOW + 2 * MINUTE, 97.0)),
    ],
)
def test_what_does_not_continue_a_series_begins_one(second: Reading, third: Reading) -> None:
    (body,) = pack([glucose(NOW), second, third])
    first, other = items(body)
    assert len(first["values"]) == 2
    assert (other["at"], other["value"]) == (third.at_ms, third.value)


def test_readings_far_apart_stay_single() -> None:
    (body,) = pack([glucose(NOW), glucose(NOW + JOIN_WITHIN_MS + 1)])
    assert [item["value"] for item in items(body)] == [5.5, 5.5]


def test_lo_and_hi_are_statements_without_a_number() -> None:
    low = [glucose(NOW + i * MINUTE, None, Flag.BELOW_RANGE) for i in range(3)]
    batch = receive(pack(low))
    assert not batch.refusals
    assert batch.at.tolist() == [NOW, NOW + MINUTE, NOW + 2 * MINUTE]
    assert set(batch.flags.tolist()) == {int(Flag.BELOW_RANGE)}


def test_a_flag_alone_is_stored_although_there_is_no_number() -> None:
    """Within a series its null would be a missing sample."""
    warming = [glucose(NOW + i * MINUTE, None, Flag.WARMUP) for i in range(3)]
    batch = receive(pack(warming))
    assert len(batch) == 3
    assert batch.missing == 0


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_a_missing_sample(nothing: float | None) -> None:
    (body,) = pack([glucose(NOW), glucose(NOW + MINUTE, nothing), glucose(NOW + 2 * MINUTE)])
    assert items(body)[0]["values"] == [5.5, None, 5.5]


def test_a_night_of_beats_keeps_its_times_in_pieces() -> None:
    intervals = tuple(800.0 + (i % 7) * 12.6953125 for i in range(30_000))
    batch = receive(pack([BeatRun(NOW, intervals)]))
    assert not batch.refusals
    assert [value for run in batch.rr for value in run.intervals.tolist()] == list(intervals)
    for before, after in zip(batch.rr, batch.rr[1:], strict=False):
        assert abs(before.ends_at + after.intervals[0] - after.at) <= 1


def test_rates_go_as_a_grid_and_silence_goes_not_at_all() -> None:
    values = (71.0, None, 73.0)
    (body,) = pack([RateRun(NOW, 1_000, values), RateRun(NOW + 3_000, 1_000, (None, None))])
    assert items(body) == [
        {"code": "heart_rate", "unit": "/min", "at": NOW, "values": list(values), "period_ms": 1_000}
    ]
    day = receive(pack([RateRun(NOW, 1_000, (60.0,) * 86_400)]))
    assert day.at.tolist() == list(range(NOW, NOW + 86_400_000, 1_000))


def test_events_have_their_own_messages() -> None:
    opened = Happening(EventType.COMPARTMENT_OPENED, NOW, compartment=3)
    done = Happening(EventType.COMMAND_DONE, NOW, id="12", ok=True)
    telemetry, event = pack([glucose(NOW), opened, done])
    assert (telemetry.topic, event.topic) == (Topic.TELEMETRY, Topic.EVENT)
    assert items(event) == [
        {"type": "compartment_opened", "at": NOW, "compartment": 3},
        {"type": "command_done", "at": NOW, "id": "12", "ok": True},
    ]
    assert [event.type for event in receive([event]).events] == [opened.type, done.type]


def test_a_packet_nobody_can_read_is_quarantined_alone_with_its_bytes() -> None:
    packet = bytes(range(256)) * 20
    readable, odd = pack([glucose(NOW), Unreadable(NOW, "2a18", packet, "the length is wrong")])
    batch = receive([readable, odd])
    (refusal,) = batch.refusals
    assert (refusal.message, refusal.series, refusal.reason) == (1, (0,), Reason.UNKNOWN_CODE)
    assert items(odd) == [
        {
            "code": "gatt_packet", "unit": "1", "at": NOW, "value": None, "characteristic": "2a18",
            "packet": packet[:512].hex(), "detail": "the length is wrong",
        }
    ]  # fmt: skip
    assert len(batch) == 1


def test_records_know_their_last_body() -> None:
    said = [Record(1, (glucose(NOW),)), Record(2, ()), Record(3, (Happening(EventType.TAMPER, NOW), glucose(NOW)))]
    bodies, last = pack_records(said)
    assert [body.topic for body in bodies] == [Topic.TELEMETRY, Topic.EVENT]
    assert last == [0, -1, 1]


def test_many_records_are_few_messages_in_order() -> None:
    bodies, last = pack_records([Record(i, (glucose(NOW + i * MINUTE),)) for i in range(20_160)])
    assert last == sorted(last)
    assert len(bodies) <= 10
    assert receive(bodies).at.tolist() == [NOW + i * MINUTE for i in range(20_160)]


READINGS = st.builds(
    glucose,
    st.integers(0, 40).map(lambda step: NOW + step * MINUTE),
    st.one_of(st.none(), st.integers(20, 300).map(lambda tenths: tenths / 10)),
    st.sampled_from([Flag(0), Flag.WARMUP, Flag.BELOW_RANGE, Flag.CALIBRATION | Flag.ABOVE_RANGE]),
)
RATES = st.builds(
    RateRun,
    st.just(NOW),
    st.just(1_000),
    st.lists(st.one_of(st.none(), st.floats(20, 300)), max_size=4_000).map(tuple),
)
BEATS = st.builds(BeatRun, st.just(NOW), st.lists(st.floats(200, 3_000), max_size=4_000).map(tuple))
HAPPENINGS = st.builds(Happening, st.sampled_from([EventType.TAMPER, EventType.DOSE_TAKEN]), st.just(NOW))
ODD = st.builds(Unreadable, st.just(NOW), st.text(max_size=300), st.binary(max_size=2_000), st.text(max_size=2_000))


@given(st.lists(st.one_of(READINGS, RATES, BEATS, HAPPENINGS, ODD), max_size=60))
def test_whatever_is_found_all_of_it_arrives(findings: list[Finding]) -> None:
    batch = receive(pack(findings))
    samples = [(f.at_ms, int(f.flags), f.value) for f in findings if isinstance(f, Reading)]
    samples += [
        (f.at_ms + i * f.period_ms, int(f.flags), value)
        for f in findings
        if isinstance(f, RateRun)
        for i, value in enumerate(f.values)
    ]
    stored = [sample for sample in samples if sample[1] or sample[2] is not None]
    arrived = zip(batch.at.tolist(), batch.flags.tolist(), batch.value.tolist(), strict=True)
    as_sent = [(at, flags, None if value != value else value) for at, flags, value in arrived]  # noqa: PLR0124
    assert sorted(as_sent, key=str) == sorted(stored, key=str)
    beats = [interval for f in findings if isinstance(f, BeatRun) for interval in f.intervals_ms]
    assert [value for run in batch.rr for value in run.intervals.tolist()] == beats
    assert len(batch.events) == sum(isinstance(f, Happening) for f in findings)
    refused = [series for refusal in batch.refusals for series in refusal.series or ()]
    assert {refusal.reason for refusal in batch.refusals} <= {Reason.UNKNOWN_CODE}
    assert len(refused) == sum(isinstance(f, Unreadable) for f in findings)
