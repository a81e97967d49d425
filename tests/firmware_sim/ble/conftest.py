"""A radio of its own for each test."""

from collections.abc import AsyncIterator

import pytest

from firmware_sim.ble.backend import Central
from firmware_sim.ble.radio import VirtualRadio


@pytest.fixture
async def radio() -> AsyncIterator[VirtualRadio]:
    radio = VirtualRadio()
    yield radio
    await radio.close()


@pytest.fixture
async def central(radio: VirtualRadio) -> Central:
    return await radio.central("edge")
