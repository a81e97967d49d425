"""The clock below a picture: what the one on the wall said, through clock changes and journeys."""

import re
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.pictures.night import (
    AlertSpan,
    NightPicture,
    night_span,
)
from api.pictures.timescale import TimeScale
from streaming.zones import HOUR_MS, MINUTE_MS, ZoneHistory
from tests.api.drawn import (
    BERLIN,
    END,
    LEFT,
    SHANGHAI,
    START,
    WIDTH,
    marks,
    path,
    svg,
    texts,
)


def test_an_hour_that_comes_twice_is_there_twice() -> None:
    start, end = night_span(BERLIN, date(2026, 10, 25))
    assert end - start == 11 * HOUR_MS
    at = np.arange(start, end, 5 * MINUTE_MS)
    picture = NightPicture("A", BERLIN, start, end, at, np.full(at.size, 6.0), np.zeros(at.size, dtype=np.int16))
    root = svg(replace(picture, alerts=[AlertSpan("urgent_low", "urgent", start + int(4.5 * HOUR_MS), None)]))
    xs = [x for x, _ in marks(root, "glucose-points")]
    assert len(xs) == 132
    assert np.diff(xs) == pytest.approx(WIDTH / 132, abs=1e-4)
    ticks = [label for label in texts(root) if re.fullmatch(r"\d\d:00", label)]
    assert ticks == ["22:00", "00:00", "02:00", "02:00", "04:00", "06:00", "08:00"]
    assert [label for label in texts(root) if label.startswith("UTC")] == ["UTC+2", "UTC+1"]
    assert path(root, "clock-change-0")[0][0] == pytest.approx(LEFT + WIDTH * 5 / 11)
    assert any("since 02:30 UTC+2, still open" in words for words in texts(root))


def test_an_hour_that_never_was_takes_no_room() -> None:
    start, end = night_span(BERLIN, date(2026, 3, 29))
    time = TimeScale(BERLIN, start, end)
    assert time.hours == 9
    assert [tick.label for tick in time.ticks] == ["22:00\nUTC+1", "00:00", "04:00\nUTC+2", "06:00", "08:00"]


def test_a_journey_changes_the_clock_on_the_way() -> None:
    flight = START + 3 * HOUR_MS
    zones = ZoneHistory.from_spans([(0, SHANGHAI.spans[0][1]), (flight, ZoneHistory.of("Asia/Tokyo").spans[0][1])])
    time = TimeScale(zones, START, END)
    assert time.changes == [flight]
    assert [tick.label for tick in time.ticks] == ["22:00\nUTC+8", "00:00", "02:00\nUTC+9", "04:00", "06:00", "08:00"]


@settings(max_examples=200, deadline=None)
@given(
    zone=st.sampled_from(
        ["Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Europe/Berlin", "Pacific/Apia"]
    ),
    start=st.datetimes(datetime(2011, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    span=st.timedeltas(timedelta(minutes=1), timedelta(days=2)),
)
def test_ticks_are_what_the_clock_on_the_wall_says(zone: str, start: datetime, span: timedelta) -> None:
    zones = ZoneHistory.of(zone)
    begins = zones.instant(start)
    time = TimeScale(zones, begins, begins + span // timedelta(milliseconds=1))
    assert len(time.ticks) <= 9
    assert [tick.at for tick in time.ticks] == sorted({tick.at for tick in time.ticks})
    for tick in time.ticks:
        assert tick.label.split("\n")[0] == f"{zones.local(tick.at):%H:00}"
        assert time.shows(tick.at)
    if span >= timedelta(hours=4):
        assert time.ticks
