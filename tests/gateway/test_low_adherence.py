"""Low adherence from openings to the alert: against the real store and the pure fold, in any order."""

import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from streaming.doses.low_adherence import low_adherence_episodes
from streaming.rules.changes import settings_json
from streaming.rules.settings import LowAdherenceSettings
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS
from tests.gateway.clinic import Clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward, plain

RULE = "low_adherence"
MORNING = ms("2026-03-10T06:00Z")
DUE = ms("2026-03-10T08:00Z")
END = DUE + HOUR_MS


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, MORNING) as ward:
        yield ward


async def a_dose_every_morning(ward: Ward, box: str = "box", **changes: Any) -> int:
    patient = await ward.patient(box)
    await ward.schedule(patient, "08:00", since="2026-03-10", **changes)
    await ward.work()
    return patient


async def live(ward: Ward, letters: str, *, first: int = 0, box: str = "box") -> None:
    """Live through one morning a letter, the first `first` days after the first: t(aken), or m(issed)."""
    for day, letter in enumerate(letters, start=first):
        if letter == "t":
            ward.now = DUE + day * DAY_MS
            await ward.hear(ward.opened(box, ward.now))
        ward.now = END + day * DAY_MS + MINUTE_MS
        await ward.work()
        await ward.hear(ward.alive(box))
        await ward.work()
        await ward.work(ward.now + GRACE_MS)


async def low(ward: Ward, patient: int) -> list[tuple[int, str, str, int | None]]:
    return await ward.alerts(patient, RULE)


async def told(ward: Ward) -> list[tuple[Any, ...]]:
    """What happened to the alerts, in order."""
    return await ward.clinic.rows(
        "select h.action, h.note from alert_history h join alert a on a.id = h.alert_id where a.rule = %s order by h.id",
        RULE,
    )


def end_of(day: int) -> int:
    return END + day * DAY_MS


# In order ------------------------------------------------------------------------------------------------------------


async def test_opens_at_the_second_miss_and_ends_when_a_dose_is_taken(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "m")
    assert await low(ward, patient) == []
    await live(ward, "m", first=1)
    assert await low(ward, patient) == [(end_of(1), "medium", "open", None)]
    found = "select summary, retrospective, technical, evidence -> 'finding', settings, rule_version from alert"
    summary, retrospective, technical, finding, settings, version = (
        await ward.clinic.rows(f"{found} where rule = %s", RULE)
    )[0]
    assert summary == "Medication is not taken as agreed (doses missed in a row): call, or visit"
    assert (retrospective, technical, version) == (False, False, 1)
    assert settings == settings_json(LowAdherenceSettings())
    assert finding == {
        "schedule_ids": [1],
        "medications": ["Metformin"],
        "missed_in_row": True,
        "taking_adherence": None,
        "task": "call, or visit",
    }
    await live(ward, "t", first=2)
    assert await low(ward, patient) == [(end_of(1), "medium", "resolved", DUE + 2 * DAY_MS)]
    outbox = "select action, alert ->> 'state' from outbox where alert ->> 'rule' = %s order by id"
    assert await ward.clinic.rows(outbox, RULE) == [("raised", "open"), ("resolved", "resolved")]


async def test_opens_below_eighty_percent_of_a_week_and_ends_at_ninety(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "tmtmt")
    assert await low(ward, patient) == [(DUE + 4 * DAY_MS, "medium", "open", None)]  # the fifth dose: 3 of 5
    summary = await ward.clinic.value("select summary from alert where rule = %s", RULE)
    assert summary == "Medication is not taken as agreed (60% of a week's doses taken): call, or visit"
    await live(ward, "ttttt", first=5)  # 6 of 7 on the ninth day
    assert [state for _, _, state, _ in await low(ward, patient)] == ["open"]
    await live(ward, "t", first=10)
    assert await low(ward, patient) == [(DUE + 4 * DAY_MS, "medium", "resolved", DUE + 10 * DAY_MS)]


async def test_critical_medication_is_high_at_the_first_miss_and_low_adherence_at_the_second(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward, critical=True)
    await live(ward, "m")
    assert await ward.alerts(patient) == [(END, "high", "open", None)]
    assert await low(ward, patient) == []
    await live(ward, "m", first=1)
    assert await low(ward, patient) == [(end_of(1), "high", "open", None)]


