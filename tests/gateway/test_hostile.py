"""What hostile or broken devices send stops nobody, and their neighbours hardly notice."""

import asyncio
import json
from collections.abc import Iterator

import numpy as np

from gateway.runtime import clock
from tests.gateway.clinic import Clinic
from tests.gateway.processes import GatewayProcess, until
from tests.gateway.wire import Outgoing, client, publish, telemetry

RANDOM_STRINGS = 10_000
STRANGERS = 20
PROBES = 120
# Below this a p99 says more about the machine than about the gateway.
FLOOR_S = 0.05
WORSE_AT_MOST = 10


def random_strings(rng: np.random.Generator) -> Iterator[Outgoing]:
    """Bytes at random, some of which begin as messages do, on every topic of devices that exist."""
    beginnings = [b"", b"{", b'{"observations":[', b"\xa1", b"\xa2cseq\x01lobservations\x81", b'{"online":', b"\xbf"]
    for number in range(RANDOM_STRINGS):
        name = ("telemetry", "event", "status")[number % 3]
        body = beginnings[number % len(beginnings)] + rng.bytes(int(rng.integers(1, 300)))
        kind = (None, "application/json", "application/cbor", "text/html\u2028")[int(rng.integers(0, 4))]
        yield Outgoing(f"vigil/v1/stranger-{number % STRANGERS}/{name}", body, kind)


def bombs() -> list[Outgoing]:
    """Small bytes that would cost much, and many bytes that cost nothing but room."""
    topic = "vigil/v1/stranger-0/telemetry"
    now = clock.now_ms()
    million = {"code": "heart_rate", "unit": "/min", "at": now, "period_ms": 1, "values": [60] * 10**6}
    huge = json.dumps({"observations": [million | {"values": [6] * 500_000}]}, separators=(",", ":")).encode()
    return [
        Outgoing(topic, b'{"seq":1,"filler":"' + b"x" * 2**20 + b'","observations":[]}'),
        Outgoing(topic, json.dumps({"observations": [million]}, separators=(",", ":")).encode()[: 2**21 - 200]),
        Outgoing(topic, huge[: 2**20]),
        Outgoing(topic, b"\x81" * 60_000, "application/cbor"),
        Outgoing(topic, b"\xa1lobservations\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "application/cbor"),
        Outgoing(topic, b"\xa1lobservations\x5b\x00\x00\x00\xff\xff\xff\xff\xff", "application/cbor"),
        Outgoing(topic, b"\xd8\x1c\x9f" + b"\xd8\x1d\x00" * 20_000, "application/cbor"),
        Outgoing(topic, b"[" * 60_000, "application/json"),
        Outgoing(topic, b'{"observations":' + b"[" * 60_000, "application/json"),
        Outgoing(topic, b'{"seq":' + b"9" * 60_000 + b',"observations":[]}'),
        Outgoing(topic, b'{"observations":[{"code":"glucose","unit":"mmol/L","at":1e400,"value":5}]}'),
    ]


async def probe(mqtt_url: str, clinic: Clinic, device: str, enough: asyncio.Event | None = None) -> list[float]:
    """Publish one reading after the other; return seconds from publishing to visible for each.

    At least PROBES of them, and on until `enough` is set.
    """
    found: list[float] = []
    query = "select 1 from observation o join device d on d.key = o.device_key where d.id = %s and o.at = from_ms(%s)"
    async with client(mqtt_url) as connection:
        at = clock.now_ms() - 3_600_000
        while len(found) < PROBES or (enough is not None and not enough.is_set()):
            at += 1
            series = {"code": "heart_rate", "unit": "/min", "at": at, "value": 60}
            message = telemetry(device, [series])
            started = clock.monotonic()
            await connection.publish(message.topic, message.payload, qos=1)
            while not await clinic.value(query, device, at):
                await asyncio.sleep(0.001)
                assert clock.monotonic() - started < 30, "the neighbour's reading does not appear"
            found.append(clock.monotonic() - started)
            await asyncio.sleep(0.01)
    return found


async def test_hostile_messages_stop_nobody_and_hardly_slow_the_neighbours(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str
) -> None:
    await clinic.wearers(["quiet", "neighbour", *(f"stranger-{number}" for number in range(STRANGERS))])
    quiet = await probe(mqtt_url, clinic, "quiet")
    hostile = list(random_strings(np.random.default_rng(7)))
    for place, bomb in enumerate(bombs()):
        hostile.insert(500 * (place + 1), bomb)
    sent = asyncio.Event()

    async def attack() -> None:
        await publish(mqtt_url, hostile, messages_per_s=2_500, timeout_s=30)
        sent.set()

    async with asyncio.TaskGroup() as group:
        attacking = group.create_task(attack())
        disturbed = await probe(mqtt_url, clinic, "neighbour", sent)
        await attacking
    before, after = float(np.percentile(quiet, 99)), float(np.percentile(disturbed, 99))
    figures = f"publish to visible, p99: {before * 1000:.1f} ms alone, {after * 1000:.1f} ms under attack"
    assert after <= WORSE_AT_MOST * max(before, FLOOR_S), figures
    await until(lambda: _refused(clinic, len(hostile)))
    kept = await clinic.rows(
        "select payload_bytes, length(payload), octet_length(payload_sha256) from quarantine where reason = 'too_large'"
    )
    assert len(kept) >= 3
    assert {(length, digest) for _, length, digest in kept} == {(65_536, 32)}
    assert max(size for size, _, _ in kept) > 10**6
    assert await clinic.stored() == len(quiet) + len(disturbed)
    assert gateway.running
    assert gateway.stop() == 0


async def _refused(clinic: Clinic, count: int) -> bool:
    return int(await clinic.value("select coalesce(sum(refused), 0) from quarantine_count")) >= count
