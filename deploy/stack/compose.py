"""The database and the broker of deploy/compose.yaml, if a Docker engine answers."""

import hashlib
import json
import os
import subprocess
from importlib.resources import as_file, files
from pathlib import Path, PurePosixPath

from deploy.stack import mosquitto_config
from deploy.stack.errors import StackError
from deploy.stack.packages import Report
from deploy.stack.state import StackState

DATABASE_SERVICE = "database"
BROKER_SERVICE = "broker"
# Path inside the eclipse-mosquitto image.
BROKER_FOLDER = PurePosixPath("/mosquitto/data")
BROKER_PLUGIN = PurePosixPath("/usr/lib/mosquitto_dynamic_security.so")
BROKER_PORT = 1883
BROKER_USER = 1883
EVERYWHERE_INSIDE = "0.0.0.0"  # noqa: S104 - inside the container; compose publishes it on 127.0.0.1


def engine_answers() -> bool:
    """Return whether a Docker engine, not only its client, is here, and the compose plug-in with it."""
    return all(_succeeds(["docker", *command]) for command in (["info"], ["compose", "version"]))


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def write_broker_folder(folder: Path, password: str) -> None:
    """Write the files that the broker's container needs in its data folder; its accounts only if there are none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = mosquitto_config.config_files(
        port=BROKER_PORT, bind=EVERYWHERE_INSIDE, folder=BROKER_FOLDER, plugin=BROKER_PLUGIN
    )
    if not (folder / mosquitto_config.DYNAMIC_SECURITY_FILE).exists():
        contents[mosquitto_config.DYNAMIC_SECURITY_FILE] = mosquitto_config.first_dynamic_security(password)
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o600)
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, BROKER_USER, BROKER_USER)


def up(folder: Path, state: StackState, report: Report) -> None:
    """Start both services and wait until they are healthy. Raises StackError."""
    report("Starting TimescaleDB and Mosquitto with Docker")
    write_broker_folder(Path(state.servers) / "broker", state.broker.password)
    _compose(folder, state, "up", "--detach", "--wait", "--no-deps", DATABASE_SERVICE, BROKER_SERVICE)


def down(folder: Path, state: StackState) -> None:
    """Stop and remove both containers; their volumes stay."""
    _compose(folder, state, "down")


def running_services(folder: Path, state: StackState) -> set[str]:
    """Return the names of the services that run."""
    listed = _compose(folder, state, "ps", "--format", "json", "--status", "running")
    return {json.loads(line)["Service"] for line in listed.splitlines() if line.startswith("{")}


def _compose(folder: Path, state: StackState, *arguments: str) -> str:
    project = "vigil-" + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]
    environment = {
        "VIGIL_DATABASE_PASSWORD": state.database.password,
        "VIGIL_DATABASE_SUPERUSER_PASSWORD": state.superuser_password,
        "VIGIL_DATABASE_PORT": str(state.database.port),
        "VIGIL_MQTT_PASSWORD": state.broker.password,
        "VIGIL_MQTT_PORT": str(state.broker.port),
        "VIGIL_BROKER_FOLDER": str(Path(state.servers) / "broker"),
        "VIGIL_SECRET_KEY": state.secret_key,
    }
    with as_file(files("deploy").joinpath("compose.yaml")) as file:
        done = subprocess.run(
            ["docker", "compose", "--project-name", project, "--file", file, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise StackError(f"docker compose {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
