"""Cutting MQTT packets off a stream: whole, in pieces, and with one that the codec refuses."""

import mqtt5
import pytest

from gateway.ingest.mqtt.framing import PACKET_CAP, Cut, StreamBrokenError, cut


def publish(number: int, payload: bytes = b"{}", content_type: str | None = None) -> bytes:
    packet = mqtt5.PublishPacket(
        "vigil/v1/band/telemetry",
        payload,
        qos=mqtt5.QoS.AT_LEAST_ONCE,
        packet_id=number,
        content_type=content_type,
    )
    return packet.write()


# A content type that is not UTF-8: mosquitto would refuse it, another broker may not.
# The codec panics, which Python also reports as an exception that nobody could raise.
UNREADABLE = publish(7, b"kept", content_type="x").replace(b"\x03\x00\x01x", b"\x03\x00\x01\xff")


def told(found: Cut) -> list[tuple[str, bytes, int | None]]:
    return [(message.topic, message.payload, message.packet_id) for message in found.messages]


def test_messages_and_other_packets_come_apart_in_order() -> None:
    found = cut(publish(1, b"a") + mqtt5.PingRespPacket().write() + publish(2, b"b"))
    assert [payload for _, payload, _ in told(found)] == [b"a", b"b"]
    assert [type(packet) for packet in found.others] == [mqtt5.PingRespPacket]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_cut_anywhere_gives_the_same() -> None:
    stream = publish(1, b"a" * 200) + mqtt5.PubAckPacket(9).write() + UNREADABLE + publish(2, b"b")
    whole = cut(stream)
    assert whole.size == len(stream)
    for place in range(len(stream)):
        first = cut(stream[:place])
        second = cut(stream[first.size :])
        assert told(first) + told(second) == told(whole)
        assert len(first.others) + len(second.others) == 1
        assert first.size + second.size == len(stream)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_codec_refuses_becomes_a_message_with_its_number_and_bytes() -> None:
    found = cut(UNREADABLE + publish(8))
    assert [number for _, _, number in told(found)] == [7, 8]
    broken = found.messages[0]
    assert broken.content_type is not None
    assert broken.content_type.startswith("unreadable MQTT packet")
    assert broken.payload.endswith(b"kept")


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\x00\x00", id="no packet type"),
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="a length of five bytes"),
        pytest.param(b"\x40\x01\x00", id="an acknowledgement of one byte"),
        pytest.param(b"\x32\x04\x00\x09ab", id="a topic longer than its packet"),
        pytest.param(b"\x30\xff\xff\xff\x7f" + b"x" * 16, id=f"more than {PACKET_CAP} bytes"),
    ],
)
def test_what_cannot_be_followed_breaks_the_stream(stream: bytes) -> None:
    with pytest.raises(StreamBrokenError):
        cut(stream)
