"""Why a provisioning was refused. Every text is a sentence for the person who asked.

ProvisioningError
├── InvalidValueError      a value cannot be used as it is: may carry which
├── NotFoundError          what it refers to does not exist
├── AlreadyExistsError     the name is taken, or the time
└── WornByAnotherError     the device has a wearer at that time: carries who and when
"""

from datetime import datetime


class ProvisioningError(Exception):
    """The root: the request cannot be carried out, and nothing was changed."""


class InvalidValueError(ProvisioningError):
    """A value cannot be used as it is; `field`: which one, if the request has several."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(ProvisioningError):
    """The request refers to something that does not exist."""


class AlreadyExistsError(ProvisioningError):
    """The name is taken, or the time."""


class WornByAnotherError(ProvisioningError):
    """The device has a wearer at the time asked for; open ends are None."""

    def __init__(
        self, device_id: str, patient_id: int, name: str, since: datetime | None, until: datetime | None
    ) -> None:
        start = since.isoformat(timespec="seconds") if since else "ever"
        end = until.isoformat(timespec="seconds") if until else "further notice"
        super().__init__(f"device {device_id} is worn by patient {patient_id} ({name}) from {start} until {end}")
        self.device_id = device_id
        self.patient_id = patient_id
        self.since = since
        self.until = until
