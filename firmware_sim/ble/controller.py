"""Virtual Bluetooth controllers, the air between them, and faults on request.

Written against bumble 0.0.236; each override names the upstream behaviour that it corrects.
"""

import asyncio
from collections.abc import Iterator

from bumble.controller import AdvertisingSet, Controller, LegacyAdvertiser
from bumble.core import PhysicalTransport
from bumble.hci import (
    Address,
    HCI_AclDataPacket,
    HCI_Command,
    HCI_ErrorCode,
    HCI_LE_Connection_Complete_Event,
    HCI_LE_Create_Connection_Cancel_Command,
    HCI_LE_Extended_Advertising_Report_Event,
    HCI_Packet,
    HCI_StatusReturnParameters,
    Role,
)
from bumble.link import LocalLink
from bumble.ll import AdvertisingPdu, ConnectInd
from bumble.transport.common import TransportSink, TransportSource

_SCAN_RESPONSE = HCI_LE_Extended_Advertising_Report_Event.EventType.SCAN_RESPONSE
Advertiser = AdvertisingSet | LegacyAdvertiser


class RadioLink(LocalLink):
    """Carries PDUs from one controller to the others.

    `radios`: the controllers, in the order in which they joined; upstream's set would have another order in every run.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # has no annotations
        self.radios: list[RadioController] = []

    def remove_controller(self, controller: Controller) -> None:
        """Take a controller off the air: what is on its way to it arrives nowhere, and it connects to nobody any more."""
        super().remove_controller(controller)
        if isinstance(controller, RadioController):
            controller.muted = True
        self.radios = [radio for radio in self.radios if radio is not controller]

    def advertiser(self, address: Address) -> tuple["RadioController", Advertiser] | None:
        """Return the controller that advertises under this address, and its advertising set."""
        for controller in self.radios:
            for advertiser in controller.audible_advertisers():
                if advertiser.address == address:
                    return controller, advertiser
        return None

    def send_advertising_pdu(self, sender_controller: Controller, packet: AdvertisingPdu) -> None:
        """Deliver to those who listen; upstream wakes every controller for every advertisement, O(N²).

        A CONNECT_IND arrives at once, so that of two centrals that connect to the same peripheral one is refused:
        upstream delivers later and tells both that they are connected.
        """
        if isinstance(packet, ConnectInd):
            if found := self.advertiser(packet.advertiser_address):
                found[0].on_ll_advertising_pdu(packet)
            return
        call_soon = asyncio.get_running_loop().call_soon
        for controller in self.radios:
            listens = controller.le_scan_enable or controller.pending_le_connection
            if controller is not sender_controller and listens:
                call_soon(controller.on_ll_advertising_pdu, packet)

    def send_acl_data(
        self, sender_controller: Controller, destination_address: Address, transport: PhysicalTransport, data: bytes
    ) -> None:
        """Send from the address the connection was made with; upstream always names the random one."""
        connection = sender_controller.le_connections.get(destination_address)
        target = self.find_le_controller(destination_address)
        if connection and target:
            asyncio.get_running_loop().call_soon(target.on_link_acl_data, connection.self_address, transport, data)


class RadioController(Controller):
    """One radio chip on a `RadioLink`.

    `muted`: it neither sends nor receives, but nobody has noticed yet (`drop_links` is when they notice). `rssi`: its
    signal strength as scanners see it, in dBm.
    """

    # Upstream cuts every PDU into pieces of 27 bytes.
    le_acl_data_packet_length = 251

    def __init__(
        self,
        name: str,
        link: RadioLink,
        *,
        host_source: TransportSource | None = None,
        host_sink: TransportSink | None = None,
    ) -> None:
        self.air = link
        self.muted = False
        self.rssi = -50
        super().__init__(name, host_source=host_source, host_sink=host_sink, link=link)
        link.radios.append(self)

    # Faults

    def drop_links(self) -> None:
        """End every connection as its supervision timeout (0x08) does, at both ends."""
        reason = HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR
        for connection in list(self.le_connections.values()):
            peer = self.air.find_le_controller(connection.peer_address)
            if peer and (back := peer.le_connections.get(connection.self_address)):
                peer.on_le_disconnected(back, reason)
            self.on_le_disconnected(connection, reason)

    def on_ll_advertising_pdu(self, packet: AdvertisingPdu) -> None:
        """Hear an advertisement, unless muted."""
        if not self.muted:
            super().on_ll_advertising_pdu(packet)

    def send_advertising_pdu(self, packet: AdvertisingPdu) -> None:
        """Advertise, unless muted."""
        if not self.muted:
            super().send_advertising_pdu(packet)

    def on_link_acl_data(self, sender_address: Address, transport: PhysicalTransport, data: bytes) -> None:
        """Take data from a peer, unless muted."""
        if not self.muted:
            super().on_link_acl_data(sender_address, transport, data)

    # Corrections

    def audible_advertisers(self) -> Iterator[Advertiser]:
        """Return the advertising sets that others can hear."""
        if not self.muted:
            everyone: tuple[Advertiser, ...] = (*self.advertising_sets.values(), self.le_legacy_advertiser)
            yield from (advertiser for advertiser in everyone if advertiser.enabled)

    def create_le_connection(self, peer_address: Address) -> None:
        """Connect only to a peer that still advertises; upstream connects to one that has just been taken."""
        if self.air.advertiser(peer_address):
            super().create_le_connection(peer_address)

    def on_hci_le_create_connection_cancel_command(
        self, _command: HCI_LE_Create_Connection_Cancel_Command
    ) -> HCI_StatusReturnParameters:
        """Cancel the pending connection and report it.

        Upstream keeps the request and sends no LE Connection Complete: `Device.connect_le` never returns after its
        timeout (Core Specification, volume 4, part E, 7.8.13).
        """
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return HCI_StatusReturnParameters(HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        cancelled = HCI_LE_Connection_Complete_Event(
            status=HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, cancelled)
        return HCI_StatusReturnParameters(HCI_ErrorCode.SUCCESS)

    def send_hci_packet(self, packet: HCI_Packet) -> None:
        """Send to the host; upstream formats every packet for a disabled debug log, half of all CPU time.

        Upstream also repeats the advertising data as the scan response, and reports everybody at -50 dBm.
        """
        if isinstance(packet, HCI_LE_Extended_Advertising_Report_Event):
            for report in packet.reports:
                if (found := self.air.advertiser(report.address)) is None:
                    return
                controller, advertiser = found
                report.rssi = controller.rssi
                if report.event_type & _SCAN_RESPONSE:
                    report.data = bytes(advertiser.scan_response_data)
        if self.host:
            asyncio.get_running_loop().call_soon(self.host.on_packet, bytes(packet))

    def on_hci_packet(self, packet: HCI_Packet) -> None:
        """Take a packet from the host, without upstream's formatting for the debug log."""
        if isinstance(packet, HCI_AclDataPacket):
            self.on_hci_acl_data_packet(packet)
        elif isinstance(packet, HCI_Command):
            self.on_hci_command_packet(packet)
        else:
            super().on_hci_packet(packet)
