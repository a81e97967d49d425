"""Adherence metrics: by hand, against plain counting, and of the recorded pill bottle."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.doses.adherence import Adherence, DrugHoliday, adherence
from streaming.doses.calendar import DoseSchedule, DueDose, due_doses
from streaming.doses.matching import DoseOutcome, DoseState, Opening
from streaming.doses.missed import settle
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory
from tests.recordings import RECORDINGS

DAY_ONE = 1_790_812_800_000  # 2026-10-01T00:00Z, a Thursday
OCTOBER = date(2026, 10, 1)
LAST = date(2027, 12, 31)
UTC_ZONE = ZoneHistory.of("UTC")
LETTERS = {
    "t": DoseState.TAKEN, "m": DoseState.MISSED, "s": DoseState.SKIPPED, "u": DoseState.UNKNOWN,
    "p": DoseState.PAUSED, "d": DoseState.DOUBLED, "e": DoseState.EARLY, "l": DoseState.LATE, ".": DoseState.DUE,
}  # fmt: skip
TAKEN_AFTER = {"t": 0, "d": 0, "s": 0, "e": -2 * HOUR_MS, "l": 3 * HOUR_MS}


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def outcome(letter: str, due_at: int, schedule_id: int = 1) -> DoseOutcome:
    dose = DueDose(schedule_id, due_at, due_at - HOUR_MS, due_at + HOUR_MS)
    taken_at = due_at + TAKEN_AFTER[letter] if letter in TAKEN_AFTER else None
    return DoseOutcome(dose, LETTERS[letter], taken_at)


def days(text: str) -> list[DoseOutcome]:
    """Return the doses of days, a word each: one every 4 hours from 08:00 on; `-` for none."""
    return [
        outcome(letter, DAY_ONE + day * DAY_MS + (8 + 4 * number) * HOUR_MS)
        for day, letters in enumerate(text.split())
        for number, letter in enumerate(letters)
        if letter != "-"
    ]


def of(text: str) -> Adherence:
    return adherence(days(text), UTC_ZONE, OCTOBER, LAST)


def test_the_three_shares() -> None:
    found = of("tt tl md eu .. tp pp st")
    assert (found.prescribed, found.judged, found.taken, found.on_time) == (13, 10, 8, 6)
    assert (found.taking, found.timing) == (0.8, 0.6)
    assert (found.days, found.correct_days, found.correct_dosing) == (5, 3, 0.6)


def test_nothing_judged_is_no_share() -> None:
    for text in ("", "uu ..", "pp"):
        found = of(text)
        assert (found.taking, found.timing, found.correct_dosing) == (None, None, None)
        assert (found.streak, found.longest_streak, found.holidays) == (0, 0, ())


def test_a_doubled_dose_is_one_dose_on_time_on_a_day_that_was_not_correct() -> None:
    found = of("d")
    assert (found.taking, found.timing, found.correct_dosing) == (1, 1, 0)
    early = replace(days("d")[0], taken_at=days("d")[0].dose.window_start - 1)
    assert adherence([early], UTC_ZONE, OCTOBER, LAST).timing == 0


@pytest.mark.parametrize(
    ("text", "streak", "longest"),
    [("ttt", 3, 3), ("ttm", 0, 2), ("ttmt", 1, 2), ("tutpt", 3, 3), ("tts", 0, 2), ("tledu.", 4, 4), ("m", 0, 0)],
)
def test_streaks(text: str, streak: int, longest: int) -> None:
    found = of(" ".join(text))
    assert (found.streak, found.longest_streak) == (streak, longest)


@pytest.mark.parametrize(
    ("text", "holidays"),
    [
        ("t m m t", []), ("t m m m t", [(1, 3, 3)]), ("m s m m", [(0, 3, 4)]), ("mm mm mt mm", []),
        ("m - m - m", [(0, 4, 3)]), ("m m u m m", []), ("m m p m m", []), ("m m m u m m m", [(0, 2, 3), (4, 6, 3)]),
        ("mm mm m.", []), ("l l l", []),
    ],
)  # fmt: skip
def test_drug_holidays(text: str, holidays: list[tuple[int, int, int]]) -> None:
    wanted = [DrugHoliday(OCTOBER + timedelta(first), OCTOBER + timedelta(last), n) for first, last, n in holidays]
    assert list(of(text).holidays) == wanted


def test_the_period_is_in_local_days() -> None:
    late_evening = [outcome("m", ms("2026-10-05T23:30-04:00")), outcome("t", ms("2026-10-06T23:30-04:00"))]
    new_york = ZoneHistory.of("America/New_York")
    sixth = date(2026, 10, 6)
    assert adherence(late_evening, new_york, sixth, sixth).taking == 1
    assert adherence(late_evening, UTC_ZONE, sixth, sixth).taking == 0


def test_a_journey_moves_the_days() -> None:
    """Flown west in the evening, somebody has the same date's doses twice over one long day."""
    lands = ms("2026-10-03T20:00Z")
    zone = ZoneHistory.from_spans([(0, ZoneInfo("Asia/Tokyo")), (lands, ZoneInfo("America/Los_Angeles"))])
    plan = DoseSchedule(1, (time(8), time(20)), OCTOBER, DAY_ONE, valid_until=date(2026, 10, 6))
    doses = due_doses(plan, zone, DAY_ONE - DAY_MS, DAY_ONE + 9 * DAY_MS)
    found = adherence([DoseOutcome(one, DoseState.TAKEN, one.due_at) for one in doses], zone, OCTOBER, LAST)
    assert (found.taking, found.timing, found.correct_dosing, found.streak) == (1, 1, 1, len(doses))
    assert found.days == 6


