"""The engine under the codecs: a characteristic is a table of fields, and its flags say which of them are present.

These rules hold for every characteristic:

- A field whose flag is set must be complete, and nothing may follow the last one. Ignoring what follows would allow
  extensions by later versions. We refuse it: a packet longer than its flags say may just as well be one whose flags were
  damaged, and would be read as another, plausible one. A later version shows up in the quarantine, with its bytes, and
  then gets its rows in the table.
- A reserved flag that is set is ignored, as profiles require of a collector. If it announces a field, octets are left
  over, and the packet is refused by the rule above.
- Reserved bits of a status word are ignored. Reserved numbers of an enumeration stay plain numbers.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from functools import partial
from typing import Any, Final, Generic, TypeVar

from devices.errors import PacketError
from devices.gatt.floats import float32, sfloat

ValueT = TypeVar("ValueT")

MAX_VALUE: Final = 512
"""Octets of an attribute value (Core Specification, Vol 3, Part F, 3.2.9): no list from a peer grows beyond it."""
MAX_NAMED_BITS: Final = 12
"""`enum` keeps every combination of flags it has ever seen, so a peer that counts through a wide status word could fill
memory with it: 12 bits are 4,096 combinations. Wider words stay numbers, to be tested with `&`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one value is encoded: the code of `struct` that reads it, and the conversion of what `struct` returns."""

    code: str
    make: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """A field that becomes the attribute `name`; present if the flags `given` are set and those of `unless` clear.

    With `repeated` it takes all remaining octets, and becomes a tuple.
    """

    name: str
    kind: Kind
    given: int = 0
    unless: int = 0
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Says:
    """An attribute that follows from the flags alone."""

    name: str
    value: object
    given: int = 0
    unless: int = 0


@dataclass(frozen=True, slots=True)
class _Shape:
    """The layout of a packet with certain flags."""

    fixed: struct.Struct
    makers: tuple[tuple[str, Callable[[Any], Any] | None], ...]
    constants: Mapping[str, object]
    repeated: Field | None


class Layout(Generic[ValueT]):
    """The table of a characteristic: from a packet to a `value`, whose attributes are named in the table.

    `flagged`: the first octet holds the flags. Each value of the flags selects one fixed layout, computed when it is
    first seen; there are at most 256.
    """

    def __init__(self, name: str, value: Callable[..., ValueT], *table: Field | Says, flagged: bool = True) -> None:
        self.name = name
        self._value = value
        self._table = table
        self._flagged = flagged
        self._shapes: dict[int, _Shape] = {}

    def decode(self, packet: bytes) -> ValueT:
        """Return the value of a whole packet.

        Raises:
            PacketError: the packet is too short, too long, or has an invalid field.
        """
        if not packet:
            raise PacketError(f"{self.name}: empty")
        flags = packet[0] if self._flagged else 0
        shape = self._shapes.get(flags) or self._learn(flags)
        size = shape.fixed.size
        if len(packet) != size and (shape.repeated is None or not size < len(packet) <= MAX_VALUE):
            raise PacketError(f"{self.name}: {len(packet)} octets, flags 0x{flags:02x} announce {size}")
        attributes = {
            name: raw if make is None else make(raw)
            for (name, make), raw in zip(shape.makers, shape.fixed.unpack_from(packet), strict=True)
        }
        if shape.repeated is not None:
            attributes[shape.repeated.name] = self._repeated(shape.repeated.kind, packet[size:])
        return self._value(**shape.constants, **attributes)

    def _learn(self, flags: int) -> _Shape:
        present = [row for row in self._table if flags & row.given == row.given and not flags & row.unless]
        fields = [row for row in present if isinstance(row, Field) and not row.repeated]
        shape = _Shape(
            struct.Struct(("<x" if self._flagged else "<") + "".join(field.kind.code for field in fields)),
            tuple((field.name, field.kind.make) for field in fields),
            {row.name: row.value for row in present if isinstance(row, Says)},
            next((row for row in present if isinstance(row, Field) and row.repeated), None),
        )
        self._shapes[flags] = shape
        return shape

    def _repeated(self, kind: Kind, octets: bytes) -> tuple[Any, ...]:
        try:
            raws = [raw for (raw,) in struct.iter_unpack(f"<{kind.code}", octets)]
        except struct.error as error:
            raise PacketError(f"{self.name}: {len(octets)} octets of repeated fields, cut in the middle") from error
        return tuple(raws) if kind.make is None else tuple(map(kind.make, raws))


def bits(names: type[IntFlag], code: str = "B") -> Kind:
    """Return the kind of a word of named bits; reserved ones are ignored.

    Raises:
        ValueError: there are more than `MAX_NAMED_BITS` of them.
    """
    mask = sum(names)
    if mask.bit_count() > MAX_NAMED_BITS:
        raise ValueError(f"{names.__name__} names more than {MAX_NAMED_BITS} bits")
    return Kind(code, lambda raw: names(raw & mask))


def unless_equal(unknown: int, code: str) -> Kind:
    """Return the kind of a number of which one value means "unknown"."""
    return Kind(code, lambda raw: None if raw == unknown else raw)


UINT8: Final = Kind("B")
UINT16: Final = Kind("H")
UINT24: Final = Kind("3s", partial(int.from_bytes, byteorder="little"))
UINT32: Final = Kind("I")
FLOAT: Final = Kind("I", float32)


def scaled_sfloat(power: int = 0) -> Kind:
    """Return the kind of an SFLOAT that we convert to a unit 10**`power` times smaller."""
    return Kind("H", partial(sfloat, power=power))


SFLOAT: Final = scaled_sfloat()
