"""The messages that the benchmarks publish: contract JSON of many devices, with known shares of late, repeated and low.

A plan is deterministic: the publisher's process and the one that checks the outcome build the same messages from it.
Devices take turns, one message each a round; a round is one step of event time, so (device, code, at) is distinct.
"""

import random
from dataclasses import dataclass, field
from typing import Final, Literal

LATE_BY_MS: Final = 3_600_000
"""A late reading was measured this long before its turn, when the device has no other."""
LATE: Final = 0.01
REPEATS: Final = 0.01
MINUTE_OF_SAMPLES: Final = 60
STEP_MS: Final = {"glucose": 1_000, "heart_rate": MINUTE_OF_SAMPLES * 1_000}
LOW_MMOL_L: Final = 3.6


@dataclass(frozen=True, slots=True)
class Plan:
    """Which messages to publish.

    `glucose`: one reading a message, of which shares are late and repeated, those in `lows` (indices of messages) low.
    `heart_rate`: 60 readings a message. `next_seq` holds each device's counter.
    """

    prefix: str
    code: Literal["glucose", "heart_rate"]
    messages: int
    first_at_ms: int
    sent_at_ms: int
    next_seq: list[int]
    late: float = 0.0
    repeats: float = 0.0
    lows: list[int] = field(default_factory=list)
    seed: int = 0

    @property
    def devices(self) -> int:
        """How many devices take turns."""
        return len(self.next_seq)


@dataclass(frozen=True, slots=True)
class Workload:
    """A plan's messages and their expected result: `rows` stored; the last message's first row is (device, at)."""

    topics: list[str]
    payloads: list[bytes]
    at_ms: list[int]
    rows: int
    next_seq: list[int]

    @property
    def last(self) -> tuple[int, int]:
        """Return (index of the device, at in ms) of the last message; it is never late and never a repeat."""
        return (len(self.payloads) - 1) % len(self.next_seq), self.at_ms[-1]


def device_id(prefix: str, index: int) -> str:
    """Return the id of the device with this index."""
    return f"{prefix}-{index:05d}"


def build(plan: Plan) -> Workload:
    """Write every message of the plan."""
    return _glucose(plan) if plan.code == "glucose" else _heart_rate(plan)


def _glucose(plan: Plan) -> Workload:
    chance = random.Random(plan.seed)  # noqa: S311 - a repeatable workload, not cryptography
    devices, lows = plan.devices, set(plan.lows)
    topics = [f"vigil/v1/{device_id(plan.prefix, index)}/telemetry" for index in range(devices)]
    seqs = list(plan.next_seq)
    before: list[tuple[bytes, int] | None] = [None] * devices
    payloads: list[bytes] = []
    times: list[int] = []
    rows = 0
    for index in range(plan.messages):
        turn, device = divmod(index, devices)
        at = plan.first_at_ms + turn * STEP_MS["glucose"]
        ordinary = index in lows or index == plan.messages - 1
        draw = 1.0 if ordinary else chance.random()
        earlier = before[device]
        if draw < plan.repeats and earlier is not None:
            payload, at = earlier
        else:
            if plan.repeats <= draw < plan.repeats + plan.late:
                at -= LATE_BY_MS
            value = LOW_MMOL_L if index in lows else 5.0 + index % 40 / 10
            payload = (
                f'{{"seq":{seqs[device]},"sent_at":{plan.sent_at_ms},"observations":'
                f'[{{"code":"glucose","unit":"mmol/L","at":{at},"value":{value:.1f}}}]}}'
            ).encode()
            seqs[device] += 1
            rows += 1
            before[device] = payload, at
        payloads.append(payload)
        times.append(at)
    return Workload([topics[index % devices] for index in range(plan.messages)], payloads, times, rows, seqs)


def _heart_rate(plan: Plan) -> Workload:
    devices = plan.devices
    topics = [f"vigil/v1/{device_id(plan.prefix, index)}/telemetry" for index in range(devices)]
    values = ",".join(str(62 + n % 17) for n in range(MINUTE_OF_SAMPLES))
    seqs = list(plan.next_seq)
    payloads, times = [], []
    for index in range(plan.messages):
        turn, device = divmod(index, devices)
        at = plan.first_at_ms + turn * STEP_MS["heart_rate"]
        payloads.append(
            (
                f'{{"seq":{seqs[device]},"sent_at":{plan.sent_at_ms},"observations":'
                f'[{{"code":"heart_rate","unit":"/min","at":{at},"period_ms":1000,"values":[{values}]}}]}}'
            ).encode()
        )
        seqs[device] += 1
        times.append(at)
    topics = [topics[index % devices] for index in range(plan.messages)]
    return Workload(topics, payloads, times, plan.messages * MINUTE_OF_SAMPLES, seqs)