@given(st.lists(st.text("ttttmmmsuledp.-", min_size=1, max_size=3), max_size=30), st.randoms(use_true_random=False))
def test_agrees_with_plain_counting_in_any_order(words: list[str], order: random.Random) -> None:
    outcomes = days(" ".join(words))
    order.shuffle(outcomes)
    found = adherence(outcomes, UTC_ZONE, OCTOBER, LAST)
    letters = "".join(words).replace("-", "")
    judged = "".join(letter for letter in letters if letter in "tledms")
    assert (found.prescribed, found.judged) == (len(letters) - letters.count("p"), len(judged))
    assert found.taken == sum(judged.count(letter) for letter in "tled")
    assert found.on_time == judged.count("t") + judged.count("d")
    plain = [word.replace("-", "").replace("p", "") for word in words]
    whole = [word for word in plain if word and not set(word) & set("u.")]
    assert (found.days, found.correct_days) == (len(whole), sum(not set(word) & set("msd") for word in whole))
    runs = [len(run) for run in "".join("1" if letter in "tled" else " " for letter in judged).split(" ")]
    assert (found.streak, found.longest_streak) == (runs[-1], max(runs))
    assert [one.days for one in found.holidays] == plain_holidays(words)


def plain_holidays(words: Sequence[str]) -> list[int]:
    without = ["0" if set(word) <= set("ms") else "1" for word in (word.replace("-", "") for word in words) if word]
    return [len(run) for run in "".join(without).split("1") if len(run) >= 3]


# Recordings and their twin -------------------------------------------------------------------------------------------


def test_the_recorded_pill_bottle() -> None:
    """By the maker's verdicts 396 of 455 doses were taken, 302 of them on time; 21 have none: it was not heard."""
    path = RECORDINGS / "med_oncmap_pillbottles" / "adheretech_first_half.csv"
    if not path.exists():
        pytest.skip("the recordings are not here")
    with path.open() as file:
        rows = {ms(row["due_utc"] + "Z"): row for row in csv.DictReader(file)}
    zone = ZoneHistory.of("America/New_York")
    plan = DoseSchedule(1, (time(7, 30), time(19, 15)), date(2021, 11, 5), DAY_ONE)
    doses = [
        replace(one, contact_seen_at=None if rows[one.due_at]["Status"] == "PENDING" else one.window_end)
        for one in due_doses(plan, zone, min(rows), max(rows) + 1)
    ]
    openings = [Opening(ms(row["recorded_utc"] + "Z")) for row in rows.values() if row["recorded_utc"]]
    found = adherence(settle(doses, openings, None, DAY_ONE), zone, date(2021, 11, 5), date(2022, 6, 30))
    assert (found.prescribed, found.judged, found.taken, found.on_time) == (476, 455, 396, 302)
    assert (found.days, found.correct_days, found.longest_streak) == (227, 176, 52)
    assert found.holidays == (DrugHoliday(date(2021, 11, 24), date(2021, 11, 27), 4),)


def test_a_synthetic_bottle() -> None:
    """The recording's twin across a clock change: what was made up comes out again."""
    rng, zone = random.Random(1), ZoneHistory.of("America/New_York")
    plan = DoseSchedule(1, (time(7, 30), time(19, 15)), OCTOBER, DAY_ONE, valid_until=date(2027, 5, 31))
    doses = due_doses(plan, zone, DAY_ONE, DAY_ONE + 300 * DAY_MS)
    verdicts = rng.choices("telm", weights=[66, 6, 15, 13], k=len(doses))
    minutes = {"t": (-60, 59), "e": (-124, -61), "l": (60, 357)}
    openings = [
        Opening(one.due_at + rng.randint(*minutes[verdict]) * MINUTE_MS)
        for one, verdict in zip(doses, verdicts, strict=True)
        if verdict != "m"
    ]
    heard = [replace(one, contact_seen_at=one.window_end) for one in doses]
    found = adherence(settle(heard, openings, None, DAY_ONE + 400 * DAY_MS), zone, OCTOBER, LAST)
    assert (found.judged, found.taken, found.on_time) == (
        len(doses), len(doses) - verdicts.count("m"), verdicts.count("t"),
    )  # fmt: skip
    assert (found.days, found.correct_days) == (
        len(doses) // 2, sum("m" not in verdicts[i : i + 2] for i in range(0, len(doses), 2)),
    )  # fmt: skip
