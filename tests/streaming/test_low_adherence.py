"""Low adherence against the plain rule, at its edges, and over the recorded pill bottle."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.doses.calendar import DoseSchedule, DueDose, due_doses
from streaming.doses.low_adherence import low_adherence_episodes
from streaming.doses.matching import DoseOutcome, DoseState, Opening
from streaming.doses.missed import settle
from streaming.episodes import Episode, Severity, settled_before
from streaming.rules.settings import LowAdherenceSettings
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory
from tests.recordings import RECORDINGS

DAY_ONE = 1_790_812_800_000  # 2026-10-01T00:00Z, a Thursday
LETTERS = {
    "t": DoseState.TAKEN, "m": DoseState.MISSED, "s": DoseState.SKIPPED, "u": DoseState.UNKNOWN,
    "p": DoseState.PAUSED, "d": DoseState.DOUBLED, "e": DoseState.EARLY, "l": DoseState.LATE, ".": DoseState.DUE,
}  # fmt: skip
TAKEN_AFTER = {"t": 0, "d": 10 * MINUTE_MS, "s": 0, "e": -2 * HOUR_MS, "l": 3 * HOUR_MS}


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def due(day: float) -> int:
    """Return when the dose of that day is due: at 08:00, the first on day 0."""
    return DAY_ONE + round(day * DAY_MS) + 8 * HOUR_MS


def outcome(letter: str, due_at: int, schedule_id: int = 1, **changes: object) -> DoseOutcome:
    dose = DueDose(schedule_id, due_at, due_at - HOUR_MS, due_at + HOUR_MS, **changes)  # type: ignore[arg-type]
    taken_at = due_at + TAKEN_AFTER[letter] if letter in TAKEN_AFTER else None
    return DoseOutcome(dose, LETTERS[letter], taken_at)


def course(letters: str, schedule_id: int = 1, every: float = 1, **changes: object) -> list[DoseOutcome]:
    return [outcome(one, due(i * every), schedule_id, **changes) for i, one in enumerate(letters)]


def spans(outcomes: Iterable[DoseOutcome]) -> list[tuple[int, int | None]]:
    return [(found.opened_at, found.resolved_at) for found in low_adherence_episodes(outcomes)]


def spans_by(settings: list[tuple[int, LowAdherenceSettings | None]], letters: str) -> list[tuple[int, int | None]]:
    return [(found.opened_at, found.resolved_at) for found in low_adherence_episodes(course(letters), settings)]


# The plain rule ------------------------------------------------------------------------------------------------------


def stood(one: DoseOutcome, at_ms: int) -> str | None:
    """Say what a dose stood for at a time."""
    if one.state is DoseState.PAUSED:
        return "paused" if one.dose.due_at <= at_ms else None
    if one.state in {DoseState.DUE, DoseState.UNKNOWN}:
        return None
    if one.taken_at is not None and one.taken_at <= at_ms:
        return "skipped" if one.state is DoseState.SKIPPED else "taken"
    return "missed" if one.dose.window_end <= at_ms else None


def looked_back(doses: Sequence[DoseOutcome], at_ms: int) -> tuple[int, int, int]:
    """Return the misses in a row of one schedule at a time, and the doses of the week: taken ones and all."""
    known = [(one.dose.due_at, found) for one in doses if (found := stood(one, at_ms))]
    known.sort(key=lambda pair: pair[0])
    for index in range(len(known) - 1, -1, -1):
        if known[index][1] == "paused":
            known = known[index + 1 :]
            break
    if not known:
        return 0, 0, 0
    last_taken = max((index for index, pair in enumerate(known) if pair[1] == "taken"), default=-1)
    week = [found for due_at, found in known if due_at > known[-1][0] - 7 * DAY_MS]
    row = [found for due_at, found in known[last_taken + 1 :] if due_at > known[-1][0] - 28 * DAY_MS]
    return row.count("missed"), week.count("taken"), len(week)


def plain_spans(outcomes: Sequence[DoseOutcome]) -> list[tuple[int, int | None]]:
    """Ask at every instant at which anything can change."""
    counted = [one for one in outcomes if one.dose.alerts]
    schedules = {one.dose.schedule_id: [o for o in counted if o.dose.schedule_id == one.dose.schedule_id]
                 for one in counted}  # fmt: skip
    instants = {at for one in counted for at in (one.dose.due_at, one.dose.window_end, one.taken_at) if at is not None}
    found: list[tuple[int, int | None]] = []
    opened_at: int | None = None
    too_few = dict.fromkeys(schedules, False)
    for at_ms in sorted(instants):
        low = False
        for schedule_id, doses in schedules.items():
            misses, taken, judged = looked_back(doses, at_ms)
            percent = 90 if too_few[schedule_id] else 80
            too_few[schedule_id] = judged >= 5 and 100 * taken < percent * judged
            low = low or misses >= 2 or too_few[schedule_id]
        if low and opened_at is None:
            opened_at = at_ms
        elif not low and opened_at is not None:
            found.append((opened_at, at_ms))
            opened_at = None
    return found if opened_at is None else [*found, (opened_at, None)]


@st.composite
def patients(draw: st.DrawFn) -> list[DoseOutcome]:
    """Draw up to three schedules with doses at any quarter of an hour, most of them taken or missed."""
    found: dict[tuple[int, int], DoseOutcome] = {}
    for schedule_id in range(draw(st.integers(0, 3))):
        every = draw(st.sampled_from([3, 6, 12, 24, 24, 168]))
        for number in range(draw(st.integers(0, 24))):
            due_at = DAY_ONE + (number * every * 4 + draw(st.integers(0, 5))) * 15 * MINUTE_MS
            one = outcome(draw(st.sampled_from("tttttttmmmmlllesud.p")), due_at, schedule_id,
                          alerts=draw(st.integers(0, 30)) > 0)  # fmt: skip
            if one.taken_at is not None:
                one = replace(one, taken_at=one.taken_at + draw(st.integers(-8, 8)) * 15 * MINUTE_MS)
            found[one.dose.key] = one
    return list(found.values())


@given(patients(), st.randoms(use_true_random=False))
def test_agrees_with_the_plain_rule_in_any_order(outcomes: list[DoseOutcome], order: random.Random) -> None:
    wanted = plain_spans(outcomes)
    order.shuffle(outcomes)
    assert spans(outcomes) == wanted


@given(patients())
def test_episodes_follow_one_after_the_other(outcomes: list[DoseOutcome]) -> None:
    found = low_adherence_episodes(outcomes)
    assert all(one.resolved_at is not None and one.resolved_at < later.opened_at for one, later in pairwise(found))
    assert all(one.resolved_at is None or one.opened_at < one.resolved_at for one in found)


SETTINGS = [
    LowAdherenceSettings(),
    LowAdherenceSettings(misses_in_row=3, row_days=2, period_days=3, least_doses=3),
    None,
]
REACH = 12 * HOUR_MS


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, LowAdherenceSettings | None]]:
    """Draw settings from up to four times on, of the three weeks of `patients`."""
    starts = draw(st.lists(st.integers(0, 21 * 24), max_size=3, unique=True))
    ats = [0, *(DAY_ONE + hour * HOUR_MS for hour in sorted(starts))]
    return [(at, draw(st.sampled_from(SETTINGS))) for at in ats]


@given(patients(), histories(), st.integers(0, 500))
def test_goes_on_from_any_time_at_which_nothing_was_open(
    outcomes: list[DoseOutcome], spans: list[tuple[int, LowAdherenceSettings | None]], hour: int
) -> None:
    wanted = low_adherence_episodes(outcomes, spans)
    since = settled_before(wanted, DAY_ONE + hour * HOUR_MS)
    memory = max((settings.memory_ms for _, settings in spans if settings is not None), default=0)
    late = max((abs(o.taken_at - o.dose.due_at) for o in outcomes if o.taken_at is not None), default=0)
    near = [one for one in outcomes if one.dose.due_at > since - memory - max(late, REACH)]
    assert low_adherence_episodes(near, spans, since_ms=since) == [one for one in wanted if one.opened_at >= since]


@given(patients(), histories(), st.integers(0, 500))
def test_what_comes_later_changes_no_beginning(
    outcomes: list[DoseOutcome], spans: list[tuple[int, LowAdherenceSettings | None]], hour: int
) -> None:
    now = DAY_ONE + hour * HOUR_MS
    whole = low_adherence_episodes(outcomes, spans)
    until_now = low_adherence_episodes(outcomes, spans, now_ms=now)
    assert [one.opened_at for one in until_now] == [one.opened_at for one in whole if one.opened_at <= now]
    ends = [one.resolved_at for one in whole if one.resolved_at is not None and one.resolved_at <= now]
    assert [one.resolved_at for one in until_now if one.resolved_at is not None] == ends


@given(patients(), histories())
def test_no_episode_is_open_while_the_rule_is_off(
    outcomes: list[DoseOutcome], spans: list[tuple[int, LowAdherenceSettings | None]]
) -> None:
    found = low_adherence_episodes(outcomes, spans)
    for (start, settings), (end, _) in pairwise([*spans, (2**62, None)]):
        if settings is None:
            assert not [one for one in found if start <= one.opened_at < end]
            assert not [one for one in found if one.opened_at < start and (one.resolved_at or 2**62) > start]
    rested = [one.resolved_at for one in found if one.evidence.get("ended_by") == "rest"]
    assert set(rested) <= {start for start, settings in spans if settings is None}


# The rule at its edges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "opens", "resolves"),
    [
        ("tttttmm", 6, None), ("tttttmmt", 6, None), ("tttttttttmtttttt", None, None), ("m", None, None),
        ("mm", 1, None), ("mmt", 1, 2), ("mtm", None, None), ("msm", 2, None), ("mum", 2, None), ("mm.", 1, None),
        ("mmuuuuuuuu", 1, None), ("mmssss", 1, None), ("mpm", None, None), ("mmpt", 1, 2), ("ssss", None, None),
        ("ttsss", 4, None), ("mtttt", None, None), ("mtttm", 4, None), ("mtttttm", 6, None), ("mttttttm", None, None),
        ("tttmtmttttttttt", 5, 12),
    ],
)  # fmt: skip
def test_one_dose_a_day(letters: str, opens: int | None, resolves: int | None) -> None:
    found = spans(course(letters))
    if opens is None:
        assert found == []
        return
    # A miss counts from the end of the window, a taken dose from when it was taken, a paused one from when it was due.
    opened_at = due(opens) + (0 if letters[opens] == "s" else HOUR_MS)
    assert found == [(opened_at, None if resolves is None else due(resolves))]


def test_a_late_dose_stands_as_missed_until_it_is_taken() -> None:
    assert spans(course("tml")) == [(due(2) + HOUR_MS, due(2) + 3 * HOUR_MS)]
    assert spans(course("tlllllll")) == []
    assert spans(course("tmt")) == []


def test_an_opening_in_time_that_is_delivered_late_takes_the_episode_away() -> None:
    assert spans(course("tmm")) == [(due(2) + HOUR_MS, None)]
    assert spans(course("tmt")) == []
    assert spans(course("tmu")) == []


def test_several_schedules_are_one_episode() -> None:
    first, second = course("tmmttttt", 1), course("tmmmmtttttt", 2)
    found = low_adherence_episodes([*second, *first])
    assert [(one.opened_at, one.resolved_at) for one in found] == [(due(2) + HOUR_MS, None)]
    assert found[0].evidence == {"schedule_ids": [1, 2], "missed_in_row": True, "taking_adherence": 0.2}
    assert spans(course("tmmt", 1)) == [(due(2) + HOUR_MS, due(3))]


def test_misses_of_several_schedules_at_once_are_not_in_a_row() -> None:
    assert spans([*course("tttm", 1), *course("tttm", 2), *course("tttm", 3)]) == []


def test_a_critical_schedule_makes_it_high() -> None:
    quiet, critical = course("tmmt", 1), course("tmmt", 2, critical=True)
    assert [one.severity for one in low_adherence_episodes(quiet)] == [Severity.MEDIUM]
    assert [one.severity for one in low_adherence_episodes([*quiet, *critical])] == [Severity.HIGH]
    assert [one.severity for one in low_adherence_episodes([*quiet, *course("tttt", 2, critical=True)])] == [
        Severity.MEDIUM
    ]


def test_doses_too_old_to_alert_on_do_not_count() -> None:
    assert spans([*course("mmm", alerts=False), outcome("m", due(3))]) == []


def test_settings() -> None:
    strict = LowAdherenceSettings(misses_in_row=1, least_doses=1, least_taking=1, recovered_taking=1)
    assert low_adherence_episodes(course("t"), [(0, strict)]) == []
    assert [one.opened_at for one in low_adherence_episodes(course("tm"), [(0, strict)])] == [due(1) + HOUR_MS]
    lax = LowAdherenceSettings(misses_in_row=3, least_taking=0.5)
    assert low_adherence_episodes(course("ttttmm"), [(0, lax)]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"misses_in_row": 0}, {"misses_in_row": 21}, {"row_days": 0}, {"row_days": 93}, {"period_days": 0},
        {"period_days": 93}, {"least_taking": -0.1}, {"least_taking": 0.95}, {"recovered_taking": 1.1},
        {"least_doses": 0}, {"least_doses": 501},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|not the smaller"):
        LowAdherenceSettings(**changes)  # type: ignore[arg-type]


def test_each_change_is_judged_by_the_settings_of_its_time() -> None:
    three = LowAdherenceSettings(misses_in_row=3)
    change = due(2)
    assert spans_by([(0, three), (change, LowAdherenceSettings())], "tmm.") == [(due(2) + HOUR_MS, None)]
    assert spans_by([(0, LowAdherenceSettings()), (change, three)], "tmmmm") == [(due(3) + HOUR_MS, None)]
    assert spans_by([(0, LowAdherenceSettings()), (due(3), three)], "tmmmm") == [(due(2) + HOUR_MS, None)]


def test_where_the_rule_goes_off_an_episode_ends_and_doses_taken_up_again_are_looked_back_on() -> None:
    off = [(0, LowAdherenceSettings()), (due(3), None), (due(5), LowAdherenceSettings())]
    assert spans_by(off, "tmmmm") == [(due(2) + HOUR_MS, due(3))]
    assert spans_by(off, "tmmmmm") == [(due(2) + HOUR_MS, due(3)), (due(5) + HOUR_MS, None)]
    assert spans_by(off, "tmmppt") == [(due(2) + HOUR_MS, due(3))]


def test_a_share_that_was_too_small_before_the_rest_is_asked_for_anew() -> None:
    """Between 80 and 90 percent: low as long as it was low before, and not after a rest."""
    always: list[tuple[int, LowAdherenceSettings | None]] = [
        (0, LowAdherenceSettings(period_days=10, recovered_taking=1))
    ]
    off = [*always, (due(8), None), (due(8) + HOUR_MS, always[0][1])]
    assert spans_by(always, "tttmtmttttt") == [(due(5) + HOUR_MS, None)]
    assert spans_by(off, "tttmtmttttt") == [(due(5) + HOUR_MS, due(8))]


def test_what_was_taken_before_the_week_does_not_count() -> None:
    assert low_adherence_episodes(course("tsssssssss"))[0].evidence["taking_adherence"] == 0


def test_weekly_doses_are_judged_by_misses_alone() -> None:
    assert spans(course("tsss", every=7)) == []
    assert spans(course("tmm", every=7)) == [(due(14) + HOUR_MS, None)]
    assert spans(course("tmuuum", every=7)) == []
    assert spans(course("tmuum", every=7)) == [(due(28) + HOUR_MS, None)]


# Recordings and their twin -------------------------------------------------------------------------------------------


def bottle(outcomes: Sequence[DoseOutcome]) -> list[Episode]:
    found = low_adherence_episodes(outcomes)
    assert [(one.opened_at, one.resolved_at) for one in found] == plain_spans(outcomes)
    return found


def test_the_recorded_pill_bottle() -> None:
    """Doses without the maker's verdict are those of a bottle that was not heard."""
    path = RECORDINGS / "med_oncmap_pillbottles" / "adheretech_first_half.csv"
    if not path.exists():
        pytest.skip("the recordings are not here")
    with path.open() as file:
        rows = {ms(row["due_utc"] + "Z"): row for row in csv.DictReader(file)}
    zone = ZoneHistory.of("America/New_York")
    plan = DoseSchedule(1, (time(7, 30), time(19, 15)), date(2021, 11, 5), DAY_ONE - 5 * 365 * DAY_MS)
    doses = [
        replace(one, contact_seen_at=None if rows[one.due_at]["Status"] == "PENDING" else one.window_end)
        for one in due_doses(plan, zone, min(rows), max(rows) + 1)
    ]
    openings = [Opening(ms(row["recorded_utc"] + "Z")) for row in rows.values() if row["recorded_utc"]]
    found = bottle(settle(doses, openings, None, DAY_ONE))
    assert len(found) == 10
    assert sum(one.evidence["missed_in_row"] is False for one in found) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_synthetic_bottle(seed: int) -> None:
    """The recording's twin: somebody who misses an eighth of two doses a day, sometimes out of the bottle's hearing."""
    rng = random.Random(seed)
    letters = "".join(rng.choices("tlemu", weights=[66, 15, 6, 12, 4], k=400))
    found = bottle(course(letters, every=0.5))
    assert 5 < len(found) < 40
