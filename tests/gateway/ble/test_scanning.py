"""Listening for advertisements while the radio goes away."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from firmware_sim.ble.hci_tcp import serve_hci, tcp_backend
from firmware_sim.ble.radio import VirtualRadio
from gateway.ble import scanning
from gateway.ble.link import Radio
from gateway.ble.scanning import keep_scanning


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_radio_that_is_gone_is_noticed_and_keeps_nobody_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, noticed: bool
) -> None:
    monkeypatch.setattr(scanning, "SILENT_S", 0.2 if noticed else 60.0)
    monkeypatch.setattr(scanning, "RETRY_S", 0.1)
    air = VirtualRadio()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        port = await server.enter_async_context(serve_hci(air))
        central = await stack.enter_async_context(tcp_backend(f"tcp-client:127.0.0.1:{port}"))
        radio = Radio(central.scanner_backend, central.client_backend)
        listening = asyncio.create_task(keep_scanning(radio, lambda _found, _said: None))
        await asyncio.sleep(0.3)
        await server.aclose()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            while noticed and "no radio" not in caplog.text:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.1)
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
        assert listening.cancelled()
    await air.close()
