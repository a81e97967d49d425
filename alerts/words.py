"""The one-line text of an alert: short enough for a phone at night, with the reading's own time."""

from collections.abc import Callable, Mapping
from datetime import datetime
from math import exp

from streaming.episodes import JSON, Episode, Rule
from streaming.zones import ZoneHistory

# Rules about devices and data rather than the patient's body.
TECHNICAL: frozenset[str] = frozenset({"data_silence", "device_offline"})


def summary(rule: Rule, episode: Episode, zone: ZoneHistory) -> str:
    """Return one sentence; times are the patient's local time at the event."""
    return _SENTENCES[rule](episode.evidence, zone.local(episode.opened_at), zone)


def _clock(local: datetime) -> str:
    return f"{local:%H:%M}"


def _number(value: JSON) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _worst(which: str, evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    at = evidence.get(f"{which}_at")
    when = _clock(zone.local(at)) if isinstance(at, int) else _clock(opened)
    value, unit = evidence.get(f"{which}_value"), evidence.get(f"{which}_unit")
    sentinel = "LO (below the sensor's range)" if which == "lowest" else "HI (above the sensor's range)"
    return f"{which} {_number(value)} {unit} at {when}" if value is not None else f"{which} {sentinel} at {when}"


def _nocturnal(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    return f"Glucose low at night since {_clock(opened)}: {_worst('lowest', evidence, opened, zone)}"


def _urgent_low(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    return f"Glucose urgently low since {_clock(opened)}: {_worst('lowest', evidence, opened, zone)}"


def _hypoglycaemia(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    return f"Glucose low for a while, told at {_clock(opened)}: {_worst('lowest', evidence, opened, zone)}"


def _hyperglycaemia(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    worst = _worst("highest", evidence, opened, zone)
    if evidence.get("fasting") is True:
        return f"Glucose high on an empty stomach in the morning of {opened:%d %b}: {worst}"
    return f"Glucose very high for a while, told at {_clock(opened)}: {worst}"


def _predicted(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    forecast_at = evidence.get("forecast_at")
    when = _clock(zone.local(forecast_at)) if isinstance(forecast_at, int) else "soon"
    now = f"{_number(evidence.get('value'))} {evidence.get('unit')} at {_clock(opened)}"
    return f"Glucose is going to be low: {_number(evidence.get('forecast_mmol_l'))} mmol/L foreseen for {when}, {now}"


def _threshold(evidence: Mapping[str, JSON], opened: datetime, zone: ZoneHistory) -> str:
    which = "highest" if "highest_at" in evidence else "lowest"
    side = "above" if which == "highest" else "below"
    sign = str(evidence.get("code", "vital sign")).replace("_", " ").capitalize()
    limit = f"{_number(evidence.get('limit'))} {evidence.get('limit_unit')}"
    return f"{sign} {side} {limit}, told at {_clock(opened)}: {_worst(which, evidence, opened, zone)}"


def _low_adherence(evidence: Mapping[str, JSON], _opened: datetime, _zone: ZoneHistory) -> str:
    share = evidence.get("taking_adherence")
    reasons = [
        *(["doses missed in a row"] if evidence.get("missed_in_row") else []),
        *([f"{share:.0%} of a week's doses taken"] if isinstance(share, int | float) else []),
    ]
    return f"Medication is not taken as agreed ({', '.join(reasons) or 'see the doses'}): call, or visit"


def _silence(evidence: Mapping[str, JSON], _opened: datetime, zone: ZoneHistory) -> str:
    last_at = evidence.get("last_at")
    last = f"{zone.local(last_at):%d %b %H:%M}" if isinstance(last_at, int) else None
    since = f"since {last}" if last else "so far"
    return f"No glucose {since}" + (", signal lost at night" if evidence.get("night") is True else "")


def _offline(evidence: Mapping[str, JSON], _opened: datetime, zone: ZoneHistory) -> str:
    contact_at = evidence.get("contact_at")
    last = f"last heard {zone.local(contact_at):%d %b %H:%M}" if isinstance(contact_at, int) else "never heard"
    return f"Device {evidence.get('device')} ({evidence.get('model')}) is offline, {last}"


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
    Rule.URGENT_LOW: _urgent_low,
    Rule.HYPOGLYCAEMIA: _hypoglycaemia,
    Rule.HYPERGLYCAEMIA: _hyperglycaemia,
    Rule.PREDICTED_LOW: _predicted,
    Rule.THRESHOLD: _threshold,
    Rule.LOW_ADHERENCE: _low_adherence,
    Rule.DATA_SILENCE: _silence,
    Rule.DEVICE_OFFLINE: _offline,
    Rule.MISSED_DOSE: _missed,
    Rule.HRV_DRIFT: _drift,
}
