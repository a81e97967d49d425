"""`vigil backtest --stored`: over what the gateway stored it concludes what the gateway concluded, and what it would have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from deploy.backtest.cases import STABLE, Case
from deploy.backtest.run import run_trial
from deploy.backtest.trials import trial_of
from deploy.cli import main
from devices.instants import DISTANT_FUTURE_MS
from devices.vocabulary import Code, Unit
from streaming.episodes import Rule
from streaming.limits.scoring import Event
from streaming.readings import ReadingSeries
from streaming.rules.changes import RuleChange
from streaming.rules.history import Pause
from streaming.rules.presets import PatientGroup, build_history
from streaming.zones import DAY_MS, HOUR_MS, MINUTE_MS, ZoneHistory
from tests.gateway.clinic import EVER, Clinic, open_clinic
from tests.gateway.ward import GRACE_MS, Ward, moment, ms, open_ward

START = ms("2026-03-10T06:00Z")
DAYS = 4
PAUSE = (START + 2 * DAY_MS + 3 * HOUR_MS, START + 2 * DAY_MS + 9 * HOUR_MS)
Backtest = Callable[..., tuple[int, str, str]]
Span = tuple[str, int, int | None, str]


@pytest.fixture
def backtest(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Backtest:
    monkeypatch.setenv("VIGIL_DATABASE_URL", database_url)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["backtest", "--stored", *map(str, arguments)])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return run


def readings(rng: np.random.Generator) -> list[float]:
    """Draw a day of glucose every 5 min, often low."""
    wave = 5 + 2.5 * np.sin(np.arange(288) / 20 + rng.uniform(0, 6)) + rng.normal(0, 0.4, 288)
    return [round(float(value), 1) for value in np.clip(wave, 2, 20)]


async def live(database_url: str) -> tuple[int, list[Span]]:
    """Let the gateway watch one patient for four days; return who it is and the alerts."""
    rng = np.random.default_rng(3)
    async with open_clinic(database_url) as clinic, open_ward(clinic, database_url, START) as ward:
        patient = await ward.patient("box", zone="Europe/Berlin")
        await ward.provisioning.add_device("cgm", "cgm", patient, EVER)
        await ward.schedule(patient, "08:00", "20:00", since="2026-03-10")
        await ward.provisioning.set_rule(patient, "hypoglycaemia", {"enabled": True, "limit_mmol": 4.2})
        for day in range(DAYS):
            await a_day(ward, patient, day, rng)
        return patient, await alerts(clinic, patient)


async def a_day(ward: Ward, patient: int, day: int, rng: np.random.Generator) -> None:
    since = START + day * DAY_MS
    if day == 2:
        ward.now = PAUSE[0] - MINUTE_MS
        await ward.provisioning.pause(patient, moment(PAUSE[1]), "hospital", begin=moment(PAUSE[0]))
    ward.now = since + DAY_MS
    series = {"code": "glucose", "unit": "mmol/L", "at": since, "period_ms": 5 * MINUTE_MS, "values": readings(rng)}
    await ward.hear(ward.message("cgm", "telemetry", {"observations": [series]}, None, None))
    if day == 0:
        await ward.hear(ward.opened("box", since + HOUR_MS + 5 * MINUTE_MS))
    await ward.hear(ward.alive("box"))
    await ward.work()
    await ward.work(ward.now + GRACE_MS)


async def alerts(clinic: Clinic, patient: int) -> list[Span]:
    return await clinic.rows(
        "select rule, to_ms(opened_at), to_ms(resolved_at), severity from alert"
        " where patient_id = %s and state <> 'withdrawn' order by opened_at, rule",
        patient,
    )


def spans(told: dict[str, Any]) -> list[Span]:
    return sorted(
        ((one["rule"], ms(one["opened_at"]), one["resolved_at"] and ms(one["resolved_at"]), one["severity"])
         for one in told["episodes"]),
        key=lambda span: (span[1], span[0]),
    )  # fmt: skip


def test_what_was_stored_is_concluded_again(database_url: str, backtest: Backtest) -> None:
    patient, happened = asyncio.run(live(database_url))
    rules = {rule for rule, *_ in happened}
    assert rules >= {"nocturnal_hypoglycaemia", "hypoglycaemia", "missed_dose", "low_adherence"}
    end = moment(START + DAYS * DAY_MS + GRACE_MS).isoformat()
    code, out, err = backtest("--patient", patient, "--from", "2026-03-10T00:00", "--until", end, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert spans(told) == happened
    assert told["settings"]["rules"]["hypoglycaemia"]["limit_mmol"] == 4.2
    # The patient's own day: of what opened before local midnight nothing counts.
    code, out, _ = backtest("--patient", patient, "--from", "2026-03-12T00:00", "--until", end, "--json")
    since = ms("2026-03-11T23:00Z")
    assert spans(json.loads(out)) == [span for span in happened if span[1] >= since]
    assert 0 < len(json.loads(out)["episodes"]) < len(happened)
    # Beside what there was: what another group would have had. The pause holds for it, too.
    others = ("--against", "--group fluctuating", "--against", "--off hypoglycaemia")
    code, out, _ = backtest("--patient", patient, "--from", "2026-03-10T00:00", "--until", end, "--json", *others)
    fluctuating, quieter = json.loads(out)["against"]
    assert fluctuating["settings"]["rules"]["hypoglycaemia"]["limit_mmol"] == 3.9
    assert "predicted_low" in fluctuating["burden"]
    assert not [span for span in spans(fluctuating) if PAUSE[0] <= span[1] < PAUSE[1]]
    assert "hypoglycaemia" not in quieter["burden"]
    lows = [span for span in happened if span[0] == "hypoglycaemia"]
    assert len(quieter["differences"]["hypoglycaemia"]["only_first"]) == len(lows)


def test_what_comes_after_the_last_reading_counts_to_the_end() -> None:
    """Rest ends what is open; silence that lasts is told; in a recording nobody knows what came."""
    values = np.array([6.0, 6.0, 3.5])
    plain = np.zeros(3, np.int16)
    at = ms("2026-03-10T01:00Z") + np.arange(3) * 5 * MINUTE_MS
    readings = {Code.GLUCOSE: ReadingSeries(at, values, np.full_like(plain, Unit.MMOL_L), plain)}
    rest = int(at[-1]) + 40 * MINUTE_MS
    rules = build_history([(0, PatientGroup.STABLE)], pauses=[Pause(rest, rest + DAY_MS)])
    case = Case("a", ZoneHistory.of("UTC"), readings, rules, until=int(at[-1]) + HOUR_MS)
    found = {(one.rule, one.episode.subject): one.episode for one in run_trial(trial_of(), [case]).watched[0].alarms}
    assert found[Rule.NOCTURNAL_HYPOGLYCAEMIA, ""].resolved_at == rest
    lost = found[Rule.DATA_SILENCE, "glucose:night"]
    assert (lost.opened_at, lost.resolved_at) == (at[-1] + 20 * MINUTE_MS, rest)
    (open_low,) = run_trial(trial_of(), [replace(case, rules=STABLE, until=DISTANT_FUTURE_MS)]).watched[0].alarms
    assert (open_low.rule, open_low.episode.resolved_at) == (Rule.NOCTURNAL_HYPOGLYCAEMIA, None)


def test_while_a_rule_rests_no_day_and_no_event_counts() -> None:
    """Three days, each with a low at noon; the second is one of rest, and on the third level 1 lows are off again."""
    start = ms("2026-03-10T00:00Z")
    values = np.tile(np.where((np.arange(288) >= 144) & (np.arange(288) < 156), 3.5, 6.0), 3)
    plain = np.zeros(values.size, np.int16)
    at = start + np.arange(values.size) * 5 * MINUTE_MS
    readings = {Code.GLUCOSE: ReadingSeries(at, values, np.full_like(plain, Unit.MMOL_L), plain)}
    pause = Pause(start + DAY_MS, start + 2 * DAY_MS)
    off = [RuleChange(start + 2 * DAY_MS, Rule.HYPOGLYCAEMIA, {"enabled": False})]
    case = Case("a", ZoneHistory.of("UTC"), readings, build_history([(0, PatientGroup.NEW)], (), off, [pause]))
    result = run_trial(trial_of(), [case])
    low, nocturnal = result.burden(Rule.HYPOGLYCAEMIA), result.burden(Rule.NOCTURNAL_HYPOGLYCAEMIA)
    assert (low.alarms, low.patient_days, low.patient_nights) == (1, 1, 1)
    assert (nocturnal.patient_days, nocturnal.patient_nights) == (2, 2)
    scored = result.score(Rule.HYPOGLYCAEMIA).score
    assert (scored.events, scored.detected, scored.false_alarms) == (1, 1, 0)


def test_events_beyond_the_time_that_counts_are_nobodys_miss() -> None:
    values = np.array([6.0] * 12 + [3.5] * 6 + [6.0] * 6)
    plain = np.zeros(values.size, np.int16)
    at = ms("2026-03-10T01:00Z") + np.arange(values.size) * 5 * MINUTE_MS
    readings = {Code.GLUCOSE: ReadingSeries(at, values, np.full_like(plain, Unit.MMOL_L), plain)}
    case = Case("a", ZoneHistory.of("UTC"), readings, since=int(at[0]), until=int(at[-1]) + 1)
    told = [Event(at_ms, at_ms, at_ms) for at_ms in (int(at[0]) - DAY_MS, int(at[12]), int(at[-1]) + DAY_MS)]
    found = run_trial(trial_of(), [case]).score(
        Rule.NOCTURNAL_HYPOGLYCAEMIA, {("a", Rule.NOCTURNAL_HYPOGLYCAEMIA): told}
    )
    assert (found.score.events, found.score.detected) == (1, 1)


def test_wrong_usage_and_nobody_there(backtest: Backtest) -> None:
    now = datetime(2026, 3, 10, tzinfo=UTC).isoformat()
    for wrong in ([], ["--from", now], ["--patient", "1"], ["--patient", "Ada", "--from", now],
                  ["--patient", "1", "--from", now, "--timezone", "UTC"]):  # fmt: skip
        assert backtest(*wrong)[0] == 2
    code, out, err = backtest("--patient", "1", "--from", now)
    assert (code, out, err) == (1, "", "vigil: there is no patient 1\n")
