"""A patient's readings and episodes as the gateway keeps them: what comes in order is folded on, what comes late again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from devices.vocabulary import Code
from streaming.episodes import Episode, Key, settled_before
from streaming.limits.patient_fold import Finding, PatientState, fold_patient, quiet_ms
from streaming.readings import ReadingSeries
from streaming.rules.history import RulesHistory
from streaming.zones import ZoneHistory

Episodes = dict[Key, list[Episode]]


class Bedside:
    """Takes readings in any order and batches; `episodes` is what is concluded by now."""

    def __init__(self, code: Code, zone: ZoneHistory, rules: RulesHistory) -> None:
        self.code, self.zone, self.rules = code, zone, rules
        self.stored = ReadingSeries(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int16), np.empty(0, np.int16))
        self.state: PatientState | None = None
        self.found: dict[tuple[Key, int], Episode] = {}
        self.mended = 0

    def arrive(self, series: ReadingSeries) -> None:
        """Take one batch."""
        if len(series) == 0:
            return
        first = int(series.at.min())
        in_order = len(self.stored) == 0 or first > int(self.stored.at.max())
        self.stored = joined(self.stored, series)
        if in_order:
            self.state, news = fold_patient(self.code, self.state, series, self.zone, self.rules)
            self._keep(news)
        else:
            self._mend(first)
            self.mended += 1

    @property
    def episodes(self) -> Episodes:
        """By rule and subject, in order, as they stand."""
        return by_key(self.found, self.state)

    def _mend(self, first: int) -> None:
        quiet = quiet_ms(self.code, self.rules)
        settled = settled_before(self.found.values(), first, quiet)
        self.found = {which: episode for which, episode in self.found.items() if episode.opened_at < settled}
        again = self.stored.take(self.stored.at >= settled - quiet)
        self.state, news = fold_patient(self.code, None, again, self.zone, self.rules, settled)
        self._keep(one for one in news if one.episode.opened_at >= settled)

    def _keep(self, news: Iterable[Finding]) -> None:
        self.found.update(((one.key, one.episode.opened_at), one.episode) for one in news)


def fold_parts(
    code: Code,
    parts: Sequence[ReadingSeries],
    zone: ZoneHistory,
    rules: RulesHistory,
    settled_ms: int | None = None,
) -> Episodes:
    """Fold part after part, each later than the one before; return the episodes as they stand at the end."""
    state: PatientState | None = None
    found: dict[tuple[Key, int], Episode] = {}
    for part in parts:
        state, news = fold_patient(code, state, part, zone, rules, settled_ms)
        found.update(((one.key, one.episode.opened_at), one.episode) for one in news)
    return by_key(found, state)


def by_key(found: dict[tuple[Key, int], Episode], state: PatientState | None) -> Episodes:
    """Sort the last versions that were told, and those still open as the state has them."""
    known = dict(found)
    if state is not None:
        for one in state.open_episodes():
            assert (one.key, one.episode.opened_at) in found, "an episode is open that was never told"
            known[one.key, one.episode.opened_at] = one.episode
    episodes: Episodes = {}
    for (key, _), episode in sorted(known.items(), key=lambda item: (item[0][0][0], item[0][0][1], item[0][1])):
        episodes.setdefault(key, []).append(episode)
    return episodes


def since(episodes: Episodes, at_ms: int) -> Episodes:
    """Return what opened at or after an instant."""
    kept = {key: [one for one in some if one.opened_at >= at_ms] for key, some in episodes.items()}
    return {key: some for key, some in kept.items() if some}


def joined(first: ReadingSeries, second: ReadingSeries) -> ReadingSeries:
    """Return the readings of both."""
    return ReadingSeries(
        np.concatenate((first.at, second.at)),
        np.concatenate((first.value, second.value)),
        np.concatenate((first.unit, second.unit)),
        np.concatenate((first.flags, second.flags)),
    )
