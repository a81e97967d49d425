"""Where the pipeline takes its messages from: two methods, so that a broker is not the only possible source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came. An mqtt5 PublishPacket has the same attributes and is used as it is."""

    topic: str
    payload: bytes
    content_type: str | None
    packet_id: int | None
    retain: bool = False


class Delivered(Protocol):
    """What the pipeline reads of a message."""

    @property
    def topic(self) -> str:
        """The whole topic."""

    @property
    def payload(self) -> bytes:
        """The bytes as published."""

    @property
    def content_type(self) -> str | None:
        """The MQTT 5 content type, if any."""

    @property
    def packet_id(self) -> int | None:
        """The packet identifier; None at QoS 0."""

    @property
    def retain(self) -> bool:
        """Whether the broker had kept it: said at some time before we subscribed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages taken together; they are acknowledged together, after the commit.

    `connection` tells which connection they came over: packet identifiers mean nothing on another one.
    """

    messages: Sequence[Delivered]
    connection: int


class SourceClosedError(Exception):
    """The source was told to stop; there are no more batches."""


class Source(Protocol):
    """Gives batches of messages and hears when one is safely stored."""

    async def batch(self) -> Batch:
        """Wait for at least one message; return what has gathered, oldest first, within the source's cap."""

    def ack(self, batch: Batch) -> None:
        """Say that every message of the batch is committed; the source may forget them."""
