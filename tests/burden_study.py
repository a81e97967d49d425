"""Writes docs/alarm-burden.md: what every rule costs on recordings, and whether one can live with it.

`python -m tests.burden_study`
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Final

from streaming.episodes import Rule
from streaming.limits.scoring import observed
from streaming.zones import HOUR_MS, ZoneHistory
from tests.burden_figures import (
    GLUCOSE_KINDS,
    SETS,
    TRIALS,
    bottle,
    dose_table,
    doses_result,
    drift_lines,
    figures,
    is_on,
    preset_table,
    recordings_table,
    result_of,
    score_table,
    silence_table,
)

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "alarm-burden.md"


def wrapped(text: str, bullet: str = "") -> list[str]:
    """Return a paragraph, or a point of a list, in lines."""
    return wrap(text, 120, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_long_words=False,
                break_on_hyphens=False)  # fmt: skip


def verdicts() -> list[str]:
    """Return a sentence or two for every rule: whether one can live with it. Figures are those of the tables."""
    every = [result_of(one, "everything on") for one in SETS]
    nocturnal, urgent, low, predicted, high, fasting = (figures(kind, every) for kind in GLUCOSE_KINDS)
    lasting = figures(GLUCOSE_KINDS[4], [result_of(one, "fluctuating") for one in SETS])
    dips, false = (
        sum(result.score(rule).score.false_alarms for result in every)
        for rule in (Rule.NOCTURNAL_HYPOGLYCAEMIA, Rule.PREDICTED_LOW)
    )
    by_set = [figures(GLUCOSE_KINDS[3], [result]).per_day for result in every]
    missed = len(doses_result(bottle())[1].watched[0].of(Rule.MISSED_DOSE))
    wider = len(doses_result(bottle(2 * HOUR_MS))[1].watched[0].of(Rule.MISSED_DOSE))
    adherence = len(doses_result(bottle())[1].watched[0].of(Rule.LOW_ADHERENCE))
    days = observed(doses_result(bottle())[0].instants(Rule.MISSED_DOSE), ZoneHistory.of("America/New_York")).days
    told = (
        (
            f"`nocturnal_hypoglycaemia`: **yes.** {nocturnal.per_night:.2f} a night, one night in "
            f"{1 / nocturnal.per_night:.0f} to {1 / nocturnal.per_night + 1:.0f}. {dips} of {nocturnal.alarms} belong to no level 1 low: "
            "that is what 4.0 instead of 3.9, and no waiting, cost."
        ),
        (
            f"`urgent_low`: **yes**, {urgent.per_day:.2f} a day. Somebody with {urgent.busiest / urgent.busiest_days:.1f} a "
            "day is no case for another limit but for another treatment."
        ),
        (
            f"`hypoglycaemia`: **for a time.** {low.per_day:.2f} a day on top of the two above, which it about doubles; right for "
            "the first weeks, for which the preset `new` has it."
        ),
        (
            f"`predicted_low`: **only after a trial on one's own data.** {predicted.per_day:.2f} a day, {false} of "
            f"{predicted.alarms} false, and by recording from {min(by_set):.2f} to {max(by_set):.2f} a day: what bounds the false alarms "
            "was set on two of the three sets and does not hold on the third."
        ),
        (
            f"`hyperglycaemia`, level 2: **as a list, not as a call.** {high.per_day:.2f} a day after 15 min, {lasting.per_day:.2f} "
            "after the 60 min of the preset `fluctuating`; off unless somebody reads it."
        ),
        (
            f"`hyperglycaemia`, fasting: **as advice once a week, not each morning.** {fasting.per_day:.2f} a day, and on every "
            f"morning of some ({fasting.busiest} in {fasting.busiest_days} days): 7.0 mmol/L is a limit for a diagnosis, and "
            "most of these people have one. `fasting_limit_mmol` is the setting to raise."
        ),
        (
            "`hrv_drift`: **yes**, if nights are like these; three alarms a patient and year on days, more than the target "
            "of one in 180 nights, one in two years on Holter nights. What weakens the figures stands below the table."
        ),
        (
            f"`missed_dose`: **yes for a patient, hardly for a team.** {7 * missed / days:.1f} a week from somebody who takes 87 % of two "
            f"doses a day; with a window of 2 h after the dose instead of 1 h it is {7 * wider / days:.1f}. Half of them end by "
            "themselves, so the box reminds first and a call waits for `low_adherence`."
        ),
        (f"`low_adherence`: **yes.** {adherence} in {days} days, one in {days / adherence / 7:.0f} weeks."),
        ("`data_silence`: **cannot be told from these recordings**, which were cut to what was measured."),
        (
            "`threshold`, `device_offline`: **no recording says.** A threshold makes what its limits make: try them in a "
            "back-test of one's own data before they are set."
        ),
    )
    return [line for one in told for line in wrapped(one, "- ")]


def document() -> str:
    """Return docs/alarm-burden.md."""
    few, many = (
        sum(figures(kind, results).alarms for kind in GLUCOSE_KINDS if is_on(kind, results))
        for results in ([result_of(one, name) for one in SETS] for name in ("stable", "everything on"))
    )
    parts: list[Sequence[str]] = [
        ["# Alarm burden: what was measured"],
        [
            "How many alarms each rule makes on recorded people, and whether one can live with it. `python -m tests.burden_study`",
            "writes this page; `vigil backtest` gives the same figures for a clinic's own data. The rules are in",
            "[clinical.md](clinical.md).",
        ],
        ["## In short"],
        [
            f"The same 27 people get {few} glucose alarms from the preset `stable` and {many} with every glucose rule on,",
            f"{many / few:.1f} times as many (Zahradka 2022, 10.3390/bioengineering10010037: 76 patients, 65 to 3,113 alarms depending",
            "on the rule set). Can one live with it?",
        ],
        verdicts(),
        ["## The recordings"],
        recordings_table(),
        [
            "Days and nights (00:00–06:00) are local ones with readings. The sets of Zhang and Vigers state no zone; their wall",
            "clock is taken as it is. The limits of `predicted_low` were set on the first two sets. 27 people, most of them for one",
            "or two weeks, are few: the busiest one of a clinic will be busier.",
        ],
        ["## Glucose, by preset"],
        *[part for name in TRIALS for part in ([f"### {name[0].upper()}{name[1:]}"], preset_table(name))],
        [
            '"A night": alarms that opened at 00:00–06:00. There `urgent_low` and `hypoglycaemia` are silent because the nocturnal',
            "alert speaks for them. Each `busiest person` is that of the line.",
        ],
        ["### Against the consensus"],
        ["Everything on. What counts as an event is in [clinical.md](clinical.md#alarm-burden)."],
        score_table("everything on"),
        [
            "`hypoglycaemia` and `hyperglycaemia` are not told of all events although they are defined alike: at 15 min a single",
            "reading is an episode of 15 min to the consensus, which knows the next one; the rules wait for a second one.",
            "`predicted_low`: an alarm is true only if a low begins within 30 min.",
        ],
        ["## Silence"],
        [
            "As if everybody had a risk of hypoglycaemia. Gaps between two readings only; what a recording lacks before and after",
            "it, and what was taken out of it, nobody knows.",
        ],
        silence_table(),
        ["## Drift of heart-rate variability"],
        ["All presets have the same settings of this rule and of those for doses."],
        drift_lines(),
        [
            "Welltory's are 100-beat recordings at any hour of the day, each day standing for a night, in a pandemic; watched are",
            "days with a baseline to alarm on. The Holter nights are drawn from one night each of four hearts: their tails",
            "are too short, those of the days too long. Nobody's real nights over months are among them, so the truth lies",
            "between, or elsewhere. Delays are in [hrv-study.md](hrv-study.md).",
        ],
        ["## Doses"],
        dose_table(),
        [
            "One bottle of one person; the verdicts are its maker's. A dose that is taken after its window is an alarm that ends when",
            "it is taken.",
        ],
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT.name} is written\n")
