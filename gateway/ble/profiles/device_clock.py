"""A device's own wall clock: read it, interpret it, and set it right if the device allows that."""

import logging
from datetime import UTC, datetime
from typing import Final

from devices.errors import PacketError
from devices.gatt.assigned import Characteristic, full_uuid
from devices.gatt.clock import (
    AdjustReason,
    decode_current_time,
    decode_date_time,
    encode_current_time,
    encode_date_time,
)
from gateway.ble.device_time import WallClock, wall_clock
from gateway.ble.link import Packet, RefusedError
from gateway.ble.visit import Visit

CURRENT_TIME: Final = full_uuid(Characteristic.CURRENT_TIME)
DATE_TIME: Final = full_uuid(Characteristic.DATE_TIME)
AHEAD: Final = "clock ahead"
SET_BEYOND_S: Final = 30
"""A wall clock this far off local time is set; well below the error up to which stamps are trusted."""

log = logging.getLogger(__name__)


async def read_clock(visit: Visit) -> WallClock:
    """Return what the device's clock shows: local time if it has no readable clock. Raises LinkError."""
    shown = await _shown(visit)
    held = visit.spool.fact(visit.device.id, AHEAD)
    clock = wall_clock(shown, visit.now_ms(), visit.zone, int(held) if held else None)
    ahead = "" if clock.ahead_ms is None else str(clock.ahead_ms)
    if ahead != (held or ""):
        visit.spool.set_fact(visit.device.id, AHEAD, ahead)
        if clock.ahead_ms is not None:
            log.warning("a clock shows another time", extra={"device": visit.device.id, "ahead_ms": clock.ahead_ms})
    return clock


async def set_clock(visit: Visit) -> bool:
    """Have the device show local time; return whether it does. Only call it once everything stamped before was read.

    Raises LinkError, but not if the device does not allow its clock to be set.
    """
    shown = await _shown(visit)
    if shown is None:
        return False
    local = datetime.fromtimestamp(visit.now_ms() / 1000, UTC).astimezone(visit.zone).replace(tzinfo=None)
    if abs((shown - local).total_seconds()) <= SET_BEYOND_S:
        return True
    try:
        if visit.link.has(CURRENT_TIME):
            await visit.link.write(CURRENT_TIME, encode_current_time(local, AdjustReason.EXTERNAL_REFERENCE))
        else:
            await visit.link.write(DATE_TIME, encode_date_time(local))
    except RefusedError:
        return False
    log.info("a clock was set", extra={"device": visit.device.id})
    return True


async def _shown(visit: Visit) -> datetime | None:
    """Return the time that the device's clock shows; None if it has no clock, or does not know the time."""
    for characteristic in (CURRENT_TIME, DATE_TIME):
        if not visit.link.has(characteristic):
            continue
        value = await visit.link.read(characteristic)
        try:
            return decode_current_time(value).time if characteristic == CURRENT_TIME else decode_date_time(value)
        except PacketError as error:
            refused = visit.refuse(Packet(characteristic, value, visit.now_ms()), error)
            visit.keep([refused] if refused else [])
    return None
