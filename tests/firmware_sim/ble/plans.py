"""Plans of devices for tests, one of each model, quick to connect to; and what such devices measured."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from devices.vocabulary import Code, DeviceModel
from firmware_sim.ble.cgm import CgmTraits
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan, Traits
from firmware_sim.ble.stories import MAKERS
from firmware_sim.ble.truth import Measured
from firmware_sim.encoding import Wire
from firmware_sim.physiology.local_time import local_day
from firmware_sim.pillbox import PillBoxTraits, Regimen
from firmware_sim.scenarios import Start
from firmware_sim.sensors import Draft
from firmware_sim.wristband import WristbandTraits
from tests.firmware_sim.ble.listener import NOV_22

SHANGHAI = ZoneInfo("Asia/Shanghai")
START = Start(NOV_22, 3, 1, "test")
BODY = WristbandTraits(SHANGHAI, first_day=local_day(START.history_from_ms, SHANGHAI), phase_ms=17_000)
BOX = PillBoxTraits(SHANGHAI, (Regimen((8 * 60, 20 * 60), 1), Regimen((21 * 60,), 2)), counts_pills=True)


def plan_of(model: DeviceModel, traits: Traits | None = None) -> BlePlan:
    """Return a healthy device of this model, without traits an ordinary one."""
    ordinary: dict[DeviceModel, Traits] = {
        DeviceModel.CGM: CgmTraits(BODY),
        DeviceModel.WRISTBAND: BODY,
        DeviceModel.PILLBOX: BOX,
    }
    made = traits or ordinary.get(model) or MAKERS[model](SHANGHAI, START)
    return replace(BlePlan(f"test-{model}", model, (1, 0), made), advertising_interval_ms=20)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def local(at_ms: int) -> datetime:
    """Return what a clock on the wall in Shanghai shows, to the second, without its zone."""
    return (EPOCH + timedelta(seconds=at_ms // 1000)).astimezone(SHANGHAI).replace(tzinfo=None)


def measured(device: Peripheral, code: Code) -> list[Measured]:
    """Return what a device measured of one kind."""
    return [one for one in device.truth if isinstance(one, Measured) and one.code is code]


def mqtt_series(drafts: Sequence[Draft], code: Code) -> list[Sequence[Wire]]:
    """Return the values of each series of this code."""
    found = [item["values"] for draft in drafts for item in draft.items if item.get("code") == code.wire]
    return [values for values in found if isinstance(values, list)]
