"""Heart-rate variability of 5-min windows on UTC marks, from cleaned RR intervals (Task Force 1996)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from devices.vocabulary import Modality
from streaming.hrv.rr_cleaning import Beats, RRRun, beats_of, correct
from streaming.zones import MINUTE_MS

WINDOW_MS: Final = 5 * MINUTE_MS
CONTEXT_MS: Final = 2 * MINUTE_MS
"""RR before and after a window that the correction of its beats looks at (at least 45 beats): load this much more."""
MIN_BEATS: Final = 240
MIN_COVERAGE: Final = 0.8
MAX_CORRECTED: Final = 0.04


@dataclass(frozen=True, slots=True)
class HrvStatistics:
    """Time-domain measures; `None` if there are too few beats. RMSSD and SDNN (ddof 1) in ms, heart rate per min."""

    rmssd: float | None
    sdnn: float | None
    mean_heart_rate: float | None


@dataclass(frozen=True, slots=True)
class HrvWindow:
    """One window of one device; `coverage` (of the window) and `corrected` (of the beats) are 0 to 1.

    `modality`: how the device measured the beats.
    """

    start_ms: int
    device: int
    beats: int
    coverage: float
    corrected: float
    valid: bool
    rmssd: float | None
    sdnn: float | None
    mean_heart_rate: float | None
    modality: Modality = Modality.PPG

    @property
    def end_ms(self) -> int:
        """End of the window (ms)."""
        return self.start_ms + WINDOW_MS


def hrv_statistics(beats: Beats) -> HrvStatistics:
    """Return RMSSD over the differences of consecutive beats, SDNN and the mean heart rate."""
    differences = beats.differences()
    return HrvStatistics(
        rmssd=float(np.sqrt(np.mean(differences**2))) if differences.size else None,
        sdnn=float(np.std(beats.interval, ddof=1)) if len(beats) > 1 else None,
        mean_heart_rate=float(60_000 / np.mean(beats.interval)) if len(beats) else None,
    )


def window_starts(start_ms: int, end_ms: int) -> range:
    """Return the starts of the windows that begin before `end_ms` and end after `start_ms`."""
    return range(start_ms // WINDOW_MS * WINDOW_MS, end_ms, WINDOW_MS)


def windows_of(
    runs: Mapping[int, Sequence[RRRun]], start_ms: int, end_ms: int, electrodes: Collection[int] = ()
) -> list[HrvWindow]:
    """Return the windows of one patient that overlap [start, end) and have beats, from the runs of each device.

    `electrodes` are the devices that measure with electrodes; the others are optical. If several devices have a window,
    one with electrodes and a valid window wins, so that a chest strap and a wristband worn together do not alternate;
    otherwise the one with the best coverage wins. A beat belongs to the window in which its interval ends, (start,
    end]: a beat exactly on a mark belongs to the window before it. Each window is corrected with `CONTEXT_MS` of its
    own surroundings to each side, so it is the same whatever range it is requested in, provided that the runs reach
    that far.
    """
    best: dict[int, HrvWindow] = {}
    for device in sorted(runs):
        beats = beats_of(runs[device])
        modality = Modality.ECG if device in electrodes else Modality.PPG
        for window in _windows(device, modality, beats, window_starts(start_ms, end_ms)):
            rival = best.get(window.start_ms)
            if rival is None or _weight(window) > _weight(rival):
                best[window.start_ms] = window
    return [best[start] for start in sorted(best)]


def _weight(window: HrvWindow) -> tuple[bool, float]:
    return window.valid and window.modality is Modality.ECG, window.coverage


def _windows(device: int, modality: Modality, beats: Beats, starts: range) -> Iterator[HrvWindow]:
    for start in starts:
        around = beats.between(start - CONTEXT_MS, start + WINDOW_MS + CONTEXT_MS)
        measured = around.between(start, start + WINDOW_MS)
        if len(measured):
            cleaned = correct(around).between(start, start + WINDOW_MS)
            yield _window(device, modality, start, measured, cleaned)


def _window(device: int, modality: Modality, start: int, measured: Beats, cleaned: Beats) -> HrvWindow:
    inside = np.minimum(measured.interval, measured.end - start)
    coverage = min(float(inside.sum()) / WINDOW_MS, 1.0)
    corrected = float(cleaned.corrected.mean()) if len(cleaned) else 1.0
    statistics = hrv_statistics(cleaned)
    enough = len(measured) >= MIN_BEATS or coverage >= MIN_COVERAGE
    varies = statistics.rmssd is not None and statistics.rmssd > 0
    return HrvWindow(
        start_ms=start,
        device=device,
        beats=len(measured),
        coverage=coverage,
        corrected=corrected,
        valid=enough and varies and corrected <= MAX_CORRECTED,
        rmssd=statistics.rmssd,
        sdnn=statistics.sdnn,
        mean_heart_rate=statistics.mean_heart_rate,
        modality=modality,
    )
