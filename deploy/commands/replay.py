"""`vigil replay`: recorded readings over MQTT, with their own time stamps."""

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import psycopg
import typer
from rich.console import Console
from rich.progress import Progress

from deploy.moved_clock import refuse_moved_clock
from deploy.output import tell
from deploy.recordings import RecordedSeries, Recording, RecordingError, read_recording
from deploy.settings import BrokerSettings, DatabaseSettings, SettingsError, load_settings
from devices.encode import encode_telemetry
from devices.messages import Series
from devices.vocabulary import DEVICE_ID, MAX_SERIES, Code, Flag, Topic, Unit, topic
from firmware_sim.broker import Broker
from gateway.clinic.directory import load_directory
from gateway.runtime import clock
from streaming.zones import ZoneHistory

JOINED_WITHIN_MS = 50
"""RR intervals are consecutive if their times meet within this."""
IN_FLIGHT = 256
"""Messages published and not acknowledged yet."""


class Order(StrEnum):
    """The order in which readings are published."""

    OLDEST = "oldest"
    NEWEST = "newest"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class Piece:
    """Published together: one reading, or consecutive RR intervals."""

    at_ms: int
    series: Series
    readings: int


class ReplayError(Exception):
    """The recording cannot be published for this device; says why."""


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False, help="The recording.")],
    device_id: Annotated[str, typer.Option("--device", metavar="ID", help="The device to publish it as.")],
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Zone of times without offset; the wearer's if not given.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whom to publish, if the recording has several patients.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=MAX_SERIES, help="Readings a message.")] = 50,
    order: Annotated[Order, typer.Option(help="Which readings come first.")] = Order.OLDEST,
    seed: Annotated[int, typer.Option(help="For --order shuffled.")] = 1,
    *,
    twice: Annotated[bool, typer.Option("--twice", help="Send every message twice.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish recorded readings with their own times, as the device would have; return when the broker has them all.

    The messages carry no seq, so the receipts of the real device stay as they are.
    """
    if not DEVICE_ID.match(device_id):
        raise typer.BadParameter(f"{device_id!r} is not a device id", param_hint="--device")
    settings = load_settings(BrokerSettings)
    try:
        broker = Broker.from_url(settings.mqtt_url, settings.mqtt_ca_file)
    except (ValueError, OSError) as error:
        raise SettingsError(f"VIGIL_MQTT_URL: {error}") from error
    try:
        zone = _zone(timezone) if timezone is not None else asyncio.run(_wearers_zone(device_id))
        recording = read_recording(file, zone)
        messages = messages_of(pieces_of(_chosen(recording, patient), batch), batch, order, seed)
    except (RecordingError, ReplayError) as error:
        typer.echo(f"vigil: {error}", err=True)
        raise typer.Exit(1) from error
    for reason, rows in recording.skipped.items():
        typer.echo(f"skipped {rows} rows: {reason}", err=True)
    if twice:
        messages = [message for message in messages for _ in range(2)]
    asyncio.run(_publish_with_bar(broker, device_id, messages))
    readings = sum(piece.readings for message in messages for piece in message)
    answer = {"messages": len(messages), "readings": readings, "skipped": recording.skipped}
    tell(answer, f"published {readings} readings in {len(messages)} messages", as_json=as_json)


def pieces_of(series: Sequence[RecordedSeries], largest: int) -> list[Piece]:
    """Return the recording in pieces that can be published in any order; runs of RR have up to `largest` intervals."""
    pieces = []
    for one in series:
        pieces += list(_runs(one, largest)) if one.code is Code.RR_INTERVAL else list(_readings(one))
    return pieces


def messages_of(pieces: Sequence[Piece], batch: int, order: Order, seed: int) -> list[list[Piece]]:
    """Return pieces in messages of at most `batch` readings, in the requested order."""
    ordered = sorted(pieces, key=lambda piece: piece.at_ms, reverse=order is Order.NEWEST)
    if order is Order.SHUFFLED:
        random.Random(seed).shuffle(ordered)  # noqa: S311 - an order, not a secret
    messages: list[list[Piece]] = []
    room = 0
    for piece in ordered:
        if piece.readings > room:
            messages.append([])
            room = batch
        messages[-1].append(piece)
        room -= piece.readings
    return messages


async def publish(
    broker: Broker,
    device_id: str,
    messages: Sequence[Sequence[Piece]],
    on_acknowledged: Callable[[], None] = lambda: None,
) -> None:
    """Publish the messages in their order and wait until the broker has acknowledged all of them (aiomqtt.MqttError)."""
    room = asyncio.Semaphore(IN_FLIGHT)
    destination = topic(device_id, Topic.TELEMETRY)

    async def send(payload: bytes) -> None:
        try:
            await client.publish(destination, payload, qos=1)
        finally:
            room.release()
        on_acknowledged()

    async with broker.client(window=IN_FLIGHT, timeout=60.0) as client:
        try:
            async with asyncio.TaskGroup() as tasks:
                for message in messages:
                    await room.acquire()
                    series = [piece.series for piece in message]
                    tasks.create_task(send(encode_telemetry(series, sent_at=clock.now_ms())))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


async def _publish_with_bar(broker: Broker, device_id: str, messages: Sequence[Sequence[Piece]]) -> None:
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("published", total=len(messages))
        await publish(broker, device_id, messages, lambda: progress.advance(bar))


async def _wearers_zone(device_id: str) -> ZoneHistory:
    """Return the zones of the device's wearer, from the database."""
    try:
        settings = load_settings(DatabaseSettings)
    except SettingsError as error:
        raise SettingsError(f"without --timezone the wearer's zone is looked up: {error}") from error
    refuse_moved_clock(settings.database_url)
    async with await psycopg.AsyncConnection.connect(settings.database_url, autocommit=True) as connection:
        directory = await load_directory(connection)
    key = directory.keys.get(device_id)
    if key is None:
        raise ReplayError(f"there is no device {device_id}")
    zones = {directory.zone(worn.patient_id) for worn in directory.assignments.get(key, ())}
    if len(zones) != 1:
        wearers = "wearers who live in different zones" if zones else "no wearer"
        raise ReplayError(f"device {device_id} has {wearers}: say --timezone")
    return zones.pop()


def _zone(name: str) -> ZoneHistory:
    try:
        return ZoneHistory.of(ZoneInfo(name))
    except (KeyError, OSError, ValueError) as error:
        raise typer.BadParameter(f"{name!r} is not an IANA time zone", param_hint="--timezone") from error


def _chosen(recording: Recording, patient: str | None) -> list[RecordedSeries]:
    """Return the series of one person: a device has one wearer."""
    names = sorted({series.patient for series in recording.series})
    if patient is None and len(names) > 1:
        raise ReplayError(f"the recording is of {len(names)} patients; choose one with --patient: {', '.join(names)}")
    if patient is not None and patient not in names:
        raise ReplayError(f"the recording has no patient {patient}")
    return [series for series in recording.series if patient in {None, series.patient}]


def _readings(series: RecordedSeries) -> Iterator[Piece]:
    rows = zip(series.at.tolist(), series.value.tolist(), series.unit.tolist(), series.flags.tolist(), strict=True)
    for at, value, unit, flags in rows:
        number = None if math.isnan(value) else value  # LO or HI without a number
        one = Series(code=series.code.wire, unit=Unit(unit).ucum, at=at, value=number, flags=Flag(flags).wire)
        yield Piece(at, one, 1)


def _runs(series: RecordedSeries, largest: int) -> Iterator[Piece]:
    """Join RR intervals whose times meet: the next beat is one interval after this one."""
    unit_ms = [1000.0 if unit == Unit.S else 1.0 for unit in series.unit.tolist()]
    run: list[float | None] = []
    head = (0, 0, 0)
    ends_ms = 0.0
    rows = zip(series.at.tolist(), series.value.tolist(), series.unit.tolist(), series.flags.tolist(), strict=True)
    for (at, value, unit, flags), factor in zip(rows, unit_ms, strict=True):
        follows = abs(ends_ms + value * factor - at) <= JOINED_WITHIN_MS and (unit, flags) == head[1:]
        if run and (not follows or len(run) == largest):
            yield _run(series.code, head, run)
            run = []
        if not run:
            head, ends_ms = (at, unit, flags), float(at)
        else:
            ends_ms += value * factor
        run.append(value)
    if run:
        yield _run(series.code, head, run)


def _run(code: Code, head: tuple[int, int, int], intervals: list[float | None]) -> Piece:
    at, unit, flags = head
    one = Series(code=code.wire, unit=Unit(unit).ucum, at=at, values=intervals, flags=Flag(flags).wire)
    return Piece(at, one, len(intervals))
