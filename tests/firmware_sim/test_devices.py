"""What devices put into messages, read with the gateway's decoder: nothing refused, nothing twice, caps kept."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from zoneinfo import ZoneInfo

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.batch import BatchBuilder, ObservationBatch
from devices.vocabulary import MAX_PAYLOAD_BYTES, Code, DeviceModel, EventType, Flag, Topic, Unit
from firmware_sim.clock import DriftingClock
from firmware_sim.device import Device
from firmware_sim.encoding import CborEncoder, Encoder, JsonEncoder, Wire
from firmware_sim.physiology.doses import DoseHabit
from firmware_sim.physiology.glucose import Dip, GlucoseTraits
from firmware_sim.physiology.heart import HeartTraits
from firmware_sim.physiology.local_time import local_day, utc_ms
from firmware_sim.physiology.noise import DAY_MS, HOUR_MS, MINUTE_MS
from firmware_sim.pillbox import PillBox, PillBoxTraits, Regimen
from firmware_sim.plan import Coverage, DevicePlan
from firmware_sim.sensors import Draft, Sensors
from firmware_sim.wristband import Wristband, WristbandTraits

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOV_1 = 1_793_462_400_000
"""2026-11-01T00:00+08:00."""
TRAITS = WristbandTraits(SHANGHAI, first_day=local_day(NOV_1, SHANGHAI), phase_ms=17_250)
BOX = PillBoxTraits(SHANGHAI, (Regimen((8 * 60, 20 * 60), 1), Regimen((21 * 60,), 2)), counts_pills=True)


class Wall:
    """A clock that stands where it is put."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def __call__(self) -> int:
        return self.at_ms


def measured(sensors: Sensors, edges: Sequence[int], *, live: bool = False) -> list[Draft]:
    return [draft for start, end in pairwise(edges) for draft in sensors.measure(start, end, live=live)]


def read(drafts: Sequence[Draft], arrival_ms: int, encoder: Encoder | None = None) -> ObservationBatch:
    """Encode messages as the device would and decode them as the gateway does."""
    plan = DevicePlan("d", DeviceModel.WRISTBAND, (1,), TRAITS, cbor=isinstance(encoder, CborEncoder))
    device = Device(plan, Wall(arrival_ms), history_from_ms=NOV_1, flash=len(drafts) + 1, window=1)
    builder = BatchBuilder()
    for number, draft in enumerate(drafts):
        body = device.encoder.body(draft.topic, draft.items)
        payload = device.payload(device.flash.append(draft.topic, body, readings=0, due_ms=0))
        assert len(payload) < MAX_PAYLOAD_BYTES
        add = builder.add_telemetry if draft.topic is Topic.TELEMETRY else builder.add_event
        head = add(number, 0, payload, None, arrival_ms)
        assert (head.seq, head.sent_at, head.oldest) == (number + 1, arrival_ms, 1)
    batch = builder.finish()
    assert batch.refusals == []
    return batch


def rows(batch: ObservationBatch, code: Code) -> list[tuple[int, float]]:
    mask = batch.code == code
    return list(zip(batch.at[mask].tolist(), batch.value[mask].tolist(), strict=True))


@pytest.mark.parametrize("encoder", [JsonEncoder(), CborEncoder()])
@pytest.mark.parametrize("unit", [Unit.MMOL_L, Unit.MG_DL])
def test_a_day_of_the_band_is_taken_whole(encoder: Encoder, unit: Unit) -> None:
    band = Wristband([1], replace(TRAITS, glucose_unit=unit, dropout_probability=0.0))
    drafts = measured(band, range(NOV_1, NOV_1 + DAY_MS + 1, band.backlog_step_ms))
    batch = read(drafts, NOV_1 + DAY_MS, encoder)
    glucose = rows(batch, Code.GLUCOSE)
    assert len(glucose) == 288
    assert {later - sooner for (sooner, _), (later, _) in pairwise(glucose)} == {5 * MINUTE_MS}
    assert len(rows(batch, Code.HEART_RATE)) == 288
    assert len(rows(batch, Code.BATTERY)) == 24
    assert set(batch.unit[batch.code == Code.GLUCOSE].tolist()) == {unit}
    assert 22 <= len(batch.rr) <= 24
    assert sum(draft.readings for draft in drafts) == len(batch) + sum(len(run.intervals) for run in batch.rr)


