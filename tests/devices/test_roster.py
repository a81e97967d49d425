"""The roster: the JSON an edge box gets, whatever is in it."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PayloadError
from devices.roster import MAX_DEVICES, Roster, RosterDevice, bluetooth_address, decode_roster, encode_roster
from devices.vocabulary import MAX_PAYLOAD_BYTES, DeviceModel, Reason

UUID = "E621E1F8-C36C-495A-93FC-0C247A3E6E5F"
METER = RosterDevice("meter-3", DeviceModel.GLUCOSE_METER, "C4:64:E3:0A:11:22", "Asia/Shanghai")
CGM = RosterDevice("cgm-5", DeviceModel.CGM, UUID)
WIRE = {"id": "meter-3", "model": "glucose_meter", "address": "C4:64:E3:0A:11:22", "timezone": "Asia/Shanghai"}


def payload(*devices: Any) -> bytes:
    return json.dumps({"devices": list(devices)}).encode()


def test_both_ways() -> None:
    assert json.loads(encode_roster([METER])) == {"devices": [WIRE]}
    assert decode_roster(encode_roster([METER, CGM])) == Roster((METER, CGM))
    assert decode_roster(encode_roster([])) == Roster()


def test_what_may_be_left_out_or_added() -> None:
    device = {"id": "cgm-5", "model": "cgm", "address": UUID.lower(), "spare": [1]}
    assert decode_roster(json.dumps({"devices": [device], "spare": 1}).encode()) == Roster((CGM,))


def test_a_model_of_a_later_version_does_not_cost_the_others() -> None:
    later = {"id": "ring-1", "model": "ring", "address": {"kind": "new"}}
    assert decode_roster(payload(later, WIRE)) == Roster((METER,), ("ring-1",))
    assert decode_roster(payload({**WIRE, "model": "edge"})) == Roster((), ("meter-3",))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"devices": null}',
        b'{"devices": [1]}',
        b'{"devices": [{}]}',
        b"[" * 5000,
        b'{"devices": [' + b"[" * 5000,
        b'{"devices": []} x',
        payload({**WIRE, "id": "a b"}),
        payload({**WIRE, "id": 1}),
        payload({**WIRE, "model": 1}),
        payload({**WIRE, "address": "C4:64:E3:0A:11"}),
        payload({**WIRE, "address": None}),
        payload({**WIRE, "timezone": ""}),
        payload({**WIRE, "timezone": "Asia/\n"}),
        payload({**WIRE, "timezone": None}),
        payload(WIRE, {**WIRE, "id": "meter-4", "address": WIRE["address"].lower()}),
        payload(WIRE, {**WIRE, "address": UUID}),
        payload(*[{**WIRE, "id": f"m{number}"} for number in range(MAX_DEVICES + 1)]),
    ],
    ids=lambda bad: repr(bad[:60]),
)
def test_no_roster(bad: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_roster(bad)
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.detail.isprintable()


def test_a_roster_that_is_too_large() -> None:
    with pytest.raises(PayloadError) as caught:
        decode_roster(encode_roster([METER]).ljust(MAX_PAYLOAD_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_longest_roster_fits() -> None:
    devices = [
        RosterDevice(f"{number:064}", DeviceModel.BLOOD_PRESSURE, f"{number:08X}{UUID[8:]}", "A" * 64)
        for number in range(MAX_DEVICES)
    ]
    encoded = encode_roster(devices)
    assert len(encoded) <= MAX_PAYLOAD_BYTES
    assert decode_roster(encoded) == Roster(tuple(devices))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_roster_or_a_named_error(data: bytes) -> None:
    with suppress(PayloadError):
        decode_roster(data)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("c4:64:e3:0a:11:22", "C4:64:E3:0A:11:22"),
        (UUID.lower(), UUID),
        ("C4-64-E3-0A-11-22", None),
        ("C4:64:E3:0A:11:2G", None),
        ("C4:64:E3:0A:11:22\n", None),
        ("C4:64:E3:0A:11:22:33", None),
        ("", None),
        ("\u0661" * 2 + ":64:E3:0A:11:22", None),
        ("ﬀ:64:E3:0A:11:22", None),
    ],
)
def test_address(text: str, address: str | None) -> None:
    assert bluetooth_address(text) == address
