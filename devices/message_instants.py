"""When the readings and events of a message were measured, its refused parts included.

A message that is refused, whole or in part, is kept with all its bytes; whose they are, its instants decide. So this
reads what the strict decoder of `messages` leaves out: everything that still says when.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from devices.errors import PayloadError
from devices.payload import DECODE_ERRORS, Form, form_of, load_cbor
from devices.runs import beat_times
from devices.units import to_canonical
from devices.vocabulary import CODES, DEVICE_ID, MAX_EVENTS, UNIT_BY_UCUM, Code

Int64 = NDArray[np.int64]

FURTHEST_MS: Final = 2**61
"""Stamps beyond it count as this far away: the arithmetic stays within 64 bits."""
_RR: Final = Code.RR_INTERVAL


@dataclass(frozen=True, slots=True)
class Instants:
    """`at`: every distinct instant that the message tells, int64[n], ascending, ms since the Unix epoch.

    `complete`: nothing is in the message whose instant it does not tell; a message of more than MAX_EVENTS parts is not
    looked through, for 64 KiB of them would hold up everybody. `device`: the one an edge box speaks for.
    """

    device: str | None
    at: Int64
    complete: bool


def instants_of(payload: bytes, content_type: str | None) -> Instants | None:
    """Read the instants of a telemetry or event message; None when nothing can be read. Never raises."""
    try:
        form = form_of(payload, content_type)
        message = msgspec.json.decode(payload) if form is Form.JSON else load_cbor(payload)
    except (*DECODE_ERRORS, PayloadError):
        return None
    if not isinstance(message, dict):
        return None
    device = message.get("device")
    if device is not None and not (isinstance(device, str) and DEVICE_ID.match(device)):
        return None
    parts = [part for name in ("observations", "events") for part in _parts_of(message.get(name, []))]
    if len(parts) > MAX_EVENTS:
        return Instants(device, np.zeros(0, np.int64), complete=False)
    told = [_instants_of_part(part) for part in parts]
    known = [instants for instants in told if instants is not None]
    at = np.unique(np.concatenate(known)) if known else np.zeros(0, np.int64)
    return Instants(device, at, complete=len(known) == len(told))


def _parts_of(found: Any) -> list[Any]:
    """Return the parts of a list; what is no list is one part that tells nothing."""
    return found if isinstance(found, list) else [found]


def _instants_of_part(part: Any) -> Int64 | None:
    """Return the instants of one series or event, None when it does not tell all of them."""
    if not isinstance(part, dict) or (at := _whole(part.get("at"))) is None:
        return None
    values = part.get("values")
    if values is None:
        return np.array([at], np.int64)
    if not isinstance(values, list):
        return None
    if part.get("code") == _RR.wire:
        return _beats(at, part.get("unit"), values)
    period = _whole(part.get("period_ms"))
    if period is None or not 0 < period <= FURTHEST_MS // max(len(values), 1):
        return np.array([at], np.int64) if len(values) <= 1 else None
    return at + period * np.arange(max(len(values), 1), dtype=np.int64)


def _beats(at: int, unit: Any, values: list[Any]) -> Int64 | None:
    """Return when the beats were that end the intervals, None when an interval is no number of a known unit.

    An interval that cannot be hides its length, as the decoder sees it, and has it, as the bytes say: both are told.
    """
    known_unit = UNIT_BY_UCUM.get(unit) if isinstance(unit, str) else None
    if known_unit not in CODES[_RR].units or known_unit is None:
        return None
    if not all(value is None or type(value) in {int, float} for value in values):
        return None
    try:
        intervals = np.array(values, np.float64)
    except OverflowError:
        return None
    if np.isnan(intervals).all():
        return np.array([at], np.int64)
    limits = CODES[_RR].units[known_unit]
    with np.errstate(over="ignore", invalid="ignore"):
        beats = beat_times(at, to_canonical(_RR, known_unit, intervals))
        if not np.isfinite(beats).all():
            return None
        plausible = (intervals >= limits.minimum) & (intervals <= limits.maximum)
        if plausible.any() and not plausible.all():
            known = np.where(plausible, intervals, np.nan)
            beats = np.concatenate((beats, beat_times(at, to_canonical(_RR, known_unit, known))))
    instants: Int64 = np.clip(beats, -FURTHEST_MS, FURTHEST_MS).astype(np.int64)
    return instants


def _whole(number: Any) -> int | None:
    """Return a whole number, no further from zero than FURTHEST_MS; None for anything else."""
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        return None
    return int(max(-FURTHEST_MS, min(FURTHEST_MS, number)))
