"""The state of `vigil stack` between calls: a JSON file with ports, passwords and process ids, for its owner only."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from deploy.stack import mosquitto_config, postgres_config
from deploy.stack.embedded import new_password
from deploy.stack.errors import StateInvalid
from deploy.stack.processes import ProcessIdentity

FILE_NAME = "state.json"


class ServerState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One server: its port, the password of Vigil's account, and its process if we started one."""

    port: int | None = None
    password: str = msgspec.field(default_factory=new_password)
    process: ProcessIdentity | None = None


class StackState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A whole stack. Passwords are made once; ports stay unless something else has taken them."""

    kind: Literal["embedded", "compose"]
    servers: str
    """The folder of the servers' data."""
    database: ServerState = msgspec.field(default_factory=ServerState)
    broker: ServerState = msgspec.field(default_factory=ServerState)
    superuser_password: str = msgspec.field(default_factory=new_password)
    secret_key: str = msgspec.field(default_factory=new_password)

    def environment(self) -> dict[str, str]:
        """Return the settings that point Vigil's programs at this stack."""
        role, database = postgres_config.ROLE, postgres_config.DATABASE
        account = mosquitto_config.ACCOUNT
        return {
            "VIGIL_DATABASE_URL": f"postgresql://{role}:{self.database.password}@127.0.0.1:{self.database.port}/{database}",
            "VIGIL_MQTT_URL": f"mqtt://{account}:{self.broker.password}@127.0.0.1:{self.broker.port}",
            "VIGIL_SECRET_KEY": self.secret_key,
        }


def read_state(folder: Path) -> StackState | None:
    """Return the stack of a folder, None if it never had one. Raises StateInvalid."""
    path = folder / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StateInvalid(f"{path} cannot be read: {error}") from error


def write_state(folder: Path, state: StackState) -> None:
    """Replace the file atomically; nobody else may read it."""
    path = folder / FILE_NAME
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    fresh.replace(path)