def test_rr_is_measured_at_local_night_with_full_windows_and_the_set_rmssd() -> None:
    heart = HeartTraits(ln_rmssd=3.4, ln_rmssd_sd=1e-6)
    band = Wristband([2], replace(TRAITS, heart=heart))
    batch = read(measured(band, range(NOV_1 - DAY_MS // 2, NOV_1 + DAY_MS + 1, 2 * HOUR_MS)), NOV_1 + DAY_MS)
    rmssd = []
    for run in batch.rr:
        start, end = run.at - run.intervals[0], run.at + run.intervals[1:].sum()
        mark = -(-start // (5 * MINUTE_MS)) * 5 * MINUTE_MS
        assert NOV_1 <= mark < NOV_1 + 6 * HOUR_MS
        assert end >= mark + 5 * MINUTE_MS
        rmssd.append(np.sqrt(np.mean(np.diff(run.intervals) ** 2)))
    assert len(rmssd) == 24
    assert np.median(rmssd) == pytest.approx(np.exp(3.4), rel=0.06)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 2 * DAY_MS - 1), max_size=6), live=st.booleans())
def test_the_band_says_the_same_however_its_time_is_cut(cuts: list[int], live: bool) -> None:  # noqa: FBT001
    edges = [NOV_1, *sorted({NOV_1 + cut for cut in cuts}), NOV_1 + 2 * DAY_MS]
    whole = read(measured(Wristband([3], TRAITS), [edges[0], edges[-1]], live=live), edges[-1])
    pieces = read(measured(Wristband([3], TRAITS), edges, live=live), edges[-1])
    for code in (Code.GLUCOSE, Code.HEART_RATE, Code.BATTERY):
        assert rows(pieces, code) == rows(whole, code)
    assert [(run.at, run.intervals.tolist()) for run in pieces.rr] == [
        (run.at, run.intervals.tolist()) for run in whole.rr
    ]


def test_live_the_band_sends_one_small_message_a_minute() -> None:
    band = Wristband([4], TRAITS)
    noon = NOV_1 + 12 * HOUR_MS
    edges = [noon]
    for _ in range(10):
        edges.append(band.next_due(edges[-1]))
    drafts = measured(band, edges, live=True)
    assert [draft.due_ms for draft in drafts] == edges[1:]
    assert sum(len(rows(read([draft], edges[-1]), Code.GLUCOSE)) for draft in drafts) == 2
    assert all(len(rows(read([draft], edges[-1]), Code.HEART_RATE)) == 1 for draft in drafts)


def test_what_the_sensor_cannot_measure_is_lo_without_a_number() -> None:
    dip = Dip(NOV_1 - HOUR_MS, MINUTE_MS, 4 * HOUR_MS, MINUTE_MS, level=1.9)
    band = Wristband([5], replace(TRAITS, dips=(dip,), dropout_probability=0.0))
    batch = read(measured(band, [NOV_1, NOV_1 + 2 * HOUR_MS]), NOV_1 + 2 * HOUR_MS)
    low = (batch.flags & Flag.BELOW_RANGE) != 0
    assert low.sum() == 24
    assert np.isnan(batch.value[low]).all()


def test_lost_samples_are_left_out() -> None:
    band = Wristband([6], replace(TRAITS, dropout_probability=0.5))
    batch = read(measured(band, range(NOV_1, NOV_1 + DAY_MS + 1, 2 * HOUR_MS)), NOV_1 + DAY_MS)
    assert 100 < len(rows(batch, Code.GLUCOSE)) < 190


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 9 * DAY_MS - 1), max_size=5))
def test_the_box_says_the_same_however_its_time_is_cut(cuts: list[int]) -> None:
    edges = [NOV_1, *sorted({NOV_1 + cut for cut in cuts}), NOV_1 + 9 * DAY_MS]
    whole = read(measured(PillBox([3], BOX), [edges[0], edges[-1]]), edges[-1])
    pieces = read(measured(PillBox([3], BOX), edges), edges[-1])
    happened = [(event.type, event.at, event.compartment, event.count) for event in whole.events]
    assert happened == sorted(happened, key=lambda one: one[1])
    assert [(event.type, event.at, event.compartment, event.count) for event in pieces.events] == happened
    assert rows(pieces, Code.BATTERY) == rows(whole, Code.BATTERY)


def test_the_box_is_opened_for_every_dose_but_the_planned_miss() -> None:
    missed = utc_ms(TRAITS.first_day + 3, 20 * 60, SHANGHAI)
    habit = DoseHabit(miss_probability=0.0, late_probability=0.0)
    box = PillBox([7], replace(BOX, habit=habit, certain_misses=frozenset({missed})))
    batch = read(measured(box, [NOV_1, NOV_1 + 10 * DAY_MS]), NOV_1 + 10 * DAY_MS)
    opened = [event.at for event in batch.events if event.type is EventType.COMPARTMENT_OPENED]
    assert len(opened) == 29
    assert min(abs(at - missed) for at in opened) > 30 * MINUTE_MS


