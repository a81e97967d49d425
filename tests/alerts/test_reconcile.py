"""Late data may move, split, merge, undo episodes: the alerts follow, ids and acknowledgements stay with them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.reconcile import (
    Action,
    AlertState,
    Change,
    Decision,
    Raise,
    StandingAlert,
    Withdraw,
    grade_of,
    reconcile,
    state_of,
)
from streaming.episodes import Episode, Rule, Severity

DOCTOR = 7
NIGHT = Rule.NOCTURNAL_HYPOGLYCAEMIA


def alert(number: int, opened: int, resolved: int | None, *, acked: bool = False, **more: object) -> StandingAlert:
    running = resolved is None
    standing = StandingAlert(
        id=number,
        subject="",
        severity=Severity.HIGH,
        state=state_of(running=running, answered=acked),
        opened_at=opened,
        resolved_at=resolved,
        running=running,
        acknowledged_by=DOCTOR if acked else None,
        acknowledged_at=opened if acked else None,
        grade=3,
        answered_grade=3 if acked else None,
        finding={},
    )
    return replace(standing, **more)  # type: ignore[arg-type]


def episode(opened: int, resolved: int | None, severity: Severity = Severity.HIGH, subject: str = "") -> Episode:
    return Episode(opened, resolved, severity, {}, subject)


Told = list[tuple[str, int | None, int | None, int | None, tuple[str, ...]]]


def told(decisions: Sequence[Decision]) -> Told:
    """(what, id, opened or survivor, resolved, actions) of each decision."""
    found: Told = []
    for decision in decisions:
        match decision:
            case Raise(new):
                found.append(("raise", None, new.opened_at, new.resolved_at, ()))
            case Change(_, after, _, actions):
                found.append(("change", after.id, after.opened_at, after.resolved_at, tuple(actions)))
            case Withdraw(gone, survivor):
                found.append(("withdraw", gone.id, survivor, None, ()))
    return found


@pytest.mark.parametrize(
    ("standing", "episodes", "wanted"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([], [episode(10, None)], [("raise", None, 10, None, ())], id="new and open"),
        pytest.param([], [episode(10, 20)], [("raise", None, 10, 20, ())], id="new and over already"),
        pytest.param([alert(1, 10, 20)], [episode(10, 20)], [], id="as it was"),
        pytest.param([alert(1, 10, None)], [episode(10, None)], [], id="still open"),
        pytest.param([alert(1, 10, None)], [episode(10, 20)], [("change", 1, 10, 20, ("resolved",))], id="resolved"),
        pytest.param(
            [alert(1, 10, None)], [episode(5, None)], [("change", 1, 5, None, ("updated",))], id="opened earlier"
        ),
        pytest.param([alert(1, 10, 20)], [episode(12, 25)], [("change", 1, 12, 25, ("updated",))], id="moved"),
        pytest.param(
            [alert(1, 10, 20)], [episode(10, None)], [("change", 1, 10, None, ("reopened",))], id="not over after all"
        ),
        pytest.param(
            [alert(1, 10, None)],
            [episode(10, None, Severity.URGENT)],
            [("change", 1, 10, None, ("severity_raised",))],
            id="more severe",
        ),
        pytest.param(
            [alert(1, 10, None)],
            [episode(10, 20, Severity.URGENT)],
            [("change", 1, 10, 20, ("resolved", "severity_raised"))],
            id="more severe and over",
        ),
        pytest.param(
            [alert(1, 10, 20, severity=Severity.URGENT)],
            [episode(10, 20)],
            [("change", 1, 10, 20, ("updated",))],
            id="less severe is no more than an update",
        ),
        pytest.param([alert(1, 10, 20)], [], [("withdraw", 1, None, None, ())], id="gone"),
        pytest.param(
            [alert(1, 10, 40)],
            [episode(10, 20), episode(30, 40)],
            [("change", 1, 10, 20, ("updated",)), ("raise", None, 30, 40, ())],
            id="split: the earlier part keeps the id",
        ),
        pytest.param(
            [alert(1, 10, 20), alert(2, 30, 40)],
            [episode(10, 40)],
            [("withdraw", 2, 1, None, ()), ("change", 1, 10, 40, ("updated",))],
            id="merged: the earliest survives",
        ),
        pytest.param(
            [alert(1, 10, 20), alert(2, 30, None)],
            [episode(10, None)],
            [("withdraw", 2, 1, None, ()), ("change", 1, 10, None, ("reopened",))],
            id="merged into one that goes on",
        ),
        pytest.param(
            [alert(1, 10, 20)], [episode(20, 30)], [("change", 1, 20, 30, ("updated",))], id="ends touch: the same one"
        ),
        pytest.param(
            [alert(1, 10, 20)],
            [episode(21, 30)],
            [("withdraw", 1, None, None, ()), ("raise", None, 21, 30, ())],
            id="beside it: another one",
        ),
        pytest.param(
            [alert(1, 10, 15), alert(2, 20, 30)],
            [episode(5, 22), episode(28, 30)],
            [("change", 1, 5, 22, ("updated",)), ("change", 2, 28, 30, ("updated",))],
            id="each keeps its own",
        ),
        pytest.param(
            [alert(1, 10, None, subject="dose 1")],
            [episode(10, None, subject="dose 2")],
            [("withdraw", 1, None, None, ()), ("raise", None, 10, None, ())],
            id="another subject is another alert",
        ),
    ],
)
def test_the_alerts_follow_the_episodes(standing: list[StandingAlert], episodes: list[Episode], wanted: Told) -> None:
    assert told(reconcile(NIGHT, standing, episodes)) == wanted


def test_an_acknowledgement_carries_over_to_the_survivor() -> None:
    standing = [alert(1, 10, 20), alert(2, 30, None, acked=True)]
    withdrawn, change = reconcile(NIGHT, standing, [episode(10, None)])
    assert withdrawn == Withdraw(standing[1], 1)
    assert isinstance(change, Change)
    assert change.after.acknowledged_by == DOCTOR
    assert change.after.state is AlertState.ACKNOWLEDGED
    assert Action.MERGED in change.actions


def test_an_open_survivor_that_stays_open_is_acknowledged_too() -> None:
    standing = [alert(1, 10, 20, acked=True), alert(2, 30, None)]
    _, change = reconcile(NIGHT, standing, [episode(10, None)])
    assert isinstance(change, Change)
    assert (change.after.id, change.after.state, change.after.acknowledged_by) == (1, AlertState.ACKNOWLEDGED, DOCTOR)


def test_the_survivors_own_acknowledgement_is_not_replaced() -> None:
    standing = [alert(1, 10, 20, acked=True), alert(2, 30, 40, acked=True, acknowledged_by=9)]
    _, change = reconcile(NIGHT, standing, [episode(10, 40)])
    assert isinstance(change, Change)
    assert change.after.acknowledged_by == DOCTOR


def test_what_a_person_resolved_stays_resolved_while_the_episode_goes_on() -> None:
    closed = alert(1, 10, None, state=AlertState.RESOLVED, resolved_at=15, answered_grade=3)
    assert reconcile(NIGHT, [closed], [episode(10, None)]) == []
    (over,) = reconcile(NIGHT, [closed], [episode(10, 30)])
    assert isinstance(over, Change)
    assert (over.after.state, over.after.resolved_at, over.after.running) == (AlertState.RESOLVED, 30, False)


def low(value: float | None, severity: Severity = Severity.URGENT, unit: str = "mmol/L") -> Episode:
    return Episode(10, None, severity, {"lowest_value": value, "lowest_unit": unit})


@pytest.mark.parametrize("state", [AlertState.ACKNOWLEDGED, AlertState.SNOOZED, AlertState.RESOLVED])
@pytest.mark.parametrize(
    ("answered", "now", "opens"),
    [
        (3, low(3.2, Severity.HIGH), False),
        (3, low(3.0), True),
        (4, low(2.5), False),
        (4, low(2.4), True),
        (4, low(45, unit="mg/dL"), False),
        (4, low(44, unit="mg/dL"), True),
        (4, low(None), True),
        (5, low(2.4), False),
        (5, low(None), False),
    ],
)
def test_what_is_worse_than_it_was_answered_is_open_again(
    state: AlertState, answered: int, now: Episode, *, opens: bool
) -> None:
    before = alert(
        1, 10, None, state=state, answered_grade=answered, grade=answered, acknowledged_by=DOCTOR,
        resolved_at=15 if state is AlertState.RESOLVED else None,
    )  # fmt: skip
    (change,) = reconcile(NIGHT, [before], [now])
    assert isinstance(change, Change)
    assert change.after.state is (AlertState.OPEN if opens else state)
    assert (Action.REOPENED in change.actions) is opens
    assert change.after.resolved_at == (None if opens else before.resolved_at)
    assert change.after.acknowledged_by == DOCTOR, "who answered before is still said"


def test_it_ends_unanswered_unless_it_was_answered_at_its_grade() -> None:
    for answered, unanswered in ((None, True), (3, True), (4, False), (5, False)):
        before = alert(1, 10, None, severity=Severity.URGENT, grade=4, answered_grade=answered)
        (change,) = reconcile(NIGHT, [before], [episode(10, 30, Severity.URGENT)])
        assert isinstance(change, Change)
        assert (change.after.state, change.after.unanswered) == (AlertState.RESOLVED, unanswered)
        assert not before.unanswered


def test_every_change_is_told() -> None:
    before = alert(1, 10, None, finding={"lowest_value": 3.8, "lowest_unit": "mmol/L"})
    (change,) = reconcile(NIGHT, [before], [low(3.6, Severity.HIGH)])
    assert isinstance(change, Change)
    assert change.actions == (Action.UPDATED,)


def test_the_gravest_answer_goes_along_when_alerts_merge() -> None:
    standing = [
        alert(1, 10, 20, answered_grade=2, acknowledged_by=1),
        alert(2, 30, 40, answered_grade=3, acknowledged_by=2),
        alert(3, 50, None, answered_grade=4, acknowledged_by=3),
    ]
    *_, change = reconcile(NIGHT, standing, [episode(10, None, Severity.URGENT)])
    assert isinstance(change, Change)
    assert (change.after.id, change.after.answered_grade, change.after.acknowledged_by) == (1, 4, 3)
    assert change.after.state is AlertState.ACKNOWLEDGED


@pytest.mark.parametrize(
    ("rule", "found", "grade"),
    [
        (NIGHT, episode(10, None, Severity.LOW), 1),
        (NIGHT, episode(10, None, Severity.MEDIUM), 2),
        (NIGHT, low(3.5, Severity.HIGH), 3),
        (NIGHT, low(3.0), 4),
        (Rule.URGENT_LOW, low(2.49), 5),
        (Rule.HYPOGLYCAEMIA, low(2.0, Severity.MEDIUM), 2),
        (Rule.THRESHOLD, Episode(10, None, Severity.URGENT, {"lowest_value": 1.0, "lowest_unit": "%"}), 4),
        (Rule.HYPERGLYCAEMIA, Episode(10, None, Severity.HIGH, {"highest_value": None, "highest_unit": "mmol/L"}), 3),
    ],
)
def test_the_grade_of_an_episode(rule: Rule, found: Episode, grade: int) -> None:
    assert grade_of(rule, found) == grade


@st.composite
def episode_lists(draw: st.DrawFn) -> list[Episode]:
    """Draw what a fold can find: disjoint, in order, the last one possibly open."""
    edges = sorted(draw(st.sets(st.integers(0, 60), max_size=12)))
    found = [
        episode(a, b, draw(st.sampled_from([Severity.HIGH, Severity.URGENT])))
        for a, b in zip(edges[::2], edges[1::2], strict=False)
    ]
    if len(edges) % 2:
        found.append(episode(edges[-1], None))
    return found


@given(st.lists(episode_lists(), min_size=1, max_size=5), st.data())
def test_after_any_sequence_of_folds_the_alerts_are_the_episodes(
    folds: list[list[Episode]], data: st.DataObject
) -> None:
    alerts: dict[int, StandingAlert] = {}
    ids = iter(range(1, 1000))
    for episodes in folds:
        before = dict(alerts)
        decisions = reconcile(NIGHT, list(before.values()), episodes)
        for decision in decisions:
            _apply(decision, alerts, ids)
            openings = [one.opened_at for one in alerts.values()]
            assert len(set(openings)) == len(openings), "one alert per episode, at every step"
        assert {(a.opened_at, None if a.running else a.resolved_at, a.severity) for a in alerts.values()} == {
            (e.opened_at, e.resolved_at, e.severity) for e in episodes
        }
        assert reconcile(NIGHT, list(alerts.values()), episodes) == []
        _check_identities(before, alerts, decisions)
        for number in data.draw(st.sets(st.sampled_from(sorted(alerts)))) if alerts else set():
            one = alerts[number]
            state = AlertState.ACKNOWLEDGED if one.state is AlertState.OPEN else one.state
            answer = data.draw(st.integers(1, one.grade))
            if one.running and answer < one.grade:
                continue
            alerts[number] = replace(one, acknowledged_by=DOCTOR, acknowledged_at=1, answered_grade=answer, state=state)


def _apply(decision: Decision, alerts: dict[int, StandingAlert], ids: "object") -> None:
    match decision:
        case Raise(new):
            number = next(ids)  # type: ignore[call-overload]
            alerts[number] = replace(
                alert(number, new.opened_at, new.resolved_at), severity=new.severity, grade=grade_of(NIGHT, new)
            )
        case Change(before, after, _, _):
            assert alerts[after.id] == before
            alerts[after.id] = after
        case Withdraw(gone, survivor):
            assert survivor != gone.id
            del alerts[gone.id]


def _check_identities(
    before: Mapping[int, StandingAlert], after: Mapping[int, StandingAlert], decisions: Sequence[Decision]
) -> None:
    raised = {d.episode.opened_at for d in decisions if isinstance(d, Raise)}
    for number, old in before.items():
        if number in after:
            assert after[number].acknowledged_by == old.acknowledged_by or old.acknowledged_by is None
    for decision in decisions:
        if isinstance(decision, Withdraw):
            gone, survivor = decision.alert, decision.survivor
            overlapping = [
                one
                for one in after.values()
                if gone.overlaps(episode(one.opened_at, None if one.running else one.resolved_at))
            ]
            assert (survivor is not None) == bool(overlapping)
            assert all(one.opened_at not in raised for one in overlapping), "an id is not thrown away for a new one"
            if survivor is not None:
                assert survivor in before
                assert before[survivor].opened_at < gone.opened_at, "the earliest survives"
                if gone.acknowledged_by is not None:
                    assert after[survivor].acknowledged_by is not None
