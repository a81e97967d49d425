"""What runs at every hour, and when those runs begin."""

from datetime import UTC, datetime, timedelta

from tests.hours import TESTS, clock_readers, offset_of


def test_who_reads_the_clock_is_found_also_through_a_helper() -> None:
    found = {str(path.relative_to(TESTS)) for path in clock_readers()}
    assert {"gateway/test_quarantine.py", "gateway/ble/home.py", "gateway/ble/test_end_to_end.py"} <= found
    assert not {"conftest.py", "hours.py", "gateway/test_any_order.py", "api/test_trends.py"} & found


def test_the_runs_begin_at_every_hour_and_the_last_before_midnight() -> None:
    for now in (datetime(2026, 11, 2, hour, minute, tzinfo=UTC) for hour in range(24) for minute in (0, 15, 59)):
        begun = [now + offset_of(run, now) for run in range(25)]
        assert {start.hour for start in begun[:24]} == set(range(24))
        assert (begun[24].hour, begun[24].minute) == (23, 59)
        assert all(timedelta(0) <= start - now < timedelta(days=1) for start in begun)
