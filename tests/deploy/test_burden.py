"""docs/alarm-burden.md says what the rules do: some of its tables are made anew, and it passes over no rule."""

import pytest

from streaming.episodes import Rule
from tests.burden_figures import dose_table, preset_table, recordings_table
from tests.burden_study import DOCUMENT
from tests.recordings import RECORDINGS

recorded = pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not here")


def in_short() -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition("\n## In short\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_has_its_verdict(rule: Rule) -> None:
    assert any(line.startswith("- `") and f"`{rule}`" in line.partition("**")[0] for line in in_short().splitlines())


@recorded
@pytest.mark.parametrize("preset", ["stable", "fluctuating"])
def test_presets_make_the_alarms_that_are_written_down(preset: str) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert "\n".join(recordings_table()) in document
    assert "\n".join([f"### {preset.capitalize()}", "", *preset_table(preset)]) in document


@recorded
def test_so_does_the_pill_bottle() -> None:
    assert "\n".join(dose_table()) in DOCUMENT.read_text(encoding="utf-8")
