"""The pill box: what we write, there and back; and the document for firmware, whose examples have to be true."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import PacketError
from devices.gatt.crc import with_crc
from devices.gatt.pillbox import (
    KEY_SIZE,
    LATEST_MS,
    MAX_DOSES,
    Dose,
    LogEntry,
    LogType,
    PillBoxFeature,
    PillBoxFeatureBit,
    PillBoxUuid,
    Schedule,
    Signal,
    decode_clock,
    decode_feature,
    decode_log_entry,
    decode_schedule,
    encode_clock,
    encode_reminder,
    encode_schedule,
)
from devices.gatt.record_access import OpCode, Operator, Response, decode_response, encode_request

DOCUMENT = Path(__file__).parents[3] / "docs" / "pillbox-gatt.md"
EVERY_DAY = frozenset(range(7))
MORNING_MS = 1_772_357_415_000  # 2026-03-01T09:30:15Z

DOSES = st.builds(
    Dose, st.integers(1, 255), st.integers(0, 1439), st.frozensets(st.integers(0, 6), min_size=1)
)  # fmt: skip
SCHEDULES = st.builds(
    Schedule, st.integers(0, 65_535), st.integers(-840, 840), st.lists(DOSES, max_size=MAX_DOSES).map(tuple)
)  # fmt: skip


@given(SCHEDULES)
def test_any_schedule_there_and_back(schedule: Schedule) -> None:
    octets = encode_schedule(schedule)
    assert len(octets) == 7 + 4 * len(schedule.doses) <= 512
    assert decode_schedule(octets) == schedule


def test_a_schedule_has_up_to_sixty_four_doses() -> None:
    full = Schedule(1, 0, (Dose(1, 0, EVERY_DAY),) * 64)
    assert len(encode_schedule(full)) == 263
    assert decode_schedule(encode_schedule(full)) == full


@given(st.integers(0, LATEST_MS))
def test_any_clock_there_and_back(now_ms: int) -> None:
    assert decode_clock(encode_clock(now_ms)) == now_ms


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(65_536, 0, ()),
        Schedule(-1, 0, ()),
        Schedule(1, 841, ()),
        Schedule(1, -841, ()),
        Schedule(1, 0, (Dose(0, 0, EVERY_DAY),)),
        Schedule(1, 0, (Dose(256, 0, EVERY_DAY),)),
        Schedule(1, 0, (Dose(1, 1440, EVERY_DAY),)),
        Schedule(1, 0, (Dose(1, -1, EVERY_DAY),)),
        Schedule(1, 0, (Dose(1, 0, frozenset()),)),
        Schedule(1, 0, (Dose(1, 0, frozenset({7})),)),
        Schedule(1, 0, (Dose(1, 0, EVERY_DAY),) * 65),
    ],
)
def test_what_no_box_takes_is_not_written(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_schedule(schedule)


@pytest.mark.parametrize(
    "octets",
    [
        "0100 0000 01",  # one dose announced, none there
        "0100 0000 00 01e0017f",  # none announced
        "0100 4903 00",  # 841 minutes from UTC
        "0100 0000 01 00 e001 7f",  # compartment 0
        "0100 0000 01 01 a005 7f",  # minute 1440
        "0100 0000 01 01 e001 80",  # an eighth day
        "0100 0000 01 01 e001 00",  # no day
        "0100 0000 41" + "01e0017f" * 65,
    ],
)
def test_no_schedule(octets: str) -> None:
    with pytest.raises(PacketError, match="Schedule"):
        decode_schedule(with_crc(bytes.fromhex(octets)))


def test_no_clock() -> None:
    for now_ms in (-1, LATEST_MS + 1):
        with pytest.raises(ValueError, match="clock"):
            encode_clock(now_ms)
    with pytest.raises(PacketError, match="no time"):
        decode_clock(with_crc((LATEST_MS + 1).to_bytes(8, "little")))


def test_no_reminder() -> None:
    for compartment, seconds in ((0, 1), (256, 1), (1, -1), (1, 65_536)):
        with pytest.raises(ValueError, match="reminder"):
            encode_reminder(compartment, Signal.LIGHT, seconds)


def log_entry(sequence: int, time_ms: int, *rest: int) -> LogEntry:
    octets = sequence.to_bytes(4, "little") + time_ms.to_bytes(8, "little") + bytes(rest)
    return decode_log_entry(with_crc(octets))


def test_a_time_that_no_clock_shows_is_not_known() -> None:
    assert log_entry(1, 0, 1, 1, 0, 0).time_ms is None
    assert log_entry(1, 1, 1, 1, 0, 0).time_ms == 1
    assert log_entry(1, LATEST_MS, 1, 1, 0, 0).time_ms == LATEST_MS
    assert log_entry(1, LATEST_MS + 1, 1, 1, 0, 0).time_ms is None
    assert log_entry(1, 2**64 - 1, 1, 1, 0, 0).time_ms is None


def test_an_entry_of_a_later_version_is_read() -> None:
    assert log_entry(9, MORNING_MS, 99, 0, 7, 0xFF) == LogEntry(9, MORNING_MS, 99, None, 7)


def test_numbers_begin_with_one() -> None:
    with pytest.raises(PacketError, match="sequence number 0"):
        log_entry(0, MORNING_MS, 1, 1, 0, 0)


ALL_FEATURES = PillBoxFeatureBit.COUNTS_PILLS | PillBoxFeatureBit.REMINDER | PillBoxFeatureBit.SCHEDULE
WEEK = Schedule(3, -300, (Dose(1, 480, EVERY_DAY), Dose(2, 1200, frozenset({0, 2, 4}))))

READ_BY_US: dict[str, Callable[[bytes], bool]] = {
    "Feature": lambda octets: decode_feature(octets) == PillBoxFeature(1, 14, 1024, ALL_FEATURES),
    "Log Entry, two pills taken": lambda octets: (
        decode_log_entry(octets) == LogEntry(42, MORNING_MS, LogType.DOSE_TAKEN, 2, 2)
    ),
    "Log Entry, clock lost": lambda octets: (
        decode_log_entry(octets) == LogEntry(43, None, LogType.CLOCK_BEFORE, None, 0)
    ),
    "Log Entry, clock since": lambda octets: (
        decode_log_entry(octets) == LogEntry(44, 946_684_800_000, LogType.CLOCK_AFTER, None, 0)
    ),
    "Clock, read": lambda octets: decode_clock(octets) == MORNING_MS,
    "Schedule, read": lambda octets: decode_schedule(octets) == WEEK,
    "Count": lambda octets: decode_response(octets, key_size=KEY_SIZE) == Response(count=288),
    "Success": lambda octets: decode_response(octets, key_size=KEY_SIZE) == Response(request=1, code=1),
    "Nothing there": lambda octets: decode_response(octets, key_size=KEY_SIZE) == Response(request=1, code=6),
}


def request(op_code: OpCode, operator: Operator = Operator.NULL, *keys: int) -> bytes:
    return encode_request(op_code, operator, *keys, key_size=KEY_SIZE)


WRITTEN_BY_US = {
    "Clock, write": encode_clock(MORNING_MS),
    "Schedule, write": encode_schedule(WEEK),
    "Schedule, none": encode_schedule(Schedule(4, 0, ())),
    "Reminder": encode_reminder(2, Signal.LIGHT | Signal.SOUND, 60),
    "Reminder, any": encode_reminder(None, Signal.LIGHT, 60),
    "Report all": request(OpCode.REPORT_STORED_RECORDS, Operator.ALL_RECORDS),
    "Report from 43": request(OpCode.REPORT_STORED_RECORDS, Operator.GREATER_THAN_OR_EQUAL_TO, 43),
    "Report 1 to 42": request(OpCode.REPORT_STORED_RECORDS, Operator.WITHIN_RANGE_OF, 1, 42),
    "Report the last": request(OpCode.REPORT_STORED_RECORDS, Operator.LAST_RECORD),
    "Count from 43": request(OpCode.REPORT_NUMBER_OF_STORED_RECORDS, Operator.GREATER_THAN_OR_EQUAL_TO, 43),
    "Delete up to 42": request(OpCode.DELETE_STORED_RECORDS, Operator.LESS_THAN_OR_EQUAL_TO, 42),
    "Abort": request(OpCode.ABORT_OPERATION),
}


def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def examples() -> dict[str, bytes]:
    rows = re.findall(r"^\| ([^|]+) \| `((?:[0-9a-f]{2} )*[0-9a-f]{2})` \|", document(), flags=re.MULTILINE)
    return {name: bytes.fromhex(octets) for name, octets in rows}


def test_the_examples_of_the_document_are_true() -> None:
    found = examples()
    assert found.keys() == READ_BY_US.keys() | WRITTEN_BY_US.keys()
    assert {name: octets.hex() for name, octets in found.items() if name in WRITTEN_BY_US} == {
        name: octets.hex() for name, octets in WRITTEN_BY_US.items()
    }
    assert [name for name, says in READ_BY_US.items() if not says(found[name])] == []


def test_the_document_names_every_uuid_and_entry() -> None:
    text = document()
    base = PillBoxUuid.SERVICE.replace("0001", "XXXX", 1)
    assert base in text
    for uuid in PillBoxUuid:
        assert f"`{uuid[4:8]}`" in text
    for kind in LogType:
        assert re.search(rf"^\| {kind.value} \| `{kind.name.lower()}` \|", text, flags=re.MULTILINE), kind
