"""The virtual radio for other processes: HCI, the protocol between a host and its controller, over TCP.

The process with the simulated devices runs `serve_hci`; each connection to it is a controller on its radio. The other
process passes the types of `tcp_backend` to bleak.
"""

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bumble.device import DeviceConfiguration
from bumble.hci import Address
from bumble.host import Host
from bumble.keys import JsonKeyStore
from bumble.transport import open_transport
from bumble.transport.common import StreamPacketSource, TransportLostError, TransportSink, TransportSource

from firmware_sim.ble.backend import Central, SteadyDevice
from firmware_sim.ble.controller import RadioController
from firmware_sim.ble.radio import VirtualRadio

log = logging.getLogger(__name__)

# A host that was stopped (SIGSTOP) reads nothing while the devices keep notifying: it leaves the air before the packets
# queued for it fill our memory.
MAX_UNREAD_BYTES = 1 << 20
_SEND_BUFFER_BYTES = 64 << 10  # of the kernel, which would otherwise take several MB before we noticed


@asynccontextmanager
async def serve_hci(radio: VirtualRadio, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Give each TCP connection a controller on the radio while it lasts; yields the port.

    When a connection ends, in whatever way, the peers of its controller see a supervision timeout. Any number of hosts
    may be connected at once.
    """
    served: set[_ServedController] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _ServedController(radio, served), host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for controller in list(served):
            controller.leave()
        await server.wait_closed()


class _ServedController(StreamPacketSource):
    """A connection and the controller behind it."""

    def __init__(self, radio: VirtualRadio, served: "set[_ServedController]") -> None:
        super().__init__()
        self._radio = radio
        self._served = served
        self._transport: asyncio.Transport | None = None
        self._controller: RadioController | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  create_server makes no other
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._transport = transport
        name = "{}:{}".format(*transport.get_extra_info("peername")[:2])
        self._controller = RadioController(name, self._radio.link, host_source=self, host_sink=self)
        self._served.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        log.debug("the host of a controller is gone: %s", exc or "it closed the connection")
        self.leave()

    def on_packet(self, packet: bytes) -> None:
        """Send a packet of the controller to its host."""
        if self._transport is None:
            return
        self._transport.write(packet)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            log.warning("a host does not read what its controller sends")
            self.leave()

    def leave(self) -> None:
        """Take the controller off the air; its peers see their supervision timeouts."""
        if self._transport is None or self._controller is None:
            return
        self._transport.abort()
        self._transport = None
        self._controller.drop_links()
        self._radio.link.remove_controller(self._controller)
        self._served.discard(self)


@asynccontextmanager
async def tcp_backend(transport: str, keys: Path | None = None) -> AsyncIterator[Central]:
    """Return a central on the controller at `transport`, for example `tcp-client:127.0.0.1:9000`.

    `keys`: the file for its bonds and its own address; without it, it is a new adapter each time. When the connection
    to the controller is lost, links end and everything afterwards is a BleakError, as when an adapter is pulled out.
    """
    async with await open_transport(transport) as opened:
        address = _own_address(keys)
        configuration = DeviceConfiguration(name="central", address=address, irk=(bytes(address) * 3)[:16])
        sink = _LosableSink(opened.source, opened.sink)
        device = SteadyDevice(config=configuration, host=Host(opened.source, sink))
        if keys is not None:
            device.keystore = JsonKeyStore(str(address), str(keys))
        await device.power_on()
        try:
            yield Central(device)
        finally:
            if not opened.source.terminated.done():
                await device.power_off()


class _LosableSink:
    """Refuses packets once the connection is gone; upstream would wait for their answers forever."""

    def __init__(self, source: TransportSource, sink: TransportSink) -> None:
        self._source = source
        self._sink = sink

    def on_packet(self, packet: bytes) -> None:
        """Send a packet of the host to its controller."""
        if self._source.terminated.done():
            raise TransportLostError("the connection to the controller is gone")
        self._sink.on_packet(packet)


def _own_address(keys: Path | None) -> Address:
    """Return the address with which the bonds in the file were made, otherwise a new static random one."""
    kept = json.loads(keys.read_bytes()) if keys is not None and keys.exists() else {}
    if kept:
        return Address(next(iter(kept)))
    octets = bytearray(secrets.token_bytes(6))
    octets[-1] |= 0xC0  # marks a random address as static (Core Specification, volume 6, part B, 1.3.2.1)
    return Address(bytes(octets))
