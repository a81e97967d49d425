"""What Bluetooth characteristics say: bytes to frozen values, and back where we write. Pure; bad bytes are `PacketError`s."""
