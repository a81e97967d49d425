"""`vigil bench`: the benchmarks, each beside its reference in the same run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.bench.clinic import Servers
from deploy.bench.detect import run as run_detect
from deploy.bench.errors import BenchError
from deploy.bench.report import Line, table
from deploy.bench.suite import Size, run_suite
from deploy.migrate import migrate
from deploy.moved_clock import refuse_moved_clock
from deploy.settings import CommonSettings, Settings, load_settings
from deploy.stack.embedded import temporary_stack
from deploy.stack.packages import Report
from gateway.runtime import clock

bench = typer.Typer(
    help="The benchmarks, each beside its reference in the same run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_USUAL = Size()


class _Given(CommonSettings):
    """The named servers: both or none; without them a stack of our own is started and thrown away."""

    database_url: str | None = None
    mqtt_url: str | None = None


@bench.command()
def ingest(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side, in turn; medians count.")] = _USUAL.runs,
    messages: Annotated[int, typer.Option(min=2, help="Messages in a run of `ingest`.")] = _USUAL.messages,
    devices: Annotated[int, typer.Option(min=4, max=10_000, help="Devices, each with a patient.")] = _USUAL.devices,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Measure the way of a message: ingest, samples, visible, alert_latency.

    With VIGIL_DATABASE_URL and VIGIL_MQTT_URL those servers are measured, and the benchmark's patients stay in that
    database: take one that nobody needs, and let no other gateway run on it.
    """
    size = Size(
        runs=runs,
        messages=messages,
        devices=devices,
        sample_messages=min(_USUAL.sample_messages, messages),
        visible_messages=min(_USUAL.visible_messages, messages),
    )
    _measure(size.steps, lambda servers, step: run_suite(servers, size, step), as_json=as_json)


@bench.command()
def detect(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side, in turn; medians count.")] = 3,
    patients: Annotated[int, typer.Option(min=100, max=100_000, help="Patients, each with a sensor.")] = 10_000,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Measure the rules: glucose_step, glucose_step_all_rules, memory, hydrate.

    With VIGIL_DATABASE_URL and VIGIL_MQTT_URL that database is used: it must be empty, and is not afterwards.
    """
    steps = 3 * runs + 1
    _measure(steps, lambda servers, step: run_detect(servers.database_url, patients, runs, step), as_json=as_json)


def _measure(steps: int, lines_of: Callable[[Servers, Callable[[], None]], Iterable[Line]], *, as_json: bool) -> None:
    """Start servers, measure, and print each line as soon as it is known, or all of them as a table."""
    lines: list[Line] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting the servers", total=steps)
            with _servers(lambda text: progress.update(task, description=text)) as servers:
                progress.update(task, description="measuring")
                for line in lines_of(servers, lambda: progress.advance(task)):
                    lines.append(line)
                    if as_json:
                        typer.echo(line.json())
    except BenchError as error:
        typer.echo(f"vigil: {error}", err=True)
        raise typer.Exit(1) from None
    if not as_json:
        Console().print(table(lines))


@contextmanager
def _servers(report: Report) -> Iterator[Servers]:
    given = load_settings(_Given)
    if given.database_url or given.mqtt_url:
        settings = load_settings(Settings)
        refuse_moved_clock(settings.database_url)
        ca_file = None if settings.mqtt_ca_file is None else str(settings.mqtt_ca_file)
        yield Servers(settings.database_url, settings.mqtt_url, ca_file)
        return
    with temporary_stack(report) as stack:
        migrate(stack.postgres.url, clock.now())
        yield Servers(stack.postgres.url, stack.mosquitto.url, stack=stack)
