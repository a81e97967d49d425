"""Cuts MQTT packets off a byte stream: pure, one bad PUBLISH never costs its neighbours or the connection."""

from dataclasses import dataclass

import mqtt5

from gateway.source import Message

# The broker refuses packets above its own limit (2 MiB in ours); a stream that claims more than this is not MQTT
# any more, and buffering it would let a broken peer fill our memory.
PACKET_CAP = 8 * 1024 * 1024

PUBLISH = 3
_QOS_SHIFT = 1
_VARIABLE_BYTE_INTEGER_LENGTH = 4


class StreamBrokenError(Exception):
    """The bytes are not MQTT; only a new connection helps."""


@dataclass(frozen=True, slots=True)
class UnreadablePublish:
    """A PUBLISH whose frame is whole but whose inside the codec refuses; to be quarantined and acknowledged."""

    topic: str
    packet_id: int | None
    body: bytes
    cause: str


def cut(buffer: bytes | bytearray) -> tuple[list[mqtt5.Packet | UnreadablePublish], int]:
    """Return every complete packet at the start of `buffer`, and how many bytes they took.

    An incomplete packet at the end is left for later. Raises StreamBrokenError when the stream cannot be followed.
    """
    packets: list[mqtt5.Packet | UnreadablePublish] = []
    read, append = mqtt5.read, packets.append
    position, end = 0, len(buffer)
    with memoryview(buffer) as view:
        while position < end:
            rest = view[position:]
            packet: mqtt5.Packet | UnreadablePublish
            try:
                packet, size = read(rest)
            except IndexError:
                _refuse_endless(rest)
                break
            except ValueError as error:
                packet, size = _unreadable(rest, error)
            finally:
                rest.release()
            append(packet)
            position += size
    return packets, position


def message_of(packet: UnreadablePublish) -> Message:
    """Return the message that stands for a PUBLISH the codec could not read; its content type makes it malformed."""
    return Message(packet.topic, packet.body, f"unreadable MQTT packet: {packet.cause}", packet.packet_id)


def _remaining_length(view: memoryview) -> tuple[int, int] | None:
    """Return (remaining length, bytes of the fixed header), or None when it is incomplete or malformed."""
    value = 0
    for index in range(_VARIABLE_BYTE_INTEGER_LENGTH):
        if len(view) <= index + 1:
            return None
        octet = view[index + 1]
        value |= (octet & 0x7F) << (7 * index)
        if octet < 0x80:
            return value, index + 2
    return None


def _refuse_endless(view: memoryview) -> None:
    header = _remaining_length(view)
    if header is not None and header[0] > PACKET_CAP:
        raise StreamBrokenError(f"a packet claims {header[0]} bytes, more than {PACKET_CAP}")


def _unreadable(view: memoryview, error: ValueError) -> tuple[UnreadablePublish, int]:
    header = _remaining_length(view)
    if header is None or header[0] + header[1] > len(view) or view[0] >> 4 != PUBLISH:
        raise StreamBrokenError(f"malformed packet: {error}") from error
    length, start = header
    body = bytes(view[start : start + length])
    size = start + length
    topic_length = int.from_bytes(body[:2], "big")
    if len(body) < 2 + topic_length:
        raise StreamBrokenError(f"malformed PUBLISH: {error}") from error
    topic = body[2 : 2 + topic_length].decode("utf-8", "replace")
    rest = body[2 + topic_length :]
    packet_id = None
    if (view[0] >> _QOS_SHIFT) & 0x03:
        if len(rest) < 2:
            raise StreamBrokenError(f"malformed PUBLISH: {error}") from error
        packet_id, rest = int.from_bytes(rest[:2], "big"), rest[2:]
    return UnreadablePublish(topic, packet_id, rest, str(error)), size
