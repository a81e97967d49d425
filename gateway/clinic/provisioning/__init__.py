"""Provisioning: the one way to change patients, devices, people and rules, for shell, simulator and tests."""

from gateway.clinic.provisioning.devices import Devices
from gateway.clinic.provisioning.doses import Doses
from gateway.clinic.provisioning.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NotFoundError,
    ProvisioningError,
    WornByAnotherError,
)
from gateway.clinic.provisioning.people import People
from gateway.clinic.provisioning.records import (
    AccountMismatch,
    ChangeRow,
    DeviceRow,
    DoseRow,
    NewDevice,
    NewPatient,
    PatientRow,
    PauseRow,
    RuleRow,
    RulesInForce,
    UserRow,
)
from gateway.clinic.provisioning.rules import Rules

__all__ = [
    "AccountMismatch",
    "AlreadyExistsError",
    "ChangeRow",
    "DeviceRow",
    "DoseRow",
    "InvalidValueError",
    "NewDevice",
    "NewPatient",
    "NotFoundError",
    "PatientRow",
    "PauseRow",
    "Provisioning",
    "ProvisioningError",
    "RuleRow",
    "Rules",
    "RulesInForce",
    "UserRow",
    "WornByAnotherError",
]


class Provisioning(People, Rules, Devices, Doses):
    """Changes to patients, devices, people and rules, on one connection at one moment.

    Every method is all or nothing and raises ProvisioningError with a sentence for the person who asked, or
    BrokerAccountError if the broker does not do as asked. Pass a connection in autocommit mode: then a change is
    committed when its method returns. Without a broker, devices get no accounts. `now` is when the changes happen.
    """
