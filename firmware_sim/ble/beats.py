"""Every single heartbeat of a wearer in order, as a heart-rate sensor sees it."""

from collections.abc import Iterator, Sequence

import numpy as np

from firmware_sim.physiology.heart import HeartRateProcess, NightlyVariability, rr_intervals
from firmware_sim.physiology.local_time import local_day
from firmware_sim.physiology.noise import MINUTE_MS
from firmware_sim.wristband import RR_EVERY_MS, RR_LASTS_MS, RR_MARGIN_MS, WINDOW_SPREAD, WristbandTraits

MEASURED_MS = RR_LASTS_MS + 2 * RR_MARGIN_MS


class HeartBeats:
    """Beats in quarters of an hour, each beginning with the RR intervals that a band on MQTT measures there at night.

    The intervals are the same; the beats follow the last one of the quarter before, so the times may be off by one
    interval.
    """

    def __init__(self, seed: Sequence[int], traits: WristbandTraits) -> None:
        """Everything follows from `seed` and the time of the first call."""
        self._zone = traits.zone
        self._heart = HeartRateProcess([*seed, 11], traits.heart, traits.zone)
        self._nights = NightlyVariability([*seed, 12], traits.heart, traits.first_day, traits.step)
        self._seed = [*seed, 14]
        self._beats: Iterator[tuple[int, int]] = iter(())
        self._next: tuple[int, int] | None = None

    def between(self, after: int, until: int) -> list[tuple[int, int]]:
        """Return (time in ms, interval before it in 1/1024 s) of the beats in `(after, until]`; calls ascend."""
        if self._next is None or after - self._next[0] > RR_EVERY_MS:
            self._beats = self._from((after + RR_MARGIN_MS) // RR_EVERY_MS * RR_EVERY_MS)
            self._next = next(self._beats)
        found = []
        while self._next[0] <= until:
            if self._next[0] > after:
                found.append(self._next)
            self._next = next(self._beats)
        return found

    def _from(self, mark: int) -> Iterator[tuple[int, int]]:
        """Yield beats without end, beginning with the measurement at `mark`."""
        at = mark - RR_MARGIN_MS
        while True:
            for interval in self._quarter(mark):
                before, at = at, at + interval
                # Round each beat to the sensor's grid of 1/1024 s: rounding errors of intervals would add up.
                yield at, round(at * 1.024) - round(before * 1.024)
                if at > mark + RR_EVERY_MS - RR_MARGIN_MS:
                    break
            mark += RR_EVERY_MS

    def _quarter(self, mark: int) -> list[int]:
        rng = np.random.default_rng([*self._seed, mark // MINUTE_MS])
        mean_ms = 60_000 / float(self._heart.rhythm(np.array([mark]))[0])
        night = self._nights.rmssd(local_day(mark, self._zone))
        rmssd_ms = night * float(np.exp(rng.normal(0.0, WINDOW_SPREAD)))
        measured = rr_intervals(rng, mean_ms=mean_ms, rmssd_ms=rmssd_ms, duration_ms=MEASURED_MS)
        filler = rr_intervals(rng, mean_ms=mean_ms, rmssd_ms=rmssd_ms, duration_ms=RR_EVERY_MS)
        intervals: list[int] = np.concatenate([measured, filler]).tolist()
        return intervals
