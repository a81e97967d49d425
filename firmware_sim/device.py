"""One simulated device without its radio: clock, sensors, flash, uplink, commands."""

import json
from collections import OrderedDict
from collections.abc import Mapping

from devices.vocabulary import CommandType, DeviceModel, EventType, Topic
from firmware_sim.clock import DriftingClock, WallMs
from firmware_sim.encoding import CborEncoder, Encoder, JsonEncoder, Wire
from firmware_sim.flash import Flash, Record
from firmware_sim.pillbox import PillBox, PillBoxTraits
from firmware_sim.plan import DevicePlan
from firmware_sim.sensors import Draft, Sensors, event
from firmware_sim.uplink import Uplink
from firmware_sim.wristband import Wristband

LIVE_MESSAGE_MS = 10 * 60_000
"""After a longer pause than this, the band batches its data instead of sending minute by minute."""

REMEMBERED_COMMANDS = 64
ROOM_AGAIN_MS = 100
PACED_MS = 1_000


class Device:
    """The logic of a device. No I/O, no waiting: `advance` measures, `receive_*` react, `uplink` says what to send."""

    def __init__(self, plan: DevicePlan, wall_ms: WallMs, *, history_from_ms: int, flash: int, window: int) -> None:
        """Switch the device on; it has been measuring since `history_from_ms` and has sent nothing yet."""
        self.plan = plan
        self.clock = DriftingClock(wall_ms, drift_ppm=plan.drift_ppm, offset_ms=plan.offset_ms)
        self.flash = Flash(flash)
        self.uplink = Uplink(self.flash, window=window)
        self.encoder: Encoder = CborEncoder() if plan.cbor else JsonEncoder()
        self.live = False
        self._live_seq = 1
        self._wall_ms = wall_ms
        self._window = window
        self._history_from = history_from_ms
        self._cursor = history_from_ms
        self._sensors: Sensors = _sensors(plan)
        self._done: OrderedDict[str, bool] = OrderedDict()
        self._sent_through = 0

    @property
    def history_ms(self) -> int:
        """How much history is in flash so far."""
        return self._cursor - self._history_from

    @property
    def history_receipted(self) -> bool:
        """Whether it is live and a receipt has named the last message of its history."""
        return self.live and self.flash.oldest >= self._live_seq

    def advance(self, horizon_ms: int, *, backlog: int) -> int:
        """Measure what is due; return the true time (ms) at which to be called again.

        `horizon_ms` is the true time up to which history may be put into flash. A pill box does it all at once, because
        a box that is in contact and holds openings back would look like one that was not opened. History is only added
        while flash holds fewer than `backlog` messages: receipts set the pace.
        """
        now = self.clock.now_ms()
        if self.live:
            due = self._sensors.next_due(self._cursor)
            if due <= now:
                self._keep(self._sensors.measure(self._cursor, now, live=now - due < LIVE_MESSAGE_MS), due)
                self._cursor = now
            return self.clock.wall_of(self._sensors.next_due(self._cursor))
        wall = self._wall_ms()
        if len(self.flash) >= backlog:
            return wall + ROOM_AGAIN_MS
        horizon = now if self.plan.model is DeviceModel.PILLBOX else now - max(wall - horizon_ms, 0)
        end = min(self._cursor + self._sensors.backlog_step_ms, horizon)
        if end > self._cursor:
            self._keep(self._sensors.measure(self._cursor, end, live=False), end)
            self._cursor = end
        if self._cursor >= now:
            self.live = True
            self._live_seq = self.flash.next_seq
        return wall + PACED_MS if not self.live and end == horizon else wall

    def payload(self, record: Record) -> bytes:
        """Return a message as it is transmitted now."""
        return self.encoder.message(record, sent_at=self.clock.now_ms(), oldest=self.flash.oldest)

    def is_live(self, record: Record) -> bool:
        """Return whether the message was measured in real time, not as history."""
        return self.live and record.seq >= self._live_seq

    def first_time(self, record: Record) -> bool:
        """Return whether the message has never been sent before, and mark it as sent."""
        first = record.seq > self._sent_through
        self._sent_through = max(self._sent_through, record.seq)
        return first

    def status(self) -> bytes:
        """Return the status to publish while connected."""
        now = self.clock.now_ms()
        return self.encoder.plain(
            {"online": True, "battery": self._sensors.battery(now), "firmware": self.plan.firmware, "clock": now}
        )

    def reboot(self) -> None:
        """Lose everything that is not in flash."""
        self.uplink = Uplink(self.flash, window=self._window)
        self._done.clear()

    def receive_receipt(self, payload: bytes) -> bool:
        """Free flash as a receipt allows; return whether it did. Garbage on the topic frees nothing."""
        message = _object(payload)
        seq = message.get("seq")
        return isinstance(seq, int) and not isinstance(seq, bool) and self.uplink.receipt(seq)

    def receive_command(self, payload: bytes) -> bool:
        """Execute a command once, and put its `command_done` into flash each time; return whether it was one."""
        command = _object(payload)
        name = command.get("id")
        if not isinstance(name, str):
            return False
        if name not in self._done:
            self._done[name] = self._obey(command)
            if len(self._done) > REMEMBERED_COMMANDS:
                self._done.popitem(last=False)
        now = self.clock.now_ms()
        answer = event(EventType.COMMAND_DONE, now, id=name, ok=self._done[name])
        self._keep([Draft(Topic.EVENT, [answer], 1, now)], now)
        return True

    def _obey(self, command: Mapping[str, Wire]) -> bool:
        if command.get("type") != CommandType.SET_CLOCK:
            return self._sensors.command(command, self.clock.now_ms())
        clock_ms = command.get("clock", command.get("at"))
        if not isinstance(clock_ms, int) or isinstance(clock_ms, bool):
            return False
        self.clock.set(clock_ms)
        if self.live:
            # Time skipped by the jump was never measured; time it repeats is not stamped twice.
            self._cursor = max(self._cursor, clock_ms)
        return True

    def _keep(self, drafts: list[Draft], due_ms: int) -> None:
        for draft in drafts:
            body = self.encoder.body(draft.topic, draft.items)
            self.flash.append(draft.topic, body, readings=draft.readings, due_ms=min(draft.due_ms, due_ms))


def _sensors(plan: DevicePlan) -> Sensors:
    if isinstance(plan.traits, PillBoxTraits):
        return PillBox(plan.seed, plan.traits)
    return Wristband(plan.seed, plan.traits)


def _object(payload: bytes) -> dict[str, Wire]:
    """Return the JSON object in a downlink message; an empty one for anything else."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