def test_nothing_is_forgotten_by_chance_once_it_counts() -> None:
    careless = DoseHabit(miss_probability=1.0)
    box = PillBox([8], replace(BOX, habit=careless, certain_since_ms=NOV_1 + DAY_MS))
    batch = read(measured(box, [NOV_1, NOV_1 + 2 * DAY_MS]), NOV_1 + 2 * DAY_MS)
    assert sum(event.type is EventType.COMPARTMENT_OPENED for event in batch.events) == 3


def test_the_box_wakes_for_openings_and_says_it_lives() -> None:
    box = PillBox([9], BOX)
    start, end = NOV_1 + 6 * HOUR_MS, NOV_1 + 10 * HOUR_MS
    edges = [start]
    while edges[-1] < end:
        edges.append(box.next_due(edges[-1]))
    drafts = measured(box, edges, live=True)
    assert max(later - sooner for sooner, later in pairwise(edges)) <= 5 * MINUTE_MS
    events = read(drafts, edges[-1]).events
    assert {event.at for event in events} <= set(edges)
    assert len(drafts) == len(edges) - 1


def test_a_reminder_is_answered_by_an_opening() -> None:
    box = PillBox([10], replace(BOX, habit=DoseHabit(miss_probability=1.0, answers_reminder=1.0)))
    assert box.command({"id": "r1", "type": "remind", "compartment": 2}, NOV_1)
    batch = read(measured(box, [NOV_1, NOV_1 + HOUR_MS], live=True), NOV_1 + HOUR_MS)
    assert [event.compartment for event in batch.events if event.type is EventType.COMPARTMENT_OPENED] == [2]


# The device around the sensors -----------------------------------------------------------------------------------


def band_device(wall: Wall, *, history_from_ms: int, cbor: bool = False, offset_ms: int = 0) -> Device:
    plan = DevicePlan("band", DeviceModel.WRISTBAND, (1,), TRAITS, cbor=cbor, offset_ms=offset_ms)
    return Device(plan, wall, history_from_ms=history_from_ms, flash=500, window=8)


def last_body(device: Device) -> dict[str, Wire]:
    payload = device.payload(device.flash.get(device.flash.next_seq - 1))
    found: dict[str, Wire] = json.loads(payload)
    return found


def test_history_stops_at_a_full_backlog_until_a_receipt_comes() -> None:
    wall = Wall(NOV_1 + 2 * DAY_MS)
    device = band_device(wall, history_from_ms=NOV_1)
    device.uplink.connect()
    device.uplink.start()
    for _ in range(50):
        device.advance(wall.at_ms, backlog=6)
    assert 6 <= len(device.flash) <= 8
    assert device.history_ms < 2 * DAY_MS
    assert device.receive_receipt(b'{"seq":5}')
    for _ in range(500):
        device.advance(wall.at_ms, backlog=6)
        device.receive_receipt(b'{"seq":%d}' % (device.flash.next_seq - 1))
    assert device.live
    assert device.history_receipted


def test_paced_history_stays_behind_the_horizon() -> None:
    wall = Wall(NOV_1 + 2 * DAY_MS)
    device = band_device(wall, history_from_ms=NOV_1)
    for _ in range(20):
        device.advance(NOV_1 + DAY_MS, backlog=400)
    assert device.history_ms == DAY_MS
    assert not device.live


def test_a_box_tells_all_its_history_at_once() -> None:
    wall = Wall(NOV_1 + 20 * DAY_MS)
    plan = DevicePlan("box", DeviceModel.PILLBOX, (1,), BOX)
    device = Device(plan, wall, history_from_ms=NOV_1, flash=500, window=8)
    for _ in range(4):
        device.advance(NOV_1, backlog=100)
    assert device.live


def test_live_minutes_are_measured_when_due() -> None:
    wall = Wall(NOV_1 + DAY_MS)
    device = band_device(wall, history_from_ms=wall.at_ms)
    due = device.advance(wall.at_ms, backlog=10)
    due = device.advance(wall.at_ms, backlog=10)
    assert wall.at_ms < due <= wall.at_ms + MINUTE_MS
    wall.at_ms = due - 1
    assert device.advance(wall.at_ms, backlog=10) == due
    assert len(device.flash) == 0
    wall.at_ms = due
    assert device.advance(wall.at_ms, backlog=10) == due + MINUTE_MS
    assert len(device.flash) == 1


