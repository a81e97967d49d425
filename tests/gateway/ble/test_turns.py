"""Turns: nobody starves, who fails holds nobody up, links are never overbooked."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import DeviceModel
from gateway.ble.turns import (
    FIRST_BACK_OFF_MS,
    IN_SIGHT_MS,
    LONGEST_BACK_OFF_MS,
    POLICIES,
    SLICE_MS,
    Decision,
    TurnState,
    back_off_ms,
    decide,
    waits,
)

NOW = 1_000_000_000
SECOND = 1000
CONNECT = 3 * SECOND
"""What connecting, and leaving when asked, take at most in these tests, together."""


def near(name: str, model: DeviceModel = DeviceModel.WRISTBAND, *, turn: int | None = None) -> TurnState:
    return TurnState(name, model, seen_ms=NOW, turn_ms=turn)


def linked(name: str, since: int, model: DeviceModel = DeviceModel.WRISTBAND) -> TurnState:
    return TurnState(name, model, seen_ms=since, linked_ms=since)


def test_every_model_behind_an_edge_has_a_policy() -> None:
    assert set(POLICIES) == set(DeviceModel) - {DeviceModel.EDGE}
    assert {model for model, policy in POLICIES.items() if policy.stays} == {DeviceModel.WRISTBAND, DeviceModel.CGM}


def test_who_had_no_turn_yet_comes_first_then_who_had_it_longest_ago() -> None:
    devices = [near("a", turn=NOW - 1), near("b", turn=NOW - 9), near("c"), near("d", turn=NOW - 5)]
    assert decide(devices, 3, NOW) == Decision(connect=("c", "b", "d"))


def test_a_link_is_given_up_after_a_slice_if_somebody_waits() -> None:
    old, young = linked("old", NOW - SLICE_MS), linked("young", NOW - SLICE_MS + 1)
    assert decide([old, young], 2, NOW) == Decision()
    assert decide([old, young, near("x")], 2, NOW) == Decision(release=("old",))
    assert decide([old, young, near("x"), near("y")], 2, NOW) == Decision(release=("old",))
    assert decide([old.asked(), linked("other", NOW - SLICE_MS), near("x")], 2, NOW) == Decision()
    assert decide([old, young, near("x")], 3, NOW) == Decision(connect=("x",))


def test_a_device_out_of_sight_is_not_tried() -> None:
    gone = TurnState("gone", DeviceModel.CGM, seen_ms=NOW - IN_SIGHT_MS - 1)
    assert not waits(gone, NOW)
    assert not waits(TurnState("never", DeviceModel.CGM), NOW)
    assert waits(gone.seen(NOW), NOW)
    assert decide([linked("a", NOW - SLICE_MS), gone], 1, NOW) == Decision()


@pytest.mark.parametrize("model", POLICIES)
def test_visits_are_as_far_apart_as_the_policy_says(model: DeviceModel) -> None:
    every = POLICIES[model].every_ms
    device = near("d", model).begun(NOW).ended(NOW, failed=False)
    assert waits(device.seen(NOW + every), NOW + every)
    if every:
        assert not waits(device.seen(NOW + every - 1), NOW + every - 1)
        urgent = TurnState("d", model, seen_ms=NOW, turn_ms=NOW, urgent=True)
        assert waits(urgent, NOW)


def test_back_off_doubles_up_to_ten_minutes_and_is_jittered() -> None:
    assert back_off_ms(0, 1.0) == 0
    whole = [back_off_ms(failures, 1.0) for failures in range(1, 40)]
    assert whole[:3] == [FIRST_BACK_OFF_MS, 2 * FIRST_BACK_OFF_MS, 4 * FIRST_BACK_OFF_MS]
    assert whole == sorted(whole)
    assert whole[-1] == LONGEST_BACK_OFF_MS == 600_000
    assert back_off_ms(10**9, 0.5) == LONGEST_BACK_OFF_MS / 2
    assert back_off_ms(5, 0.0) == 0


def test_a_turn_that_went_well_forgets_the_failures() -> None:
    device = near("d")
    for failures in range(1, 4):
        device = device.begun(NOW).ended(NOW, failed=True)
        assert device.failures == failures
        assert not waits(device, NOW + back_off_ms(failures, 1.0) - 1)
        assert waits(device, NOW + back_off_ms(failures, 1.0))
    device = device.begun(NOW).ended(NOW, failed=False)
    assert (device.failures, device.not_before_ms, device.linked_ms) == (0, NOW, None)


@dataclass
class Ward:
    """Devices that are near and healthy, or fail; a second at a time."""

    links: int
    devices: dict[str, TurnState]
    broken: frozenset[str]
    rng: random.Random
    served: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    def tick(self, now: int) -> None:
        for name, at in list(self.ends.items()):
            if at <= now:
                del self.ends[name]
                failed = name in self.broken
                self.devices[name] = self.devices[name].ended(now, failed=failed, chance=self.rng.random())
        self.devices = {name: device.seen(now) for name, device in self.devices.items()}
        decision = decide(self.devices.values(), self.links, now)
        for name in decision.connect:
            self.devices[name] = self.devices[name].begun(now)
            self.served.setdefault(name, []).append(now)
            if name in self.broken:
                self.ends[name] = now + self.rng.randint(1, CONNECT // SECOND) * SECOND
            elif not POLICIES[self.devices[name].model].stays:
                self.ends[name] = now + self.rng.randint(1, SLICE_MS // SECOND) * SECOND
        for name in decision.release:
            assert not self.devices[name].leaving
            self.devices[name] = self.devices[name].asked()
            self.ends[name] = min(self.ends.get(name, now + CONNECT), now + CONNECT)
        assert sum(device.linked_ms is not None for device in self.devices.values()) <= self.links


@settings(max_examples=30, deadline=None)
@given(data=st.data(), links=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_nobody_starves(data: st.DataObject, links: int, seed: int) -> None:
    models = data.draw(st.lists(st.sampled_from(sorted(POLICIES)), min_size=1, max_size=12))
    ward = Ward(
        links,
        {f"d{i}": TurnState(f"d{i}", model) for i, model in enumerate(models)},
        frozenset(),
        random.Random(seed),
    )
    bound = math.ceil(len(models) / links) * (SLICE_MS + CONNECT + SECOND)
    waiting: dict[str, int] = {}
    for second in range(1800):
        now = NOW + second * SECOND
        ward.tick(now)
        for name, device in ward.devices.items():
            if waits(device, now):
                assert now - waiting.setdefault(name, now) <= bound
            else:
                waiting.pop(name, None)
    assert set(ward.served) == set(ward.devices)


@settings(max_examples=15, deadline=None)
@given(links=st.integers(1, 3), healthy=st.integers(1, 5), broken=st.integers(0, 20), seed=st.integers(0, 10**6))
def test_who_fails_holds_nobody_up(links: int, healthy: int, broken: int, seed: int) -> None:
    names = [f"good{i}" for i in range(healthy)] + [f"bad{i}" for i in range(broken)]
    devices = {name: TurnState(name, DeviceModel.WRISTBAND) for name in names}
    ward = Ward(links, devices, frozenset(name for name in names if name.startswith("bad")), random.Random(seed))
    idle = 0
    hour = 3600
    for second in range(hour):
        ward.tick(NOW + second * SECOND)
        held = sum(d.linked_ms is not None for name, d in ward.devices.items() if name not in ward.broken)
        idle += min(links, healthy) - held if second > hour // 2 else 0
    tries = [len(ward.served[name]) for name in ward.broken]
    # Once the back-off is long, a failing device costs one link some seconds every five minutes.
    assert idle <= hour // 2 * (0.012 * broken + 0.02)
    assert max(tries, default=0) < 60
    assert all(ward.served[name] for name in ward.devices)
