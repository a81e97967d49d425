"""Codecs for Bluetooth characteristics: bytes to frozen values, and back where we write. Pure; raise `PacketError`."""
