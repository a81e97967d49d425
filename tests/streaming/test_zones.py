"""Local time: whole arrays agree with zoneinfo, skipped and repeated hours, people who travel."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.zones import HOUR_MS, ZoneHistory
from tests.streaming.series import ZONES

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
INSTANTS = st.integers(946_684_800_000, 2_208_988_800_000)  # 2000 to 2040


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@given(at=st.lists(INSTANTS, max_size=20), zone=st.sampled_from([*ZONES, "America/Caracas", "Africa/Casablanca"]))
def test_minutes_of_the_day_agree_with_zoneinfo(at: list[int], zone: str) -> None:
    wanted = [datetime.fromtimestamp(one / 1000, UTC).astimezone(ZoneInfo(zone)) for one in at]
    found = ZoneHistory.of(zone).minute_of_day(np.array(at, dtype=np.int64))
    assert found.tolist() == [local.hour * 60 + local.minute for local in wanted]


@given(at=INSTANTS, offset=st.integers(-90, 90))
def test_clock_changes_are_found_to_the_second(at: int, offset: int) -> None:
    year = datetime.fromtimestamp(at / 1000, UTC).year
    change = next(
        one
        for one in range(ms(f"{year}-10-24T01:00Z"), ms(f"{year}-11-01T02:00Z"), HOUR_MS)
        if datetime.fromtimestamp(one / 1000, BERLIN).utcoffset()
        != datetime.fromtimestamp(one / 1000 - 1, BERLIN).utcoffset()
    )
    instant = change + offset * 1000
    local = ZoneHistory.of(BERLIN).local(instant)
    assert ZoneHistory.of(BERLIN).minute_of_day(np.array([instant]))[0] == local.hour * 60 + local.minute


def test_a_local_time_that_never_was_moves_forward_and_of_two_the_first_counts() -> None:
    berlin = ZoneHistory.of(BERLIN)
    assert berlin.instant(datetime.fromisoformat("2026-03-29T02:30")) == ms("2026-03-29T03:30+02:00")
    assert berlin.instant(datetime.fromisoformat("2026-10-25T02:30")) == ms("2026-10-25T02:30+02:00")


def test_people_travel() -> None:
    lands = ms("2026-06-10T12:00Z")  # 14:00 in Berlin, 08:00 in New York
    west = ZoneHistory.from_spans([(lands, NEW_YORK), (0, BERLIN)])
    assert west.local(lands - 1).hour == 13
    assert west.local(lands).hour == 8
    assert west.minute_of_day(np.array([lands - 1, lands])).tolist() == [13 * 60 + 59, 8 * 60]
    # 10:00 comes twice on the way west: the first counts. On the way east 10:00 is skipped and moves by the gap.
    assert west.instant(datetime.fromisoformat("2026-06-10T10:00")) == ms("2026-06-10T10:00+02:00")
    east = ZoneHistory.from_spans([(0, NEW_YORK), (lands, BERLIN)])
    assert east.instant(datetime.fromisoformat("2026-06-10T10:00")) == ms("2026-06-10T16:00+02:00")
    assert east.instant(datetime.fromisoformat("2026-06-11T10:00")) == ms("2026-06-11T10:00+02:00")


@pytest.mark.parametrize("spans", [(), ((5, BERLIN), (5, NEW_YORK)), ((5, BERLIN), (4, NEW_YORK))])
def test_histories_that_mean_nothing_are_refused(spans: tuple[tuple[int, ZoneInfo], ...]) -> None:
    with pytest.raises(ValueError, match="zone"):
        ZoneHistory(spans)
