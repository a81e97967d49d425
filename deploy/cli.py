"""The command `vigil`. A sub-command's module is imported only when it is called.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer

from deploy.extras import DISTRIBUTION, missing_extra


@dataclass(frozen=True, slots=True)
class Command:
    """The location of a sub-command: a Typer application or a function of that name in a module of deploy.commands."""

    module: str
    attribute: str
    summary: str

    def load(self) -> typer.Typer:
        """Import the module and return the sub-command as an application."""
        found: Any = getattr(import_module(f"deploy.commands.{self.module}"), self.attribute)
        if isinstance(found, typer.Typer):
            return found
        app = _application()
        app.command(help=found.__doc__ or self.summary)(found)
        return app


COMMANDS = {
    "stack": Command("stack", "stack", "The local TimescaleDB and Mosquitto: up, down, status, env."),
    "migrate": Command("migrate", "migrate", "Bring the database to the current schema."),
    "gateway": Command("gateway", "gateway", "The ingest process."),
    "worker": Command(
        "worker", "worker", "Deadlines, HRV nights, commands and rosters to devices; any number of them."
    ),
    "ble": Command("ble", "ble", "The edge box: reads Bluetooth devices for the gateway."),
    "api": Command("api", "api", "The HTTP API."),
    "simulate": Command("simulate", "simulate", "A fleet of simulated devices."),
    "replay": Command("replay", "replay", "Publish recorded readings over MQTT."),
    "backtest": Command("backtest", "backtest", "Run the rules over recorded or stored readings."),
    "bench": Command("bench", "bench", "The benchmarks, each beside its reference."),
    "demo": Command("demo", "demo", "A small clinic with everything running."),
    "patient": Command("patients", "patient", "Patients: add, list, rules, pauses, and more."),
    "device": Command("provisioning", "device", "Devices: add, assign, list, and more."),
    "dose": Command("provisioning", "dose", "Dose schedules: add, list."),
    "user": Command("provisioning", "user", "Users: add, list, disable."),
    "alerts": Command("alerts", "alerts", "The alerts, in the terminal."),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else ""
    try:
        if name in COMMANDS:
            COMMANDS[name].load()(given[1:], prog_name=f"vigil {name}")
        else:
            _overview()(given, prog_name="vigil")
    except Exception as error:
        failure = _expected_failure(error)
        if failure is None:
            raise
        code, sentence = failure
        sys.stderr.write(f"vigil: {sentence}\n")
        sys.exit(code)
    sys.exit(0)


def _application(help_text: str | None = None) -> typer.Typer:
    return typer.Typer(help=help_text, add_completion=False, pretty_exceptions_enable=False)


def _overview() -> typer.Typer:
    """Return the application for `vigil`, `vigil --help` and unknown commands: names and summaries, no imports."""
    app = _application("Keeps vigil over the wearers of wristbands and smart pill boxes.")

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        *,
        show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if show_version:
            typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())

    for name, command in COMMANDS.items():
        app.command(name, help=command.summary)(_placeholder())
    return app


def _placeholder() -> Callable[[], None]:
    def described_only() -> None:
        """Stand in the overview; `main` runs the real one."""

    return described_only


def _expected_failure(error: Exception) -> tuple[int, str] | None:
    """Return exit code and sentence for an expected failure; None for a defect, which deserves its traceback."""
    if isinstance(error, ModuleNotFoundError):
        sentence = missing_extra(error)
        return (1, sentence) if sentence else None
    kinds = {
        ("deploy.settings", "SettingsError"): 2,
        ("deploy.stack.errors", "StackError"): 1,
        ("deploy.migrate", "MigrationError"): 1,
        ("deploy.moved_clock", "MovedClock"): 2,
        ("gateway.clinic.broker_accounts", "BrokerAccountError"): 1,
        ("psycopg", "OperationalError"): 1,
        ("aiomqtt", "MqttError"): 1,
        ("gateway.ble.spool_file", "SpoolError"): 1,
    }
    for (module, kind), code in kinds.items():
        # A module that was never imported cannot have raised.
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], kind)):
            return code, " ".join(str(error).split()) if kind != "StackError" else str(error)
    return None
