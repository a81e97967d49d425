"""`vigil ble`: the edge box, beside the bed; `vigil ble scan` and `vigil ble status` for whoever installs it.

It runs without the database driver, the web framework and numpy.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any
from urllib.request import urlopen

import aiomqtt
import typer
from prometheus_client.parser import text_string_to_metric_families

from deploy.broker import broker_address
from deploy.logs import configure_logs
from deploy.output import show, tell
from deploy.settings import BleSettings, SettingsError, load_settings
from devices.errors import PayloadError
from devices.roster import Roster, decode_roster
from devices.vocabulary import Topic, topic
from gateway.ble.link import RADIO_ERRORS, Radio
from gateway.ble.main import BleRunSettings, run_ble
from gateway.ble.scanning import Sighting, survey
from gateway.ble.spool import Spool, SpoolInUseError
from gateway.runtime import clock
from gateway.runtime.broker_address import Address, mqtt_client

ROSTER_WITHIN_S = 5.0
METRICS_WITHIN_S = 5.0

ble = typer.Typer(
    help="The edge box: reads Bluetooth devices for the gateway. Alone it works until it is told to stop.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@ble.callback(invoke_without_command=True)
def run(context: typer.Context) -> None:
    """Read the devices that are bound to this edge box, and hand what they say to the gateway."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(BleSettings)
    configure_logs(settings.log_level)
    configured = BleRunSettings(
        edge_id=settings.edge_id,
        broker=broker_address(settings),
        spool_path=settings.ble_spool,
        spool_bytes=settings.ble_spool_megabytes * 1024 * 1024,
        links=settings.ble_links,
        metrics_port=settings.metrics_port,
    )
    # Health data are private to this user.
    settings.ble_spool.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def work() -> None:
        async with _radio(settings) as radio:
            await run_ble(configured, radio)

    asyncio.run(work())


@ble.command()
def scan(
    seconds: Annotated[float, typer.Option(min=0.1, max=300, help="How long to listen.")] = 10.0,
    *,
    as_json: AsJson = False,
) -> None:
    """List who is near: address, name, services, signal, and which of them this edge box reads. Connects to nobody."""
    settings = load_settings(BleSettings)
    address = broker_address(settings)

    async def listen() -> list[dict[str, Any]]:
        async with _radio(settings) as radio:
            heard = await survey(radio, clock.now_ms, seconds)
        return _who(heard, await _roster(address, settings.edge_id))

    try:
        show(asyncio.run(listen()), as_json=as_json)
    except RADIO_ERRORS as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"vigil: there is no radio: {cause}\n")
        raise typer.Exit(1) from None


@ble.command()
def status(*, as_json: AsJson = False) -> None:
    """Show how the program does by its metrics, or what its spool holds while it does not run (exit code 1)."""
    settings = load_settings(BleSettings)
    path = settings.ble_spool
    if not path.exists():
        tell({"running": False, "spool": None}, f"not running, and there is no spool at {path} yet", as_json=as_json)
        raise typer.Exit(1)
    try:
        with Spool(path) as spool:
            items, waiting = _kept(spool), len(spool)
    except SpoolInUseError:
        metrics = _metrics(settings.metrics_port)
        lines = [f"{name} {value:g}" for name, value in metrics.items()]
        sentence = "\n".join(["running", *(lines or ["set VIGIL_METRICS_PORT to see more"])])
        tell({"running": True, "metrics": metrics}, sentence, as_json=as_json)
        return
    if not as_json:
        typer.echo(f"not running; messages that wait for their receipt: {waiting}")
    show(items, as_json=as_json, running=False, waiting=waiting)
    raise typer.Exit(1)


@asynccontextmanager
async def _radio(settings: BleSettings) -> AsyncIterator[Radio]:
    """Give the machine's radio, or the virtual one of the settings. Raises SettingsError if that does not exist."""
    if not settings.ble_radio:
        yield Radio(adapter=settings.ble_adapter or None)
        return
    from firmware_sim.ble.hci_tcp import tcp_backend  # noqa: PLC0415 - the extra `sim`, which no edge box has

    # A real adapter keeps its bonds and its address too.
    keys = settings.ble_spool.with_name("virtual-bonds.json")
    async with AsyncExitStack() as stack:
        try:
            central = await stack.enter_async_context(
                tcp_backend(settings.ble_radio, keys if keys.parent.is_dir() else None)
            )
        except OSError as error:
            raise SettingsError(f"VIGIL_BLE_RADIO: {error}") from error
        yield Radio(central.scanner_backend, central.client_backend)


async def _roster(address: Address, edge_id: str) -> Roster | None:
    """Return the edge box's roster from the broker; None, and a line on stderr, if it cannot be read."""
    try:
        async with mqtt_client(address, timeout=ROSTER_WITHIN_S) as client:
            await client.subscribe(topic(edge_id, Topic.ROSTER), qos=1)
            async with asyncio.timeout(ROSTER_WITHIN_S):
                message = await anext(client.messages)
            return decode_roster(message.payload)
    except (aiomqtt.MqttError, OSError, TimeoutError, PayloadError) as error:
        cause = str(error) or "the broker has no roster for it"
        sys.stderr.write(f"vigil: what is bound to this edge box is not known: {cause}\n")
        return None


def _who(heard: Sequence[Sighting], roster: Roster | None) -> list[dict[str, Any]]:
    """Return the devices heard, the strongest first, then devices of the roster that were not heard."""
    absent = {device.address: device.id for device in roster.devices} if roster else {}
    items: list[dict[str, Any]] = [
        {
            "address": one.address,
            "name": one.name,
            "rssi": one.rssi,
            "device": absent.pop(one.address, None),
            "services": list(one.services),
        }
        for one in heard
    ]
    items += (
        {"address": address, "name": None, "rssi": None, "device": name, "services": []}
        for address, name in absent.items()
    )
    return items


def _kept(spool: Spool) -> list[dict[str, Any]]:
    """Return the spool's state for each device: for each of its streams, the key up to which the gateway has it."""
    payload = spool.roster()
    devices = decode_roster(payload).devices if payload else ()
    return [
        {
            "device": device.id,
            "model": device.model.value,
            "address": device.address,
            "committed": {stream: spool.committed(device.id, stream) for stream in spool.streams(device.id)},
        }
        for device in devices
    ]


def _metrics(port: int) -> dict[str, float]:
    """Return the running program's metrics by name with labels; empty without a port."""
    if not port:
        return {}
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=METRICS_WITHIN_S) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("vigil_") and not sample.name.endswith("_created")
    }
