"""Scenarios keep their promises, whatever the hour and the seed."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.vocabulary import DEVICE_ID, DeviceModel
from firmware_sim.physiology.glucose import GlucoseProcess
from firmware_sim.physiology.local_time import local_day, utc_ms
from firmware_sim.physiology.noise import DAY_MS, MINUTE_MS
from firmware_sim.pillbox import PillBox, PillBoxTraits
from firmware_sim.plan import PatientPlan
from firmware_sim.scenarios import Scenario, Start, patients
from firmware_sim.wristband import Wristband, WristbandTraits
from firmware_sim.zones import zone_where_it_is

NOW = 1_793_462_400_000
moments = st.integers(NOW, NOW + 400 * DAY_MS)


def start_at(now_ms: int, seed: int = 1, days: float = 30) -> Start:
    return Start(now_ms, days, seed, f"sim{seed}")


def band_of(plan: PatientPlan) -> WristbandTraits:
    traits = plan.devices[0].traits
    assert isinstance(traits, WristbandTraits)
    return traits


@given(now_ms=moments, hour=st.integers(0, 23))
def test_somewhere_it_is_that_hour(now_ms: int, hour: int) -> None:
    local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(ZoneInfo(zone_where_it_is(hour, now_ms)))
    off = abs(local.hour * 60 + local.minute - hour * 60) % 1440
    assert min(off, 1440 - off) <= 32


@settings(deadline=None, max_examples=60)
@given(now_ms=moments, seed=st.integers(0, 1000))
def test_night_low_is_low_at_night_within_a_minute(now_ms: int, seed: int) -> None:
    plan = patients(Scenario.NIGHT_LOW, 1, start_at(now_ms, seed))[0]
    traits = band_of(plan)
    zone = ZoneInfo(plan.timezone)
    assert 2 <= datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone).hour <= 3
    first = now_ms - 2 * 3_600_000
    times = np.arange(first + (traits.phase_ms - first) % (5 * MINUTE_MS), now_ms + 3_600_000, 5 * MINUTE_MS)
    low = times[GlucoseProcess([*plan.devices[0].seed, 10], traits.glucose, zone, traits.dips).at(times) < 4.0]
    assert now_ms < low[0] <= now_ms + MINUTE_MS
    assert low[-1] <= now_ms + 35 * MINUTE_MS


@settings(deadline=None, max_examples=60)
@given(now_ms=moments, seed=st.integers(0, 1000))
def test_missed_dose_is_missed_about_now_and_no_other(now_ms: int, seed: int) -> None:
    plan = patients(Scenario.MISSED_DOSE, 1, start_at(now_ms, seed))[0]
    box = plan.devices[1]
    traits = box.traits
    assert isinstance(traits, PillBoxTraits)
    (due,) = traits.certain_misses
    assert now_ms - 45_000 <= due + 60 * MINUTE_MS <= now_ms + 15_000
    local = datetime.fromtimestamp(due / 1000, UTC).astimezone(ZoneInfo(plan.timezone))
    assert (local.hour, local.minute) in [(at.hour, at.minute) for dose in plan.doses for at in dose.at]
    drafts = PillBox(box.seed, traits).measure(now_ms - 10 * DAY_MS, now_ms, live=False)
    opened = sum(item["type"] == "compartment_opened" for draft in drafts for item in draft.items if "type" in item)
    assert 18 <= opened <= 20


@settings(deadline=None, max_examples=40)
@given(now_ms=moments, days=st.sampled_from([0.0, 0.3, 0.9, 2.0, 9.0]), scenario=st.sampled_from(list(Scenario)))
def test_nobody_misses_a_dose_of_the_last_day_but_the_planned_one(now_ms: int, days: float, scenario: Scenario) -> None:
    start = start_at(now_ms, days=days)
    for plan in patients(scenario, 8, start):
        zone = ZoneInfo(plan.timezone)
        for box in plan.devices[1:]:
            traits = box.traits
            assert isinstance(traits, PillBoxTraits)
            drafts = PillBox(box.seed, traits).measure(start.history_from_ms, now_ms, live=False)
            opened = np.array(
                [item["at"] for draft in drafts for item in draft.items if "type" in item], dtype=np.int64
            )
            for dose in plan.doses:
                first = (dose.valid_from - date(1970, 1, 1)).days
                for day in range(first, local_day(now_ms, zone) + 1):
                    for at in dose.at:
                        due = utc_ms(day, at.hour * 60 + at.minute, zone)
                        if now_ms - DAY_MS < due + 60 * MINUTE_MS <= now_ms and due not in traits.certain_misses:
                            assert (abs(opened - due) <= 60 * MINUTE_MS).any()


@pytest.mark.parametrize("scenario", list(Scenario))
def test_plans_follow_from_the_seed(scenario: Scenario) -> None:
    one, same, other = (patients(scenario, 16, start_at(NOW, seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    ids = [device.id for plan in one for device in plan.devices]
    assert len(set(ids)) == len(ids)
    assert all(DEVICE_ID.match(device_id) for device_id in ids)
    assert {device.model for plan in one for device in plan.devices} <= {DeviceModel.WRISTBAND, DeviceModel.PILLBOX}


def test_measurements_follow_from_the_seed() -> None:
    (plan,) = patients(Scenario.STEADY, 1, start_at(NOW))
    one, same = (
        Wristband(plan.devices[0].seed, band_of(plan)).measure(NOW - DAY_MS, NOW, live=False) for _ in range(2)
    )
    assert one == same


def test_a_steady_month_has_no_lows() -> None:
    for plan in patients(Scenario.STEADY, 6, start_at(NOW, seed=3)):
        traits = band_of(plan)
        times = np.arange(NOW - 30 * DAY_MS, NOW, 5 * MINUTE_MS)
        assert GlucoseProcess([*plan.devices[0].seed, 10], traits.glucose, traits.zone).at(times).min() > 4.05


def test_clinic_patients_differ() -> None:
    plans = patients(Scenario.CLINIC, 8, start_at(NOW))
    assert len({plan.timezone for plan in plans}) >= 2
    assert {device.cbor for plan in plans for device in plan.devices} == {True, False}
    assert len({band_of(plan).glucose_unit for plan in plans}) == 2
    assert sum(bool(device.coverage) for plan in plans for device in plan.devices) == 2
