"""Access tokens (JWT, HS256) and refresh tokens (random, stored as a hash)."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import jwt

Role = Literal["admin", "doctor", "nurse", "patient", "integration"]
_ALGORITHM = "HS256"
_REQUIRED = ["exp", "iat", "sub", "role", "jti"]
_REFRESH_BYTES = 32


class TokenError(Exception):
    """The access token is not ours, damaged, or expired."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The owner of an access token, and its expiry. The role is that at the time the token was made."""

    user_id: int
    role: Role
    expires_at: datetime


def sign_access_token(token: AccessToken, *, key: str, now: datetime) -> str:
    """Return the token as a JWT; times are whole seconds."""
    claims = {
        "sub": str(token.user_id),
        "role": token.role,
        "iat": int(now.timestamp()),
        "exp": int(token.expires_at.timestamp()),
        "jti": secrets.token_urlsafe(16),
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read_access_token(text: str, *, key: str, now: datetime) -> AccessToken:
    """Check signature and times of a JWT and return its contents. Raises TokenError."""
    try:
        # The library would compare with the machine's clock; for us, now is an argument.
        options: jwt.types.Options = {"require": _REQUIRED, "verify_exp": False, "verify_iat": False}
        claims = jwt.decode(text, key, algorithms=[_ALGORITHM], options=options)
        user_id, expires = int(claims["sub"]), int(claims["exp"])
        expires_at = datetime.fromtimestamp(expires, UTC)
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError) as error:
        raise TokenError("The access token is not valid.") from error
    if claims["role"] not in get_args(Role):
        raise TokenError("The access token is not valid.")
    if now >= expires_at:
        raise TokenError("The access token has expired.")
    return AccessToken(user_id, claims["role"], expires_at)


def new_refresh_token() -> str:
    """Return a new refresh token: 256 random bits."""
    return secrets.token_urlsafe(_REFRESH_BYTES)


def refresh_token_hash(token: str) -> bytes:
    """Return the stored form of a refresh token. A plain hash is enough: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
