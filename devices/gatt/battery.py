"""Battery Level (0x2A19) of the Battery Service 1.0, 3.1."""

from devices.errors import PacketError


def decode_battery_level(packet: bytes) -> int:
    """Return the charge in percent.

    Raises:
        PacketError: not one octet of 0 to 100.
    """
    if len(packet) != 1 or packet[0] > 100:
        raise PacketError(f"Battery Level: not one octet of 0 to 100, but {packet[:8].hex() or 'nothing'}")
    return packet[0]