def test_a_drifting_clock_is_off_by_its_drift_and_set_by_command() -> None:
    wall = Wall(NOV_1)
    clock = DriftingClock(wall, drift_ppm=20, offset_ms=1_500)
    wall.at_ms += DAY_MS
    assert clock.now_ms() - wall.at_ms == 1_500 + 1_728
    assert clock.wall_of(clock.now_ms()) == wall.at_ms
    clock.set(wall.at_ms)
    wall.at_ms += DAY_MS
    assert clock.now_ms() - wall.at_ms == 1_728


def test_set_clock_is_obeyed_once_and_answered_each_time() -> None:
    wall = Wall(NOV_1)
    device = band_device(wall, history_from_ms=NOV_1, offset_ms=-9 * MINUTE_MS)
    device.advance(wall.at_ms, backlog=10)
    command = json.dumps({"id": "c1", "type": "set_clock", "clock": NOV_1}).encode()
    assert device.receive_command(command)
    assert device.clock.now_ms() == NOV_1
    wall.at_ms += 5_000
    assert device.receive_command(command)
    assert device.clock.now_ms() == NOV_1 + 5_000
    assert last_body(device)["events"] == [{"type": "command_done", "at": NOV_1 + 5_000, "id": "c1", "ok": True}]
    assert len(device.flash) == 2


def test_a_clock_set_back_stamps_nothing_twice() -> None:
    wall = Wall(NOV_1)
    device = band_device(wall, history_from_ms=NOV_1, offset_ms=4 * MINUTE_MS)
    stamps: list[int] = []
    for minute in range(12):
        wall.at_ms = NOV_1 + minute * MINUTE_MS
        device.advance(wall.at_ms, backlog=50)
        if minute == 5:
            device.receive_command(json.dumps({"id": "c", "type": "set_clock", "clock": wall.at_ms}).encode())
    for record in device.flash:
        if record.topic is Topic.TELEMETRY:
            stamps += [
                series["at"]
                for series in json.loads(device.payload(record))["observations"]
                if series["code"] == "heart_rate"
            ]
    assert len(stamps) == len(set(stamps)) > 5
    assert max(stamps) < NOV_1 + 12 * MINUTE_MS


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"seq":true}',
        b'{"seq":"7"}',
        b'{"seq":1.0}',
        b"[" * 100_000,
        b'{"id":3,"type":"remind"}',
    ],
)
def test_rubbish_from_above_changes_nothing(payload: bytes) -> None:
    wall = Wall(NOV_1)
    device = band_device(wall, history_from_ms=NOV_1)
    device.flash.append(Topic.TELEMETRY, b"", readings=0, due_ms=0)
    assert not device.receive_receipt(payload)
    assert not device.receive_command(payload)
    assert len(device.flash) == 1


def test_unknown_commands_are_answered_with_no() -> None:
    device = band_device(Wall(NOV_1), history_from_ms=NOV_1)
    assert device.receive_command(b'{"id":"x","type":"self_destruct"}')
    events = last_body(device)["events"]
    assert events == [{"type": "command_done", "at": NOV_1, "id": "x", "ok": False}]


def test_flash_survives_a_reboot() -> None:
    wall = Wall(NOV_1 + DAY_MS)
    device = band_device(wall, history_from_ms=NOV_1)
    device.advance(wall.at_ms, backlog=10)
    held = [record.seq for record in device.flash]
    device.reboot()
    device.uplink.connect()
    device.uplink.start()
    assert [record.seq for record in device.flash] == held
    taken = device.uplink.take()
    assert taken is not None
    assert taken.seq == held[0]


def test_coverage_repeats() -> None:
    coverage = Coverage(every_ms=300, lost_ms=100, phase_ms=50)
    assert [coverage.lost_for(at) for at in (50, 149, 150, 349, 350)] == [100, 1, 0, 0, 100]
    assert [coverage.good_for(at) for at in (150, 349)] == [200, 1]


wire_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), wire_values, max_size=5))
def test_own_cbor_and_json_are_what_libraries_read(payload: dict[str, Wire]) -> None:
    assert cbor2.loads(CborEncoder().plain(payload)) == payload
    assert json.loads(JsonEncoder().plain(payload)) == payload


def test_glucose_traits_give_what_they_say() -> None:
    band = Wristband(
        [11], replace(TRAITS, glucose=GlucoseTraits(basal=7.5, meal=0.0, dawn=0.0), dropout_probability=0.0)
    )
    batch = read(measured(band, range(NOV_1, NOV_1 + DAY_MS + 1, 2 * HOUR_MS)), NOV_1 + DAY_MS)
    assert np.mean([value for _, value in rows(batch, Code.GLUCOSE)]) == pytest.approx(7.5, abs=0.1)
