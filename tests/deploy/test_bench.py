"""The benchmarks: what they publish, how they count, and one short run of all of them against real servers."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from deploy.bench import detect
from deploy.bench.clinic import Servers, zone_where_it_is
from deploy.bench.errors import BenchError
from deploy.bench.link import Acks, encode
from deploy.bench.report import Line, percentile, table
from deploy.bench.suite import NAMES, Size, run_suite
from deploy.bench.workload import LATE, LATE_BY_MS, REPEATS, Plan, build
from deploy.cli import main
from gateway.runtime import clock

pytestmark = pytest.mark.xdist_group("loads the machine")
AT = 1_763_769_900_000


def plan(messages: int = 20_000, devices: int = 100, lows: tuple[int, ...] = ()) -> Plan:
    return Plan("b", "glucose", messages, AT, AT, [7] * devices, late=LATE, repeats=REPEATS, lows=list(lows), seed=3)


def readings(workload_payloads: list[bytes]) -> list[dict[str, object]]:
    return [json.loads(payload)["observations"][0] for payload in workload_payloads]


def test_a_plan_is_the_same_messages_in_every_process() -> None:
    assert build(plan()) == build(plan())
    assert build(plan()) != build(replace(plan(), seed=4))


def test_messages_are_the_contracts_and_about_120_bytes() -> None:
    workload = build(plan())
    sizes = [len(payload) for payload in workload.payloads]
    assert 110 <= min(sizes) <= max(sizes) <= 130
    assert set(workload.topics) == {f"vigil/v1/b-{n:05d}/telemetry" for n in range(100)}
    assert json.loads(workload.payloads[0]) == {
        "seq": 7,
        "sent_at": AT,
        "observations": [{"code": "glucose", "unit": "mmol/L", "at": AT, "value": 5.0}],
    }


def test_the_shares_are_as_promised_and_the_rows_are_known() -> None:
    workload = build(plan(lows=(250, 1_777)))
    late = sum(at < AT for at in workload.at_ms)
    keys = set(zip(workload.topics, workload.at_ms, strict=True))
    assert late == pytest.approx(200, abs=60)
    assert len(workload.payloads) - workload.rows == pytest.approx(200, abs=60)
    assert len(keys) == workload.rows
    values = [reading["value"] for reading in readings(workload.payloads)]
    assert [index for index, value in enumerate(values) if value == 3.6] == [250, 1_777]
    assert all(at + LATE_BY_MS >= AT and at <= AT + 199_000 for at in workload.at_ms)


def test_each_device_counts_on_without_a_gap_and_repeats_what_it_sent() -> None:
    workload = build(plan())
    by_device: defaultdict[str, list[int]] = defaultdict(list)
    seen: Counter[tuple[str, bytes]] = Counter()
    for topic, payload in zip(workload.topics, workload.payloads, strict=True):
        if not seen[topic, payload]:
            by_device[topic].append(json.loads(payload)["seq"])
        seen[topic, payload] += 1
    for index, topic in enumerate(sorted(by_device)):
        assert by_device[topic] == list(range(7, workload.next_seq[index]))


def test_the_last_message_is_fresh() -> None:
    for messages in range(2, 400):
        workload = build(plan(messages, devices=7))
        device, at_ms = workload.last
        assert workload.topics[-1] == f"vigil/v1/b-{device:05d}/telemetry"
        assert at_ms == AT + (messages - 1) // 7 * 1_000
        assert workload.payloads[-1] not in workload.payloads[:-1]


def test_a_minute_of_samples_is_one_message() -> None:
    workload = build(Plan("b", "heart_rate", 6, AT, AT, [1] * 3))
    assert workload.rows == 360
    assert workload.next_seq == [3, 3, 3]
    (series,) = json.loads(workload.payloads[-1])["observations"]
    assert (series["at"], series["period_ms"], len(series["values"])) == (AT + 60_000, 1_000, 60)


@pytest.mark.parametrize("cut", range(1, 13))
def test_acknowledgements_are_counted_wherever_the_stream_is_cut(cut: int) -> None:
    stream = b"\x40\x02\x00\x01" + b"\x40\x03\x00\x02\x10" + b"\x40\x03\x00\x03\x87" + b"\x40\x02\x00\x04"
    acks = Acks()
    for start in range(0, len(stream), cut):
        acks.take(stream[start : start + cut])
    assert (acks.all, acks.unheard, acks.refused, acks.remainder) == (4, 1, 1, b"")


def test_many_acknowledgements_come_at_once() -> None:
    acks = Acks()
    acks.take(b"\x40\x02\x40\x02" * 5_000)
    assert acks.all == 5_000


def test_packet_ids_are_never_0_and_come_round_after_the_window() -> None:
    packets = encode(["t"] * 60_001, [b"x"] * 60_001)
    assert packets[0] == packets[60_000] == b"\x32\x07\x00\x01t\x00\x01\x00x"
    assert packets[59_999] != packets[0]


@pytest.mark.parametrize("hour", range(24))
def test_there_is_a_zone_for_every_hour(hour: int) -> None:
    for now_hour in range(24):
        now = datetime(2026, 11, 2, now_hour, 30, tzinfo=UTC)
        assert now.astimezone(ZoneInfo(zone_where_it_is(hour, now))).hour == hour


def test_a_line_says_figure_reference_and_ratio() -> None:
    line = Line("ingest", 27_123.456, "msg/s", 30_000.0, {"runs": [1.23456], "cpu": 15.0})
    assert json.loads(line.json()) == {
        "benchmark": "ingest",
        "figure": 27_120.0,
        "unit": "msg/s",
        "reference": 30_000.0,
        "ratio": 0.9041,
        "runs": [1.235],
        "cpu": 15.0,
    }
    assert table([line]).row_count == 1


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == value


def test_too_much_for_a_night_is_refused() -> None:
    servers = Servers("postgresql://x", "mqtt://x")
    with pytest.raises(BenchError, match="two hours"):
        next(run_suite(servers, Size(messages=1_000_000, devices=100), lambda: None))
    with pytest.raises(BenchError, match="20 devices"):
        next(run_suite(servers, Size(devices=19), lambda: None))


def test_one_server_without_the_other_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VIGIL_MQTT_URL", raising=False)
    monkeypatch.setenv("VIGIL_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "ingest"])
    assert ended.value.code == 2
    assert "VIGIL_MQTT_URL" in capsys.readouterr().err


def glucose_rows(size: Size, lines: Sequence[Line]) -> int:
    """Every glucose reading of one run: how many `alert_latency` publishes follows from the rate `ingest` reached."""
    (rate,) = (line.more["rate"] for line in lines if line.benchmark == "alert_latency")
    assert isinstance(rate, float)
    plan = Plan("b", "glucose", size.messages, AT, AT, [1] * size.devices, late=LATE, repeats=REPEATS)
    warm = len(NAMES) * size.devices  # a gateway a line, each warmed by one reading of every device
    return warm + build(plan).rows + size.visible_messages + max(2, round(rate * size.alert_seconds))


def test_every_line_comes_and_everything_is_stored(
    database_url: str, mqtt_url: str, record_property: Callable[[str, object], None]
) -> None:
    steps = []
    size = Size(runs=1, messages=4_000, devices=40, sample_messages=80, visible_messages=40, alert_seconds=1.0)
    started = clock.now()
    lines = list(run_suite(Servers(database_url, mqtt_url), size, lambda: steps.append(1)))
    assert tuple(line.benchmark for line in lines) == NAMES
    assert len(steps) == size.steps
    for line in lines:
        record_property(line.benchmark, line.json())
        assert line.figure > 0
        assert line.reference > 0
        assert line.ratio == line.figure / line.reference
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("select max(at), count(*) from observation where code = 1").fetchone()
        assert stored is not None
        assert started - timedelta(hours=2) < stored[0] < clock.now() + timedelta(minutes=5)
        assert stored[1] == glucose_rows(size, lines)
        refused = connection.execute("select count(*) from quarantine").fetchone()
        assert refused == (0,)


def test_the_rules_are_measured_line_by_line(database_url: str) -> None:
    steps: list[int] = []
    lines = {line.benchmark: line for line in detect.run(database_url, 100, 1, lambda: steps.append(1))}
    assert tuple(lines) == detect.NAMES
    assert all(line.figure > 0 and line.reference > 0 for line in lines.values())
    assert lines["glucose_step"].more["findings"] > 0
    assert lines["memory"].more["default_rules"] < lines["memory"].figure
    assert lines["hydrate"].more["rows"] >= 100 * 12, "with every rule on the last hour of everybody is remembered"
    assert len(steps) == 4
    with pytest.raises(BenchError, match="has patients"):
        detect.run(database_url, 100, 1, lambda: None)
