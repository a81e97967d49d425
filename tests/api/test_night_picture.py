"""The picture of a night: what is where in the SVG."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pictures.curve import MAX_READINGS
from api.pictures.night import (
    DoseMark,
    HeartRate,
    Limit,
)
from api.pictures.rows import HATCHES, MARKERS
from api.pictures.thinning import lowest_and_highest
from devices.vocabulary import Flag
from streaming.doses.matching import DoseState
from streaming.episodes import Rule, Severity
from streaming.zones import HOUR_MS, MINUTE_MS
from tests.api.drawn import (
    HEIGHT,
    START,
    SVG,
    TOP,
    alert,
    description,
    gids,
    marks,
    near,
    night,
    part,
    path,
    svg,
    texts,
    usual,
    x_of,
    y_of,
)


def test_every_reading_is_a_point_at_its_time_and_height() -> None:
    picture = usual()
    root = svg(picture)
    expected = [(x_of(step / 12), y_of(value)) for step, value in enumerate(picture.mmol)]
    assert marks(root, "glucose-points") == near(expected)
    assert path(root, "glucose-line-0") == near(expected)
    assert "21–22 Nov 2026, Asia/Shanghai, glucose in mmol/L" in texts(root)
    assert {"22:00", "00:00", "02:00", "04:00", "06:00", "08:00", "Wei Chen"} <= set(texts(root))
    (start, end) = (min(x for x, _ in path(root, "night-0")), max(x for x, _ in path(root, "night-0")))
    assert (start, end) == pytest.approx((x_of(2), x_of(8)))


def test_readings_may_come_in_any_order_and_those_outside_the_time_are_not_drawn() -> None:
    shuffled = night([3, 1, 2, -0.1, 10], [7, 5, 6, 9, 9])
    expected = [(x_of(1), y_of(5)), (x_of(2), y_of(6)), (x_of(3), y_of(7))]
    assert marks(svg(shuffled), "glucose-points") == near(expected)


def test_the_line_breaks_where_readings_are_more_than_half_an_hour_apart() -> None:
    minutes = [0, 30, 60, 91, 121, 151.001, 180]
    root = svg(night([minute / 60 for minute in minutes], [5.0] * 7))
    lines = [[x for x, _ in path(root, gid)] for gid in gids(root, "glucose-line-")]
    assert lines == [
        pytest.approx([x_of(minute / 60) for minute in stretch]) for stretch in ([0, 30, 60], [91, 121], [151.001, 180])
    ]
    silent = [sorted({x for x, _ in path(root, gid)}) for gid in gids(root, "silence-")]
    assert silent == [
        pytest.approx([x_of(one / 60), x_of(other / 60)]) for one, other in ((60, 91), (121, 151.001), (180, 600))
    ]
    assert texts(root).count("no data") == 3


def test_a_night_before_its_first_and_after_its_last_reading_is_unknown() -> None:
    root = svg(night([2, 2.25, 9.4], [5.0, 5, 5]))
    assert texts(root).count("no data") == 3  # before, between, after


def test_what_has_not_happened_yet_is_neither_known_nor_unknown() -> None:
    root = svg(night([0, 0.25], [5.0, 5], now_ms=START + HOUR_MS // 2, alerts=[alert(opened=0.1, resolved=None)]))
    assert "no data" not in texts(root)
    assert "not yet" in texts(root)
    assert max(x for x, _ in path(root, "alert-0-high")) == pytest.approx(x_of(0.5))


def test_lo_and_hi_are_arrows_at_the_edge_whatever_the_number_says() -> None:
    low, high = int(Flag.BELOW_RANGE), int(Flag.ABOVE_RANGE)
    root = svg(night([1, 1.1, 1.2, 1.3], [5.0, 9.9, np.nan, 8.0], [0, low, low, high]))
    assert marks(root, "glucose-lo") == near([(x_of(1.1), y_of(2)), (x_of(1.2), y_of(2))])
    assert marks(root, "glucose-hi") == near([(x_of(1.3), y_of(12))])
    assert marks(root, "glucose-points") == near([(x_of(1), y_of(5))])
    assert (texts(root).count("LO"), texts(root).count("HI")) == (1, 1)
    assert "lowest LO at 23:06, highest HI at 23:18" in description(root)


def test_readings_that_never_count_are_crosses_beside_the_line() -> None:
    root = svg(night([1, 1.1, 1.2], [5.0, 3.0, 5.0], [0, int(Flag.WARMUP), 0]))
    assert marks(root, "glucose-unused") == near([(x_of(1.1), y_of(3))])
    assert len(path(root, "glucose-line-0")) == 2
    assert "× warm-up, calibration or artifact" in texts(root)


def test_the_axis_reaches_what_lies_beyond_the_usual() -> None:
    for values in ([1.2, 5.0], [5.0, 27.7], [1.1, 33.3]):
        points = marks(svg(night([1, 1.1], list(values))), "glucose-points")
        assert all(TOP < y < TOP + HEIGHT for _, y in points)


def test_a_limit_beyond_the_axis_has_its_name_at_the_edge() -> None:
    root = svg(usual(limits=[Limit(1.8, "urgent"), Limit(4.0, "night"), Limit(13.9, "high")]))
    assert gids(root, "limit-") == ["limit-1"]
    assert {"↓1.8 urgent", "4.0 night", "↑13.9 high"} <= set(texts(root))
    written = {
        "".join(one.itertext())[1:-1]: float(one.attrib["y"]) for one in root.iter(f"{SVG}text") if "y" in one.attrib
    }
    assert written["↑13.9 high"] == pytest.approx(y_of(12), abs=4)
    assert written["↓1.8 urgent"] == pytest.approx(y_of(2), abs=4)


def test_in_mg_dl_the_limits_are_those_of_the_sensor() -> None:
    limits = [Limit(3.1, "urgent"), Limit(4.0, "night"), Limit(3.5, "own")]
    root = svg(usual(limits=limits), unit="mg/dL")
    heights = [path(root, f"limit-{number}")[0][1] for number in range(3)]
    assert heights == pytest.approx([TOP + HEIGHT * (216 - mg) / 180 for mg in (55, 63, 72)], abs=0.01)
    assert {"55 urgent", "63 own", "72 night", "target 70–180"} <= set(texts(root))
    written = [ET.tostring(part(root, f"limit-{number}"), "unicode") for number in range(3)]
    assert len({dashes for line in written for dashes in re.findall(r"stroke-dasharray: ([\d.,]+)", line)}) == 3
    assert {"4.0 night", "target 3.9–10.0"} <= set(texts(svg(usual(limits=limits))))


def test_alerts_are_hatched_bars_with_their_words() -> None:
    spans = [
        alert(opened=-30, resolved=None, severity="medium", rule="hrv_drift"),
        *(alert(opened=1 + n, resolved=2.5 + n, severity=each, summary=f"No. {n}") for n, each in enumerate(Severity)),
    ]
    root = svg(usual(alerts=spans))
    bars = ["alert-0-medium", "alert-1-urgent", "alert-2-high", "alert-3-medium", "alert-4-low"]
    assert set(gids(root, "alert-")) == {*bars, "alert-0-runs-on", "alert-0-from-before"}
    edges = [(path(root, gid)[0][0], path(root, gid)[1][0]) for gid in bars]
    assert edges == near([(x_of(0), x_of(10)), *((x_of(1 + n), x_of(2.5 + n)) for n in range(4))])
    fills = [next(part(root, gid).iter(f"{SVG}path")).attrib["style"].split(";")[0] for gid in bars]
    assert all(fill.startswith("fill: url(#") for fill in fills)
    assert fills[0] == fills[3]
    assert len(set(fills)) == len(set(HATCHES.values())) == len(Severity)
    words = texts(root)
    assert "hrv drift, medium: since 20 Nov 16:00, still open" in words
    assert "nocturnal hypoglycaemia, urgent: 23:00–00:30" in words
    assert {"No. 0", "No. 3"} <= set(words)


def test_of_too_many_alerts_and_doses_the_picture_keeps_the_gravest_and_says_so() -> None:
    spans = [alert(opened=n / 10, resolved=n / 10 + 0.1, severity="low") for n in range(60)]
    doses = [DoseMark(f"No. {n}", START + n * MINUTE_MS, None, "due") for n in range(57)]
    root = svg(usual(alerts=[*spans, alert(opened=9, resolved=None, severity="urgent")], doses=doses))
    assert len(gids(root, "alert-")) == 51
    assert "alert-49-urgent" in gids(root, "alert-")
    assert {"11 more alerts not shown", "7 more doses not shown"} <= set(texts(root))
    assert len(gids(root, "dose-")) == 50


def test_every_rule_and_every_state_of_a_dose_has_its_words_and_its_mark() -> None:
    doses = [DoseMark("Metformin", START + n * HOUR_MS, None, state) for n, state in enumerate(DoseState)]
    root = svg(usual(doses=doses, alerts=[alert(opened=1, resolved=2, rule=rule) for rule in Rule]))
    words = texts(root)
    assert set(MARKERS) == set(DoseState)
    assert len(set(MARKERS.values())) == len(MARKERS)
    for state in DoseState:
        assert any(each.endswith(f"Metformin: {state}") for each in words)
    for rule in Rule:
        assert any(each.startswith(rule.replace("_", " ")) for each in words)


def test_a_dose_is_where_it_was_due_and_says_when_it_was_taken() -> None:
    dose = DoseMark("Insulin 12 IE", START + HOUR_MS, START + 3 * HOUR_MS, "late")
    root = svg(usual(doses=[dose]))
    assert marks(root, "dose-0")[0][0] == pytest.approx(x_of(1))
    assert marks(root, "dose-0-taken")[0][0] == pytest.approx(x_of(3))
    assert "23:00 Insulin 12 IE: late, taken 01:00" in texts(root)


def test_heart_rate_is_a_line_of_its_own_broken_where_it_is_unknown() -> None:
    minutes = np.array([*range(60), *range(75, 120)], dtype=np.int64)
    root = svg(usual(heart_rate=HeartRate(START + minutes * MINUTE_MS, 60.0 + (minutes % 7).astype(np.float64))))
    assert [len(path(root, gid)) for gid in gids(root, "heart-line-")] == [60, 45]
    assert "heart rate, /min" in texts(root)
    assert "heart rate, /min" not in texts(svg(usual()))


def test_a_night_without_readings_says_so() -> None:
    root = svg(night([], [], alerts=[alert(opened=1, resolved=None, rule="data_silence", severity="medium")]))
    assert "no readings" in texts(root)
    assert gids(root, "glucose-") == []
    assert "No readings." in description(root)


def test_of_too_many_readings_the_extremes_stay_and_gaps_stay_gaps() -> None:
    hours = np.concatenate((np.linspace(0, 2, 20_000), np.arange(2.2, 9.9, 0.25)))  # one a second would be 7,200
    rng = np.random.default_rng(7)
    mmol = rng.uniform(4, 11, hours.size)
    mmol[4711], mmol[12345] = 2.3, 11.4
    root = svg(night(hours.tolist(), mmol.tolist()))
    points = marks(root, "glucose-points")
    assert len(points) <= MAX_READINGS
    heights = [y for _, y in points]
    assert [min(heights), max(heights)] == pytest.approx([y_of(11.4), y_of(2.3)], abs=0.01)
    # The sparse hours at the end come as two points to a stretch of eight: no gap was made by leaving readings out.
    assert texts(root).count("no data") == 0
    assert len(gids(root, "glucose-line-")) == 1
    assert any(words.startswith("20031 readings, of which") for words in texts(root))


@given(
    values=st.lists(st.floats(-10, 10) | st.sampled_from([np.inf, -np.inf]), max_size=60),
    most=st.sampled_from([2, 4, 10]),
)
def test_thinning_keeps_the_lowest_and_highest_and_never_too_many(values: list[float], most: int) -> None:
    value = np.array(values)
    keep = lowest_and_highest(value, most)
    assert keep.sum() <= max(most, 0)
    if values:
        assert (value[keep].min(), value[keep].max()) == (value.min(), value.max())
