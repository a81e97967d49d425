"""Password hashing for people's accounts: Argon2id, with one set of parameters for writing and checking."""

from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

MINIMUM_LENGTH: Final = 12
"""Characters; NIST SP 800-63B asks for length instead of composition rules."""
MAXIMUM_LENGTH: Final = 1024
"""Characters: hashing a megabyte a log-in would be a cheap way to keep the server busy."""


class PasswordError(ValueError):
    """The password cannot be used; the text says why."""


@cache
def _hasher() -> PasswordHasher:
    """Return the hasher with RFC 9106's second recommendation (64 MiB, 3 passes)."""
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def hash_password(password: str) -> str:
    """Return the encoded Argon2id hash. Takes about 50 ms and 64 MiB: keep it off a shared event loop.

    Raises PasswordError for one shorter than MINIMUM_LENGTH or longer than MAXIMUM_LENGTH.
    """
    if len(password) < MINIMUM_LENGTH:
        raise PasswordError(f"a password needs at least {MINIMUM_LENGTH} characters")
    if len(password) > MAXIMUM_LENGTH:
        raise PasswordError(f"a password may have at most {MAXIMUM_LENGTH} characters")
    return _hasher().hash(password)


def verify_password(password_hash: str, password: str) -> bool:
    """Return whether the password matches the hash; nothing matches a damaged hash."""
    if len(password) > MAXIMUM_LENGTH:
        return False
    try:
        return _hasher().verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(password_hash: str) -> bool:
    """Return whether the hash was made with other parameters than the current ones."""
    return _hasher().check_needs_rehash(password_hash)
