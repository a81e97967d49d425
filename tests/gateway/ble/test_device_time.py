"""Device time: zones, clock changes, travellers, resets and jumps; the same stamp at every reading."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.gatt.pillbox import LogEntry, LogType
from gateway.ble.device_time import (
    AGREES_MS,
    CgmStart,
    RealTime,
    TimeSource,
    WallClock,
    box_times,
    cgm_start,
    wall_clock,
    wall_times,
)

BERLIN, SHANGHAI, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Shanghai"), ZoneInfo("Asia/Kathmandu")
ZONES = [BERLIN, SHANGHAI, KATHMANDU, *map(ZoneInfo, ("UTC", "America/St_Johns", "Australia/Lord_Howe"))]
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
RESET = datetime(2000, 1, 1)  # noqa: DTZ001
RESET_MS = 946_684_800_000


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def shown(at_ms: int, zone: ZoneInfo = BERLIN) -> datetime:
    """What a wall clock in `zone` shows at `at_ms`, to the second."""
    return datetime.fromtimestamp(at_ms // 1000, zone).replace(tzinfo=None)


NOW = utc("2026-11-22 08:00")


def sources(times: list[RealTime]) -> list[TimeSource]:
    return [time.source for time in times]


# What a wall clock shows


def test_without_a_reading_stamps_are_local_time() -> None:
    assert wall_clock(None, NOW, BERLIN) == WallClock(BERLIN)


@pytest.mark.parametrize("off", [-120, -30, 0, 119])
def test_a_clock_that_agrees_with_local_time_shows_it(off: int) -> None:
    assert wall_clock(shown(NOW) + timedelta(seconds=off), NOW, BERLIN) == WallClock(BERLIN)


@pytest.mark.parametrize("off", [-119, 0, 90])
@pytest.mark.parametrize("zone", [SHANGHAI, KATHMANDU, ZoneInfo("America/St_Johns")])
def test_another_zone_is_recognised_to_the_quarter_of_an_hour(zone: ZoneInfo, off: int) -> None:
    clock = wall_clock(shown(NOW, zone) + timedelta(seconds=off), NOW, BERLIN)
    offset = datetime.fromtimestamp(NOW // 1000, zone).utcoffset()
    assert offset is not None
    assert clock == WallClock(BERLIN, offset // timedelta(milliseconds=1))
    assert clock.real_ms(shown(NOW - DAY, zone)) == NOW - DAY


def test_a_wrong_clock_is_wrong_by_whole_minutes() -> None:
    wrong = shown(NOW) + timedelta(minutes=7, seconds=20)
    assert wall_clock(wrong, NOW, BERLIN) == WallClock(BERLIN, HOUR + 7 * MINUTE)
    assert wall_clock(wrong + timedelta(seconds=20), NOW, BERLIN).ahead_ms == HOUR + 8 * MINUTE
    assert (
        wall_clock(wrong + timedelta(seconds=20), NOW, BERLIN, held_ms=HOUR + 7 * MINUTE).ahead_ms == HOUR + 7 * MINUTE
    )
    assert wall_clock(wrong, NOW, BERLIN, held_ms=5 * HOUR).ahead_ms == HOUR + 7 * MINUTE
    assert wall_clock(shown(NOW), NOW, BERLIN, held_ms=HOUR + MINUTE) == WallClock(BERLIN)


def test_nobody_put_the_clock_back_in_autumn() -> None:
    now = utc("2026-10-25 09:00")
    clock = wall_clock(wall("2026-10-25 11:00"), now, BERLIN)
    stamps = ["2026-10-24 20:00", "2026-10-25 02:30", "2026-10-25 03:30", "2026-10-25 10:59"]
    wanted = ["2026-10-24 18:00", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 08:59"]
    assert [clock.real_ms(wall(stamp)) for stamp in stamps] == [utc(time) for time in wanted]


# Clock changes


def test_of_a_repeated_hour_the_first_counts_and_a_skipped_time_moves_forward() -> None:
    clock = WallClock(BERLIN)
    assert clock.real_ms(wall("2026-10-25 02:30")) == utc("2026-10-25 00:30")
    assert clock.real_ms(wall("2026-10-25 03:00")) == utc("2026-10-25 02:00")
    assert clock.real_ms(wall("2026-03-29 02:30")) == utc("2026-03-29 01:30")
    assert clock.real_ms(wall("2026-03-29 03:00")) == utc("2026-03-29 01:00")


def test_the_repeated_hour_is_no_jump() -> None:
    stamps = ["2026-10-24 23:00", "2026-10-25 02:50", "2026-10-25 02:10", "2026-10-25 03:00"]
    times = wall_times(list(enumerate(map(wall, stamps))), WallClock(BERLIN), utc("2026-10-25 09:00"))
    assert sources(times) == [TimeSource.ZONE] * 4
    assert [time.at_ms for time in times] == [WallClock(BERLIN).real_ms(wall(stamp)) for stamp in stamps]


def test_a_clock_put_forward_hours_after_the_change_is_no_jump() -> None:
    stamps = ["2026-03-29 02:50", "2026-03-29 03:10", "2026-03-29 09:00"]
    times = wall_times(list(enumerate(map(wall, stamps))), WallClock(BERLIN), utc("2026-03-29 09:00"))
    assert sources(times) == [TimeSource.ZONE] * 3


# Jumps


def test_a_clock_lost_and_never_set_again() -> None:
    was_lost = NOW - 5 * DAY
    clock = wall_clock(RESET + timedelta(days=5), NOW, BERLIN)
    records = [
        (7, shown(was_lost - 2 * DAY)),
        (8, shown(was_lost - HOUR)),
        (9, RESET + timedelta(hours=3)),
        (10, RESET + timedelta(days=4)),
    ]
    assert wall_times(records, clock, NOW) == [
        (was_lost - 2 * DAY, TimeSource.BEFORE_JUMP),
        (was_lost - HOUR, TimeSource.BEFORE_JUMP),
        (was_lost + 3 * HOUR, TimeSource.SHIFTED),
        (was_lost + 4 * DAY, TimeSource.SHIFTED),
    ]


def test_a_clock_lost_and_set_again_leaves_what_is_between_untimed() -> None:
    records = [
        (1, shown(NOW - 9 * DAY)),
        (2, RESET + timedelta(hours=1)),
        (3, RESET + timedelta(hours=2)),
        (4, shown(NOW - DAY)),
    ]
    times = wall_times(records, WallClock(BERLIN), NOW)
    assert sources(times) == [TimeSource.BEFORE_JUMP, TimeSource.UNKNOWN, TimeSource.UNKNOWN, TimeSource.ZONE]
    assert [time.at_ms for time in times] == [WallClock(BERLIN).real_ms(stamp) for _, stamp in records]


def test_a_stamp_after_now_or_after_its_successor_is_not_timed() -> None:
    ahead = [(1, shown(NOW - DAY)), (2, shown(NOW + 3 * MINUTE))]
    assert sources(wall_times(ahead, WallClock(BERLIN), NOW)) == [TimeSource.BEFORE_JUMP, TimeSource.UNKNOWN]
    back = [(1, shown(NOW - 9 * DAY)), (2, shown(NOW - DAY)), (3, shown(NOW - 2 * DAY)), (4, shown(NOW - HOUR))]
    assert sources(wall_times(back, WallClock(BERLIN), NOW)) == [
        TimeSource.BEFORE_JUMP, TimeSource.UNKNOWN, TimeSource.ZONE, TimeSource.ZONE,
    ]  # fmt: skip
    near = [(1, shown(NOW - HOUR + AGREES_MS)), (2, shown(NOW - HOUR)), (3, shown(NOW + AGREES_MS))]
    assert sources(wall_times(near, WallClock(BERLIN), NOW)) == [TimeSource.ZONE] * 3


def test_the_traveller_came_home_and_set_the_clock_back() -> None:
    flight = NOW - 2 * DAY
    records = [(1, shown(flight - DAY)), (2, shown(flight - HOUR, SHANGHAI)), (3, shown(flight + HOUR))]
    times = wall_times(records, WallClock(BERLIN), NOW)
    assert sources(times) == [TimeSource.BEFORE_JUMP, TimeSource.UNKNOWN, TimeSource.ZONE]


@settings(max_examples=300)
@given(
    zone=st.sampled_from(ZONES),
    ages=st.lists(st.integers(0, 400 * 24 * 60), min_size=1, max_size=20, unique=True),
    jumps=st.lists(st.tuples(st.integers(0, 400 * 24 * 60), st.integers(-(10**6), 10**6)), max_size=3),
    wrong=st.sampled_from([0, 0, 45, -300, 7, -(10**7)]),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_meter_with_random_jumps(
    zone: ZoneInfo, ages: list[int], jumps: list[tuple[int, int]], wrong: int, shuffle: random.Random
) -> None:
    """`ages` of the records and of the `jumps` in minutes; `wrong` is what the clock is ahead now, in minutes."""

    def ahead(age: int) -> int:
        return wrong + sum(by for when, by in jumps if age > when)

    records = [
        (sequence, shown(NOW - age * MINUTE, zone) + timedelta(minutes=ahead(age)))
        for sequence, age in enumerate(sorted(ages, reverse=True))
    ]
    truth = {sequence: NOW - age * MINUTE for sequence, age in enumerate(sorted(ages, reverse=True))}
    clock = wall_clock(shown(NOW, zone) + timedelta(minutes=wrong), NOW, zone)
    times = wall_times(records, clock, NOW)
    ceiling = NOW
    for (sequence, stamp), (at_ms, source) in reversed(list(zip(records, times, strict=True))):
        if source in {TimeSource.UNKNOWN, TimeSource.BEFORE_JUMP}:
            assert at_ms == WallClock(zone).real_ms(stamp)
        if source is TimeSource.UNKNOWN:
            continue
        assert at_ms <= ceiling + AGREES_MS + HOUR * (zone.key != "Asia/Shanghai")  # within the repeated hour
        ceiling = min(ceiling, at_ms)
        if not jumps and abs(truth[sequence] - NOW) < 10 * DAY:
            assert at_ms == truth[sequence]
    if not jumps:
        assert TimeSource.UNKNOWN not in sources(times)
    mixed = list(range(len(records)))
    shuffle.shuffle(mixed)
    assert wall_times([records[i] for i in mixed], clock, NOW) == [times[i] for i in mixed]


@given(
    zone=st.sampled_from(ZONES),
    shown_zone=st.sampled_from(ZONES),
    drifts=st.lists(st.integers(-55, 55), min_size=2, max_size=4),
    ages=st.lists(st.integers(1, 90 * 24 * 60), min_size=1, max_size=10),
)
def test_two_readings_give_the_same_stamps(
    zone: ZoneInfo, shown_zone: ZoneInfo, drifts: list[int], ages: list[int]
) -> None:
    """A clock that is a minute off here and there, read at several moments by whoever, is the same clock."""
    records = [(-age, shown(NOW - age * MINUTE, shown_zone)) for age in ages]
    readings = []
    for later, drift in enumerate(drifts):
        now = NOW + later * 977_123
        clock = wall_clock(shown(now, shown_zone) + timedelta(seconds=drift), now, zone)
        readings.append(wall_times(records, clock, now))
    assert all(reading == readings[0] for reading in readings)


@given(
    zone=st.sampled_from(ZONES),
    stamps=st.lists(st.datetimes(), max_size=8),
    device_now=st.none() | st.datetimes(),
)
def test_no_stamp_breaks_it(zone: ZoneInfo, stamps: list[datetime], device_now: datetime | None) -> None:
    times = wall_times(list(enumerate(stamps)), wall_clock(device_now, NOW, zone), NOW)
    assert len(times) == len(stamps)
    assert all(abs(time.at_ms) < 2**53 for time in times)


# Continuous glucose monitors

STARTED = utc("2026-11-15 10:00:20")
CET = timedelta(hours=1)


def test_a_session_start_that_agrees_is_believed() -> None:
    minutes = (NOW - STARTED) // MINUTE
    assert cgm_start(shown(STARTED), CET, minutes, NOW) == CgmStart(STARTED, should_write=False)


@pytest.mark.parametrize(
    ("stamp", "offset"),
    [(None, CET), (shown(STARTED), None), (shown(STARTED), timedelta(0)), (RESET, CET), (shown(STARTED + DAY), CET)],
)
def test_a_session_start_that_is_missing_or_wrong_is_counted_back_to_the_minute(
    stamp: datetime | None, offset: timedelta | None
) -> None:
    minutes = (NOW - STARTED) // MINUTE
    start, should_write = cgm_start(stamp, offset, minutes, NOW)
    assert should_write
    assert start % MINUTE == 0
    assert abs(start - STARTED) < MINUTE


def test_a_session_keeps_its_start_while_the_sensor_drifts() -> None:
    """50 ppm over 14 days is a minute; written once, the start stays what it is."""
    for day in range(15):
        now = STARTED + day * DAY
        minutes = int(day * DAY * (1 + 50e-6)) // MINUTE
        assert cgm_start(shown(STARTED), CET, minutes, now) == CgmStart(STARTED, should_write=False)


def test_a_long_session_may_drift_further() -> None:
    """A hundred days at 90 ppm are 13 minutes."""
    now = STARTED + 100 * DAY
    minutes = int(100 * DAY * (1 + 90e-6)) // MINUTE
    assert cgm_start(shown(STARTED), CET, minutes, now) == CgmStart(STARTED, should_write=False)
    assert cgm_start(shown(STARTED), CET, minutes + 5, now).should_write


def test_a_start_once_found_stays_until_another_session() -> None:
    held, _ = cgm_start(None, None, 0, STARTED)
    for now in range(STARTED, STARTED + 14 * DAY, 7 * HOUR + 13_000):
        assert cgm_start(None, None, (now - STARTED) // MINUTE, now, held_ms=held).start_ms == held
    assert cgm_start(shown(STARTED), CET, 0, STARTED, held_ms=held) == CgmStart(held, should_write=False)
    anew = STARTED + 14 * DAY
    assert cgm_start(None, None, 0, anew, held_ms=held) == CgmStart(anew // MINUTE * MINUTE, should_write=True)


# Pill boxes


class Box:
    """A pill box as the specification has it: notes every step of its clock of more than a second as a pair."""

    def __init__(self, now: int, ahead: int = 0) -> None:
        self.now, self.ahead, self.log, self.truth = now, ahead, list[LogEntry](), dict[int, int]()
        self.unnoted = 0

    def note(self, kind: int, time_ms: int | None) -> None:
        entry = LogEntry(len(self.truth) + 1, time_ms, kind, None, 0)
        self.log.append(entry)
        self.truth[entry.sequence] = self.now

    def open(self) -> None:
        self.note(LogType.COMPARTMENT_OPENED, self.now + self.ahead)

    def set(self, ahead: int) -> None:
        if abs(ahead - self.ahead) > 1000:
            self.note(LogType.CLOCK_BEFORE, self.now + self.ahead)
            self.note(LogType.CLOCK_AFTER, self.now + ahead)
        else:
            self.unnoted += abs(ahead - self.ahead)
        self.ahead = ahead

    def lose(self) -> None:
        self.note(LogType.CLOCK_BEFORE, None)
        self.note(LogType.CLOCK_AFTER, RESET_MS)
        self.ahead = RESET_MS - self.now

    def read(self, later: int = 0) -> list[RealTime]:
        return box_times(self.log, self.now + later + self.ahead, self.now + later)


STEPS = st.lists(
    st.tuples(st.integers(1, 3 * DAY), st.sampled_from(["open", "open", "open", "set", "lose"]),
              st.integers(-30 * DAY, 30 * DAY)),
    max_size=25,
)  # fmt: skip


def play(steps: list[tuple[int, str, int]], *, power: bool) -> Box:
    box = Box(NOW)
    for passed, act, ahead in steps:
        box.now += passed
        if act == "open":
            box.open()
        elif act == "set":
            box.set(ahead)
        elif power:
            box.lose()
    return box


@given(STEPS, st.booleans())
def test_steps_that_were_noted_are_undone_exactly(steps: list[tuple[int, str, int]], set_first: bool) -> None:  # noqa: FBT001
    box = play(steps, power=False)
    if set_first:
        box.set(0)
    times = box.read()
    off = abs(box.ahead) if abs(box.ahead) < 2000 else 0
    for entry, (at_ms, source) in zip(box.log, times, strict=True):
        assert abs(at_ms - box.truth[entry.sequence]) <= off + box.unnoted, "steps up to 1 s are not noted, and add up"
        assert source in {TimeSource.UTC, TimeSource.SHIFTED}
    assert box.read(later=12_345_678) == times


@given(STEPS)
def test_a_lost_clock_spoils_only_what_lies_before_it(steps: list[tuple[int, str, int]]) -> None:
    box = play(steps, power=True)
    lost = max((e.sequence for e in box.log if e.type == LogType.CLOCK_BEFORE and e.time_ms is None), default=0)
    ceiling = box.now
    for entry, (at_ms, source) in reversed(list(zip(box.log, box.read(), strict=True))):
        if entry.sequence >= lost:
            assert abs(at_ms - box.truth[entry.sequence]) <= 3000
            assert source in {TimeSource.UTC, TimeSource.SHIFTED}
        else:
            assert source in {TimeSource.BEFORE_JUMP, TimeSource.UNKNOWN}
        if source is TimeSource.UNKNOWN:
            assert at_ms in {entry.time_ms, RESET_MS, 0}
        else:
            assert at_ms <= ceiling + AGREES_MS
            ceiling = min(ceiling, at_ms)


def test_what_was_stamped_by_a_clock_that_was_set_keeps_its_stamp_over_a_power_loss() -> None:
    box = Box(NOW)
    box.open()
    box.now += HOUR
    box.lose()
    box.now += HOUR
    box.open()
    box.now += HOUR
    box.set(0)
    box.now += HOUR
    box.open()
    times = box.read()
    assert [time.at_ms for time in times] == list(box.truth.values())
    kinds = [TimeSource.BEFORE_JUMP] + [TimeSource.SHIFTED] * 4 + [TimeSource.UTC] * 2
    assert sources(times) == kinds


def test_a_box_that_was_never_set_is_read_by_its_clock() -> None:
    box = Box(NOW, ahead=RESET_MS - NOW)
    box.open()
    box.now += HOUR
    assert box.read() == [(NOW, TimeSource.SHIFTED)]
    assert box_times(box.log, None, box.now) == [(RESET_MS, TimeSource.UNKNOWN)]


def two_frames() -> Box:
    """Openings at 0 h by a clock an hour fast, a step back, openings at 2 h."""
    box = Box(NOW, ahead=HOUR)
    box.open()
    box.now += HOUR
    box.set(0)
    box.now += HOUR
    box.open()
    return box


def test_half_a_pair_is_a_step_nobody_knows() -> None:
    for missing in (LogType.CLOCK_BEFORE, LogType.CLOCK_AFTER):
        box = two_frames()
        box.log = [entry for entry in box.log if entry.type != missing]
        times = box.read()
        assert times[0] == (NOW + HOUR, TimeSource.BEFORE_JUMP)
        assert times[-1] == (NOW + 2 * HOUR, TimeSource.UTC)


def test_a_pair_that_is_missing_shows_by_the_order_of_time() -> None:
    box = two_frames()
    box.log[0] = LogEntry(1, NOW + 3 * HOUR, LogType.COMPARTMENT_OPENED, None, 0)
    del box.log[1:3]
    assert box.read() == [(NOW + 3 * HOUR, TimeSource.UNKNOWN), (NOW + 2 * HOUR, TimeSource.UTC)]


def test_a_pair_that_is_missing_before_a_reset_clock_leaves_older_stamps_as_they_are() -> None:
    box = Box(NOW)
    box.open()
    box.now += HOUR
    box.lose()
    box.now += HOUR
    box.open()
    del box.log[1:3]
    assert box.read() == [(NOW, TimeSource.BEFORE_JUMP), (NOW + 2 * HOUR, TimeSource.SHIFTED)]


@pytest.mark.parametrize("ahead", [-1999, 0, 1999])
def test_a_clock_that_is_off_by_less_than_two_seconds_is_right(ahead: int) -> None:
    box = Box(NOW, ahead)
    box.open()
    assert box.read() == [(NOW + ahead, TimeSource.UTC)]


def test_deleted_entries_are_not_missed() -> None:
    box = two_frames()
    whole = box.read()
    for kept in range(len(box.log) + 1):
        assert box_times(box.log[kept:], box.now, box.now)[-1:] == whole[kept:][-1:]
    assert box_times(box.log[2:], box.now, box.now) == whole[2:]


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 2**47), st.sampled_from([1, 3, 64, 64, 65, 65, 200])), max_size=12),
    st.none() | st.integers(0, 2**64 - 1),
    st.data(),
)
def test_no_log_breaks_it(entries: list[tuple[int | None, int]], clock: int | None, data: st.DataObject) -> None:
    log = [LogEntry(i + 1, time, kind, None, 0) for i, (time, kind) in enumerate(entries)]
    log = [entry for entry in log if data.draw(st.booleans())]
    times = box_times(log, clock, NOW)
    assert len(times) == len(log)
    assert all(0 <= time.at_ms < 2**63 for time in times)
