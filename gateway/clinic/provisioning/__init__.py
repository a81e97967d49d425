"""Who is watched, by which devices and whom: the one way to change it, for the shell, the simulator and the tests."""

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
    """Changes to who is watched, by what and whom, on one connection at one moment.

    Every method is all or nothing and raises ProvisioningError with a sentence for the person who asked, or
    BrokerAccountError when the broker does not do as asked. Give a connection in autocommit mode: then a change is
    committed when its method returns. Without a broker, devices get no accounts. `now` is when the changes happen.
    """
