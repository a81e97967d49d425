"""Any order, any batching: late readings mended from the settled point give what slow references say of all readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from devices.vocabulary import Code
from streaming.episodes import JSON, Episode, Key, Rule
from streaming.rules.changes import ENABLED, with_changes
from streaming.rules.history import PatientRules, RulesHistory
from streaming.rules.presets import PatientGroup, preset
from streaming.zones import ZoneHistory
from tests.streaming.bedside import Bedside
from tests.streaming.nocturnal_reference import Reading, nocturnal_alerts
from tests.streaming.prediction_reference import Foreseen, predicted_lows
from tests.streaming.rule_references import (
    Found,
    HighRules,
    LowRules,
    fasting_highs,
    lasting_highs,
    lasting_lows,
    nocturnal_lows,
    urgent_lows,
    vital_excursions,
)
from tests.streaming.series import VITAL_LIMITS, ZONES, crowded, glucose_series, random_course, random_vitals

NOCTURNAL: Key = (Rule.NOCTURNAL_HYPOGLYCAEMIA, "")
URGENT: Key = (Rule.URGENT_LOW, "")
LASTING_LOW: Key = (Rule.HYPOGLYCAEMIA, "")
PREDICTED: Key = (Rule.PREDICTED_LOW, "")
LASTING_HIGH: Key = (Rule.HYPERGLYCAEMIA, "")
FASTING: Key = (Rule.HYPERGLYCAEMIA, "fasting")
WORST = {"low": "lowest", "high": "highest"}


def all_on(**changes: Mapping[str, float]) -> PatientRules:
    rules = preset(PatientGroup.STABLE)
    for rule in (Rule.HYPOGLYCAEMIA, Rule.HYPERGLYCAEMIA, Rule.PREDICTED_LOW):
        rules = with_changes(rules, rule, {ENABLED: True})
    for name, told in changes.items():
        rules = with_changes(rules, Rule(name), told)
    return rules


# The clinic's settings, and others in which the milder rules often have something to say.
LONGER = all_on(
    hypoglycaemia={"limit_mmol": 5.0, "duration_minutes": 40},
    hyperglycaemia={
        "limit_mmol": 10.0,
        "duration_minutes": 60,
        "high_limit_mmol": 12.5,
        "high_minutes": 90,
        "fasting_limit_mmol": 6.5,
        "fasting_rise_mmol": 2.0,
    },
)
SETTINGS = (
    (all_on(), LowRules(), HighRules()),
    (all_on(), LowRules(), HighRules()),
    (
        LONGER,
        LowRules(limit=5.0, duration=40),
        HighRules(limit=10.0, duration=60, high_limit=12.5, high_after=90, fasting_limit=6.5, fasting_rise=2.0),
    ),
)


def as_found(episode: Episode) -> Found:
    evidence = episode.evidence
    worst, count = ("highest", "highs") if "highs" in evidence else ("lowest", "lows")
    value = evidence[f"{worst}_value"]
    return Found(
        episode.opened_at,
        episode.resolved_at,
        episode.severity.value,
        int(str(evidence[count])),
        int(str(evidence[f"{worst}_at"])),
        None if value is None else float(str(value)),
        evidence.get("continued_as") == Rule.NOCTURNAL_HYPOGLYCAEMIA,
    )


def by_reference(
    readings: Sequence[Reading], zone: ZoneInfo, lows: LowRules, highs: HighRules
) -> dict[Key, list[Found]]:
    nocturnal = nocturnal_lows(readings, zone, lows)
    urgent = urgent_lows(readings, nocturnal, lows)
    return {
        NOCTURNAL: nocturnal,
        URGENT: urgent,
        LASTING_LOW: lasting_lows(readings, nocturnal, urgent, lows),
        LASTING_HIGH: lasting_highs(readings, highs),
        FASTING: fasting_highs(readings, zone, highs),
    }


def as_foreseen(episode: Episode) -> Foreseen:
    outcome = episode.evidence.get("outcome")
    return Foreseen(
        episode.opened_at,
        episode.resolved_at,
        None if outcome is None else str(outcome),
        float(str(episode.evidence["limit_mmol_l"])),
    )


def random_batches(readings: Sequence[Reading], rng: np.random.Generator) -> list[list[Reading]]:
    """Split readings into batches of 1 to 40, in an order between that of time and none."""
    disorder = float(rng.choice([0.0, 3.0, 20.0, 1e9]))
    places = np.arange(len(readings)) + rng.random(len(readings)) * disorder
    mixed = [readings[row] for row in np.argsort(places).tolist()]
    batches: list[list[Reading]] = []
    while mixed:
        size = int(rng.choice([1, 3, 10, 40]))
        batches.append(mixed[:size])
        mixed = mixed[size:]
    return batches


def check(seed: int) -> tuple[dict[Key, int], int]:
    """Let one random series arrive at random; return how many episodes of which rules it had, and how often mended."""
    rng = np.random.default_rng(seed)
    readings = random_course(rng)
    zone = ZONES[seed % len(ZONES)]
    rules, lows, highs = SETTINGS[seed // len(ZONES) % len(SETTINGS)]
    bedside = Bedside(Code.GLUCOSE, ZoneHistory.of(zone), RulesHistory.of(rules))
    for batch in random_batches(readings, rng):
        bedside.arrive(glucose_series(batch))
    said = by_reference(readings, ZoneInfo(zone), lows, highs)
    found = bedside.episodes
    for key, expected in said.items():
        assert [as_found(one) for one in found.get(key, [])] == expected, f"{key} of seed {seed}"
    told = [*said[NOCTURNAL], *said[URGENT], *said[LASTING_LOW]]
    foreseen = predicted_lows(readings, ZoneInfo(zone), told)
    assert [as_foreseen(one) for one in found.get(PREDICTED, [])] == foreseen, f"predicted lows of seed {seed}"
    return {key: len(episodes) for key, episodes in found.items()}, bedside.mended


def check_all(seeds: range) -> None:
    told: Counter[Key] = Counter()
    mended = 0
    for seed in seeds:
        episodes, again = check(seed)
        told.update(episodes)
        mended += again
    keys = (NOCTURNAL, URGENT, LASTING_LOW, PREDICTED, LASTING_HIGH, FASTING)
    rare = {key: told[key] for key in keys if told[key] < len(seeds) // 20}
    assert not rare, "the series must give every rule something to say"
    assert mended > len(seeds)


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_series_end_as_the_references_say(hundred: int) -> None:
    check_all(range(100 * hundred, 100 * hundred + 100))


@pytest.mark.soak
def test_twenty_thousand_series_end_as_the_references_say() -> None:
    check_all(range(1_000, 21_000))


@pytest.mark.parametrize("seed", range(20))
def test_the_references_agree_about_the_night(seed: int) -> None:
    readings = random_course(np.random.default_rng(seed))
    zone = ZoneInfo(ZONES[seed % len(ZONES)])
    assert [
        (found.opened_at, found.resolved_at, found.severity == "urgent", found.beyond, found.worst_at)
        for found in nocturnal_lows(readings, zone)
    ] == [(a.opened_at, a.resolved_at, a.urgent, a.lows, a.lowest_at) for a in nocturnal_alerts(readings, zone)]


def exactly(reading: Reading) -> float:
    """Return a vital sign in its canonical unit, calculated without rounding on the way."""
    value = Fraction(str(reading.value))
    exact = {
        "[degF]": (value - 32) * Fraction(5, 9),
        "kPa": value * Fraction("7.500616827"),
        "[lb_av]": value * Fraction("0.45359237"),
    }.get(reading.unit, value)
    return round(float(exact), 6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("code", VITAL_LIMITS, ids=lambda code: code.wire)
def test_thresholds_end_as_the_reference_says(code: Code, seed: int) -> None:
    rng = np.random.default_rng([seed, code])
    low, high = VITAL_LIMITS[code]
    usual = {Code.HEART_RATE: 10.0, Code.SPO2: 5.0}.get(code, 0.0)
    told: dict[str, JSON] = {"code": code.wire, "low": low, "high": high}
    durations = {"duration": usual, "recovery": usual}
    if seed % 2:
        durations = {name: float(rng.choice([0, 5, 30, 60])) for name in durations}
        told |= {f"{name}_minutes": minutes for name, minutes in durations.items()}
    rules = with_changes(all_on(), Rule.THRESHOLD, {ENABLED: True, "limits": [told]})
    readings = crowded([reading for _ in range(5) for reading in random_vitals(rng, code)], rng)
    readings = sorted({(one.at, one.value, one.unit): one for one in readings}.values(), key=lambda one: one.at)
    bedside = Bedside(code, ZoneHistory.of("UTC"), RulesHistory.of(rules))
    for batch in random_batches(readings, rng):
        bedside.arrive(glucose_series(batch))
    for side, limit in (("low", low), ("high", high)):
        expected = vital_excursions(readings, exactly, side, limit, **durations)
        found = bedside.episodes.get((Rule.THRESHOLD, f"{code.wire}:{side}"), [])
        assert [
            (one.opened_at, one.resolved_at, one.evidence["beyond"], one.evidence[f"{WORST[side]}_value"])
            for one in found
        ] == [(one.opened_at, one.resolved_at, one.beyond, one.worst_value) for one in expected]
