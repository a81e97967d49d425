"""The number of a message that cannot be read is still found near its start, so that its receipt can pass it."""

import cbor2
import pytest

from devices.messages import ABSENT, take_events, take_telemetry


@pytest.mark.parametrize(
    ("payload", "seq"),
    [
        (b'{"seq": 3, "observations": [{"value": 61.5', 3),
        (b'{"device":"a","seq":9223372036854775807,"observations":[', 2**63 - 1),
        (b'{"seq":9223372036854775808,"observations":[', ABSENT),
        (b'{"seq":-3,"observations":[', ABSENT),
        (b'{"seq":3.5,"observations":[', ABSENT),
        (b'{"seq":12', ABSENT),
        (b'{"filler":"' + b"x" * 300 + b'","seq":3,', ABSENT),
        (b'{"seq":77,"filler":"' + b"x" * 70_000 + b'"}', 77),
        (b"\xff\xfe", ABSENT),
        (b"", ABSENT),
    ],
)
def test_json(payload: bytes, seq: int) -> None:
    for parts in (take_telemetry(payload, None), take_events(payload, None)):
        assert parts.error is not None
        assert parts.head.seq == seq


@pytest.mark.parametrize("seq", [0, 5, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1])
def test_cbor_that_breaks_off(seq: int) -> None:
    payload = cbor2.dumps({"seq": seq, "observations": [{"code": "glucose"}]})[:-3]
    parts = take_telemetry(payload, "application/cbor")
    assert parts.error is not None
    assert parts.head.seq == seq
