"""`vigil replay`: a recording on the wire with its own times, in any order, read back with the gateway's decoder."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from deploy.commands.replay import Order, messages_of, pieces_of, publish
from deploy.recordings import read_recording
from deploy.stack.embedded import MosquittoServer
from devices.batch import BatchBuilder, ObservationBatch
from devices.vocabulary import Flag
from firmware_sim.broker import Broker
from gateway.runtime import clock
from streaming.zones import ZoneHistory

HEADER = "time,code,value,unit,flags,patient"
SHANGHAI = ZoneHistory.of("Asia/Shanghai")
Replay = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str) -> Path:
        path = tmp_path / "night.csv"
        path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def vigil(
    database_url: str, mqtt_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Replay:
    """Run a command line; return exit code, stdout and stderr."""
    monkeypatch.setenv("VIGIL_DATABASE_URL", database_url)
    monkeypatch.setenv("VIGIL_MQTT_URL", mqtt_url)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def glucose_lines(count: int) -> list[str]:
    return [f"2026-11-01T{3 + i // 12:02}:{i % 12 * 5:02}:00,glucose,{5 + i / 10:.1f},mmol/L,," for i in range(count)]


@asynccontextmanager
async def listening(broker: MosquittoServer) -> AsyncIterator[list[bytes]]:
    """Collect what arrives on the device's telemetry topic."""
    received: list[bytes] = []

    async def listen() -> None:
        async for message in client.messages:
            received.append(message.payload)  # noqa: PERF401 - seen as they come

    async with Broker.from_url(broker.url).client() as client:
        await client.subscribe("vigil/v1/cgm-1/telemetry", qos=1)
        task = asyncio.create_task(listen())
        try:
            yield received
        finally:
            task.cancel()


def decoded(payloads: list[bytes]) -> ObservationBatch:
    builder = BatchBuilder()
    for number, payload in enumerate(payloads):
        head = builder.add_telemetry(number, 0, payload, None, clock.now_ms())
        assert (head.seq, head.oldest) == (-1, -1)
        assert abs(head.sent_at - clock.now_ms()) < 60_000
    batch = builder.finish()
    assert batch.refusals == []
    return batch


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("batch", [1, 7, 64])
async def test_every_reading_arrives_with_its_own_time(
    broker: MosquittoServer, recording: Callable[..., Path], order: Order, batch: int
) -> None:
    path = recording(*glucose_lines(40), "2026-11-01T03:02:00,glucose,,mg/dL,below_range,")
    series = read_recording(path, SHANGHAI).series
    messages = messages_of(pieces_of(series, batch), batch, order, seed=3)
    async with listening(broker) as received:
        await publish(Broker.from_url(broker.url), "cgm-1", messages)
        async with asyncio.timeout(10):
            while len(received) < len(messages):  # noqa: ASYNC110 - what arrives has no event
                await asyncio.sleep(0.01)
    found = decoded(received)
    assert len(found) == 41
    assert len(received) == -(-41 // batch)
    at = found.at.tolist()
    assert sorted(at) == series[0].at.tolist()
    assert (at == sorted(at)) == (order is Order.OLDEST)
    assert (at == sorted(at, reverse=True)) == (order is Order.NEWEST)
    low = found.flags == Flag.BELOW_RANGE
    assert low.sum() == 1
    assert found.at[low][0] == 1_793_473_320_000  # 03:02 in Shanghai


def test_consecutive_intervals_stay_one_run_and_gaps_end_it(recording: Callable[..., Path]) -> None:
    beats, at = [], 0
    for index in range(100):
        at += 800 + index
        if index == 60:
            at += 5_000
        beats.append(f"2026-11-01T03:{at // 60_000:02}:{at % 60_000 / 1000:06.3f},rr_interval,{800 + index},ms,,")
    series = read_recording(recording(*beats), SHANGHAI).series
    pieces = pieces_of(series, 64)
    assert [piece.readings for piece in pieces] == [60, 40]
    assert pieces[1].at_ms - pieces[0].at_ms == sum(range(801, 861)) + 5_000
    assert [piece.readings for piece in pieces_of(series, 25)] == [25, 25, 10, 25, 15]
    message_sizes = [sum(piece.readings for piece in message) for message in messages_of(pieces, 64, Order.OLDEST, 1)]
    assert message_sizes == [60, 40]


def test_shuffling_follows_the_seed(recording: Callable[..., Path]) -> None:
    pieces = pieces_of(read_recording(recording(*glucose_lines(30)), SHANGHAI).series, 5)
    one, same, other = (messages_of(pieces, 5, Order.SHUFFLED, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_the_command_finds_the_wearers_zone_and_counts(vigil: Replay, recording: Callable[..., Path]) -> None:
    path = recording(*glucose_lines(30), "2026-11-01T02:00:00,glucose,99,mmol/L,,", glucose_lines(1)[0])
    patient = json.loads(vigil("patient", "add", "--name", "Ana", "--timezone", "Asia/Shanghai", "--json")[1])["id"]
    vigil("device", "add", "--id", "cgm-1", "--model", "cgm", "--patient", patient, "--from", "2010-01-01T00:00Z")
    code, out, err = vigil("replay", path, "--device", "cgm-1", "--batch", 10, "--twice", "--json")
    assert code == 0
    told: dict[str, Any] = json.loads(out)
    assert told == {"messages": 6, "readings": 60, "skipped": {"implausible": 1, "repeated time stamp": 1}}
    assert "skipped 1 rows: implausible" in err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--device", "nobody"), 1, "there is no device nobody"),
        (("--device", "cgm-1"), 1, "no wearer"),
        (("--device", "cgm-1", "--timezone", "Mars/Base"), 2, "not an IANA time zone"),
        (("--device", "a/b", "--timezone", "UTC"), 2, "not a device id"),
        (("--device", "cgm-1", "--timezone", "UTC", "--patient", "zoe"), 1, "no patient zoe"),
        (("--device", "cgm-1", "--timezone", "UTC"), 1, "of 2 patients"),
        (("--device", "cgm-1", "--timezone", "UTC", "--batch", "65"), 2, "64"),
    ],
)
def test_what_cannot_be_published_is_said(
    vigil: Replay, recording: Callable[..., Path], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    path = recording("2026-11-01T03:00:00,glucose,5,mmol/L,,a", "2026-11-01T03:00:00,glucose,5,mmol/L,,b")
    vigil("device", "add", "--id", "cgm-1", "--model", "cgm")
    ended, _, err = vigil("replay", path, *arguments)
    assert ended == code
    assert sentence in " ".join(err.replace("│", " ").split())


def test_without_a_database_the_zone_has_to_be_said(
    mqtt_url: str, recording: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VIGIL_DATABASE_URL", raising=False)
    monkeypatch.setenv("VIGIL_MQTT_URL", mqtt_url)
    path = str(recording(*glucose_lines(3)))
    for arguments, code in ((["--timezone", "UTC"], 0), ([], 2)):
        with pytest.raises(SystemExit) as ended:
            main(["replay", path, "--device", "cgm-1", *arguments])
        assert (ended.value.code or 0) == code
    assert "without --timezone" in capsys.readouterr().err
