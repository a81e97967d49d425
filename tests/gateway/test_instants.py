"""Every beat belongs to its own instant: runs that cross a change of hands, or the beginning or end of consent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import cbor2
import pytest

from devices.vocabulary import DeviceModel
from gateway.clinic.provisioning import NewDevice
from tests.gateway.clinic import EVER, NOW, NOW_MS, Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.wire import Outgoing

HOUR = 3_600_000
TURN = NOW_MS - 3 * HOUR
TURN_AT = datetime.fromtimestamp(TURN / 1000, UTC)
FIRST = TURN - 1_000
INTERVALS = [700 + 37 * i % 300 for i in range(3_000)]


def in_json(body: Any, device: str) -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/telemetry", json.dumps(body).encode())


def in_cbor(body: Any, device: str) -> Outgoing:
    return Outgoing(f"vigil/v1/{device}/telemetry", cbor2.dumps(body), "application/cbor")


def by_edge(body: Any, device: str) -> Outgoing:
    return in_json({**body, "device": device}, "edge")


WAYS = {"json": in_json, "cbor": in_cbor, "edge box": by_edge}
beats_at = [FIRST, *(FIRST + passed for passed in accumulate(INTERVALS[1:]))]


async def band(clinic: Clinic, patient: int) -> None:
    await clinic.provisioning.add_devices(
        [
            NewDevice("edge", DeviceModel.EDGE),
            NewDevice("band", DeviceModel.WRISTBAND, patient, EVER, via="edge"),
        ]
    )


async def send(database_url: str, way: Callable[[Any, str], Outgoing], **more: Any) -> None:
    series = {"code": "rr_interval", "unit": "ms", "at": FIRST, "values": INTERVALS, **more}
    async with pipeline(database_url) as running:
        await running.commit(messages_of([way({"seq": 1, "observations": [series]}, "band")]))


async def stored(clinic: Clinic) -> dict[float, tuple[int, float]]:
    """By beat in ms: whose, and the interval that it ends."""
    found: dict[float, tuple[int, float]] = {}
    for at, patient, intervals in await clinic.rows("select to_ms(at), patient_id, intervals from rr_series"):
        ends = [at, *(at + passed for passed in accumulate(intervals[1:]))]
        found |= {end: (patient, interval) for end, interval in zip(ends, intervals, strict=True)}
    return found


async def told(clinic: Clinic) -> list[tuple[Any, ...]]:
    return await clinic.rows("select reason, refused from quarantine_count")


@pytest.mark.parametrize("way", WAYS)
async def test_beats_from_the_turn_on_are_the_next_wearers(clinic: Clinic, database_url: str, way: str) -> None:
    former = await clinic.provisioning.add_patient("Former", "UTC")
    await band(clinic, former)
    wearer = await clinic.provisioning.add_patient("Present", "UTC")
    await clinic.provisioning.assign("band", wearer, since=TURN_AT)
    await send(database_url, WAYS[way])
    assert await stored(clinic) == {
        at: (former if at < TURN else wearer, interval) for at, interval in zip(beats_at, INTERVALS, strict=True)
    }
    assert await told(clinic) == []
    windows = await clinic.rows(
        "select patient_id, min(to_ms(window_start)), max(to_ms(window_start)) from hrv_dirty group by 1"
    )
    assert {patient: first < TURN for patient, first, _ in windows} == {former: True, wearer: False}


@pytest.mark.parametrize("way", WAYS)
async def test_beats_without_consent_are_not_kept(clinic: Clinic, database_url: str, way: str) -> None:
    """Consent was withdrawn at the turn and given again some minutes later: it holds now."""
    patient = await clinic.provisioning.add_patient("Ada", "UTC")
    await band(clinic, patient)
    again = TURN + 5 * 60_000
    await clinic.provisioning.withdraw_consent(patient, TURN_AT)
    await clinic.provisioning.give_consent(patient, datetime.fromtimestamp(again / 1000, UTC))
    await send(database_url, WAYS[way])
    assert await stored(clinic) == {
        at: (patient, interval) for at, interval in zip(beats_at, INTERVALS, strict=True) if not TURN <= at < again
    }
    assert await told(clinic) == [("no_consent", 1)]


@pytest.mark.parametrize("way", WAYS)
async def test_beats_after_it_was_taken_off_are_refused_once(clinic: Clinic, database_url: str, way: str) -> None:
    patient = await clinic.provisioning.add_patient("Ada", "UTC")
    await band(clinic, patient)
    await clinic.provisioning.unassign("band", TURN_AT)
    await send(database_url, WAYS[way])
    assert set(await stored(clinic)) == {at for at in beats_at if at < TURN}
    assert await told(clinic) == [("unassigned_device", 1)]


async def test_a_series_sent_again_over_a_boundary_is_stored_once(clinic: Clinic, database_url: str) -> None:
    former = await clinic.provisioning.add_patient("Former", "UTC")
    await band(clinic, former)
    wearer = await clinic.provisioning.add_patient("Present", "UTC")
    await clinic.provisioning.assign("band", wearer, since=TURN_AT)
    await send(database_url, in_json)
    before = await stored(clinic)
    await send(database_url, in_json)
    assert await stored(clinic) == before
    assert await clinic.value("select sum(cardinality(intervals)) from rr_series") == len(INTERVALS)


async def test_what_was_measured_before_consent_ended_is_not_kept_after_it(clinic: Clinic, database_url: str) -> None:
    """A sample is kept when consent held at its instant and holds when it is stored."""
    patient = await clinic.provisioning.add_patient("Ada", "UTC")
    await band(clinic, patient)
    await clinic.provisioning.withdraw_consent(patient, NOW)
    heart = {"code": "heart_rate", "unit": "/min", "at": TURN, "value": 60}
    opening = {"type": "compartment_opened", "at": TURN}
    async with pipeline(database_url) as running:
        await running.commit(
            messages_of(
                [
                    in_json({"observations": [heart]}, "band"),
                    Outgoing("vigil/v1/band/event", json.dumps({"events": [opening]}).encode()),
                ]
            )
        )
    await send(database_url, in_json)
    for table in ("observation", "pillbox_event", "rr_series"):
        assert await clinic.value(f"select count(*) from {table}") == 0  # noqa: S608 - our names
    assert await told(clinic) == [("no_consent", 3)]
