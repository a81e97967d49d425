"""Wristbands and straps: heart rate and RR intervals as they are measured (Heart Rate Profile 1.0)."""

import logging
from typing import Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.heart_rate import decode_heart_rate_measurement
from gateway.ble.findings import Finding
from gateway.ble.heart_beats import close, flush, hear
from gateway.ble.link import Packet
from gateway.ble.visit import BATTERY_EVERY_MS, Visit

MEASUREMENT: Final = full_uuid(Characteristic.HEART_RATE_MEASUREMENT)
TELL_EVERY_S: Final = 60.0
SILENT_S: Final = 300.0
"""A band that sends nothing for this long is not worn, or stuck: the link goes to another device."""

log = logging.getLogger(__name__)


async def follow_heart(visit: Visit) -> None:
    """Keep what the band measures, a minute at a time, until it is silent, lost, or asked to leave."""
    await visit.read_battery()
    await visit.link.listen(MEASUREMENT)
    heart = _Heart(visit)
    battery_ms = heard_ms = visit.now_ms()
    try:
        while not visit.leaving:
            packet = await visit.link.next_packet(TELL_EVERY_S)
            now_ms = visit.now_ms()
            if packet is not None and packet.characteristic == MEASUREMENT:
                heart.hear(packet)
                heard_ms = packet.arrived_ms
            elif now_ms - heard_ms >= SILENT_S * 1000:
                return
            heart.tell(now_ms)
            if now_ms - battery_ms >= BATTERY_EVERY_MS:
                await visit.read_battery()
                battery_ms = now_ms
    finally:
        heart.close()


class _Heart:
    """What was received from one heart during a visit and not emitted yet."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._stream = visit.carried.heart

    def hear(self, packet: Packet) -> None:
        try:
            measurement = decode_heart_rate_measurement(packet.value)
        except PacketError as error:
            refused = self._visit.refuse(packet, error)
            self._visit.keep([refused] if refused else [])
            return
        dropped = self._stream.dropped
        self._stream = hear(self._stream, packet.arrived_ms, measurement)
        if self._stream.dropped > dropped == 0:
            log.warning("a band notifies too fast to be followed", extra={"device": self._visit.device.id})

    def tell(self, now_ms: int) -> None:
        self._stream, findings = flush(self._stream, now_ms)
        self._keep(findings)

    def close(self) -> None:
        self._visit.carried.heart, findings = close(self._stream)
        self._keep(findings)

    def _keep(self, findings: tuple[Finding, ...]) -> None:
        self._visit.keep(findings)
