"""`vigil stack`: the local TimescaleDB and Mosquitto."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.stack.compose import write_broker_folder
from deploy.stack.local import Kind, LocalStack

stack = typer.Typer(
    help="The local TimescaleDB and Mosquitto: with Docker where an engine answers, else unpacked from Debian's packages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Option("--dir", help="Folder of the stack's data and state.", file_okay=False)]
DatabasePort = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port of the database; a free one if not given.")
]
MqttPort = Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the broker; a free one if not given.")]
DEFAULT_FOLDER = Path(".vigil")


@stack.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    database_port: DatabasePort = None,
    mqtt_port: MqttPort = None,
    kind: Annotated[Kind | None, typer.Option(help="How to run the servers, if not the usual way here.")] = None,
) -> None:
    """Start the servers that do not run."""
    console = Console(stderr=True)
    with console.status("Looking for the servers") as line:
        started = LocalStack(folder).up(kind=kind, database_port=database_port, mqtt_port=mqtt_port, report=line.update)
    typer.echo(f"TimescaleDB on port {started.database.port}, Mosquitto on port {started.broker.port}.")
    where = "" if folder == DEFAULT_FOLDER else f" --dir {shlex.quote(str(folder))}"
    typer.echo(f'Settings for the other commands: eval "$(vigil stack env{where})"')


@stack.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """Stop the servers; the data stay."""
    typer.echo("stopped" if LocalStack(folder).down() else "nothing was running")


@stack.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show what runs; exit code 1 unless both servers do."""
    servers = LocalStack(folder).status()
    table = Table("server", "state", "port", "pid")
    for server in servers:
        pid = "" if server.pid is None else str(server.pid)
        table.add_row(server.name, "running" if server.running else "stopped", str(server.port), pid)
    if servers:
        Console().print(table)
    else:
        typer.echo(f"There is no stack in {folder}.")
    if not servers or not all(server.running for server in servers):
        raise typer.Exit(1)


@stack.command()
def env(folder: Folder = DEFAULT_FOLDER) -> None:
    """Print the settings for the other commands as shell lines."""
    for name, value in LocalStack(folder).environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@stack.command(hidden=True)
def broker_config(
    folder: Annotated[Path, typer.Argument(help="The broker's data folder, as mounted here.")],
    password: Annotated[str, typer.Option(envvar="VIGIL_MQTT_PASSWORD", help="Of the account vigil.")],
) -> None:
    """Write the configuration of the broker's container (deploy/compose.yaml runs this)."""
    write_broker_folder(folder, password)
