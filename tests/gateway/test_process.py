"""The process among its peers: standing by, taking over, waiting for a database, failing clearly, speaking TLS."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.migrate import migrate
from deploy.stack.embedded import MosquittoServer, PostgresServer, temporary_folder, temporary_postgres
from deploy.stack.processes import free_port, give_to_server
from gateway.runtime import clock
from tests.gateway.clinic import Clinic, open_clinic
from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import CONNECTED, GatewayProcess, until
from tests.gateway.wire import Outgoing, publish, telemetry

STANDING_BY = "another gateway is active; standing by"


def readings(device: str, count: int, first: int = 1) -> list[Outgoing]:
    now = clock.now_ms() - 3_600_000
    return [
        telemetry(device, [{"code": "heart_rate", "unit": "/min", "at": now + seq, "value": 60}], seq=seq)
        for seq in range(first, first + count)
    ]


async def test_a_second_gateway_stands_by_and_takes_over(
    gateway: GatewayProcess, gateway_process: MakeGateway, clinic: Clinic, database_url: str, mqtt_url: str
) -> None:
    await clinic.wearer("band")
    second = gateway_process(database_url, mqtt_url)
    second.launch()
    await second.until_said(STANDING_BY)
    await publish(mqtt_url, readings("band", 10))
    await until(lambda: _stored(clinic, 10))
    assert second.count(CONNECTED) == 0
    gateway.kill()
    await publish(mqtt_url, readings("band", 10, 11))
    await second.until_said(CONNECTED, within_s=20)
    await until(lambda: _stored(clinic, 20))
    await until(lambda: _receipt(clinic, "band", 20))
    assert second.stop() == 0


async def test_a_gateway_that_stands_by_stops_when_told(
    gateway: GatewayProcess, gateway_process: MakeGateway, database_url: str, mqtt_url: str
) -> None:
    second = gateway_process(database_url, mqtt_url)
    second.launch()
    await second.until_said(STANDING_BY)
    assert second.stop() == 0
    assert gateway.running
    assert gateway.stop() == 0


async def test_one_whose_lock_is_taken_away_starts_over_and_loses_nothing(
    gateway: GatewayProcess, clinic: Clinic, stack_superuser: str, mqtt_url: str
) -> None:
    await clinic.wearer("band")
    await publish(mqtt_url, readings("band", 10))
    await until(lambda: _stored(clinic, 10))
    async with open_clinic(stack_superuser) as superuser:
        await superuser.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'vigil gateway lock'"
            " and datname = %s",
            clinic.connection.info.dbname,
        )
    await publish(mqtt_url, readings("band", 10, 11))
    await gateway.until_said("lost the lock; starting over", within_s=20)
    await gateway.until_said(CONNECTED, times=2)
    await publish(mqtt_url, readings("band", 10, 21))
    await until(lambda: _receipt(clinic, "band", 30))
    assert await clinic.stored() == 30
    assert gateway.stop() == 0


@pytest.fixture
def stack_superuser(stack: object) -> str:
    return str(stack.postgres.superuser_url())  # type: ignore[attr-defined]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with temporary_folder() as folder, temporary_postgres(folder) as server:
        migrate(server.url, clock.now())
        yield server


async def test_while_the_database_is_away_the_broker_holds(
    postgres: PostgresServer, mqtt_url: str, gateway_process: MakeGateway
) -> None:
    async with open_clinic(postgres.url) as clinic:
        await clinic.wearer("band")
    gateway = await gateway_process(postgres.url, mqtt_url).start()
    await publish(mqtt_url, readings("band", 5))
    postgres.kill()
    await publish(mqtt_url, readings("band", 500, 6))
    await asyncio.sleep(2)
    assert gateway.running
    postgres.start()
    async with open_clinic(postgres.url) as clinic:
        await until(lambda: _stored(clinic, 505))
        await until(lambda: _receipt(clinic, "band", 505))
    assert any(str(line["event"]).startswith("the database is away") for line in gateway.log())
    assert gateway.stop() == 0


async def test_it_may_start_before_its_database_and_its_broker(
    postgres: PostgresServer, broker: MosquittoServer, gateway_process: MakeGateway
) -> None:
    if clock.OFFSET_MS:
        pytest.skip("with a moved clock a program asks its store first")
    async with open_clinic(postgres.url) as clinic:
        await clinic.wearer("band")
    postgres.stop()
    broker.stop()
    gateway = gateway_process(postgres.url, broker.url)
    gateway.launch()
    await gateway.until_said("the database is away; waiting for it")
    postgres.start()
    await gateway.until_said("no broker")
    broker.start()
    await gateway.until_said(CONNECTED)
    await publish(broker.url, readings("band", 3))
    async with open_clinic(postgres.url) as clinic:
        await until(lambda: _receipt(clinic, "band", 3))
    assert gateway.stop() == 0


async def test_a_wrong_broker_password_says_so(
    gateway_process: MakeGateway, database_url: str, broker: MosquittoServer
) -> None:
    gateway = gateway_process(database_url, f"mqtt://vigil:wrong-secret@127.0.0.1:{broker.port}")
    gateway.launch()
    line = await gateway.until_said("no broker")
    assert line["level"] == "error"
    assert "refused the log-in" in line["cause"]
    assert "wrong-secret" not in gateway.log_file.read_text()
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VIGIL_MQTT_URL", "http://127.0.0.1", "VIGIL_MQTT_URL"),
        ("VIGIL_DATABASE_URL", "", "VIGIL_DATABASE_URL"),
        ("VIGIL_RECEIPT_INTERVAL_SECONDS", "0", "VIGIL_RECEIPT_INTERVAL_SECONDS"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    gateway_process: MakeGateway, database_url: str, name: str, value: str, says: str
) -> None:
    gateway = gateway_process(database_url, "mqtt://vigil:x@127.0.0.1:1")
    gateway.environment[name] = value
    gateway.launch()
    assert gateway.process is not None
    assert gateway.process.wait(30) == 2
    lines = gateway.log_file.read_text().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


# TLS


@pytest.fixture
def tls_broker(broker: MosquittoServer) -> tuple[MosquittoServer, int, Path]:
    """The broker with a second listener that speaks TLS, and the self-made CA to check it by."""
    folder = broker.folder
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(["openssl", "req", "-x509", *key, *files, *subject], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    for name in ("key.pem", "cert.pem"):
        give_to_server(folder / name)
    port = free_port()
    write = broker._prepare

    def prepare() -> None:
        write()
        with (folder / "mosquitto.conf").open("a") as config:
            config.write(f"\nlistener {port} 127.0.0.1\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n")

    broker._prepare = prepare  # type: ignore[method-assign]
    broker.restart()
    copy = folder.parent / "ca.pem"
    copy.write_bytes((folder / "cert.pem").read_bytes())
    copy.chmod(0o644)
    return broker, port, copy


async def test_over_tls_with_a_ca_of_ones_own(
    tls_broker: tuple[MosquittoServer, int, Path], gateway_process: MakeGateway, clinic: Clinic, database_url: str
) -> None:
    broker, port, ca = tls_broker
    await clinic.wearer("band")
    url = f"mqtts://vigil:{broker.password}@127.0.0.1:{port}"
    stranger = gateway_process(database_url, url)
    stranger.launch()
    line = await stranger.until_said("no broker")
    assert "certificate verify failed" in line["cause"].lower()
    stranger.kill()
    gateway = await gateway_process(database_url, url, mqtt_ca_file=str(ca)).start()
    await publish(broker.url, readings("band", 100))
    await until(lambda: _receipt(clinic, "band", 100))
    assert gateway.stop() == 0


async def _stored(clinic: Clinic, rows: int) -> bool:
    return await clinic.stored() >= rows


async def _receipt(clinic: Clinic, device: str, seq: int) -> bool:
    return (await clinic.receipts()).get(device) == seq
