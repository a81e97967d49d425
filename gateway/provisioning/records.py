"""What provisioning takes and what it lists, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from devices.vocabulary import Code, DeviceModel


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

    An edge box, `via`, reads it over Bluetooth if there is an `address` to find it by.
    """

    id: str
    model: DeviceModel
    patient_id: int | None = None
    since: datetime | None = None
    address: str | None = None
    via: str | None = None


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
class AccountMismatch:
    """Where the database and the broker disagree, by device id; all empty when they agree."""

    without_account: list[str]
    without_device: list[str]
    wrongly_enabled: list[str]
    wrongly_disabled: list[str]
