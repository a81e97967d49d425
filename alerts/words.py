"""What an alert says in one line: short enough for a phone at night, with the sample's own time."""

from collections.abc import Callable, Mapping
from datetime import datetime
from math import exp

from streaming.episodes import JSON, Episode, Rule
from streaming.zones import ZoneHistory

# Rules that speak of devices and data rather than of the patient's body.
TECHNICAL: frozenset[str] = frozenset({"data_silence", "device_offline"})


def summary(rule: Rule, episode: Episode, zone: ZoneHistory) -> str:
    """Return one sentence; times are the patient's local time at the event."""
    return _SENTENCES[rule](episode.evidence, zone.local(episode.opened_at), zone)


def _clock(local: datetime) -> str:
    return f"{local:%H:%M}"


def _number(value: JSON) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _nocturnal(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    lowest_at = evidence.get("lowest_at")
    when = _clock(zone.local(lowest_at)) if isinstance(lowest_at, int) else _clock(opened)
    value, unit = evidence.get("lowest_value"), evidence.get("lowest_unit")
    reading = f"{_number(value)} {unit}" if value is not None else "LO (below the sensor's range)"
    return f"Glucose low at night since {_clock(opened)}: lowest {reading} at {when}"


def _missed(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    due_at = evidence.get("due_at")
    due = _clock(zone.local(due_at)) if isinstance(due_at, int) else _clock(opened)
    return f"{evidence.get('medication', 'Medication')} due at {due} was not taken by {_clock(opened)}"


def _drift(evidence: Mapping[str, JSON], opened: datetime, _zone: ZoneHistory) -> str:
    rmssd, baseline = evidence.get("rmssd"), evidence.get("baseline")
    numbers = (
        f": nightly RMSSD {rmssd:.0f} ms, usual {exp(baseline):.0f} ms"
        if isinstance(rmssd, int | float) and isinstance(baseline, int | float)
        else ""
    )
    return f"Heart-rate variability drifting down, night of {opened:%d %b}{numbers}"


_SENTENCES: Mapping[Rule, Callable[[Mapping[str, JSON], datetime, ZoneHistory], str]] = {
    Rule.NOCTURNAL_HYPOGLYCAEMIA: _nocturnal,
    Rule.MISSED_DOSE: _missed,
    Rule.HRV_DRIFT: _drift,
}
