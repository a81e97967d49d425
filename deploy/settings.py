"""Settings of every program: environment variables `VIGIL_*`, and `.env` in the working folder.

They are read here and passed down as plain values. Each command loads the class with the settings it needs:

    settings = load_settings(Settings)
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from devices.vocabulary import DEVICE_ID

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


def _like(pattern: str, example: str) -> AfterValidator:
    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(f"must look like {example}")
        return text

    return AfterValidator(check)


def _with_edge_account(url: str) -> str:
    parts = urlsplit(url)
    if not DEVICE_ID.match(unquote(parts.username or "")) or not parts.password:
        raise ValueError("must hold the edge box's id and secret as user and password")
    return url


def _state_folder() -> Path:
    """Return the folder for state that must outlive a program: systemd's if it set one, otherwise the user's own."""
    if given := os.environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    own = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (own if own.is_absolute() else Path.home() / ".local" / "state") / "vigil"


DatabaseUrl = Annotated[str, _with_scheme("postgresql", "postgres"), Field(repr=False)]
MqttUrl = Annotated[str, _with_scheme("mqtt", "mqtts"), Field(repr=False)]
SecretKey = Annotated[str, AfterValidator(_long_enough), Field(repr=False)]


class CommonSettings(BaseSettings):
    """Settings of every program."""

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
    """The CA certificates that the broker's certificate is checked against; without it, the system's."""


class Settings(DatabaseSettings, BrokerSettings):
    """For the gateway, the worker and provisioning."""

    contact_grace_seconds: Annotated[float, Field(ge=0)] = 120
    """How long after a box is back in contact a dose without an opening becomes missed."""
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


class BleSettings(BrokerSettings):
    """For an edge box; it needs the account of a device of model `edge` and no other."""

    mqtt_url: Annotated[MqttUrl, AfterValidator(_with_edge_account)]
    """`mqtt://` or `mqtts://` with the edge box's id and secret as user and password."""
    ble_spool: Path = Field(default_factory=lambda: _state_folder() / "spool.sqlite")
    """The file that keeps readings until the gateway has them."""
    ble_spool_megabytes: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Maximum size of that file; when it is full, reading stops and nothing is dropped."""
    ble_links: Annotated[int, Field(ge=1, le=64)] = 4
    """Simultaneous connections: as many as the adapter can hold."""
    ble_adapter: Annotated[str, _like(r"hci[0-9]{1,3}", "hci0")] = ""
    """One of several adapters under BlueZ; empty: the default one."""
    ble_radio: Annotated[str, _like(r"tcp-client:[^\s:]+:[0-9]{1,5}", "tcp-client:HOST:PORT")] = ""
    """Empty: the machine's own radio. `tcp-client:HOST:PORT`: a virtual one, for trials and tests."""

    @property
    def edge_id(self) -> str:
        """The edge box's device id."""
        return unquote(urlsplit(self.mqtt_url).username or "")


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
