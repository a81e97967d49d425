"""What a device says about itself: strings and PnP ID (0x2A50) of the Device Information Service 1.1, 3."""

from dataclasses import dataclass
from typing import Final

from devices.errors import PacketError
from devices.gatt.fields import MAX_VALUE, UINT8, UINT16, Field, Layout


@dataclass(frozen=True, slots=True)
class PnpId:
    """The vendor, product and version of a device."""

    vendor_source: int
    """1: the vendor's number was assigned by the Bluetooth SIG, 2: by the USB Implementers Forum."""
    vendor: int
    product: int
    version: int


_PNP_ID: Final = Layout(
    "PnP ID",
    PnpId,
    Field("vendor_source", UINT8),
    Field("vendor", UINT16),
    Field("product", UINT16),
    Field("version", UINT16),
    flagged=False,
)


def decode_text(packet: bytes) -> str:
    """Return one of the strings, without the zeros that pad a fixed buffer.

    Raises:
        PacketError: longer than a value can be, not UTF-8, or with characters that cannot be printed.
    """
    if len(packet) > MAX_VALUE:
        raise PacketError(f"string: {len(packet)} octets, a value has {MAX_VALUE} at most")
    try:
        text = packet.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise PacketError("string: no UTF-8") from error
    if not text.isprintable():
        raise PacketError("string: characters that cannot be printed")
    return text


def decode_pnp_id(packet: bytes) -> PnpId:
    """Decode a PnP ID.

    Raises:
        PacketError: the packet is not one.
    """
    return _PNP_ID.decode(packet)
