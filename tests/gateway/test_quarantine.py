"""Nothing disappears: what is refused is found in the quarantine with its reason, what was good beside it is stored."""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.clinic.provisioning import Provisioning
from gateway.runtime import clock
from tests.gateway.clinic import EVER, Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.processes import GatewayProcess, until
from tests.gateway.wire import Outgoing, events, publish, telemetry

HOUR = 3_600_000
KEPT_A_DAY = 1_000


def heart_rate(at: int, value: float = 60.0, **more: Any) -> dict[str, Any]:
    return {"code": "heart_rate", "unit": "/min", "at": at, "value": value, **more}


@dataclass(frozen=True, slots=True)
class Refused:
    """A message, the reason for the quarantine, the series refused, and how many readings of it are stored."""

    message: Outgoing
    reason: str
    series: list[int] | None
    stored: int


def refused_messages(now: int) -> dict[str, Refused]:
    good = heart_rate(now - HOUR)
    ahead, never_set = now + HOUR, 1_000_000_000_000
    glucose = {"code": "glucose", "unit": "mg/dL", "at": now - HOUR, "value": 5.5}
    torn = Outgoing("vigil/v1/worn/telemetry", b'{"observations": [')
    large = Outgoing("vigil/v1/worn/telemetry", b'{"seq": 1, "filler": "' + b"x" * 2**20 + b'", "observations": []}')
    status = Outgoing("vigil/v1/worn/status", b'{"online": "yes"}')
    return {
        "malformed message": Refused(torn, "malformed", None, 0),
        "malformed status": Refused(status, "malformed", None, 0),
        "malformed series": Refused(telemetry("worn", [heart_rate(now), good | {"value": "60"}]), "malformed", [1], 1),
        "unknown flag": Refused(telemetry("worn", [good | {"flags": ["odd"]}, good]), "malformed", [0], 1),
        "unknown event": Refused(events("worn", [{"type": "danced", "at": now - HOUR}]), "malformed", [0], 0),
        "too large": Refused(large, "too_large", None, 0),
        "too many series": Refused(telemetry("worn", [good] * 65), "too_large", None, 0),
        "unknown device": Refused(telemetry("stranger", [good]), "unknown_device", None, 0),
        "no device": Refused(Outgoing("vigil/v1/no device/telemetry", b"{}"), "unknown_device", None, 0),
        "nobody's device": Refused(telemetry("nobodys", [good]), "unassigned_device", [0], 0),
        "before it was worn": Refused(
            telemetry("since yesterday", [good, heart_rate(now - 48 * HOUR)]), "unassigned_device", [1], 1
        ),
        "unknown code": Refused(telemetry("worn", [good, good | {"code": "mood"}]), "unknown_code", [1], 1),
        "unit of another code": Refused(telemetry("worn", [good, good | {"unit": "%"}]), "unit_mismatch", [1], 1),
        "5.5 mg/dL": Refused(telemetry("worn", [glucose, good]), "unit_mismatch", [0], 1),
        "out of range": Refused(telemetry("worn", [good, good | {"value": 301}]), "out_of_range", [1], 1),
        "at is ahead": Refused(telemetry("worn", [good, heart_rate(ahead)]), "clock_ahead", [1], 1),
        "sent_at is ahead": Refused(telemetry("worn", [good], sent_at=ahead), "clock_ahead", None, 0),
        "event is ahead": Refused(events("worn", [{"type": "tamper", "at": ahead}]), "clock_ahead", [0], 0),
        "clock never set": Refused(telemetry("worn", [heart_rate(never_set), good]), "clock_behind", [0], 1),
    }


CASES = sorted(refused_messages(0))


async def test_every_reason_with_the_good_series_stored(gateway: GatewayProcess, clinic: Clinic, mqtt_url: str) -> None:
    await _provision(clinic)
    now = clock.now_ms()
    wanted_rows = 0
    for number, name in enumerate(CASES):
        case = refused_messages(now + number)[name]  # times of their own, so that nothing is a duplicate
        case = replace(
            case, message=replace(case.message, topic=case.message.topic.replace("since yesterday", "since"))
        )
        await publish(mqtt_url, [case.message])
        await until(lambda count=number + 1: _kept(clinic, count), what=name)
        entry = await clinic.rows(
            "select reason, series, topic, payload, payload_bytes, payload_sha256, detail from quarantine"
            " order by id desc limit 1"
        )
        reason, series, topic, payload, size, digest, detail = entry[0]
        assert (name, reason, series) == (name, case.reason, case.series)
        sent = case.message.payload
        assert (topic, payload, size) == (case.message.topic, sent[: 64 * 1024], len(sent))
        assert digest == hashlib.sha256(sent).digest()
        assert detail
        wanted_rows += case.stored
        assert await clinic.stored() == wanted_rows, name
    assert gateway.running


async def _provision(clinic: Clinic) -> None:
    patient = await clinic.wearer("worn")
    await clinic.provisioning.add_device("nobodys", "wristband")
    await clinic.provisioning.add_device("since", "wristband", patient, since=clock.now() - timedelta(days=1))


async def _kept(clinic: Clinic, count: int) -> bool:
    return int(await clinic.value("select count(*) from quarantine")) >= count


