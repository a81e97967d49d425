"""Settings of the API; read from the environment by `deploy`, passed down as plain values."""

from dataclasses import dataclass, field
from datetime import timedelta

MIN_SECRET_BYTES = 32
"""RFC 7518, 3.2: a key for HS256 is at least as long as the hash."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of one API process. Raises ValueError when the secret key is too short."""

    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    """Signs access tokens; the same in every process."""

    schema_version: int = 0
    """The newest migration this program knows; a database without it is not ready. 0: do not check."""

    access_token_lifetime: timedelta = timedelta(minutes=15)
    refresh_token_lifetime: timedelta = timedelta(days=14)

    login_attempts: int = 10
    """Failed log-ins per account and address in `login_window` before the answer is 429."""
    login_window: timedelta = timedelta(minutes=15)

    max_connections: int = 10
    """Connections to the database, in addition to the one that listens."""
    connection_timeout: timedelta = timedelta(seconds=5)
    """How long a request waits for a connection before the answer is 503."""
    statement_timeout: timedelta = timedelta(seconds=15)

    max_body_bytes: int = 64 * 1024
    """No request needs more; keeps a client from filling the memory."""

    keep_alive: timedelta = timedelta(seconds=15)
    """Pause after which an idle stream sends a comment and checks again whether its user may still listen."""
    max_streams_per_user: int = 10
    max_streams: int = 1000

    def __post_init__(self) -> None:
        if len(self.secret_key.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret key needs at least {MIN_SECRET_BYTES} bytes")
