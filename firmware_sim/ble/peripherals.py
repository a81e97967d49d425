"""Many simulated Bluetooth devices on one radio: made from plans, started together."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from devices.vocabulary import DeviceModel
from firmware_sim.ble.cgm import CgmPeripheral
from firmware_sim.ble.glucose_meter import GlucoseMeterPeripheral
from firmware_sim.ble.oximeter import OximeterPeripheral
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.pillbox import PillboxPeripheral
from firmware_sim.ble.plan import BlePlan
from firmware_sim.ble.radio import VirtualRadio
from firmware_sim.ble.spot_devices import CuffPeripheral, ScalePeripheral, ThermometerPeripheral
from firmware_sim.ble.wristband import WristbandPeripheral
from firmware_sim.clock import WallMs

PERIPHERALS: Final[Mapping[DeviceModel, type[Peripheral]]] = MappingProxyType(
    {
        kind.model: kind
        for kind in (
            WristbandPeripheral,
            CgmPeripheral,
            PillboxPeripheral,
            GlucoseMeterPeripheral,
            CuffPeripheral,
            ThermometerPeripheral,
            ScalePeripheral,
            OximeterPeripheral,
        )
    }
)


def peripheral(plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> Peripheral:
    """Return the device of a plan, measuring since `started_ms`; it is not on the air yet."""
    return PERIPHERALS[plan.model](plan, wall_ms, started_ms=started_ms)


class Peripherals:
    """The devices that are on the air, by id."""

    def __init__(self, devices: Iterable[Peripheral]) -> None:
        self._devices = {device.plan.id: device for device in devices}

    def __getitem__(self, device_id: str) -> Peripheral:
        """Return a device; KeyError for one that is not of this ward."""
        return self._devices[device_id]

    def __iter__(self) -> Iterator[Peripheral]:
        """Walk the devices in the order of their plans."""
        return iter(self._devices.values())

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self._devices)

    async def tick(self) -> None:
        """Have every device check the clock: for clocks that tests move."""
        for device in self:
            await device.tick()

    async def stop(self) -> None:
        """Take every device off the air."""
        for device in self:
            await device.stop()


async def start_all(
    radio: VirtualRadio, plans: Iterable[BlePlan], wall_ms: WallMs, *, started_ms: int | None = None
) -> Peripherals:
    """Put the devices of these plans on the air; they have been measuring since `started_ms`."""
    ward = Peripherals(peripheral(plan, wall_ms, started_ms=started_ms) for plan in plans)
    for device in ward:
        await device.start(radio)
    return ward
