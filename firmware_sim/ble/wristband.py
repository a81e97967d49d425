"""A wristband: heart rate with RR intervals once a second while somebody listens; it stores nothing."""

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from bumble.core import UUID
from bumble.device import Connection
from bumble.gatt import Characteristic, Service

from devices.vocabulary import Code, DeviceModel, Flag, Unit
from firmware_sim.ble.beats import HeartBeats
from firmware_sim.ble.gatt_table import Properties, characteristic, readable, uuid
from firmware_sim.ble.packets import heart_rate
from firmware_sim.ble.peripheral import Peripheral
from firmware_sim.ble.plan import BlePlan, traits_of
from firmware_sim.ble.truth import NO_FLAGS, Beat, Measured
from firmware_sim.clock import WallMs
from firmware_sim.physiology.heart import HeartRateProcess
from firmware_sim.physiology.noise import MINUTE_MS
from firmware_sim.wristband import Wristband, WristbandTraits

NOTIFY_EVERY_MS: Final = 1_000
RR_A_PACKET: Final = 9
"""As many as fit the smallest ATT MTU; a band that could not send for longer keeps the newest."""
WRIST: Final = b"\x02"


class WristbandPeripheral(Peripheral):
    """Heart Rate Service. `truth` has a value for each notification, `beats` the beats that were sent."""

    model: ClassVar[DeviceModel] = DeviceModel.WRISTBAND
    advertised: ClassVar[tuple[UUID, ...]] = (uuid(0x180D), uuid(0x180F))

    def __init__(self, plan: BlePlan, wall_ms: WallMs, *, started_ms: int | None = None) -> None:
        """Put the band on at `started_ms`."""
        super().__init__(plan, wall_ms, started_ms=started_ms)
        traits = traits_of(plan, WristbandTraits)
        self.off_body = False
        """Not worn: no contact, no pulse."""
        self.beats: list[Beat] = []
        self._traits = traits
        self._band = Wristband(plan.seed, traits)
        self._rates = HeartRateProcess([*plan.seed, 11], traits.heart, traits.zone)
        self._rate = round(float(self._rates.rhythm(np.array([self.started_ticks]))[0]))
        self._heart = HeartBeats(plan.seed, traits)
        self._sent_until = self.started_ticks
        self._notifications = 0
        self._measurement = characteristic(0x2A37, Properties.NOTIFY, encrypted=plan.encrypted)

    def services(self) -> Sequence[Service]:
        """Return the Heart Rate Service."""
        location = readable(0x2A38, WRIST, encrypted=self.plan.encrypted)
        return [Service(uuid(0x180D), [self._measurement, location])]

    def live(self) -> Sequence[Characteristic[bytes]]:
        """Return the measurement."""
        return [self._measurement]

    def next_due(self, after: int) -> int:
        """Return the next second since the band was put on."""
        return after + NOTIFY_EVERY_MS - (after - self.started_ticks) % NOTIFY_EVERY_MS

    def measure(self, after: int, until: int) -> None:
        """Follow the rate minute by minute on the band's grid, as it would over MQTT."""
        phase = self._traits.phase_ms % MINUTE_MS
        first = ((after - phase) // MINUTE_MS + 1) * MINUTE_MS + phase
        minutes = np.arange(first, until + 1, MINUTE_MS, dtype=np.int64)
        if len(minutes):
            self._rate = int(np.rint(self._rates.at(minutes))[-1])

    def begin_stream(self) -> None:
        """Send beats from now on."""
        self._sent_until = self.clock.ticks()

    async def send_live(self, connection: Connection) -> None:
        """Notify the rate and the beats since the last notification, once a second at most."""
        now = self.clock.ticks()
        since = self._sent_until
        if self.next_due(since) > now:
            return
        self._sent_until = now
        heard = self._heart.between(since, now)[-RR_A_PACKET:] if not self.off_body else []
        beats = [Beat(self.clock.wall_of(at), rr) for at, rr in heard]
        bpm = 0 if self.off_body else self._rate
        self._notifications += 1
        self.beats += beats
        self.truth.append(
            Measured(
                self._notifications,
                self.clock.wall_of(now),
                Code.HEART_RATE,
                Unit.PER_MIN,
                None if self.off_body else float(bpm),
                Flag.OFF_BODY if self.off_body else NO_FLAGS,
            )
        )
        packet = heart_rate(bpm, contact=not self.off_body, rr_1024=[beat.rr_1024 for beat in beats])
        await self.send(connection, self._measurement, packet)

    def battery(self) -> int:
        """Return the charge in %."""
        return self._band.battery(self.clock.ticks())
