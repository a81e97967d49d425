"""The values that provisioning takes and lists."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from devices.vocabulary import Code, DeviceModel
from streaming.episodes import JSON, Rule
from streaming.rules.presets import PatientGroup


@dataclass(frozen=True, slots=True)
class NewPatient:
    """A patient to be added; `expected` says what they should send, and how often."""

    name: str
    timezone: str
    hypoglycaemia_risk: bool = False
    group: str = "stable"
    expected: Mapping[Code, timedelta] = field(default_factory=dict)
    consent: bool = True


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A device to be added; with a patient it is worn by them from `since` (None: from now) on.

    An edge box, `via`, reads it over Bluetooth if it has an `address`. `modality`: "ecg" or "ppg"; `expected_interval`:
    how often it is heard when all is well; None for either: as usual for the model.
    """

    id: str
    model: DeviceModel
    patient_id: int | None = None
    since: datetime | None = None
    address: str | None = None
    via: str | None = None
    modality: str | None = None
    expected_interval: timedelta | None = None


@dataclass(frozen=True, slots=True)
class PatientRow:
    """A patient as `vigil patient list` shows them; `devices` are those worn now."""

    id: int
    name: str
    hypoglycaemia_risk: bool
    group: str
    timezone: str
    consent: bool
    devices: list[str]


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as `vigil device list` shows it; `patient_id` wears it now."""

    id: str
    model: str
    address: str | None
    via: str | None
    disabled_at: datetime | None
    patient_id: int | None
    contact_at: datetime | None
    battery: float | None
    modality: str | None
    expected_interval: timedelta | None


@dataclass(frozen=True, slots=True)
class DoseRow:
    """A schedule of doses as stored."""

    id: int
    patient_id: int
    medication: str
    local_times: list[time]
    weekdays: list[int]
    compartment: int | None
    window_before: timedelta
    window_after: timedelta
    valid_from: date
    valid_until: date | None
    critical: bool


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user and the patients they look after."""

    id: int
    email: str
    role: str
    disabled_at: datetime | None
    patient_ids: list[int]


@dataclass(frozen=True, slots=True)
class PauseRow:
    """A patient's rest from the rules, from `begin` on and before `until`; who entered it, who ended it early."""

    id: int
    begin: datetime
    until: datetime
    reason: str
    recorded_at: datetime
    changed_by: int | None
    ended_at: datetime | None
    ended_by: int | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change from a time on: `layer` is clinic or patient, or group (then there is no rule).

    `changes` is everything that the layer set for the rule then; empty: the layer was reset. No user: from the shell.
    """

    layer: str
    rule: str | None
    changes: dict[str, JSON]
    valid_from: datetime
    changed_by: int | None
    changed_by_email: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule as it is now; `layer` is the topmost of default, group, clinic and patient that sets any of it."""

    rule: Rule
    enabled: bool
    settings: dict[str, JSON]
    layer: str


@dataclass(frozen=True, slots=True)
class RulesInForce:
    """The current rules of a patient, or of the clinic (then there are no group and no pauses).

    `paused_until`: all of them rest until then. Pauses and history are sorted latest first.
    """

    group: PatientGroup | None
    paused_until: datetime | None
    rules: list[RuleRow]
    pauses: list[PauseRow]
    history: list[ChangeRow]


@dataclass(frozen=True, slots=True)
class AccountMismatch:
    """Where the database and the broker disagree, by device id; all empty when they agree."""

    without_account: list[str]
    without_device: list[str]
    wrongly_enabled: list[str]
    wrongly_disabled: list[str]
