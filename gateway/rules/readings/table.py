"""What is known of every patient's readings of one code, as arrays indexed by patient.

The arrays answer for a whole batch at once which rows need a look at their patient; all others cost nothing more.

- `doubtful`: the rules may remember something of the patient. Set for who has an open episode when the gateway begins,
  for who a failed transaction touched, for whose rules or zone changed; cleared by a fold that left nothing behind.
- `newest`: the newest reading over all devices (ms; `DISTANT_PAST_MS`: the store was not asked yet). What is not later
  is late. It only rises, with the commit of the batch, or when the store is asked.
- `_changed_from`: from when on (ms) stored readings must be judged again, because rules or zone were set for a time of
  which readings are stored; `due` hands them out until a fold is committed.
- `_calm_since`, `_ends_at`, `_recovery`: while the readings of a patient with open episodes only go on with a recovery
  under way, they are followed here, without a fold (`streaming.limits.calm`).

No array may say "nothing remembered" of somebody of whom the rules remember something: an episode would be lost.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from devices.instants import DISTANT_FUTURE_MS, DISTANT_PAST_MS
from devices.vocabulary import EARLIEST_MS, Code
from gateway.clinic.directory import UNSET, Directory
from gateway.store.rows import NOBODY, Rows
from streaming.limits.calm import NOT_CALM, calm_of
from streaming.limits.detectors import AnyDetector, detectors_ever
from streaming.limits.patient_fold import PatientState
from streaming.rules.history import RulesHistory, differ_from
from streaming.zones import ZoneHistory

FIRST_SIZE: Final = 1024

Profile = tuple[AnyDetector, ...]
"""All detectors that ever watched a patient. Few differ, so rows are judged profile by profile, all patients at once."""


class WatchTable:
    """The arrays; see the head of this module."""

    def __init__(self, code: Code) -> None:
        """Know nobody."""
        self._code = code
        self._directory: Directory | None = None
        self._profiles: list[Profile] = [detectors_ever(code, UNSET)]
        self.doubtful: NDArray[np.bool_] = np.zeros(FIRST_SIZE, np.bool_)
        self.newest: NDArray[np.int64] = np.full(FIRST_SIZE, DISTANT_PAST_MS, np.int64)
        self._profile: NDArray[np.int32] = np.zeros(FIRST_SIZE, np.int32)
        self._remembers: NDArray[np.bool_] = np.zeros(FIRST_SIZE, np.bool_)
        self._calm_since: NDArray[np.int64] = np.full(FIRST_SIZE, DISTANT_FUTURE_MS, np.int64)
        self._ends_at: NDArray[np.int64] = np.full(FIRST_SIZE, NOT_CALM.ends_at, np.int64)
        self._recovery: NDArray[np.int64] = np.zeros(FIRST_SIZE, np.int64)
        self._changed_from: NDArray[np.int64] = np.full(FIRST_SIZE, DISTANT_FUTURE_MS, np.int64)
        self._any_changed = False

    def grow(self, patient: int) -> None:
        """Make room for a patient."""
        size = len(self.newest)
        if patient < size:
            return
        more = max(patient + 1, 2 * size) - size
        self.doubtful = np.append(self.doubtful, np.zeros(more, np.bool_))
        self.newest = np.append(self.newest, np.full(more, DISTANT_PAST_MS, np.int64))
        self._profile = np.append(self._profile, np.zeros(more, np.int32))
        self._remembers = np.append(self._remembers, np.zeros(more, np.bool_))
        self._calm_since = np.append(self._calm_since, np.full(more, DISTANT_FUTURE_MS, np.int64))
        self._ends_at = np.append(self._ends_at, np.full(more, NOT_CALM.ends_at, np.int64))
        self._recovery = np.append(self._recovery, np.zeros(more, np.int64))
        self._changed_from = np.append(self._changed_from, np.full(more, DISTANT_FUTURE_MS, np.int64))

    def forget(self) -> None:
        """Know nothing of anybody's readings; rules stay."""
        self.doubtful[:] = self._remembers
        self.newest.fill(DISTANT_PAST_MS)
        self._calm_since.fill(DISTANT_FUTURE_MS)
        self._ends_at.fill(NOT_CALM.ends_at)
        self._changed_from.fill(DISTANT_FUTURE_MS)
        self._any_changed = False

    def adopt(self, directory: Directory) -> list[int]:
        """Take the patients' rules and zones; return, and doubt, those for whom they are not what they were."""
        before, self._directory = self._directory, directory
        rules = _changed({} if before is None else before.rules, directory.rules, UNSET)
        zones = {} if before is None else _changed(before.zones, directory.zones, before.zone(NOBODY))
        changed = sorted({*rules, *zones})
        if not changed:
            return []
        self.grow(changed[-1])
        places = {_settings_of(profile): place for place, profile in enumerate(self._profiles)}
        for patient in rules:
            profile = detectors_ever(self._code, directory.rules_of(patient))
            place = places.setdefault(_settings_of(profile), len(places))
            if place == len(self._profiles):
                self._profiles.append(profile)
            self._profile[patient] = place
            self._remembers[patient] = any(one.memory_ms for one in profile)
        if before is not None:
            self._note_changes(before, rules)
            self._note_changes(before, zones)
        self.doubt(changed)
        return changed

    def _note_changes(self, before: Directory, changed: Mapping[int, int]) -> None:
        """Note from when on (ms) readings of watched patients may have been judged by what held before."""
        for patient, since_ms in changed.items():
            if patient in before.devices_of and self._profiles[self._profile[patient]]:
                self._changed_from[patient] = min(max(since_ms, EARLIEST_MS), self._changed_from[patient])
                self._any_changed = True

    def changed_unknown(self) -> list[int]:
        """Return the patients whose rules or zones changed while their newest reading is not known."""
        if not self._any_changed:
            return []
        found: list[int] = np.flatnonzero(
            (self._changed_from < DISTANT_FUTURE_MS) & (self.newest == DISTANT_PAST_MS)
        ).tolist()
        return found

    def due(self) -> dict[int, int]:
        """Return the patients of whom readings have to be judged again, each with the instant from which on (ms)."""
        if not self._any_changed:
            return {}
        unheard = (self.newest != DISTANT_PAST_MS) & (self.newest < self._changed_from)
        self._changed_from[unheard] = DISTANT_FUTURE_MS  # whatever comes is judged by what is known now
        self._any_changed = bool((self._changed_from < DISTANT_FUTURE_MS).any())
        due = np.flatnonzero(self._changed_from <= self.newest)
        return dict(zip(due.tolist(), self._changed_from[due].tolist(), strict=True))

    @property
    def watches_all(self) -> bool:
        """Whether there is a rule for patients for whom nobody has set anything."""
        return bool(self._profiles[0])

    def watched(self, patient: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which rows belong to patients whom a rule has ever watched."""
        if len(patient):
            self.grow(int(patient.max()))
        empty = np.array([not profile for profile in self._profiles])
        return np.asarray(~empty[self._profile[patient]])

    def unknown(self, patient: NDArray[np.int32]) -> list[int]:
        """Return the patients among rows whose newest reading is not known."""
        found: list[int] = np.unique(patient[self.newest[patient] == DISTANT_PAST_MS]).tolist()
        return found

    def beyond(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows could change what the rules remember of a patient of whom they remember nothing."""
        of = self._profile[rows.patient]
        found = np.zeros(len(rows), np.bool_)
        for place in np.unique(of).tolist():
            here = np.flatnonzero(of == place)
            value, unit, flags = rows.value[here], rows.unit[here], rows.flags[here]
            for detector in self._profiles[place]:
                found[here] |= detector.candidates(value, unit, flags)
        return found

    def candidates(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows have to be looked at patient by patient; late rows where rules remember readings are all of those."""
        found = self.beyond(rows) | self.doubtful[rows.patient]
        if self._remembers.any():
            found |= self._remembers[rows.patient] & (rows.at <= self.newest[rows.patient])
        return found

    def doubted(self) -> list[int]:
        """Return the patients who are watched and of whom nothing is known, or not yet."""
        doubted = np.flatnonzero(self.doubtful).astype(np.int32)
        found: list[int] = doubted[self.watched(doubted)].tolist()
        return found

    def doubt(self, patients: Sequence[int]) -> None:
        """Trust nothing in memory about these patients."""
        if patients:
            self.grow(max(patients))
            self.doubtful[patients] = True
            self._calm_since[patients] = DISTANT_FUTURE_MS
            self._ends_at[patients] = NOT_CALM.ends_at

    def remember(self, patient: int, state: PatientState | None, rules: RulesHistory, *, complete: bool) -> None:
        """Note a patient's state after a fold; not `complete`: there is a later one, only the store knows which."""
        calm = calm_of(state, rules) if state is not None and complete else NOT_CALM
        self.doubtful[patient] = state is not None or not complete
        self._changed_from[patient] = DISTANT_FUTURE_MS
        self._calm_since[patient] = DISTANT_FUTURE_MS
        self._ends_at[patient] = calm.ends_at
        self._recovery[patient] = calm.recovery

    def eased(
        self, patients: NDArray[np.int32], first: NDArray[np.int64], last: NDArray[np.int64], calm: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which patients' readings, from `first` to `last` and all calm or not, only go on with a recovery; since when."""
        since = np.minimum(self._calm_since[patients], first)
        ends_at = np.minimum(
            self._ends_at[patients], since + np.minimum(self._recovery[patients], DISTANT_FUTURE_MS // 2)
        )
        return calm & (first > self.newest[patients]) & (last < ends_at), since

    def ease(self, patients: NDArray[np.int32], since: NDArray[np.int64]) -> None:
        """Note calm readings that were not folded."""
        self._calm_since[patients] = since

    def calm_since(self, patient: int) -> int | None:
        """Return the first of the calm readings since the last fold; None: there was none."""
        since = int(self._calm_since[patient])
        return None if since == DISTANT_FUTURE_MS else since


History = TypeVar("History", RulesHistory, ZoneHistory)


def _changed(before: Mapping[int, History], after: Mapping[int, History], usual: History) -> dict[int, int]:
    """Return whose histories differ, and from which instant on (ms)."""
    pairs = (
        (patient, before.get(patient, usual), after.get(patient, usual)) for patient in before.keys() | after.keys()
    )
    changed = ((patient, differ_from(was.spans, now.spans)) for patient, was, now in pairs if was != now)
    return {patient: since_ms for patient, since_ms in changed if since_ms is not None}


def _settings_of(profile: Profile) -> frozenset[tuple[object, ...]]:
    """Return what tells profiles apart."""
    return frozenset((one.rule, one.subject, one.settings) for one in profile)