async def test_what_is_not_known_opens_and_ends_nothing(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    for day in range(4):
        await ward.work(end_of(day) + GRACE_MS)
    assert await ward.states(patient) == ["unknown"] * 4
    assert await low(ward, patient) == []
    await live(ward, "mm", first=4)  # back in contact: all six were missed
    assert await low(ward, patient) == [(end_of(1), "medium", "open", None)]
    assert await ward.clinic.value("select retrospective from alert where rule = %s", RULE) is True
    for day in range(6, 10):
        await ward.work(end_of(day) + GRACE_MS)
    assert [state for _, _, state, _ in await low(ward, patient)] == ["open"]


# Delivered late ------------------------------------------------------------------------------------------------------


async def test_an_opening_in_time_that_comes_late_takes_the_alert_away(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mm")
    await ward.hear(ward.opened("box", DUE + DAY_MS))
    assert await ward.states(patient) == ["missed", "taken"]
    assert await low(ward, patient) == []
    assert await told(ward) == [("raised", None), ("withdrawn", "late data: the episode is gone")]
    outbox = "select action, alert ->> 'state' from outbox where alert ->> 'rule' = %s order by id"
    assert (await ward.clinic.rows(outbox, RULE))[-1] == ("withdrawn", "withdrawn")


async def test_an_opening_out_of_time_that_comes_late_ends_the_alert_where_it_was(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mmm")
    ward.now += HOUR_MS
    await ward.hear(ward.opened("box", end_of(1) + HOUR_MS))
    assert await ward.states(patient) == ["missed", "late", "missed"]
    assert await low(ward, patient) == [(end_of(1), "medium", "resolved", end_of(1) + HOUR_MS)]


async def test_the_past_mended_before_the_alert_moves_its_beginning(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mmm")
    first = await ward.clinic.value("select id from alert where rule = %s", RULE)
    await ward.hear(ward.opened("box", DUE))
    assert await ward.states(patient) == ["taken", "missed", "missed"]
    assert await low(ward, patient) == [(end_of(2), "medium", "open", None)]
    assert await ward.clinic.value("select id from alert where rule = %s and state <> 'withdrawn'", RULE) == first
    assert await told(ward) == [("raised", None), ("updated", None)]


async def test_an_opening_that_was_for_another_dose_opens_the_alert_after_all(ward: Ward) -> None:
    """The backfill's second part shows that the evening's opening was a second one, and the next dose was missed."""
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "14:00", since="2026-03-10")
    await ward.work()
    ward.now = ms("2026-03-11T15:01Z")
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    assert await ward.states(patient) == ["missed"] * 4
    await ward.hear(ward.opened("box", ms("2026-03-10T11:00Z"), ms("2026-03-11T11:00Z")))
    assert await ward.states(patient) == ["late", "missed", "late", "missed"]
    assert [(opened, state) for opened, _, state, _ in await low(ward, patient)] == [
        (ms("2026-03-11T09:00Z"), "resolved")
    ]
    await ward.hear(ward.opened("box", ms("2026-03-11T07:30Z")))
    assert await ward.states(patient) == ["late", "missed", "taken", "early"]
    assert await low(ward, patient) == []


async def test_settled_years_are_not_read_again(ward: Ward) -> None:
    """An opening is judged by the doses that the rule looks back on, and an open alert from its beginning on."""
    patient = await a_dose_every_morning(ward)
    await ward.provisioning.set_rule(patient, RULE, {"row_days": 3, "period_days": 2})
    await live(ward, "t" * 10)
    spoil = "update dose set state = 'missed', taken_at = null where due_at < %s"
    await ward.clinic.connection.execute(spoil.encode(), [moment(DUE + 5 * DAY_MS)])
    await live(ward, "mmmmmm", first=10)
    assert await low(ward, patient) == [(end_of(11), "medium", "open", None)]
    await live(ward, "t", first=16)
    assert await low(ward, patient) == [(end_of(11), "medium", "resolved", DUE + 16 * DAY_MS)]


def somebody(rng: random.Random, days: int) -> list[int]:
    """Openings, two a day, of somebody who forgets for a day or two now and then, and often opens late."""
    forgotten = {first + n for first in range(7, 2 * days, 26) for n in range(rng.choice([2, 3, 4]))}
    forgotten |= {rng.randrange(2 * days) for _ in range(3)}
    openings: list[int] = []
    for number in range(2 * days):
        if number not in forgotten:
            due = ms("2026-01-01T08:00Z") + number * 12 * HOUR_MS
            openings.append(due + rng.choice([0, 0, 0, 10, -20, 150, 300]) * MINUTE_MS)
    return openings


async def arrive(ward: Ward, rng: random.Random, waiting: Sequence[int], box: str) -> None:
    waiting = list(waiting)
    while waiting:
        part = [waiting.pop(0) for _ in range(min(len(waiting), rng.choice([1, 1, 3, 9])))]
        ward.now = max(ward.now, max(part) + MINUTE_MS)
        await ward.hear(*(ward.opened(box, at) for at in part), ward.alive(box))
        if rng.random() < 0.4:
            await ward.work()
            await ward.work(ward.now + GRACE_MS)


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_arrival_ends_at_the_fold_over_everything(ward: Ward, seed: int) -> None:
    rng = random.Random(seed)
    ward.now = ms("2026-01-01T00:00Z")
    patient = await ward.patient("box")
    await ward.schedule(patient, "08:00", "20:00", since="2026-01-01")
    await ward.schedule(patient, "20:00", since="2026-01-01", critical=True)
    openings = somebody(rng, 40)
    waiting = openings[:]
    if seed:  # the box is in contact all the time, and brings what it kept in any order
        for start in range(0, len(waiting), seed * 8):
            part = waiting[start : start + seed * 8]
            rng.shuffle(part)
            waiting[start : start + seed * 8] = part
    await arrive(ward, rng, waiting, "box")
    ward.now = ms("2026-02-15T00:00Z")
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)
    outcomes = ward.folded(patient, "UTC", openings, ward.now)
    assert await ward.doses(patient) == plain(outcomes)
    wanted = low_adherence_episodes(outcomes)
    assert len(wanted) >= 2
    states = ["open" if one.resolved_at is None else "resolved" for one in wanted]
    assert await low(ward, patient) == [
        (one.opened_at, one.severity, state, one.resolved_at) for one, state in zip(wanted, states, strict=True)
    ]


# Settings ------------------------------------------------------------------------------------------------------------


async def test_each_change_is_judged_by_the_settings_of_its_time(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await ward.provisioning.set_rule(patient, RULE, {"misses_in_row": 3})
    await live(ward, "mm")
    assert await low(ward, patient) == []
    await live(ward, "m", first=2)
    assert await low(ward, patient) == [(end_of(2), "medium", "open", None)]
    settings = await ward.clinic.value("select settings from alert where rule = %s", RULE)
    assert settings == settings_json(LowAdherenceSettings(misses_in_row=3))


async def test_a_rule_that_is_switched_off_ends_what_it_had_opened_at_once(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mm")
    ward.now += HOUR_MS
    await ward.provisioning.set_rule(patient, RULE, {"enabled": False})
    assert await ward.work() == 1
    assert await low(ward, patient) == [(end_of(1), "medium", "resolved", ward.now)]
    finding = "select evidence -> 'finding' ->> 'ended_by' from alert where rule = %s"
    assert await ward.clinic.value(finding, RULE) == "rest"
    await live(ward, "mm", first=2)
    assert [missed for missed, *_ in await ward.alerts(patient)] == [end_of(day) for day in range(4)]
    await ward.provisioning.set_rule(patient, RULE, {"enabled": True})
    await live(ward, "m", first=4)
    assert [opened for opened, *_ in await low(ward, patient)] == [end_of(1), end_of(4)]


async def test_the_whole_clinic_may_switch_it_off(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mm")
    await ward.provisioning.set_rule(None, RULE, {"enabled": False})
    await ward.work()
    assert [state for _, _, state, _ in await low(ward, patient)] == ["resolved"]


async def test_a_pause_that_begins_ends_the_alert_there_and_afterwards_doses_begin_anew(ward: Ward) -> None:
    patient = await a_dose_every_morning(ward)
    await live(ward, "mm")
    begins = ward.now + 2 * HOUR_MS
    await ward.provisioning.pause(patient, moment(begins + 3 * DAY_MS), "hospital", begin=moment(begins))
    await ward.work()
    assert [state for _, _, state, _ in await low(ward, patient)] == ["open"]
    await ward.work(begins - 1)
    assert [state for _, _, state, _ in await low(ward, patient)] == ["open"]
    await ward.work(begins)
    assert await low(ward, patient) == [(end_of(1), "medium", "resolved", begins)]
    await live(ward, "mmm", first=2)
    assert (await ward.states(patient))[2:] == ["paused"] * 3
    await live(ward, "m", first=5)
    assert len(await low(ward, patient)) == 1
    await live(ward, "m", first=6)
    assert (await low(ward, patient))[1:] == [(end_of(6), "medium", "open", None)]