async def test_without_consent_it_is_counted_and_no_byte_is_kept(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str
) -> None:
    patient = await clinic.provisioning.add_patient("Reluctant", "UTC", consent=False)
    await clinic.provisioning.add_device("private", "wristband", patient, since=EVER)
    now = clock.now_ms()
    await publish(
        mqtt_url,
        [
            telemetry("private", [heart_rate(now)], seq=1),
            telemetry("private", [heart_rate(now), heart_rate(now) | {"code": "mood"}], seq=2),
            Outgoing("vigil/v1/private/telemetry", b'{"seq": 3, "observations": [{"value": 61.5'),
            events("private", [{"type": "tamper", "at": now}], seq=4),
        ],
    )
    await until(lambda: _counted(clinic, 5))
    counts = await clinic.rows("select reason, sum(refused), sum(kept) from quarantine_count group by 1 order by 1")
    assert counts == [("malformed", 1, 1), ("no_consent", 3, 0), ("unknown_code", 1, 1)]
    kept = await clinic.rows("select reason, payload, payload_bytes > 0 from quarantine order by reason")
    assert kept == [("malformed", None, True), ("unknown_code", None, True)]
    assert await clinic.stored() == 0
    await until(lambda: _receipt(clinic, "private", 4), what="what was refused counts as committed")
    assert gateway.running


async def test_consent_counts_that_held_at_measurement_and_holds_when_it_is_stored(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str
) -> None:
    patient = await clinic.wearer("cgm")
    now = clock.now_ms()
    withdrawn = datetime.fromtimestamp((now - HOUR) / 1000, UTC)
    await clinic.provisioning.withdraw_consent(patient, withdrawn)
    await publish(mqtt_url, [telemetry("cgm", [heart_rate(now - 2 * HOUR), heart_rate(now)])])
    await until(lambda: _counted(clinic, 1))
    assert await clinic.stored() == 0
    await Provisioning(clinic.connection, None, clock.now()).give_consent(patient, clock.now())
    between, after = now - HOUR // 2, clock.now_ms() + 1000
    await publish(mqtt_url, [telemetry("cgm", [heart_rate(at) for at in (now - 2 * HOUR, between, after)])])
    await until(lambda: _stored(clinic, 2), what="a new consent is known at once")
    assert [at for *_, at, _, _ in await clinic.readings()] == [now - 2 * HOUR, after]
    assert gateway.running


async def test_at_most_1000_entries_a_device_a_day_are_kept(clinic: Clinic, database_url: str) -> None:
    await clinic.wearers(["chatty", "modest"])
    bad = [Outgoing("vigil/v1/chatty/telemetry", b"no message %d" % number) for number in range(1_200)]
    repeated = [Outgoing("vigil/v1/modest/telemetry", b"the same again")] * 1_100
    sent = [*repeated, *bad, Outgoing("vigil/v1/modest/telemetry", b"something else")]
    now = clock.now_ms()  # of one day, also while midnight passes
    async with pipeline(database_url, now_ms=lambda: now) as running:
        for start in range(0, len(sent), 500):
            await running.commit(messages_of(sent[start : start + 500]))
    kept = await clinic.rows("select device_id, count(*) from quarantine group by 1 order by 1")
    assert kept == [("chatty", KEPT_A_DAY), ("modest", 2)]
    counts = await clinic.rows("select device_id, refused, kept from quarantine_count order by 1")
    assert counts == [("chatty", 1_200, KEPT_A_DAY), ("modest", 1_101, 2)]


async def test_a_message_the_store_cannot_take_is_quarantined_and_its_neighbours_are_stored(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str
) -> None:
    """A defect of ours or of the store may refuse one message: it must not hold up the others, nor the receipt."""
    await clinic.wearers(["a", "b"])
    await clinic.connection.execute("alter table observation add constraint poison check (value <> 66.5)")
    now = clock.now_ms()
    messages = [
        telemetry(device, [heart_rate(now + seq, 66.5 if (device, seq) == ("a", 3) else 60.0)], seq=seq)
        for seq in range(1, 6)
        for device in ("a", "b")
    ]
    await publish(mqtt_url, messages)
    await until(lambda: _stored(clinic, 9))
    await until(lambda: _receipt(clinic, "a", 5), what="the receipt passes the message that was quarantined")
    assert await clinic.quarantined() == [("a", "malformed")]
    assert json.loads(await clinic.value("select payload from quarantine"))["seq"] == 3
    assert gateway.running


@pytest.mark.parametrize("number", [2**63 - 1, 2**63 - 2, 2**62])
async def test_numbers_at_the_end_of_64_bits_stop_nobody(
    gateway: GatewayProcess, clinic: Clinic, mqtt_url: str, number: int
) -> None:
    await clinic.wearers(["odd", "even"])
    now = clock.now_ms()
    await publish(
        mqtt_url,
        [
            telemetry("odd", [heart_rate(now)], seq=1),
            telemetry("odd", [heart_rate(now + 1)], seq=number),
            telemetry("odd", [heart_rate(now + 2)], seq=number, oldest=number),
            telemetry("even", [heart_rate(now)], seq=7),
        ],
    )
    await until(lambda: _receipt(clinic, "even", 7))
    assert await clinic.stored() == 4
    assert gateway.stop() == 0
    await gateway.start()


async def _counted(clinic: Clinic, refused: int) -> bool:
    return int(await clinic.value("select coalesce(sum(refused), 0) from quarantine_count")) >= refused


async def _stored(clinic: Clinic, rows: int) -> bool:
    return await clinic.stored() >= rows


async def _receipt(clinic: Clinic, device: str, seq: int) -> bool:
    return (await clinic.receipts()).get(device) == seq
