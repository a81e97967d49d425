"""Events: every type, what is refused alone and what as a whole, in both forms."""

from typing import Any

import pytest

from devices.encode import encode_events
from devices.messages import EventItem
from devices.payload import Form
from devices.vocabulary import EventType, Reason
from tests.devices.vectors import (
    AT,
    FIVE_MINUTES,
    NOW,
    YEAR_2010,
    decode,
    decode_events,
    glucose,
    refused_of,
    to_cbor,
    to_json,
)

FORMS = {"json": to_json, "cbor": to_cbor}


def opened(at: Any = AT, **more: Any) -> dict[str, Any]:
    return {"type": "compartment_opened", "at": at, **more}


@pytest.mark.parametrize("form", FORMS)
def test_contract_example(form: str) -> None:
    payload = FORMS[form](
        {
            "seq": 77,
            "sent_at": AT + 4000,
            "events": [
                {"type": "compartment_opened", "at": AT, "compartment": 3},
                {"type": "dose_taken", "at": AT + 2000, "compartment": 3, "count": 2},
                {"type": "command_done", "at": AT + 3000, "id": 12, "ok": False},
            ],
        }
    )
    batch = decode_events(payload)
    assert not batch.refusals
    assert [
        (e.message, e.position, e.device, e.type, e.at, e.compartment, e.count, e.detail) for e in batch.events
    ] == [
        (0, 0, 7, EventType.COMPARTMENT_OPENED, AT, 3, None, None),
        (0, 1, 7, EventType.DOSE_TAKEN, AT + 2000, 3, 2, None),
        (0, 2, 7, EventType.COMMAND_DONE, AT + 3000, None, None, {"id": "12", "ok": False}),
    ]
    assert batch.headers.seq.tolist() == [77]
    assert len(batch) == 0


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("kind", EventType)
def test_every_type_there_and_back(kind: EventType, form: Form) -> None:
    item = EventItem(kind, AT, compartment=32_767, count=0, id="c-1", ok=True)
    batch = decode_events(encode_events([item], seq=1, sent_at=2, oldest=0, device="box", form=form))
    event = batch.events[0]
    assert (event.type, event.at, event.compartment, event.count) == (kind, AT, 32_767, 0)
    assert event.detail == ({"id": "c-1", "ok": True} if kind is EventType.COMMAND_DONE else None)
    assert batch.headers.device_named == ["box"]
    assert batch.headers.oldest.tolist() == [0]


BAD: list[tuple[Any, Reason]] = [
    ({"type": "lid_licked", "at": AT}, Reason.MALFORMED),
    ({"type": 3, "at": AT}, Reason.MALFORMED),
    ({"at": AT}, Reason.MALFORMED),
    ({"type": "tamper"}, Reason.MALFORMED),
    (opened(at=float(AT)), Reason.MALFORMED),
    (opened(at="now"), Reason.MALFORMED),
    (opened(at=None), Reason.MALFORMED),
    (opened(at=2**63), Reason.MALFORMED),
    (opened(compartment=-1), Reason.MALFORMED),
    (opened(compartment=32_768), Reason.MALFORMED),
    (opened(compartment="3"), Reason.MALFORMED),
    (opened(compartment=3.0), Reason.MALFORMED),
    (opened(count=True), Reason.MALFORMED),
    ({"type": "command_done", "at": AT}, Reason.MALFORMED),
    ({"type": "command_done", "at": AT, "id": "1"}, Reason.MALFORMED),
    ({"type": "command_done", "at": AT, "ok": True}, Reason.MALFORMED),
    ({"type": "command_done", "at": AT, "id": "a\0", "ok": True}, Reason.MALFORMED),
    ({"type": "command_done", "at": AT, "id": "1", "ok": "yes"}, Reason.MALFORMED),
    (None, Reason.MALFORMED),
    ([], Reason.MALFORMED),
    (opened(at=NOW + FIVE_MINUTES + 1), Reason.CLOCK_AHEAD),
    (opened(at=YEAR_2010 - 1), Reason.CLOCK_BEHIND),
    (opened(at=-1), Reason.CLOCK_BEHIND),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("event", "reason"), BAD, ids=str)
def test_a_bad_event_is_refused_alone(event: Any, reason: Reason, form: str) -> None:
    batch = decode_events(FORMS[form]({"seq": 4, "events": [opened(YEAR_2010), event, opened(NOW + FIVE_MINUTES)]}))
    assert [e.position for e in batch.events] == [0, 2]
    assert refused_of(batch) == {reason: (1,)}
    assert batch.headers.seq.tolist() == [4]


@pytest.mark.parametrize("form", FORMS)
def test_whole_messages(form: str) -> None:
    encode = FORMS[form]
    batch = decode_events(
        encode({"seq": 1, "events": [opened()] * 256}),
        encode({"seq": 2, "events": [opened()] * 257}),
        encode({"seq": 3, "observations": [glucose(5.0)]}),
        encode({"seq": 4, "sent_at": NOW + FIVE_MINUTES + 1, "events": [opened()]}),
        encode({"seq": 5, "events": []}),
        encode({"seq": 6, "events": [opened()]})[:-1],
    )
    assert [(r.message, r.series, r.reason) for r in batch.refusals] == [
        (1, None, Reason.TOO_LARGE),
        (2, None, Reason.MALFORMED),
        (3, None, Reason.CLOCK_AHEAD),
        (5, None, Reason.MALFORMED),
    ]
    assert len(batch.events) == 256
    assert batch.headers.seq.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("form", FORMS)
def test_events_are_no_telemetry(form: str) -> None:
    assert refused_of(decode(FORMS[form]({"seq": 1, "events": [opened()]}))) == {Reason.MALFORMED: None}


@pytest.mark.parametrize("form", FORMS)
def test_cut_short_at_every_byte(form: str) -> None:
    payload = FORMS[form]({"seq": 1, "events": [opened(compartment=2)]})
    batch = decode_events(*(payload[:length] for length in range(len(payload))), payload + b"x")
    assert not batch.events
    assert {(r.series, r.reason) for r in batch.refusals} == {(None, Reason.MALFORMED)}
    assert len(batch.refusals) == len(payload) + 1
