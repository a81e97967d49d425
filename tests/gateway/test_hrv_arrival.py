"""Beats that come piece by piece, late, in seconds or from a band that was handed on: windows and nights as of all of them."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from gateway.ingest.source import Message
from gateway.store.connect import connect
from gateway.worker.setbacks import LONGEST_PAUSE_MS
from streaming.hrv.drift import fold_nights
from streaming.hrv.nights import NightValue, night_bounds
from streaming.hrv.rr_cleaning import RRRun
from streaming.hrv.windows import WINDOW_MS, HrvWindow, windows_of
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory
from tests.gateway.clinic import Clinic
from tests.gateway.ward import Ward, moment, open_ward
from tests.gateway.ward import ms as at
from tests.gateway.wire import telemetry

START = at("2026-03-10T01:00Z")
NIGHT = date(2026, 3, 10)
Series = dict[str, Any]


@pytest.fixture
async def ward(clinic: Clinic, database_url: str) -> AsyncIterator[Ward]:
    async with open_ward(clinic, database_url, START + 12 * HOUR_MS) as ward:
        yield ward


def beats(rng: np.random.Generator, since: int, until: int, rmssd: float = 40.0, odd: float = 0.0) -> list[Series]:
    """Breathing RR without a gap, in series of up to 30 beats, each within one window; `odd`: the share that is too early."""
    count = (until - since) // 900
    breath = np.sin(2 * np.pi * 0.24 * np.arange(count)) + rng.normal(0, 0.2, count)
    intervals = 950 + breath * rmssd / np.sqrt(np.mean(np.diff(breath) ** 2))
    intervals = np.round(np.where(rng.random(count) < odd, 0.6 * intervals, intervals))
    found: list[Series] = []
    at_ms = since
    for interval in intervals.tolist():
        at_ms += int(interval)
        if at_ms >= until:
            break
        last = found[-1] if found else None
        if last is None or len(last["values"]) == 30 or last["at"] // WINDOW_MS != at_ms // WINDOW_MS:
            found.append({"code": "rr_interval", "unit": "ms", "at": at_ms, "values": []})
        found[-1]["values"].append(interval)
    return found


async def send(ward: Ward, device: str, series: list[Series]) -> None:
    messages = [telemetry(device, series[first : first + 20]) for first in range(0, len(series), 20)]
    await ward.hear(*(Message(message.topic, message.payload, None, 1) for message in messages))


async def compute(ward: Ward) -> None:
    while await ward.worker.do("hrv windows", ward.connection, ward.now):
        pass


async def stored(ward: Ward, patient: int) -> list[tuple[Any, ...]]:
    return await ward.clinic.rows(
        "select to_ms(window_start), beats, coverage, corrected, valid, rmssd, sdnn, mean_heart_rate"
        " from hrv_window where patient_id = %s order by window_start",
        patient,
    )


def row(one: HrvWindow) -> tuple[Any, ...]:
    return (
        one.start_ms, one.beats, one.coverage, one.corrected, one.valid, one.rmssd, one.sdnn, one.mean_heart_rate,
    )  # fmt: skip


def wanted(series: list[Series]) -> list[tuple[Any, ...]]:
    """The windows of all of it at once."""
    runs = [RRRun(one["at"], np.array(one["values"], np.float64), 0) for one in series]
    return [row(one) for one in windows_of({1: runs}, START - HOUR_MS, START + 5 * HOUR_MS)]


@pytest.mark.parametrize("seed", [2, 3])
async def test_windows_are_those_of_all_beats_in_whatever_order_these_came(ward: Ward, seed: int) -> None:
    """What comes beside a window changes what of it counts as an artifact."""
    rng = np.random.default_rng(seed)
    ada = await ward.clinic.wearer("band")
    series = beats(rng, START, START + 40 * MINUTE_MS, odd=0.06)
    parts: dict[int, list[Series]] = {}
    for one in series:
        parts.setdefault(one["at"] // WINDOW_MS, []).append(one)
    for place in rng.permutation(list(parts)).tolist():
        await send(ward, "band", parts[place])
        await compute(ward)
    assert await stored(ward, ada) == wanted(series)
    assert len(wanted(series)) >= 7


async def test_beats_in_seconds_are_the_same_heart(ward: Ward) -> None:
    ada, eve = await ward.clinic.wearers(["band", "strap"])
    series = beats(np.random.default_rng(3), START, START + 12 * MINUTE_MS)
    in_s = [{**one, "unit": "s", "values": [value / 1000 for value in one["values"]]} for one in series]
    await send(ward, "band", series)
    await send(ward, "strap", in_s)
    await compute(ward)
    assert await stored(ward, ada) == wanted(series)
    for one, other in zip(await stored(ward, ada), await stored(ward, eve), strict=True):
        assert other == pytest.approx(one)


def cut_at(series: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """The series, or its beats before an instant and those from then on."""
    ends = np.append(series["at"], series["at"] + np.cumsum(series["values"][1:]))
    before = int(np.count_nonzero(ends < at))
    if before in {0, len(ends)}:
        return [series]
    first = {**series, "values": series["values"][:before]}
    return [first, {**series, "at": round(float(ends[before])), "values": series["values"][before:]}]


async def test_a_band_that_was_handed_on_tells_of_each_heart_what_was_measured_on_it(ward: Ward) -> None:
    ada = await ward.clinic.wearer("band")
    bob = await ward.provisioning.add_patient("Bob", "UTC")
    handed_over = START + 12 * MINUTE_MS
    await ward.provisioning.assign("band", bob, since=moment(handed_over))
    series = beats(np.random.default_rng(4), START, START + 24 * MINUTE_MS)
    await send(ward, "band", series)
    await compute(ward)
    cut = [part for one in series for part in cut_at(one, handed_over)]
    assert len(cut) == len(series) + 1
    assert await stored(ward, ada) == wanted([one for one in cut if one["at"] < handed_over])
    assert await stored(ward, bob) == wanted([one for one in cut if one["at"] >= handed_over])


async def test_a_window_waits_half_a_minute_for_the_message_that_completes_it(ward: Ward) -> None:
    ada = await ward.clinic.wearer("band")
    await send(ward, "band", beats(np.random.default_rng(5), START, START + 4 * MINUTE_MS))
    over = START + WINDOW_MS + 30_000
    assert await ward.worker.do("hrv windows", ward.connection, over - 1) == 0
    assert await stored(ward, ada) == []
    assert await ward.worker.do("hrv windows", ward.connection, over) == 1
    assert len(await stored(ward, ada)) == 1


# Nights ---------------------------------------------------------------------------------------------------------------


async def usual_nights(ward: Ward, patient: int) -> None:
    """Twenty nights before this one, as the worker would have computed and assessed them."""
    zone = ZoneHistory.of("UTC")
    values = np.random.default_rng(6).normal(np.log(42), 0.08, 20)
    for back, value in enumerate(values.tolist(), 1):
        night = NIGHT - timedelta(days=back)
        since, until = night_bounds(zone, night)
        await ward.clinic.connection.execute(
            "insert into hrv_night (patient_id, night, starts_at, ends_at, windows, rmssd, sdnn, mean_heart_rate, ln_rmssd,"
            " settled) values (%s, %s, from_ms(%s), from_ms(%s), 60, %s, 50, 58, %s, true)",
            (patient, night, since, until, float(np.exp(value)), value),
        )


async def nights(ward: Ward, patient: int) -> list[NightValue]:
    rows = await ward.clinic.rows(
        "select night, to_ms(starts_at), to_ms(ends_at), windows, rmssd, sdnn, mean_heart_rate, ln_rmssd"
        " from hrv_night where patient_id = %s order by night",
        patient,
    )
    return [NightValue(*row) for row in rows]


async def verdict(ward: Ward, patient: int) -> tuple[bool, float | None]:
    (row,) = await ward.clinic.rows(
        "select settled, z from hrv_night where patient_id = %s and night = %s", patient, NIGHT
    )
    return row[0], row[1]


async def assess(ward: Ward) -> int:
    return await ward.worker.do("hrv nights", ward.connection, ward.now)


async def test_late_beats_of_a_night_that_was_assessed_have_it_assessed_again(ward: Ward) -> None:
    rng = np.random.default_rng(7)
    ada = await ward.clinic.wearer("band")
    await usual_nights(ward, ada)
    await send(ward, "band", beats(rng, START, START + 70 * MINUTE_MS, 25.0))
    await compute(ward)
    assert await assess(ward) == 1
    _, before = await verdict(ward, ada)
    await send(ward, "band", beats(rng, START + 2 * HOUR_MS, START + 220 * MINUTE_MS, 45.0))
    await compute(ward)
    assert await assess(ward) == 1
    settled, after = await verdict(ward, ada)
    assessments, _ = fold_nights(await nights(ward, ada))
    assert settled
    assert after == pytest.approx(assessments[-1].z)
    assert before is not None
    assert after is not None
    assert before < after - 1, "most of the night is as usual"
    assert await assess(ward) == 0


async def test_a_night_that_is_not_over_is_not_assessed_with_those_that_are(ward: Ward) -> None:
    ada = await ward.clinic.wearer("band")
    await usual_nights(ward, ada)
    await ward.clinic.connection.execute(
        "update hrv_night set settled = false where night = %s", [NIGHT - timedelta(1)]
    )
    await send(ward, "band", beats(np.random.default_rng(8), START, START + 70 * MINUTE_MS, 25.0))
    ends_at = START + 5 * HOUR_MS
    ward.now = ends_at - 1
    await compute(ward)
    assert await assess(ward) == 1
    assert await verdict(ward, ada) == (False, None)
    assert await assess(ward) == 0
    ward.now = ends_at
    assert await assess(ward) == 1
    assert (await verdict(ward, ada))[0]


async def test_nights_are_left_to_the_worker_who_has_the_patient(ward: Ward, database_url: str) -> None:
    ada = await ward.clinic.wearer("band")
    await send(ward, "band", beats(np.random.default_rng(9), START, START + 70 * MINUTE_MS))
    await compute(ward)
    other = await connect(database_url, "another worker")
    try:
        async with other.transaction():
            await other.execute("select id from patient where id = %s for no key update", [ada])
            await assess(ward)
            assert await verdict(ward, ada) == (False, None)
    finally:
        await other.close()
    await assess(ward)
    assert (await verdict(ward, ada))[0]


BROKEN = """
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger broken_window before insert on hrv_window for each row when (new.patient_id = ADA) execute function refuse();
create trigger broken_night before update on hrv_night for each row when (old.patient_id = ADA) execute function refuse();
"""


async def test_one_whose_heart_cannot_be_computed_does_not_keep_the_others_waiting(ward: Ward) -> None:
    ada, eve = await ward.clinic.wearers(["band", "other"])
    for patient in (ada, eve):
        await usual_nights(ward, patient)
    await ward.clinic.connection.execute("update hrv_night set settled = false")
    rng = np.random.default_rng(10)
    await send(ward, "band", beats(rng, START - DAY_MS, START - DAY_MS + 70 * MINUTE_MS))
    await send(ward, "other", beats(rng, START, START + 70 * MINUTE_MS))
    await ward.connection.execute(BROKEN.encode().replace(b"ADA", str(ada).encode()))
    for name in ("hrv windows", "hrv nights"):
        while await ward.worker.do(name, ward.connection, ward.now):
            pass
    assert len(await stored(ward, eve)) > 12
    assert (await verdict(ward, eve))[0]
    assert await stored(ward, ada) == []
    await ward.connection.execute("drop trigger broken_window on hrv_window; drop trigger broken_night on hrv_night")
    ward.now += LONGEST_PAUSE_MS
    for name in ("hrv windows", "hrv nights"):
        while await ward.worker.do(name, ward.connection, ward.now):
            pass
    assert len(await stored(ward, ada)) > 12
    assert await ward.clinic.value("select count(*) from hrv_night where not settled") == 0
