"""Well-formed messages with the oddest contents are stored or refused by a reason: none surprises the store."""

import json
from typing import Any

import cbor2
import numpy as np
import pytest

from gateway.ingest.receipt_keeper import ReceiptKeeper
from gateway.runtime.metrics import GatewayMetrics
from tests.gateway.clinic import EVER, NOW_MS, Clinic
from tests.gateway.harness import messages_of, pipeline
from tests.gateway.test_messages import Ears
from tests.gateway.wire import Outgoing

NUMBERS: list[Any] = [
    0,
    1,
    -1,
    3,
    23,
    2**15 - 1,
    2**15,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    0.5,
    1e308,
    5e-324,
    None,
]
WORDS = ["", "a", "\0", "\ud800", "\ufffe", "ü" * 64, "x" * 65, "' or 1=1", "\u202e", "odd", "9" * 18, "9" * 19, "-1"]
UNITS = {"glucose": "mg/dL", "heart_rate": "/min", "rr_interval": "ms", "step_count": "{steps}", "mood": "%"}
FLAGS = [[], [], ["below_range"], ["above_range"], ["warmup", "artifact"], ["off_body"] * 3, ["\ud800"]]
EVENTS = ["compartment_opened", "dose_taken", "dose_skipped", "command_done", "low_battery", "tamper", "danced"]


class Odd:
    """Draws messages at random; most of every choice is sensible, so that much of it gets far."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = NOW_MS

    def pick(self, choices: list[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def either(self, sensible: Any, odd: list[Any]) -> Any:
        return sensible if self.rng.random() < 0.94 else self.pick(odd)

    def at(self) -> Any:
        return self.either(self.now - int(self.rng.integers(0, 50)) * 60_000, NUMBERS)

    def series(self) -> dict[str, Any]:
        code = self.pick(list(UNITS))
        flags = self.either([], FLAGS)
        found = {"code": code, "unit": self.either(UNITS[code], WORDS), "at": self.at(), "flags": flags}
        values = [self.either(v, NUMBERS) for v in self.rng.integers(190, 310, int(self.rng.integers(0, 6))).tolist()]
        if found["code"] == "rr_interval" or self.rng.random() < 0.4:
            return found | {"values": values, "period_ms": self.either(1000, NUMBERS)}
        return found | {"value": self.either(int(self.rng.integers(60, 200)), NUMBERS)}

    def event(self) -> dict[str, Any]:
        found = {"type": self.pick(EVENTS), "at": self.at()}
        return found | {
            "compartment": self.either(1, NUMBERS),
            "count": self.either(2, NUMBERS),
            "id": self.either("12", WORDS + NUMBERS),
            "ok": True,
        }

    def message(self) -> Outgoing:
        head = {"seq": self.either(int(self.rng.integers(0, 90)), NUMBERS), "sent_at": self.either(self.now, NUMBERS)}
        if self.rng.random() < 0.3:
            head["oldest"] = self.either(5, NUMBERS)
        if self.rng.random() < 0.2:
            head["device"] = self.either("odd-1", WORDS)
        kind = self.pick(["telemetry", "telemetry", "event", "status"])
        body: dict[str, Any]
        if kind == "telemetry":
            body = head | {"observations": [self.series() for _ in range(int(self.rng.integers(0, 4)))]}
        elif kind == "event":
            body = head | {"events": [self.event() for _ in range(int(self.rng.integers(0, 4)))]}
        else:
            firmware = self.either("1.0", WORDS)
            battery, told = self.either(50, NUMBERS), self.either(self.now, NUMBERS)
            body = {"online": bool(self.rng.integers(2)), "battery": battery, "firmware": firmware, "clock": told}
        payload = json.dumps(body).encode()
        if self.rng.random() < 0.3:
            payload = _cbor(body) or payload
        device = self.pick(["odd-1", "odd-2", "edge"])
        return Outgoing(f"vigil/v1/{device}/{kind}", payload, self.either(None, ["application/json", "text/\0x"]))


def _cbor(body: dict[str, Any]) -> bytes | None:
    try:
        return cbor2.dumps(body)
    except (UnicodeEncodeError, cbor2.CBOREncodeError):
        return None


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 80))])
async def test_nothing_odd_is_more_than_the_store_can_take(seed: int, clinic: Clinic, database_url: str) -> None:
    odd = Odd(seed)
    patient = await clinic.wearer("odd-1")
    await clinic.provisioning.add_device("odd-2", "pillbox", patient, since=EVER)
    await clinic.provisioning.add_device("edge", "edge")
    messages = [odd.message() for _ in range(600)]
    keeper = ReceiptKeeper(database_url, Ears(), GatewayMetrics(), 1)
    async with pipeline(database_url, await keeper.hydrate()) as running:
        while messages:
            size = int(odd.rng.integers(1, 60))
            await running.commit(messages_of(messages[:size]))
            await keeper.flush(running.journalled)
            messages = messages[size:]
    await keeper.close()
    surprised = await clinic.rows("select detail, payload from quarantine where detail like 'could not be stored%%'")
    assert surprised == []
    assert await clinic.stored() > 20
    assert await clinic.value("select count(*) from pillbox_event") > 20
    assert await clinic.value("select count(*) from receipt_journal") == 0
