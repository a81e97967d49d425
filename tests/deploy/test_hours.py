"""What runs at every hour, and when those runs begin."""

from datetime import UTC, datetime, timedelta

from tests.hours import MOMENTS, TESTS, clock_readers, offset_to


def test_who_reads_the_clock_is_found_also_through_a_helper() -> None:
    found = {str(path.relative_to(TESTS)) for path in clock_readers()}
    assert {"gateway/test_quarantine.py", "gateway/ble/home.py", "gateway/ble/test_end_to_end.py"} <= found
    assert not {"conftest.py", "hours.py", "gateway/test_any_order.py", "api/test_trends.py"} & found


def test_at_every_hour_and_over_midnight() -> None:
    for now in (datetime(2026, 11, 2, hour, minute, tzinfo=UTC) for hour in range(24) for minute in (0, 15, 59)):
        begun = [now + offset_to(moment, now) for moment in MOMENTS]
        assert [start.hour for start in begun[:24]] == list(range(24))
        assert begun[24].date() < (begun[24] + timedelta(seconds=4)).date()
        assert all(timedelta(0) <= start - now < timedelta(days=1) for start in begun)
