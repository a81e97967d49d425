"""Decodes the bytes of one payload into objects, from JSON or CBOR, with bounded work whatever the bytes are."""

import io
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, Never

import cbor2
import msgspec

from devices.errors import PayloadError
from devices.vocabulary import CONTENT_TYPE_CBOR, CONTENT_TYPE_JSON, MAX_NESTING, MAX_PAYLOAD_BYTES, Reason

DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Everything that msgspec raises for bytes or objects that do not fit."""

_JSON_FIRST: Final = frozenset(b"{ \t\r\n")
_CBOR_MAPS: Final = range(0xA0, 0xC0)
_DETAIL_LENGTH: Final = 200


class Form(Enum):
    """The format of a payload."""

    JSON = "JSON"
    CBOR = "CBOR"


def form_of(payload: bytes, content_type: str | None) -> Form:
    """Return JSON or CBOR: the content type decides, without one the first byte.

    Raises:
        PayloadError: the payload is too large to be read, or neither of the two.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are taken", Reason.TOO_LARGE)
    if content_type is not None:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == CONTENT_TYPE_JSON:
            return Form.JSON
        if media_type == CONTENT_TYPE_CBOR:
            return Form.CBOR
        raise PayloadError(f"the content type is neither {CONTENT_TYPE_JSON} nor {CONTENT_TYPE_CBOR}")
    if not payload:
        raise PayloadError("the payload is empty")
    if payload[0] in _JSON_FIRST:
        return Form.JSON
    if payload[0] in _CBOR_MAPS:
        return Form.CBOR
    raise PayloadError("neither a JSON object nor a CBOR map")


def explain(error: Exception) -> str:
    """Return a decoder's error as a sentence that is safe to store: printable and short, whatever the peer sent."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error)[: 2 * _DETAIL_LENGTH]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _DETAIL_LENGTH else text[: _DETAIL_LENGTH - 1] + "…"


def quote(word: str) -> str:
    """Return a peer's word for use in a sentence: short, quoted, ASCII only."""
    return ascii(word[:40])


def load_cbor(payload: bytes) -> Any:
    """Decode one CBOR item (RFC 8949) of the subset that JSON can express too.

    Refused before they cost anything: nesting (stack overflow), indefinite lengths (no bound to check against), tags
    (big numbers, shared references and string references multiply their cost; the payload needs none), repeated keys
    (two readers would see two messages), keys that are not strings, bytes after the item. A declared length never
    allocates more than the bytes that are there.

    Raises:
        PayloadError: malformed, with the decoder's own sentence.
    """
    stream = io.BytesIO(payload)
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=_NO_TAGS,
        tag_hook=_refuse_tag,
        max_depth=MAX_NESTING,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        item = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise PayloadError(f"bad CBOR: {explain(error)}") from error
    if stream.tell() != len(payload):
        raise PayloadError(f"bad CBOR: {len(payload) - stream.tell()} bytes after its end")
    return item


def _refuse_tag(*_: object) -> Never:
    raise ValueError("tags are not taken")


class _NoTags(Mapping[int, Any]):
    """Stands in for the decoder of every CBOR tag and refuses it."""

    def __getitem__(self, tag: int) -> Any:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_TAGS: Final = _NoTags()
