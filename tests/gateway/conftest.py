"""A real gateway process between a real broker and a real database, and the people it watches."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.clinic import Clinic, open_clinic
from tests.gateway.processes import GatewayProcess

MakeGateway = Callable[..., GatewayProcess]


@pytest.fixture
async def clinic(database_url: str) -> AsyncIterator[Clinic]:
    async with open_clinic(database_url) as clinic:
        yield clinic


@pytest.fixture
def gateway_process(tmp_path: Path) -> Iterator[MakeGateway]:
    """Make gateways: `gateway_process(database_url, mqtt_url, **settings)`; killed at the end of the test."""
    made: list[GatewayProcess] = []

    def make(database_url: str, mqtt_url: str, **settings: str) -> GatewayProcess:
        made.append(GatewayProcess(tmp_path, database_url, mqtt_url, **settings))
        return made[-1]

    yield make
    for gateway in made:
        if gateway.running:
            gateway.kill()


@pytest.fixture
async def gateway(gateway_process: MakeGateway, database_url: str, mqtt_url: str) -> GatewayProcess:
    """A gateway that is connected."""
    return await gateway_process(database_url, mqtt_url).start()
