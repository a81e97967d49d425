"""The publisher's own process: `python -m deploy.bench.publisher`, jobs in and outcomes out as JSON lines.

The first line on stdin is the broker's address. A job is answered by "ready" once its packets are encoded; the next
line starts it, and its outcome is the answer.
"""

import gc
import sys
from typing import Final

import msgspec

from deploy.bench.errors import BenchError
from deploy.bench.link import Link, encode
from deploy.bench.workload import Plan, build
from gateway.runtime import clock
from gateway.runtime.broker_address import parse_url

WINDOW: Final = 4_096
SUBSCRIBED_WITHIN_S: Final = 60.0
CLIENT_ID: Final = "vigil-bench-publisher"


class Job(msgspec.Struct, frozen=True):
    """A plan to publish: as fast as possible, or `rate` messages a second. `wait`: start when somebody subscribes."""

    plan: Plan
    rate: float | None = None
    wait: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """When the first message left and the last was acknowledged (monotonic seconds); `at`: when each left, if paced."""

    started: float
    ended: float
    unheard: int
    refused: int
    at: list[float]


class Start(msgspec.Struct, frozen=True):
    """The first line."""

    mqtt_url: str
    ca_file: str | None = None


def main() -> None:
    """Work through the jobs until stdin ends."""
    lines = sys.stdin.buffer
    start = msgspec.json.decode(lines.readline(), type=Start)
    gc.disable()
    with Link(parse_url(start.mqtt_url, start.ca_file), CLIENT_ID) as link:
        while line := lines.readline():
            job = msgspec.json.decode(line, type=Job)
            workload = build(job.plan)
            packets = encode(workload.topics, workload.payloads)
            _answer(b'"ready"')
            lines.readline()
            if job.wait:
                link.publish_until_heard(packets[0], SUBSCRIBED_WITHIN_S)
                packets = packets[1:]
            sent = link.publish(packets, WINDOW) if job.rate is None else link.publish_paced(packets, job.rate)
            outcome = Outcome(sent.started, clock.monotonic(), sent.acks.unheard, sent.acks.refused, sent.at)
            _answer(msgspec.json.encode(outcome))


def _answer(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main()
    except BenchError as problem:
        sys.exit(str(problem))
