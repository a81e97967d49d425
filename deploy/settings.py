"""Settings of every program: environment variables `VIGIL_*`, and `.env` in the working folder.

They are read here and handed down as plain values. Each command loads the class that has what it needs:

    settings = load_settings(Settings)
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRET_KEY_BYTES = 32


class SettingsError(Exception):
    """A setting is missing or wrong; one line that names it and never shows its value."""


def _with_scheme(*schemes: str) -> AfterValidator:
    def check(url: str) -> str:
        try:
            parts = urlsplit(url)
            port_is_right = parts.port is None or parts.port > 0
        except ValueError as error:
            raise ValueError("is not a URL") from error
        if parts.scheme not in schemes or not port_is_right:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not parts.hostname and "postgresql" not in schemes:
            raise ValueError("names no host")
        return url

    return AfterValidator(check)


def _long_enough(key: str) -> str:
    if len(key.encode()) < SECRET_KEY_BYTES:
        raise ValueError(f"must have at least {SECRET_KEY_BYTES} bytes")
    return key


DatabaseUrl = Annotated[str, _with_scheme("postgresql", "postgres"), Field(repr=False)]
MqttUrl = Annotated[str, _with_scheme("mqtt", "mqtts"), Field(repr=False)]
SecretKey = Annotated[str, AfterValidator(_long_enough), Field(repr=False)]


class CommonSettings(BaseSettings):
    """What every program takes."""

    model_config = SettingsConfigDict(
        env_prefix="VIGIL_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of a program's metrics on this machine; 0: none. The API has /metrics of its own."""


class DatabaseSettings(CommonSettings):
    """For programs that need the database."""

    database_url: DatabaseUrl


class BrokerSettings(CommonSettings):
    """For programs that need the broker."""

    mqtt_url: MqttUrl
    """`mqtt://` or `mqtts://` with user and password of the account that may use any topic."""
    mqtt_ca_file: Path | None = None
    """Certificates that the broker's is checked against; without it, the system's."""


class Settings(DatabaseSettings, BrokerSettings):
    """For the gateway, the worker and provisioning."""

    contact_grace_seconds: Annotated[float, Field(ge=0)] = 120
    """How long after a box is in contact again a dose without an opening becomes missed."""
    retrospective_after_minutes: Annotated[float, Field(gt=0)] = 30
    """An alert raised later than this after its beginning is retrospective."""
    receipt_interval_seconds: Annotated[float, Field(gt=0)] = 3
    """A device gets at most one receipt in this time."""


class HttpSettings(DatabaseSettings):
    """For the API."""

    secret_key: SecretKey
    """Signs access tokens."""
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000


S = TypeVar("S", bound=CommonSettings)


def load_settings(kind: type[S]) -> S:
    """Read and check the settings. Raises SettingsError."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(kind, problem["loc"], problem) for problem in error.errors())) from None


def _sentence(kind: type[CommonSettings], location: tuple[int | str, ...], problem: object) -> str:
    name = f"{kind.model_config.get('env_prefix', '')}{location[0]}".upper()
    details = dict(problem) if isinstance(problem, dict) else {}
    if details.get("type") == "missing":
        return f"{name} is not set (vigil stack env prints the local stack's)"
    reason = str(details.get("msg", "is wrong")).removeprefix("Value error, ")
    return f"{name} {reason[0].lower()}{reason[1:]}"
