"""`vigil simulate`: a fleet of simulated devices, provisioned first."""

import asyncio
import math
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.moved_clock import refuse_moved_clock
from deploy.output import show, tell
from deploy.settings import Settings, SettingsError, load_settings
from deploy.simulated_clinic import provision
from firmware_sim.broker import Broker
from firmware_sim.fleet import Fleet, FleetSettings, TooManyDevices
from firmware_sim.fleet import Progress as FleetProgress
from firmware_sim.meter import Summary
from firmware_sim.plan import DevicePlan, PatientPlan
from firmware_sim.scenarios import Scenario, Start, patients
from gateway.clinic.broker_accounts import BrokerAccounts
from gateway.clinic.provisioning import Provisioning
from gateway.runtime import clock


def simulate(
    patient_count: Annotated[int, typer.Option("--patients", min=1, max=100_000, help="How many wearers.")] = 10,
    days: Annotated[float, typer.Option(min=0.0, max=400.0, help="Days of history sent before real time.")] = 1.0,
    speed: Annotated[
        str, typer.Option(metavar="N|max", help="History runs N times as fast as time; max: as fast as receipts come.")
    ] = "max",
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same people and devices.")] = 1,
    scenario: Annotated[Scenario, typer.Option(help="What happens to them.")] = Scenario.CLINIC,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop this long after the history, in real time; by default with Ctrl-C."),
    ] = None,
    *,
    report_lateness: Annotated[
        bool, typer.Option("--report-lateness", help="Also print how late messages left, and the memory used.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Provision patients, doses, wristbands and pill boxes, then have the devices live, over MQTT.

    Devices start --days ago, tell their history as ordinary messages, then go on in real time. Each run adds new
    patients and devices.
    """
    settings = load_settings(Settings)
    refuse_moved_clock(settings.database_url)
    try:
        broker = Broker.from_url(settings.mqtt_url, settings.mqtt_ca_file)
    except (ValueError, OSError) as error:
        raise SettingsError(f"VIGIL_MQTT_URL: {error}") from error
    start = new_start(days, seed)
    plans = patients(scenario, patient_count, start)
    fleet_settings = FleetSettings(history_from_ms=start.history_from_ms, speed=_speed(speed, days))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _bars() as bars:
        try:
            ran = runner.run(_simulate(settings, broker, plans, start, fleet_settings, seconds, bars))
        except TooManyDevices as error:
            raise typer.BadParameter(str(error), param_hint="--patients") from None
    _report(ran, scenario, start, as_json=as_json, lateness=report_lateness)


@dataclass(frozen=True, slots=True)
class Ran:
    """A fleet that ran, and the patients provisioned for it."""

    patient_ids: Sequence[int]
    plans: Sequence[PatientPlan]
    summary: Summary
    cpu_seconds: float


def new_start(days: float, seed: int) -> Start:
    """Return a start from now, with device ids that no earlier run has used."""
    now = clock.now_ms()
    return Start(now_ms=now, days=days, seed=seed, prefix=f"sim{seed}-{now // 100:x}")


async def _simulate(
    settings: Settings,
    broker: Broker,
    plans: Sequence[PatientPlan],
    start: Start,
    fleet_settings: FleetSettings,
    seconds: float | None,
    bars: "Bars",
) -> Ran:
    devices = [device for plan in plans for device in plan.devices]
    bars.begin(len(devices), history=start.days > 0)
    async with AsyncExitStack() as stack:
        ca_file = None if settings.mqtt_ca_file is None else str(settings.mqtt_ca_file)
        accounts = await stack.enter_async_context(BrokerAccounts.connect(settings.mqtt_url, ca_file))
        await accounts.ensure_device_role()
        connection = await psycopg.AsyncConnection.connect(settings.database_url, autocommit=True)
        await stack.enter_async_context(connection)
        provisioning = Provisioning(connection, accounts, datetime.fromtimestamp(start.now_ms / 1000, UTC))
        ids, secrets = await provision(provisioning, plans, start, bars.accounts)
    cpu = clock.cpu_seconds()
    summary = await run_fleet(devices, secrets, broker, fleet_settings, seconds, bars.fleet)
    return Ran(ids, plans, summary, clock.cpu_seconds() - cpu)


async def run_fleet(
    devices: Sequence[DevicePlan],
    secrets: Mapping[str, str],
    broker: Broker,
    settings: FleetSettings,
    seconds: float | None,
    on_progress: Callable[[FleetProgress], None],
) -> Summary:
    """Run a fleet to its end; SIGINT and SIGTERM end it in order, with its summary."""
    fleet = Fleet(devices, secrets, broker, settings, clock.now_ms, on_progress)
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, fleet.stop)
    try:
        return await fleet.run(seconds)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


class Bars:
    """Progress on stderr: accounts, connections, history, messages."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._accounts = progress.add_task("accounts", total=None, detail="")
        self._connections = progress.add_task("connections", total=None, start=False, detail="")
        self._history = progress.add_task("history", total=1.0, start=False, visible=False, detail="")

    def begin(self, devices: int, *, history: bool) -> None:
        """Say how many devices there will be."""
        self._progress.update(self._accounts, total=devices)
        self._progress.update(self._connections, total=devices)
        self._progress.update(self._history, visible=history)

    def accounts(self, more: int) -> None:
        """Count accounts made."""
        self._progress.advance(self._accounts, more)

    def fleet(self, now: FleetProgress) -> None:
        """Show the progress of the fleet."""
        detail = f"{now.messages} messages, {now.readings} readings, {now.waiting} without receipt"
        self._progress.start_task(self._connections)
        self._progress.update(self._connections, completed=now.connected, detail=detail)
        self._progress.start_task(self._history)
        self._progress.update(self._history, completed=now.history, detail=f"{now.live} devices live")


@contextmanager
def _bars() -> Iterator[Bars]:
    columns = (TextColumn("{task.description:>12}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    more = (TimeElapsedColumn(), TextColumn("{task.fields[detail]}"))
    with Progress(*columns, *more, console=Console(stderr=True)) as progress:
        yield Bars(progress)


def _speed(text: str, days: float) -> float:
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 1.0 <= speed < math.inf:
        raise typer.BadParameter(f"{text!r} is neither a number of at least 1 nor max", param_hint="--speed")
    if speed == 1.0 and days > 0:
        raise typer.BadParameter("at 1 × the history never reaches now", param_hint="--speed")
    return speed


def _report(ran: Ran, scenario: Scenario, start: Start, *, as_json: bool, lateness: bool) -> None:
    counts = {name: _plain(value) for name, value in asdict(ran.summary).items()}
    if not lateness:
        counts = {name: value for name, value in counts.items() if "lateness" not in name}
    else:
        counts |= {"cpu_seconds": round(ran.cpu_seconds, 2), "peak_memory_mib": _peak_memory_mib()}
    answer: dict[str, Any] = {"scenario": scenario.value, "seed": start.seed, "days": start.days, **counts}
    if as_json:
        wearers = [
            {"id": str(patient_id), "timezone": plan.timezone, "devices": [device.id for device in plan.devices]}
            for patient_id, plan in zip(ran.patient_ids, ran.plans, strict=True)
        ]
        tell({**answer, "patients": wearers}, "", as_json=True)
        return
    show([{"figure": name.replace("_", " "), "value": value} for name, value in answer.items()], as_json=False)


def _plain(value: float) -> float | None:
    """Return a figure for JSON: three decimals, None for NaN."""
    return None if math.isnan(value) else round(value, 3)


def _peak_memory_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
