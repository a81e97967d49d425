"""Issues tokens: checks passwords and refresh tokens, and limits how often a stranger may try."""

import asyncio
import hashlib
import hmac
import ipaddress
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from http import HTTPStatus

from psycopg import AsyncConnection

from api.database import Database, fetch_all, fetch_one, fetch_value
from api.problems import RETRY_SOON, ProblemError, unauthorized
from api.settings import ApiSettings
from api.tokens import AccessToken, Role, new_refresh_token, refresh_token_hash, sign_access_token
from gateway.clinic.passwords import PasswordError, hash_password, needs_rehash, verify_password
from gateway.store.queries import load_queries

SQL = load_queries("api.sql", "sessions.sql")

_HASHES_AT_ONCE = 2
"""A hash takes 64 MiB and a core: a flood of log-ins must exhaust neither."""
_HASHES_WAITING = 50
_WRONG = "The e-mail address or the password is wrong."
_STALE = "The refresh token is not valid. Log in again."


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The result of a successful log-in or refresh."""

    access_token: str
    refresh_token: str
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class _User:
    id: int
    role: Role
    password_hash: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class _Attempts:
    attempts: int
    window_started_at: datetime


@dataclass(frozen=True, slots=True)
class _Spent:
    family: uuid.UUID
    user_id: int


@cache
def _nobodys_hash() -> str:
    """Return a hash to check if there is no such user, so that the answer takes as long."""
    return hash_password(new_refresh_token())


def client_network(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 that one IPv6 host has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)


class SignIn:
    """Issues token pairs. One per process; all its state is in the database."""

    def __init__(self, database: Database, settings: ApiSettings) -> None:
        self._database = database
        self._settings = settings
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting = 0

    async def with_password(self, email: str, password: str, address: str, now: datetime) -> TokenPair:
        """Check a password. Raises ProblemError 401, or 429 after too many failures.

        An unknown or disabled user looks the same as a wrong password, and takes as long.
        """
        account = hmac.digest(self._settings.secret_key.encode(), email.strip().lower().encode(), hashlib.sha256)
        attempt = {"account": account, "address": client_network(address), "now": now}
        await self._count(attempt, now)
        async with self._database.as_user(None) as connection:
            user = await fetch_one(connection, _User, SQL.user_by_email, {"email": email.strip().lower()})
        matches = await self._verify(user.password_hash if user else _nobodys_hash(), password)
        if user is None or user.disabled or not matches:
            raise unauthorized(_WRONG, "invalid_grant")
        new_hash = await self._rehash(user, password)
        async with self._database.as_user(None) as connection:
            await connection.execute(SQL.forget_login_attempts, attempt)
            if new_hash is not None:
                stored = {"id": user.id, "old": user.password_hash, "new": new_hash}
                await connection.execute(SQL.store_password_hash, stored)
            await connection.execute(SQL.remove_old_refresh_tokens, {"user_id": user.id, "now": now})
            return await self._issue(connection, user, uuid.uuid4(), now)

    async def with_refresh_token(self, token: str, now: datetime) -> TokenPair:
        """Exchange a refresh token for a new pair. Raises ProblemError 401; reuse of one revokes its whole family."""
        spent = {"token_hash": refresh_token_hash(token), "now": now}
        async with self._database.as_user(None) as connection:
            used = await fetch_one(connection, _Spent, SQL.use_refresh_token, spent)
            if used is None:
                await connection.execute(SQL.revoke_family_of, spent)
            else:
                user = await fetch_one(connection, _User, SQL.user_by_id, {"id": used.user_id})
                if user is not None and not user.disabled:
                    return await self._issue(connection, user, used.family, now)
        raise unauthorized(_STALE, "invalid_grant")

    async def _issue(self, connection: AsyncConnection, user: _User, family: uuid.UUID, now: datetime) -> TokenPair:
        lifetime = self._settings.access_token_lifetime
        refresh_token = new_refresh_token()
        await connection.execute(
            SQL.add_refresh_token,
            {
                "token_hash": refresh_token_hash(refresh_token),
                "family": family,
                "user_id": user.id,
                "now": now,
                "expires_at": now + self._settings.refresh_token_lifetime,
            },
        )
        token = AccessToken(user.id, user.role, now + lifetime)
        return TokenPair(sign_access_token(token, key=self._settings.secret_key, now=now), refresh_token, lifetime)

    async def _count(self, attempt: dict[str, object], now: datetime) -> None:
        """Count the attempt before anything is checked. Raises ProblemError 429."""
        window_start = now - self._settings.login_window
        async with self._database.as_user(None) as connection:
            await connection.execute(SQL.remove_old_login_attempts, {"window_start": window_start})
            rows = await fetch_all(
                connection, _Attempts, SQL.count_login_attempt, {**attempt, "window_start": window_start}
            )
        counted = rows[0]
        if counted.attempts > self._settings.login_attempts:
            wait = counted.window_started_at - window_start
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many failed log-ins. Try again later.",
                headers={"Retry-After": str(int(wait.total_seconds()) + 1)},
            )

    async def _verify(self, password_hash: str, password: str) -> bool:
        if self._waiting >= _HASHES_WAITING:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "Too many log-ins at this moment.", headers=RETRY_SOON)
        self._waiting += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(verify_password, password_hash, password)
        finally:
            self._waiting -= 1

    async def _rehash(self, user: _User, password: str) -> str | None:
        if not needs_rehash(user.password_hash):
            return None
        async with self._hashing:
            try:
                return await asyncio.to_thread(hash_password, password)
            except PasswordError:
                return None  # too short by today's rules, but it is the user's own: let them in


async def current_role(connection: AsyncConnection) -> Role | None:
    """Return the role that row security sees; None for a user who is gone or disabled."""
    role: Role | None = await fetch_value(connection, SQL.current_role)
    return role
