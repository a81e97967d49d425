"""Cuts MQTT packets off a byte stream: pure, one bad PUBLISH never costs its neighbours or the connection."""

from dataclasses import dataclass

import mqtt5

from gateway.ingest.source import Delivered, Message

# The broker refuses packets above its own limit (2 MiB in ours); a stream that claims more than this is not MQTT
# any more, and buffering it would let a broken peer fill our memory.
PACKET_CAP = 8 * 1024 * 1024

PUBLISH = 3
# The codec (0.8) panics on a string that is not UTF-8; the exception that makes can be told by its name alone.
PANIC = "PanicException"
_QOS_SHIFT = 1
_VARIABLE_BYTE_INTEGER_LENGTH = 4


class StreamBrokenError(Exception):
    """The bytes are not MQTT; only a new connection helps."""


@dataclass(slots=True)
class Cut:
    """What was cut off a stream: messages in order, everything else in order, and how many bytes all of it took."""

    messages: list[Delivered]
    others: list[mqtt5.Packet]
    size: int


def cut(stream: bytes) -> Cut:
    """Return every complete packet at the start of `stream`; an incomplete one at its end is left for later.

    A PUBLISH whose frame is whole but whose inside the codec refuses becomes a message whose content type says so: the
    pipeline quarantines and acknowledges it. Raises StreamBrokenError when the stream cannot be followed.
    """
    messages: list[Delivered] = []
    others: list[mqtt5.Packet] = []
    read, publish, add = mqtt5.read, mqtt5.PublishPacket, messages.append
    view = memoryview(stream)
    position, end = 0, len(stream)
    while position < end:
        try:
            packet, size = read(view[position:])
        except IndexError:
            _refuse_endless(view[position:])
            break
        except BaseException as error:
            if not isinstance(error, ValueError) and type(error).__name__ != PANIC:
                raise
            message, size = _unreadable(view[position:], error)
            add(message)
        else:
            if type(packet) is publish:
                add(packet)
            else:
                others.append(packet)
        position += size
    return Cut(messages, others, position)


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


def _unreadable(view: memoryview, error: BaseException) -> tuple[Message, int]:
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
    return Message(topic, rest, f"unreadable MQTT packet: {error}", packet_id), size
